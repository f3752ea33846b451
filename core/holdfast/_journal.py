"""The one ordered event log of a session, bounded in bytes and read by cursors.

Whoever reads holds a number and nothing else: no queue, no copy, nothing that a slow reader could
fill. Who appends wakes the readers, once for all that it appended.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._events import Event, Lagged

_OVERHEAD = 400
"""Bytes of memory that an event takes beside its data: a status with its texts, the largest, takes
so much by ``sys.getsizeof``."""

_OTHER = bytes(1024)
"""In the place of data, for events that have none: as long as the head of a ``LineTooLong``."""

_LARGE = 65536
"""From this average size of an event on, readers are given one at a time."""

_SLACK = 512
"""How many dropped events may still stand in the list, so that few appends have to move it."""


class Journal:
    """A session's events, the latest of them retained.

    Args:
        retained_bytes: How much memory the retained events may take.
        backlog_bytes: How much more those may take that are not released yet.
        last_seq: The seq after which to go on.
    """

    def __init__(self, retained_bytes: int, backlog_bytes: int = 0, last_seq: int = 0) -> None:
        self._retained_bytes = retained_bytes
        self._most_bytes = retained_bytes + backlog_bytes
        self._events: list[Event] = []
        self._start = 0  # where in the list the retained events begin
        self._size = 0
        self._released = last_seq
        self.last_seq: int = last_seq

    @property
    def first_seq(self) -> int:
        """The seq of the oldest retained event, or of the next one if none is retained."""
        return self.last_seq - (len(self._events) - self._start) + 1

    def append(self, events: Sequence[Event]) -> None:
        """Add ``events``, which follow each other and the last one without a gap."""
        if not events:
            return
        self._events += events
        self.last_seq = events[-1].seq
        size = self._size
        for event in events:
            size += _OVERHEAD + len(getattr(event, "data", _OTHER))
        self._size = size
        if self._size > self._retained_bytes:
            self._trim()

    def release(self, seq: int) -> None:
        """The events up to ``seq`` are kept elsewhere, too."""
        self._released = seq
        if self._size > self._retained_bytes:
            self._trim()

    def skip(self, count: int) -> None:
        """Leave out seqs. Only while nothing is retained."""
        assert not self._events
        self.last_seq += count

    def _trim(self) -> None:
        events, start = self._events, self._start
        last = len(events) - 1  # the newest event stays, whatever its size
        while self._size > self._most_bytes and start < last:
            self._size -= _weight(events[start])
            events[start] = _DROPPED
            start += 1
        while (
            self._size > self._retained_bytes
            and start < last
            and events[start].seq <= self._released
        ):
            self._size -= _weight(events[start])
            events[start] = _DROPPED
            start += 1
        if start > _SLACK:
            del events[:start]
            start = 0
        self._start = start

    def read(self, after: int, at_most: int) -> Sequence[Event] | Lagged:
        """The events with ``seq > after``, up to ``at_most`` of them; none if there are none yet.

        Fewer are given where events are large: who holds them may be slow, and they should not
        outlive their place in the journal by much.

        Returns:
            The events, or :class:`Lagged` if the next one is no longer retained.
        """
        index = after - self.last_seq + len(self._events)
        if index < self._start:
            return Lagged(self.first_seq)
        if self._size > _LARGE * (len(self._events) - self._start):
            at_most = 1
        return self._events[index : index + at_most]


_DROPPED = Event(0)


def _weight(event: Event) -> int:
    return _OVERHEAD + len(getattr(event, "data", _OTHER))
