"""The journal: one order for all readers, bounded memory, and no reader that costs another one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from holdfast import Event, Lagged, Line, LineTooLong, Stderr
from holdfast._journal import Journal

MIB = 2**20


def lines(first: int, *sizes: int) -> list[Event]:
    return [Line(first + i, b"x" * size) for i, size in enumerate(sizes)]


def seqs(events: Sequence[Event] | Lagged) -> list[int]:
    assert not isinstance(events, Lagged)
    return [each.seq for each in events]


def read_all(journal: Journal, after: int, at_most: int = 64) -> list[Event | Lagged]:
    """What a reader with this cursor sees until it has caught up."""
    seen: list[Event | Lagged] = []
    while True:
        batch = journal.read(after, at_most)
        if isinstance(batch, Lagged):
            seen.append(batch)
            after = batch.resume_from - 1
            continue
        if not batch:
            return seen
        assert len(batch) <= at_most
        seen += batch
        after = batch[-1].seq


def test_an_empty_journal() -> None:
    """Before the first event there is nothing to read, and nothing was missed."""
    journal = Journal(1000)
    assert (journal.first_seq, journal.last_seq) == (1, 0)
    assert seqs(journal.read(0, 10)) == []


def test_appending_nothing_changes_nothing() -> None:
    """An empty batch leaves the journal as it is."""
    journal = Journal(1000)
    journal.append([])
    assert journal.last_seq == 0


def test_a_cursor_ahead_of_the_journal_waits() -> None:
    """A reader that begins in the future sees nothing before its seq."""
    journal = Journal(MIB)
    journal.append(lines(1, 1, 1))
    assert seqs(journal.read(3, 10)) == []
    journal.append(lines(3, 1, 1))
    assert seqs(journal.read(3, 10)) == [4]


def test_events_beyond_the_bound_are_dropped_from_the_oldest_on() -> None:
    """A reader who needs a dropped event is told where it can go on, and others are not."""
    journal = Journal(10_000)
    journal.append(lines(1, *[1000] * 20))
    first = journal.first_seq
    assert 1 < first < 20
    assert journal.read(0, 10) == Lagged(first)
    assert journal.read(first - 2, 10) == Lagged(first)
    assert seqs(journal.read(first - 1, 3)) == [first, first + 1, first + 2]
    assert seqs(journal.read(20, 10)) == []


@pytest.mark.parametrize("size", [10, 100_000])
def test_the_newest_event_stays_whatever_its_size(size: int) -> None:
    """An event above the bound is there for who reads at once; the older ones make room."""
    journal = Journal(1000)
    journal.append(lines(1, 10, 10, 100_000, size))
    assert journal.first_seq == journal.last_seq == 4
    assert seqs(journal.read(3, 10)) == [4]
    journal.append(lines(5, 10))
    assert seqs(journal.read(4, 10)) == [5]


@pytest.mark.parametrize("at_once", [1, 64, 4096])
@pytest.mark.parametrize("size", [0, 200, 100_000])
def test_memory_is_bounded_in_bytes(size: int, at_once: int) -> None:
    """However many events come, and however large, the retained ones take what they may."""
    journal = Journal(2 * MIB)
    total = max(2000, min(40_000, 40 * MIB // (size + 400)))
    tracemalloc.start()
    try:
        seq = 0
        while seq < total:
            count = min(at_once, 8 * MIB // (size + 400))
            journal.append(
                [Line(seq + i + 1, b"%09d" % (seq + i) + bytes(size)) for i in range(count)]
            )
            seq += count
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 2.5 * MIB
    retained = len(read_all(journal, journal.first_seq - 1))
    assert retained * (size + 409) > 1.5 * MIB


@pytest.mark.parametrize(
    "make",
    [lambda seq: LineTooLong(seq, 10**9, bytes(1024)), lambda seq: Stderr(seq, bytes(1024))],
    ids=["line too long", "stderr"],
)
def test_every_kind_of_event_has_its_weight(make: object) -> None:
    """What an event holds counts, whatever its kind."""
    journal = Journal(100_000)
    for seq in range(1, 1001):
        journal.append([make(seq)])  # type: ignore[operator]
    retained = journal.last_seq - journal.first_seq + 1
    assert retained * 1024 <= 100_000


def test_large_events_are_read_one_at_a_time() -> None:
    """A slow reader does not hold many large events beyond their place in the journal."""
    journal = Journal(100 * MIB)
    journal.append(lines(1, *[MIB] * 5))
    assert seqs(journal.read(0, 64)) == [1]


def test_a_batch_that_was_read_does_not_change() -> None:
    """What a reader holds stays as it is while the journal goes on."""
    journal = Journal(5000)
    journal.append(lines(1, *[100] * 5))
    batch = journal.read(0, 5)
    for seq in range(6, 3000):
        journal.append(lines(seq, 100))
    assert seqs(batch) == [1, 2, 3, 4, 5]


sizes = st.lists(st.lists(st.integers(0, 5000), min_size=1, max_size=6), max_size=30)


@given(sizes, st.integers(1, 20_000), st.integers(1, 7))
def test_replay_from_any_cursor_gives_the_same_suffix(
    batches: list[list[int]], retained: int, at_most: int
) -> None:
    """Every reader sees the same events from its cursor on, or hears from where they are left."""
    journal = Journal(retained)
    history: list[Event] = []
    for batch in batches:
        events = lines(len(history) + 1, *batch)
        history += events
        journal.append(events)
        assert journal.last_seq == len(history)
    first = journal.first_seq
    for after in range(len(history) + 2):
        seen = read_all(journal, after, at_most)
        if after < first - 1:
            assert seen == [Lagged(first), *history[first - 1 :]]
        else:
            assert seen == history[after:]


@given(sizes, st.integers(1, 20_000), st.lists(st.integers(0, 3), min_size=1))
def test_a_reader_beside_a_writer_misses_nothing_unknowingly(
    batches: list[list[int]], retained: int, turns: list[int]
) -> None:
    """Each event is seen once and in order; a gap is announced, and is as long as announced."""
    journal = Journal(retained)
    cursor, count = 0, 0
    for i, batch in enumerate(batches):
        journal.append(lines(count + 1, *batch))
        count += len(batch)
        for _ in range(turns[i % len(turns)]):
            got = journal.read(cursor, 2)
            if isinstance(got, Lagged):
                assert got.resume_from > cursor + 1
                cursor = got.resume_from - 1
            elif got:
                assert got[0].seq == cursor + 1
                cursor = got[-1].seq
    assert cursor <= count


def test_a_journal_that_goes_on() -> None:
    """It may begin behind a seq; what lies before is not retained."""
    journal = Journal(MIB, last_seq=41)
    assert (journal.first_seq, journal.last_seq) == (42, 41)
    assert seqs(journal.read(41, 10)) == []
    assert journal.read(40, 10) == Lagged(42)
    journal.skip(100)
    assert (journal.first_seq, journal.last_seq) == (142, 141)
    journal.append(lines(142, 1))
    assert seqs(journal.read(141, 10)) == [142]


def test_what_is_not_released_stays_longer() -> None:
    """Events that are kept nowhere else may take more, and give way to a bound all the same."""
    journal = Journal(10_000, 20_000)
    for seq in range(1, 16):
        journal.append(lines(seq, 1000))
    assert journal.first_seq == 1, "above the first bound, below the second"
    journal.release(5)
    assert journal.first_seq == 6
    journal.release(15)
    assert 8 <= journal.first_seq <= 10, "back to the first bound"
    for seq in range(16, 100):
        journal.append(lines(seq, 1000))
    assert 70 < journal.first_seq < 80, "no more than both"
    assert seqs(journal.read(98, 10)) == [99]
