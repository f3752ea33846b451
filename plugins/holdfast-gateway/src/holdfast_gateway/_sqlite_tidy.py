"""What an event log drops so that it stays within bounds: old events, a little with each write."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

SHIFT: Final = 40
"""An event's key is its session's number times 2**40, plus its seq: one table, in order of both."""

OVERHEAD: Final = 32
"""Bytes that a row takes beside its text and its data, about."""

_STEP: Final = 2000
"""Rows that are looked at, and perhaps deleted, in one step."""

_FREE_PAGES: Final = 4096
"""Pages (of 4 KiB) that may lie free for new events; what is beyond goes back to the disk."""

_VACUUM_PAGES: Final = 8192
"""Pages that one write gives back: some hundredths of a second."""

_AGE_CHECK: Final = 60.0
"""Seconds between two looks for events that are too old."""

_LOW: Final = 0.9
"""To which part of a bound it is tidied once it is passed, so that not every write has to."""


class Retention(msgspec.Struct, frozen=True):
    """How much is kept; what is oldest goes first.

    Attributes:
        max_age: Seconds that an event is kept.
        max_session_bytes: What the events of one session may take.
        max_bytes: What all of them may take.
    """

    max_age: float = 30 * 86400.0
    max_session_bytes: int = 256 * 1024 * 1024
    max_bytes: int = 4 * 1024 * 1024 * 1024


class Kept(msgspec.Struct):
    """What is known of a kept session without asking the database.

    Attributes:
        number: Its number there.
        size: What its events take, in bytes.
        first_seq: The seq of its oldest event, ``None`` without one.
        first_at: When that was written, in seconds since 1970.
    """

    number: int
    size: int = 0
    first_seq: int | None = None
    first_at: int = 0

    @property
    def keys(self) -> tuple[int, int]:
        """The lowest and the highest key that its events can have."""
        return keys(self.number)


def keys(number: int) -> tuple[int, int]:
    """The lowest and the highest key of a session's events."""
    return number << SHIFT, ((number + 1) << SHIFT) - 1


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # SQLite ends it by itself where the disk is full
            database.execute("ROLLBACK")
        raise


class Tidier:
    """Keeps the tables within a :class:`Retention`; runs in the writer's thread."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._age_checked = float("-inf")

    def tidy(self, database: sqlite3.Connection, sessions: dict[str, Kept], seconds: float) -> None:
        """Drop what is too much, for about so many seconds; what remains is left to the next call.

        It works in transactions of its own, so that a failure undoes no more than one step.
        """
        until = time.monotonic() + seconds
        self._purge(database, until)
        bounds = self._retention
        for each in list(sessions.values()):
            if each.size > bounds.max_session_bytes:
                goal = int(bounds.max_session_bytes * _LOW)
                while each.size > goal and time.monotonic() < until:
                    self._drop(database, each, each.size - goal, None)
                    if each.first_seq is None:
                        break
        total = sum(each.size for each in sessions.values())
        if total > bounds.max_bytes:
            goal = int(bounds.max_bytes * _LOW)
            while total > goal and time.monotonic() < until:
                full = [each for each in sessions.values() if each.first_seq is not None]
                if not full:
                    break
                oldest = min(full, key=lambda each: each.first_at)
                total -= oldest.size
                self._drop(database, oldest, total + oldest.size - goal, None)
                total += oldest.size
        if time.monotonic() - self._age_checked > min(_AGE_CHECK, bounds.max_age):
            cutoff = int(time.time() - bounds.max_age)
            for each in list(sessions.values()):
                while each.first_seq is not None and each.first_at < cutoff:
                    if time.monotonic() > until:
                        break
                    self._drop(database, each, None, cutoff)
            if time.monotonic() <= until:
                self._age_checked = time.monotonic()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        if free > _FREE_PAGES:
            # `execute` would free one page: it ends at the first row, and these have no columns.
            pages = min(free - _FREE_PAGES, _VACUUM_PAGES)
            database.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _purge(self, database: sqlite3.Connection, until: float) -> None:
        """Delete events of sessions that were forgotten."""
        while time.monotonic() < until:
            row = database.execute("SELECT number FROM forgotten LIMIT 1").fetchone()
            if row is None:
                break
            low, high = keys(row[0])
            with transaction(database):
                count = database.execute(
                    "DELETE FROM events WHERE key IN (SELECT key FROM events WHERE key BETWEEN ? "
                    "AND ? ORDER BY key LIMIT ?)",
                    (low, high, _STEP),
                ).rowcount
                if count < _STEP:
                    database.execute("DELETE FROM forgotten WHERE number = ?", row)

    def _drop(
        self, database: sqlite3.Connection, kept: Kept, size: int | None, before: int | None
    ) -> None:
        """Delete a session's oldest events: so many bytes of them, or those from before a time."""
        low, high = kept.keys
        count = freed = 0
        last = low
        for key, at, length in database.execute(
            "SELECT key, at, length(text) + coalesce(length(data), 0) FROM events "
            "WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?",
            (low, high, _STEP),
        ):
            if (size is not None and freed >= size) or (before is not None and at >= before):
                break
            count, freed, last = count + 1, freed + length + OVERHEAD, key
        rest = max(0, kept.size - freed)
        with transaction(database):
            if count:
                database.execute("DELETE FROM events WHERE key BETWEEN ? AND ?", (low, last))
            first = database.execute(
                "SELECT key, at FROM events WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1",
                (low, high),
            ).fetchone()
            if first is None:
                rest = 0
            database.execute("UPDATE sessions SET size = ? WHERE number = ?", (rest, kept.number))
        kept.size = rest
        kept.first_seq, kept.first_at = (first[0] - low, first[1]) if first else (None, 0)
