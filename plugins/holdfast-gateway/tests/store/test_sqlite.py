"""The log in SQLite as a store: what core's contract says, and how much is kept."""

from __future__ import annotations

import datetime as dt
import sqlite3
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from holdfast import (
    Cause,
    Event,
    Exit,
    Fate,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    Origin,
    Reason,
    Sent,
    State,
    Status,
    StatusChanged,
    Stderr,
    StoreEntry,
)
from holdfast_gateway._sqlite import SQLiteStore
from holdfast_gateway._sqlite_tidy import Retention

from .kit import entry, head, lines, spec

pytestmark = pytest.mark.anyio


def made(kind: Callable[..., Any], *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """``st.builds`` would look for the annotations in the module that a public name claims."""
    return st.tuples(*fields).map(lambda values: kind(*values))


IDS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=())),  # lone surrogates, too
)
TEXTS = st.none() | st.text(st.characters(exclude_categories=()), max_size=30)
STATUSES = made(
    Status,
    st.text(string.printable, min_size=1),
    st.sampled_from(State),
    st.integers(0, 2**40),
    TEXTS,
    st.none() | st.sampled_from(Reason),
    TEXTS,
    st.datetimes(timezones=st.just(dt.UTC)),
    st.none() | st.sampled_from(Cause),
    st.none() | st.sampled_from(Fate),
    st.none() | made(Exit, st.none() | st.integers(0, 255), TEXTS, TEXTS),
)
KINDS = st.sampled_from(Kind)
EVENTS = st.one_of(
    made(
        Line,
        st.just(1),
        st.binary(),
        KINDS,
        st.none() | IDS,
        st.sampled_from(Origin),
        st.booleans(),
    ),
    made(Sent, st.just(1), st.binary(), KINDS, st.none() | IDS),
    made(StatusChanged, st.just(1), STATUSES),
    made(Stderr, st.just(1), st.binary()),
    made(LineTooLong, st.just(1), st.integers(0, 2**62), st.binary()),
)


def retyped(event: Event) -> tuple[Event, type]:
    """An event, and the type of its id: to Python 1 and 1.0 are equal."""
    return event, type(getattr(event, "id", None))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_any_event_comes_back_equal(tmp_path: Path, anyio_backend: str) -> None:
    """Whatever an event holds, what is read is what was written, down to the type of its id."""
    count = 0

    @settings(suppress_health_check=list(HealthCheck), max_examples=30, deadline=None)
    @given(st.lists(EVENTS, min_size=1, max_size=40))
    def check(drawn: list[Event]) -> None:
        nonlocal count
        count += 1
        events = [type(each)(n, *fields(each)) for n, each in enumerate(drawn, 1)]

        async def there_and_back() -> None:
            store = SQLiteStore(tmp_path / str(count))
            await store.open()
            await store.write([entry(events, new=True)])
            await store.close()
            await store.open()
            got = await store.read("s", 0, len(events) + 1)
            await store.close()
            assert not isinstance(got, Lagged)
            assert [retyped(each) for each in got] == [retyped(each) for each in events]

        anyio.run(there_and_back, backend=anyio_backend)

    check()


def fields(event: Event) -> list[object]:
    return [getattr(event, name) for name in event.__struct_fields__[1:]]


async def test_a_read_begins_behind_its_cursor(tmp_path: Path) -> None:
    """From any cursor come the next events, as many as asked for, and none at the end."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 10), new=True), entry(lines(1, 3), "other", new=True)])
    await store.write([entry(lines(11, 20))])
    assert await store.read("s", 0, 100) == lines(1, 20)
    assert await store.read("s", 7, 5) == lines(8, 12)
    assert list(await store.read("s", 20, 5)) == []  # type: ignore[arg-type]
    assert list(await store.read("s", 99, 5)) == []  # type: ignore[arg-type]
    assert list(await store.read("unknown", 0, 5)) == []  # type: ignore[arg-type]
    assert await store.read("other", 0, 100) == lines(1, 3)
    assert (store.first_seq("s"), store.first_seq("unknown")) == (1, None)
    await store.close()


async def test_a_gap_is_told(tmp_path: Path) -> None:
    """A read stops before a gap; the next one says where it ends."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(5, 9), new=True)])
    await store.write([entry(lines(1000, 1001))])
    assert await store.read("s", 0, 100) == Lagged(5)
    assert await store.read("s", 4, 100) == lines(5, 9)
    assert await store.read("s", 9, 100) == Lagged(1000)
    assert await store.read("s", 999, 100) == lines(1000, 1001)
    await store.close()


async def test_large_events_come_few_at_a_time(tmp_path: Path) -> None:
    """Who reads large events is given about a mebibyte, and gets every one by going on."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 12, 400_000), new=True)])
    got = await store.read("s", 0, 100)
    assert not isinstance(got, Lagged)
    assert 1 <= len(got) < 5
    assert await store.read("s", 11, 100) == lines(12, 12, 400_000)
    await store.close()


async def test_what_is_written_twice_is_there_once(tmp_path: Path) -> None:
    """A write that is made again, since nobody knew whether it had worked, changes nothing."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 10), new=True)])
    await store.write([entry(lines(5, 12))])
    assert await store.read("s", 0, 100) == lines(1, 12)
    await store.close()


