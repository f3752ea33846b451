"""One more reader of every journal: what it reads goes to the store.

Sessions publish and never wait for the store. One task reads behind them, hands over what has come
since, and only then looks again; so what comes meanwhile is one group for the store. While the
store fails, the journals go on in memory, and their cursors here stand still: once the store works
again it gets all that they still retain. What they dropped by then is a gap, which is told: by
``durability_detail`` at once, and by ``Lagged`` to whoever reads there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import anyio

from ._errors import StoreError, StoreUnavailable
from ._events import Event, Kind, Lagged, Line, RequestId, Sent, StatusChanged
from ._journal import Journal
from ._status import State, Status
from ._store import Durability, SessionHead, SessionSpec, Store, StoredSession, StoreEntry
from .wakeup import bell

_log = logging.getLogger("holdfast")

_GROUP: Final = 4096
"""Events in one write: enough to make the cost of a commit small, and not a second's work."""

_GROUP_BYTES: Final = 8 * 1024 * 1024
"""Bytes in one write, which are held beside the journals' own while it lasts."""

_PIECE: Final = 2048
"""Events of one session in one write, so that a loud one does not keep the others waiting."""

BACKLOG_BYTES: Final = 32 * 1024 * 1024
"""What a session's journal may hold beyond its own limit for a store that is behind or fails: for
a burst, and for some seconds of a full disk. Beyond that, the oldest events give way."""

_LINGER: Final = 0.005
"""Seconds from one write to the next, so that events which come one by one share a commit and the
event loop has few of its turns taken; so long may an event that was shown not be safe yet."""

_ENOUGH: Final = 256
"""Events in a write after which the next one follows at once: there is no need to wait for more."""

_RETRY: Final = 1.0
"""Seconds until a store that failed is tried again: space comes back when somebody makes some."""

_FAREWELL: Final = 5.0
"""Seconds for the last writes, and as many for closing the store, when a manager is left."""

SKIP: Final = 1_000_000
"""How many seqs are left out after a program that ended without a word, if the store does not know
what was shown: events that it lacks may have been, and their seqs must not be given out again. More
than a journal of the default size retains, hence more than a store that works can be behind."""

_REQUEST: Final = Kind.REQUEST
_ANSWER: Final = Kind.ANSWER


