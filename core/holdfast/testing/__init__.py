"""The conformance kit: holdfast's transport contract as tests, for authors of transports.

Subclass :class:`TransportContract`, give one fixture, run pytest::

    import pytest
    from holdfast.testing import TransportContract
    from my_plugin import MyTransport

    class TestMyTransport(TransportContract):
        @pytest.fixture
        def transport(self):
            return MyTransport()

It needs ``pip install holdfast[testing]``. :class:`MemoryTransport` does not need pytest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._clause import CLAUSES, Clause
    from ._contract import TransportContract
    from ._kit import SCRIPT_WORKER, Kit
    from ._memory import MemoryTransport

__all__ = ["CLAUSES", "SCRIPT_WORKER", "Clause", "Kit", "MemoryTransport", "TransportContract"]

_HOME: Final = {
    "CLAUSES": "_contract",
    "SCRIPT_WORKER": "_kit",
    "Clause": "_clause",
    "Kit": "_kit",
    "MemoryTransport": "_memory",
    "TransportContract": "_contract",
}

_ASSERTING: Final = tuple(
    f"{__name__}._{module}"
    for module in (
        "clauses_broken",
        "clauses_bytes",
        "clauses_close",
        "clauses_end",
        "clauses_link",
        "clauses_many",
        "clauses_start",
        "kit",
    )
)


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: the memory transport works without pytest."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name] != "_memory":
        import pytest

        pytest.register_assert_rewrite(*(each for each in _ASSERTING if each not in sys.modules))
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