async def test_a_write_is_all_or_nothing(tmp_path: Path) -> None:
    """What goes wrong in one entry leaves nothing of the others."""
    store = SQLiteStore(tmp_path)
    await store.open()
    broken = StoreEntry(spec("b"), head(1, "b"), [object()], True)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        await store.write([entry(lines(1, 3), new=True), broken])
    assert await store.sessions() == []
    assert store.first_seq("s") is None
    await store.write([entry(lines(1, 3), new=True)])
    assert await store.read("s", 0, 9) == lines(1, 3)
    await store.close()


async def test_sessions_come_back_in_order_with_their_heads(tmp_path: Path) -> None:
    """Another store on the same directory gives each session's spec and its latest head."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 1), name, new=True) for name in ("z", "a", "m\udc80")])
    await store.write([StoreEntry(spec("a"), head(1, "a", clean=True), ())])
    await store.close()
    again = SQLiteStore(tmp_path)
    await again.open()
    found = await again.sessions()
    await again.close()
    assert [each.spec.id for each in found] == ["z", "a", "m\udc80"]
    assert found[1].spec == spec("a")
    assert found[1].head == head(1, "a", clean=True)
    assert not found[0].head.clean


async def test_a_new_session_replaces_one_of_its_id(tmp_path: Path) -> None:
    """Nothing of a forgotten or replaced session is ever read under its id again."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 5000), new=True)])
    await store.write([entry(lines(1, 2, 99), new=True)])
    assert await store.read("s", 0, 10) == lines(1, 2, 99)
    await store.remove("s")
    assert await store.sessions() == []
    assert list(await store.read("s", 0, 10)) == []  # type: ignore[arg-type]
    await store.remove("s")
    await store.write([entry(lines(7, 8), new=True)])
    await store.close()
    await store.open()
    assert await store.read("s", 6, 10) == lines(7, 8)
    await store.close()
    with sqlite3.connect(tmp_path / "events.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM events").fetchone() == (2,)
    database.close()


async def test_a_session_takes_no_more_than_its_bound(tmp_path: Path) -> None:
    """The oldest events of a session above its bound go, and no other's."""
    store = SQLiteStore(tmp_path, retention=Retention(max_session_bytes=100_000))
    await store.open()
    await store.write([entry(lines(1, 100), "other", new=True)])
    for first in range(1, 2001, 100):
        await store.write([entry(lines(first, first + 99, 500), new=first == 1)])
    oldest = store.first_seq("s")
    assert oldest is not None
    assert 1700 < oldest < 1900
    assert await store.read("s", 0, 9) == Lagged(oldest)
    assert await store.read("s", oldest - 1, 1) == lines(oldest, oldest, 500)
    assert await store.read("s", 1999, 9) == lines(2000, 2000, 500)
    assert store.first_seq("other") == 1
    await store.close()
    await store.open()
    assert store.first_seq("s") == oldest
    await store.close()


async def test_all_sessions_take_no_more_than_their_bound(tmp_path: Path) -> None:
    """Above the bound for all, what is oldest goes, whosever it is; the sessions stay."""
    store = SQLiteStore(tmp_path, retention=Retention(max_bytes=30_000_000))
    await store.open()
    for number in range(30):
        name = f"s{number}"
        await store.write([entry(lines(1, 20, 100_000), name, new=True)])
    await store.write([entry(lines(21, 21), "s29")])
    kept = [number for number in range(30) if store.first_seq(f"s{number}") is not None]
    assert kept[-1] == 29
    assert 5 <= len(kept) <= 16
    assert len(await store.sessions()) == 30, "sessions stay; only their events go"
    await store.close()


async def test_the_file_shrinks(tmp_path: Path) -> None:
    """Space that deleted events took goes back to the disk, but for some to be used again."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 600, 100_000), new=True)])
    await store.close()
    database = tmp_path / "events.sqlite3"
    assert database.stat().st_size > 60_000_000
    store = SQLiteStore(tmp_path, retention=Retention(max_session_bytes=1_000_000))
    await store.open()
    for seq in range(601, 700):
        await store.write([entry(lines(seq, seq))])
        if (store.first_seq("s") or 0) > 590:
            break
    for more in (1, 2):
        await store.write([entry(lines(seq + more, seq + more))])
    await store.close()
    assert database.stat().st_size < 25_000_000


async def test_old_events_go(tmp_path: Path) -> None:
    """An event older than the bound goes with one of the next writes."""
    store = SQLiteStore(tmp_path, retention=Retention(max_age=100))
    await store.open()
    await store.write([entry(lines(1, 10), new=True)])
    await store.close()
    with sqlite3.connect(tmp_path / "events.sqlite3") as database:
        database.execute("UPDATE events SET at = ? WHERE key & 1023 < 8", (int(time.time()) - 101,))
    database.close()
    store = SQLiteStore(tmp_path, retention=Retention(max_age=100))
    await store.open()
    await store.write([entry(lines(11, 11))])
    assert store.first_seq("s") == 8
    assert await store.read("s", 7, 99) == lines(8, 11)
    await store.close()