class Track:
    """How far one session is recorded.

    Attributes:
        stored: The seq of the last event that is in the store.
        taken: The seq up to which events are on their way there.
        caught_up: Whether nothing was lost since the store last had all there was.
        gap: What of this session is not kept, for a person.
    """

    def __init__(
        self,
        recorder: Recorder,
        spec: SessionSpec,
        journal: Journal,
        snapshot: Callable[[], tuple[Status, int, frozenset[RequestId]]],
        resumed: SessionHead | None,
    ) -> None:
        self.id: str = spec.id
        self.stored: int = journal.last_seq
        self.taken: int = journal.last_seq
        self.caught_up: bool = True
        self.gap: str | None = None
        self._recorder = recorder
        self._shown = recorder.store.shown
        self._spec = spec
        self._new = resumed is None
        self._journal = journal
        self._snapshot = snapshot
        self._status = snapshot()[0] if resumed is None else resumed.status
        self._open: dict[RequestId, None] = {}
        if resumed is not None:
            self._open = dict.fromkeys(resumed.in_flight)
        self._waiting = False
        self._next: tuple[int, Status, dict[RequestId, None]] | None = None

    def touch(self) -> None:
        """There is something to record."""
        self._shown(self.id, self._journal.last_seq)
        if not self._waiting:
            self._waiting = True
            self._recorder.wake(self)

    @property
    def durability(self) -> Durability:
        """Where the session's events are safe."""
        if self._recorder.failure is None and self.caught_up:
            return Durability.DURABLE
        return Durability.MEMORY

    @property
    def detail(self) -> str | None:
        """What is to be said of that, if anything."""
        said = (self._recorder.failure, self.gap, self._recorder.store.notice)
        return "; ".join(text for text in said if text) or None

    @property
    def behind(self) -> int:
        """How many events are not in the store yet."""
        return self._journal.last_seq - self.stored

    @property
    def first_seq(self) -> int | None:
        """The seq of the oldest event that the store has."""
        return self._recorder.store.first_seq(self.id)

    async def read(self, after: int, at_most: int) -> Sequence[Event] | Lagged:
        """What the store has behind ``after``; none if it cannot say."""
        return await self._recorder.read(self, after, at_most)

    # -- for the recorder --------------------------------------------------------------------

    def take(self) -> StoreEntry:
        """What goes into the next write."""
        self._waiting = False
        status, generation, in_flight = self._snapshot()
        cursor, last_status, open = self.stored, self._status, dict(self._open)
        events: list[Event] = []
        size = 0
        while len(events) < _PIECE and size < _GROUP_BYTES:
            got = self._journal.read(cursor, _PIECE - len(events))
            if isinstance(got, Lagged):
                if events:
                    break
                self.gap = f"events {cursor + 1} to {got.resume_from - 1} are not kept"
                if self.caught_up:  # once, however far it falls behind
                    _log.warning("session %s: %s: the store is too slow", self.id, self.gap)
                self.caught_up = False
                cursor, last_status, open = got.resume_from - 1, status, dict.fromkeys(in_flight)
                continue
            if not got:
                break
            events += got
            cursor = got[-1].seq
            size += sum(len(getattr(event, "data", b"")) for event in got)
        for event in events:
            kind = type(event)
            if kind is Line:
                if event.kind is _ANSWER:  # type: ignore[attr-defined]
                    open.pop(event.id, None)  # type: ignore[attr-defined]
            elif kind is Sent:
                if event.kind is _REQUEST:  # type: ignore[attr-defined]
                    open[event.id] = None  # type: ignore[attr-defined]
            elif kind is StatusChanged:
                last_status = event.status  # type: ignore[attr-defined]
        self.taken = cursor
        self._next = (cursor, last_status, open)
        head = SessionHead(last_status, cursor, generation, tuple(open), False)
        return StoreEntry(self._spec, head, events, self._new)

    def kept(self) -> None:
        """What was taken is in the store."""
        assert self._next is not None
        self._new = False
        self.stored, self._status, self._open = self._next
        self._journal.release(self.stored)
        self._shown(self.id, self._journal.last_seq)  # now that it is kept
        if self.stored == self._journal.last_seq:
            self.caught_up = True
        else:
            self.touch()

    def skip(self, count: int) -> None:
        """Seqs are left out. Only while nothing was taken."""
        self.stored += count
        self.taken = self.stored

    def lost(self) -> None:
        """What was taken is not in the store; it will be taken again."""
        self.taken = self.stored
        self.touch()

    def farewell(self) -> StoreEntry | None:
        """The last entry of a session that is over, if the store has all of it."""
        status, generation, _ = self._snapshot()
        if self.stored != self._journal.last_seq or self._new:
            return None
        if status.state not in (State.STOPPED, State.ERROR):
            return None
        head = SessionHead(self._status, self.stored, generation, tuple(self._open), True)
        return StoreEntry(self._spec, head, ())


