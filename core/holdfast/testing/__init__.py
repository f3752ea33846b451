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


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: the memory transport works without pytest."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _HOME[name]
    if module != "_memory":
        import pytest

        pytest.register_assert_rewrite(
            *(f"{__name__}.{part}" for part in _REWRITTEN if f"{__name__}.{part}" not in _loaded())
        )
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


_REWRITTEN: Final = (
    "_clauses_start",
    "_clauses_bytes",
    "_clauses_end",
    "_clauses_broken",
    "_clauses_link",
    "_clauses_close",
    "_clauses_many",
    "_kit",
)


def _loaded() -> dict[str, Any]:
    import sys

    return dict(sys.modules)
