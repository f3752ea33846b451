"""The transport contract, assembled: what an author of a transport subclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from holdfast import Transport

from ._clause import CLAUSES, Clause
from ._clauses_broken import BrokenClauses
from ._clauses_bytes import ByteClauses
from ._clauses_close import CloseClauses
from ._clauses_end import EndClauses
from ._clauses_forward import ForwardClauses
from ._clauses_link import LinkClauses
from ._clauses_many import ManyClauses
from ._clauses_start import StartClauses
from ._kit import Kit

__all__ = ["CLAUSES", "Clause", "TransportContract"]


@pytest.mark.anyio
class TransportContract(
    StartClauses,
    ByteClauses,
    ForwardClauses,
    EndClauses,
    BrokenClauses,
    LinkClauses,
    CloseClauses,
    ManyClauses,
):
    """The contract of a transport, as tests. Subclass it and give the fixture ``transport``.

    Each clause is one test; its docstring is the rule, behind an id to look it up by. It runs on
    asyncio and on trio. What a transport has no capability for is skipped, and the reason names
    the capability. Its fixtures stand in the class, the module or a conftest.

    Fixtures:
        transport: A fresh :class:`~holdfast.Transport`.
        sever: Optional: an async callable that takes an open channel (the transport's own) and
            cuts its link as an accident would. Without it the ``HF-LINK`` clauses are skipped.
        silence: Optional, for ``DETECTS_SILENT_LINK``: an async callable that takes an open channel
            and lets its link drop everything from then on, without a word.
        unreachable: Optional: a transport whose place cannot be reached.
        gone: Optional, for workers that each have a machine of their own: an async callable that
            takes a closed channel and the id of a process as its worker knew it, and returns once
            that is gone. Without it another worker looks, where workers see each other.

    Attributes:
        script_worker: Say ``True`` if the transport has no ``ANY_COMMAND`` and the fixed worker
            that the fixture's transport leads to is :data:`~holdfast.testing.SCRIPT_WORKER`.
        backends: The event loops to run on, as values of anyio's fixture ``anyio_backend``.
    """

    script_worker: ClassVar[bool] = False

    backends: ClassVar[Sequence[Any]] = (
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every clause on each event loop, whatever the project's own default is."""
        if "anyio_backend" in metafunc.fixturenames:
            metafunc.parametrize("anyio_backend", self.backends, scope="module")

    @pytest.fixture
    def kit(self, request: pytest.FixtureRequest, transport: Transport) -> Kit:
        """What the clauses work with."""
        return Kit(
            transport,
            patience=request.config.getoption("holdfast_patience", 1.0) or 1.0,
            sever=_optional(request, "sever"),
            silence=_optional(request, "silence"),
            unreachable=_optional(request, "unreachable"),
            gone=_optional(request, "gone"),
            script_worker=self.script_worker,
        )


def _optional(request: pytest.FixtureRequest, name: str) -> Any:
    """A fixture's value, ``None`` where nobody defined it."""
    try:
        return request.getfixturevalue(name)
    except pytest.FixtureLookupError as error:
        if error.argname != name:
            raise
        return None
