"""A cursor into a session's journal, as an async iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import anyio.lowlevel

from ._events import Event, Lagged
from ._journal import Journal
from .wakeup import Bell

_BATCH: Final = 64
"""Events that are taken from the journal at once."""

_TURN: Final = 1024
"""Events after which a reader that never has to wait lets other tasks run."""

Archive = Callable[[int, int], Awaitable[Sequence[Event] | Lagged]]
"""Reads, behind a seq, what a store has kept; nothing if it has nothing or cannot be read."""


async def read_back(
    journal: Journal, archive: Archive | None, after: int, at_most: int
) -> Sequence[Event] | Lagged:
    """The events behind ``after`` from the journal or, where it has moved on, from the archive.

    Neither is asked to fit the other: both hold the same events under the same seqs, so whichever
    has the next one gives it, and the reader's cursor goes on from there.
    """
    events = journal.read(after, at_most)
    if archive is None or not isinstance(events, Lagged):
        return events
    kept = await archive(after, at_most)
    oldest = journal.first_seq  # which has moved on meanwhile
    if isinstance(kept, Lagged):
        return Lagged(min(kept.resume_from, oldest))
    return kept or Lagged(oldest)


class Subscription:
    """A reader of a session's events: ``async for event in subscription``.

    It ends when the session is forgotten. Cancelling it while it waits loses no event.
    """

    def __init__(
        self,
        journal: Journal,
        archive: Archive | None,
        bell: Bell,
        closed: Callable[[], bool],
        after: int,
    ) -> None:
        self._journal = journal
        self._archive = archive
        self._bell = bell
        self._closed = closed
        self._cursor = after
        self._batch: Sequence[Event | Lagged] = ()
        self._next = 0
        self._turn = 0

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event | Lagged:
        if self._next == len(self._batch):
            self._batch = await self._take(_BATCH)
            self._next = 0
        event = self._batch[self._next]
        self._next += 1
        return event

    def batches(self, at_most: int = 1024) -> AsyncIterator[Sequence[Event | Lagged]]:
        """The same events, as many at a time as there are."""
        return _Batches(self, at_most)

    async def _take(self, at_most: int) -> Sequence[Event | Lagged]:
        if self._turn >= _TURN:
            self._turn = 0
            await anyio.lowlevel.checkpoint()
        while True:
            events = self._journal.read(self._cursor, at_most)
            if isinstance(events, Lagged) and self._archive is not None:
                events = await read_back(self._journal, self._archive, self._cursor, at_most)
            if isinstance(events, Lagged):
                self._cursor = events.resume_from - 1
                return (events,)
            if events:
                self._cursor = events[-1].seq
                self._turn += len(events)
                return events
            if self._closed():
                raise StopAsyncIteration
            self._turn = 0
            await self._bell.wait()


class _Batches:
    """Not an async generator: one that is cancelled while it waits would be at its end."""

    def __init__(self, subscription: Subscription, at_most: int) -> None:
        self._subscription = subscription
        self._at_most = at_most

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> Sequence[Event | Lagged]:
        one_by_one = self._subscription
        if rest := one_by_one._batch[one_by_one._next :]:
            one_by_one._batch, one_by_one._next = (), 0
            return rest
        return await one_by_one._take(self._at_most)