class Recorder:
    """What a manager with a store does for it.

    Attributes:
        store: The store.
        failure: Why nothing can be stored at present, ``None`` if it can.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.failure: str | None = None
        self._opened = False
        self._leaving = False
        self._waiting: dict[str, Track] = {}
        self._tracks: dict[str, Track] = {}
        self._removals: dict[str, None] = {}
        self._turn = anyio.Lock()
        self._work = bell()
        self._turned = bell()

    async def open(self) -> None:
        """Open the store; one that is unavailable is tried again later.

        Raises:
            StoreError: It must not be used.
        """
        try:
            await self.store.open()
        except Exception as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreUnavailable):
                raise
            self._fail(error)
        else:
            self._opened = True

    async def sessions(self) -> Sequence[StoredSession]:
        """Every session that the store has; none if it cannot be read."""
        if not self._opened:
            return ()
        try:
            async with self._turn:
                return await self.store.sessions()
        except Exception as error:  # noqa: BLE001 - whatever a store does, sessions go on
            self._fail(error)
            return ()

    async def catch_up(self) -> bool:
        """Write all that there is now; say whether it could be written."""
        while True:
            await self.write()  # waits for one that is under way, too
            if self.failure is not None:
                return False
            if not self._waiting:
                return True

    def add(self, track: Track) -> None:
        """Record a session from now on."""
        self._tracks[track.id] = track
        track.touch()

    def wake(self, track: Track) -> None:
        """A session has something to record."""
        if self._tracks.get(track.id) is track:
            self._waiting[track.id] = track
            self._work.ring()

    async def run(self) -> None:
        """Record until the manager is left."""
        while not self._leaving:
            if not self._waiting and not self._removals:
                await self._work.wait()
                continue
            count = await self.write()
            if self.failure is not None:
                await anyio.sleep(_RETRY)
            elif count < _ENOUGH:
                await anyio.sleep(_LINGER)

    async def write(self) -> int:
        """One write, of what has come since the last one; gives the number of events."""
        async with self._turn:
            taken: list[Track] = []
            done = False
            entries: list[StoreEntry] = []
            try:
                if not self._opened:
                    await self.store.open()
                    self._opened = True
                while self._removals:
                    session_id = next(iter(self._removals))
                    await self.store.remove(session_id)
                    del self._removals[session_id]
                if entries := self._take(taken):
                    await self.store.write(entries)
                done = True
            except Exception as error:  # noqa: BLE001 - whatever a store does, sessions go on
                self._fail(error)
            finally:
                for track in taken:
                    if done:
                        track.kept()
                    else:
                        track.lost()
                self._turned.ring()
            if done and self.failure is not None:
                self.failure = None
                _log.warning("events are stored again")
            return sum(len(entry.events) for entry in entries)

    def _take(self, taken: list[Track]) -> list[StoreEntry]:
        entries: list[StoreEntry] = []
        count = size = 0
        while self._waiting and count < _GROUP and size < _GROUP_BYTES:
            track = self._waiting.pop(next(iter(self._waiting)))
            taken.append(track)
            entry = track.take()
            entries.append(entry)
            count += len(entry.events)
            size += sum(len(getattr(event, "data", b"")) for event in entry.events)
        return entries

    def _fail(self, error: Exception) -> None:
        text = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        if self.failure is None:
            known = isinstance(error, StoreError | OSError)
            _log.warning(
                "events are kept in memory alone: %s", text, exc_info=None if known else error
            )
        self.failure = text

    async def read(self, track: Track, after: int, at_most: int) -> Sequence[Event] | Lagged:
        """What the store has of a session behind ``after``; none if it cannot say."""
        while track.stored <= after < track.taken:
            await self._turned.wait()
        if not self._opened or self._leaving:
            return ()
        try:
            return await self.store.read(track.id, after, at_most)
        except Exception as error:  # noqa: BLE001 - whatever a store does, readers go on
            _log.warning("session %s: the store cannot be read: %s", track.id, error)
            return ()

    async def forget(self, track: Track) -> None:
        """Take a session out of the store: now, or once the store works again."""
        self._tracks.pop(track.id, None)
        self._waiting.pop(track.id, None)
        self._removals[track.id] = None
        self._work.ring()
        with anyio.move_on_after(_FAREWELL):
            await self.write()

    async def close(self) -> None:
        """Write what is left, within a bound, and close the store."""
        self._leaving = True
        self._work.ring()
        with anyio.move_on_after(_FAREWELL, shield=True):
            await self.catch_up()
            async with self._turn:
                last = [entry for each in self._tracks.values() if (entry := each.farewell())]
                try:
                    if last and self._opened:
                        await self.store.write(last)
                except Exception as error:  # noqa: BLE001 - the next program will see it as it is
                    self._fail(error)
        with anyio.move_on_after(_FAREWELL, shield=True):
            try:
                await self.store.close()
            except Exception as error:  # noqa: BLE001 - leaving a manager ends all the same
                _log.warning("the store could not be closed: %s", error)
        lost = sum(each.behind for each in self._tracks.values())
        if lost:
            _log.warning("the last %d event(s) could not be stored", lost)
