"""The failure table is what happens: each fault again, against what is written of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache

import anyio
import msgspec
import pytest
from tests.faults.table import pages
from tests.faults.table.faults import FAULTS, Fault, Moment
from tests.faults.table.measured import Measured, Told, load
from tests.faults.table.peers import PEERS, peer_cases
from tests.faults.table.peers.peer import provoke
from tests.faults.table.place import Place
from tests.faults.table.places import PLACES, cases
from tests.faults.table.runner import PATIENCE, Row, Sample, sample

ON_TRIO = {
    "killed in a request",
    "connection reset",
    "packets dropped, both ways",
    "host key changed",
}
"""What is provoked on trio too, over links; locally that is everything."""


UNNOTICED = 1.0
"""Seconds to wait where the table says that nothing is noticed: worse than that it cannot be."""


@cache
def measured() -> Measured:
    return load()


class Open:
    """The places that this process has opened; each is opened once, when it is needed first."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._places: dict[str, Place] = {}

    def place(self, name: str) -> Place:
        if name not in self._places:
            self._places[name] = self._stack.enter_context(PLACES[name]())
        return self._places[name]


@pytest.fixture(scope="module")
def open_places() -> Iterator[Open]:
    with ExitStack() as stack:
        yield Open(stack)


def runs() -> list[object]:
    """Each case on asyncio, and some on trio, too."""
    return [
        pytest.param(name, fault, backend, id=f"{name}-{fault.what}-{backend}")
        for name, fault in cases()
        for backend in ("asyncio", "trio")
        if backend == "asyncio" or name == "local" or fault.what in ON_TRIO
    ]


@pytest.mark.parametrize(("name", "fault", "backend"), runs())
def test_each_fault_is_told_as_the_table_says(
    open_places: Open, name: str, fault: Fault, backend: str
) -> None:
    """Nothing is said that is less true, or much later, and nothing more is left behind."""
    told = measured().places[name][fault.what]
    patience = PATIENCE if told.median is not None else UNNOTICED
    place = open_places.place(name)
    found = sample(fault, place, backend, patience=patience, may_stay=told.may_stay)
    print(found)
    assert told.worse(found, either_end=fault.at is Moment.MESSAGE) == []


def test_the_table_is_complete() -> None:
    """Every fault that a place has the hand for was measured there, and no other."""
    written = {(name, what) for name, faults in measured().places.items() for what in faults}
    assert written == {(name, fault.what) for name, fault in cases()}


@pytest.mark.parametrize(
    ("page", "part"),
    [pytest.param(*key, id=f"{key[0].name}-{key[1]}") for key in pages.render(measured())],
)
def test_the_pages_are_what_was_measured(page: object, part: str) -> None:
    """Nobody edits a generated table, and none is older than the measurements."""
    text = pages.render(measured())[page, part]  # type: ignore[index]
    assert pages.is_written(page, part, text)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PEERS)
def test_peers_say_what_is_written(open_places: Open, name: str) -> None:
    """What is said of other clients is still true, where it is said at once."""
    fault = next(fault for fault in FAULTS if fault.what == "exits 3")
    place = open_places.place(PEERS[name].place)
    said, _ = anyio.run(provoke, PEERS[name](), fault, place)
    assert said in measured().peers[name][fault.what].said


def test_every_peer_was_asked() -> None:
    """The tables without holdfast have each peer with each fault that it can meet."""
    written = {(name, what) for name, faults in measured().peers.items() for what in faults}
    assert written == {(name, fault.what) for name, fault in peer_cases()}


@pytest.mark.parametrize(
    "change",
    [
        {"row": Row("error", "process_exit", worker="alive")},
        {"seconds": 2.1 + 3 * 0.5},
        {"seconds": None},
        {"left": ("sleep 1000",)},
    ],
    ids=",".join,
)
def test_what_is_worse_is_found(change: dict[str, object]) -> None:
    """Other words, much more time, silence and leftovers are each worse; less time is not."""
    usual = Sample(Row("error", "process_exit", worker="gone"), 0.5)
    told = Told.of([usual, usual])
    assert told.worse(usual) == []
    assert told.worse(msgspec.structs.replace(usual, seconds=0.0)) == []
    assert len(told.worse(msgspec.structs.replace(usual, **change))) == 1
    assert len(told.worse(msgspec.structs.replace(usual, **change), either_end=True)) == 1


def test_either_end_of_a_worker_may_tell_first() -> None:
    """In the middle of a message both reasons are true, and nothing else may differ with them."""
    usual = Sample(Row("error", "stdin_broken", cause="worker_exited", worker="gone"), 0.5)
    told = Told.of([usual, usual])
    other = msgspec.structs.replace(usual.row, reason="process_exit")
    for row, either_end, worse in (
        (other, False, 1),
        (other, True, 0),
        (msgspec.structs.replace(other, cause="link_lost"), True, 1),
        (msgspec.structs.replace(other, reason="restart"), True, 1),
    ):
        assert len(told.worse(Sample(row, 0.5), either_end=either_end)) == worse
