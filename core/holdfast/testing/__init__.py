"""The conformance kit: holdfast's transport contract as tests, for authors of transports.

Subclass :class:`TransportContract`, give one fixture, run pytest::

    import pytest
    from holdfast.testing import TransportContract
    from my_plugin import MyTransport

    class TestMyTransport(TransportContract):
        @pytest.fixture
        def transport(self):
            return MyTransport()

It needs ``pip install holdfast[testing]``. :class:`MemoryTransport`, with workers, faults and a
clock of its own, does not need pytest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._clause import CLAUSES, Clause
    from ._clock import fake_clock
    from ._contract import TransportContract
    from ._faults import Fault, What, seeds, shrink
    from ._kit import SCRIPT_WORKER, Kit
    from ._memory import MemoryTransport
    from ._memory_channel import MemoryChannel
    from ._memory_ends import ReadEnd, WriteEnd, echo, read_line, script

__all__ = [
    "CLAUSES",
    "SCRIPT_WORKER",
    "Clause",
    "Fault",
    "Kit",
    "MemoryChannel",
    "MemoryTransport",
    "ReadEnd",
    "TransportContract",
    "What",
    "WriteEnd",
    "echo",
    "fake_clock",
    "read_line",
    "script",
    "seeds",
    "shrink",
]

_HOME: Final = {
    "CLAUSES": "_contract",
    "SCRIPT_WORKER": "_kit",
    "Clause": "_clause",
    "Fault": "_faults",
    "Kit": "_kit",
    "MemoryChannel": "_memory_channel",
    "MemoryTransport": "_memory",
    "ReadEnd": "_memory_ends",
    "TransportContract": "_contract",
    "What": "_faults",
    "WriteEnd": "_memory_ends",
    "echo": "_memory_ends",
    "fake_clock": "_clock",
    "read_line": "_memory_ends",
    "script": "_memory_ends",
    "seeds": "_faults",
    "shrink": "_faults",
}
_NEED_PYTEST: Final = {"_clause", "_contract", "_kit"}

_ASSERTING: Final = tuple(
    f"{__name__}._{module}"
    for module in (
        "clauses_broken",
        "clauses_bytes",
        "clauses_close",
        "clauses_end",
        "clauses_forward",
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
    if _HOME[name] in _NEED_PYTEST:
        import pytest

        pytest.register_assert_rewrite(*(each for each in _ASSERTING if each not in sys.modules))
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
