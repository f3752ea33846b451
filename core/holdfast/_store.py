"""The seam behind the journal: where sessions and their events are kept for the next program.

A :class:`Store` keeps, and decides nothing. Core reads the journal on its behalf, as one more
reader with a cursor: a store that is slow or fails holds nobody up and needs no queue of its own,
and what it could not take yet is offered again for as long as the journal retains it.

Values of environment variables are never handed to a store, only their names.
"""

from __future__ import annotations

import datetime as dt
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec

from ._events import (
    Event,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    Origin,
    RequestId,
    Sent,
    StatusChanged,
    Stderr,
)
from ._limits import Limits
from ._status import Status
from ._transport import Command


class Durability(StrEnum):
    """Where a session's events are safe.

    ``DURABLE``: a store takes them, and they outlive this program.
    ``MEMORY``: they are in this program's memory alone.
    """

    DURABLE = "durable"
    MEMORY = "memory"


class SessionSpec(msgspec.Struct, frozen=True):
    """What a session is made of; it never changes.

    Attributes:
        id: Its name in the manager.
        target: The target URI; ``None`` if the program handed in a transport of its own.
        command: What it runs, without any environment variable.
        env: The names of the environment variables that the command had.
        dialect: The dialect's name.
        limits: Its bounds.
        created_at: When it was created, in UTC.
        record: What the application keeps with it.
    """

    id: str
    target: str | None
    command: Command
    env: tuple[str, ...]
    dialect: str
    limits: Limits
    created_at: dt.datetime
    record: Mapping[str, Any]

    def pack(self) -> bytes:
        """This spec as JSON.

        Raises:
            TypeError: The application's record holds something that JSON cannot.
        """
        return _dump_slowly(self)  # a limit may be infinite, for which msgspec writes null

    @classmethod
    def unpack(cls, data: bytes) -> SessionSpec:
        """The spec that :meth:`pack` wrote.

        Raises:
            ValueError: It is none.
        """
        return _load(data, cls)


class SessionHead(msgspec.Struct, frozen=True):
    """How far a session has come, as of an event.

    Attributes:
        status: What it says of itself.
        last_seq: The seq of that event.
        generation: How many workers it has had.
        in_flight: The ids of the requests that were sent and not answered yet.
        clean: Whether no later event was ever shown to anybody.
    """

    status: Status
    last_seq: int
    generation: int
    in_flight: tuple[RequestId, ...]
    clean: bool

    def pack(self) -> bytes:
        """This head as JSON."""
        return _dump(self)

    @classmethod
    def unpack(cls, data: bytes) -> SessionHead:
        """The head that :meth:`pack` wrote.

        Raises:
            ValueError: It is none.
        """
        return _load(data, cls)


class StoredSession(msgspec.Struct, frozen=True):
    """A session as a store has it.

    Attributes:
        spec: What it is made of.
        head: How far it had come with the last event that is kept.
        shown: The seq of the last event that anybody can have seen, if the store knows it.
    """

    spec: SessionSpec
    head: SessionHead
    shown: int | None = None


class StoreEntry(msgspec.Struct, frozen=True):
    """What one write brings for one session.

    Attributes:
        spec: The session; a store that does not have it yet begins to keep it.
        head: How far it has come with these events.
        events: The events, which follow each other without a gap; there may be none. A gap before
            the first is one that stays.
        new: Whether it is a new session. Whatever is kept under its id, of another session that
            nobody listed again, is replaced.
    """

    spec: SessionSpec
    head: SessionHead
    events: Sequence[Event]
    new: bool = False


class Store(ABC):
    """A place where sessions and their events are kept.

    All methods are called in one event loop. At most one of ``open``, ``write``, ``remove`` and
    ``close`` runs at a time; any number of ``read`` may run beside them. What takes time belongs
    into a thread; a call may be cancelled, and what it began may then go on.

    Where a method raises :class:`~holdfast.StoreUnavailable`, sessions go on in memory, everybody
    can see that, and the call is made again at intervals.
    """

    notice: str | None = None
    """One line for a person about what was found at ``open``, such as a damaged file."""

    @abstractmethod
    async def open(self) -> None:
        """Make the store ready. Called once, and again after it failed.

        Raises:
            StoreUnavailable: It cannot be written or read at present.
            StoreError: It must not be used: another program has it, or it is not ours.
        """

    @abstractmethod
    async def sessions(self) -> Sequence[StoredSession]:
        """Every session that is kept, in the order of their creation.

        Raises:
            StoreUnavailable: It cannot be read at present.
        """

    @abstractmethod
    async def write(self, entries: Sequence[StoreEntry]) -> None:
        """Keep all of this or nothing. Once it returns, it outlives this process.

        Events that are kept already may come again, and change nothing.

        Raises:
            StoreUnavailable: It cannot be written at present; nothing of this is kept.
        """

    @abstractmethod
    async def read(self, session_id: str, after: int, at_most: int) -> Sequence[Event] | Lagged:
        """The kept events with ``seq > after``, up to ``at_most`` of them, without a gap.

        Fewer are given where events are large. Sees every ``write`` that has returned.

        Returns:
            The events, none if none is kept behind ``after``; or :class:`Lagged` if the next one
            is not kept, and a later one is.

        Raises:
            StoreUnavailable: It cannot be read at present.
        """

    @abstractmethod
    def first_seq(self, session_id: str) -> int | None:
        """The seq of the oldest event that is kept, ``None`` if none is. It does not wait."""

    def shown(self, session_id: str, seq: int) -> None:  # noqa: B027 - a default, not a gap
        """An event of this seq may be seen by anybody from now on, and is not stored yet.

        A store may note that where it outlives this process; it must not wait. It is called for
        sessions that are not kept yet, too, which need no such note. The default notes nothing.
        """

    @abstractmethod
    async def remove(self, session_id: str) -> None:
        """Forget a session and its events; one that is not kept is no error.

        Raises:
            StoreUnavailable: It cannot be written at present.
        """

    @abstractmethod
    async def close(self) -> None:
        """Give back what ``open`` took. Idempotent, and no error if ``open`` failed."""


class StoreSpec(msgspec.Struct, frozen=True):
    """A store as its plugin offers it.

    Attributes:
        scheme: The scheme of its URLs.
        factory: Makes the store for a URL; it does no I/O.
        summary: One line for a person.
        example: A URL that works.
    """

    scheme: str
    factory: Callable[[str], Store]
    summary: str
    example: str


# msgspec looks at annotations when a type is first asked for, in the module that it names; the
# public names are about to be told that theirs is ``holdfast``.
for _each in (SessionSpec, SessionHead, Status):
    msgspec.json.Decoder(_each)

# -- how an event is written ------------------------------------------------------------------

_LINE: Final = "line"
_SENT: Final = "sent"
_STATUS: Final = "status_changed"
_STDERR: Final = b'["stderr"]'
_TOO_LONG: Final = "line_too_long"
_PLAIN: Final = b'["line","notification",null,"worker",true]'
_NOTIFICATION: Final = Kind.NOTIFICATION
_WORKER: Final = Origin.WORKER


def pack_event(event: Event) -> tuple[bytes, bytes | None]:
    """An event, without its seq, as a short JSON text and, apart from that, its bytes as they are.

    Raises:
        TypeError: It is no event of a session.
    """
    if isinstance(event, Line):
        if (
            event.kind is _NOTIFICATION
            and event.id is None
            and event.terminated
            and event.origin is _WORKER
        ):
            return _PLAIN, event.data
        return _dump((_LINE, event.kind, event.id, event.origin, event.terminated)), event.data
    if isinstance(event, Sent):
        return _dump((_SENT, event.kind, event.id)), event.data
    if isinstance(event, StatusChanged):
        return _dump((_STATUS, event.status)), None
    if isinstance(event, Stderr):
        return _STDERR, event.data
    if isinstance(event, LineTooLong):
        return _dump((_TOO_LONG, event.size)), event.head
    raise TypeError(f"not an event of a session: {event!r}")


def unpack_event(seq: int, text: bytes, data: bytes | None) -> Event:
    """The event that :func:`pack_event` wrote.

    Raises:
        ValueError: It is none.
    """
    if text == _PLAIN:
        return Line(seq, data or b"", _NOTIFICATION)
    match _load(text, list):
        case [str(name), str(kind), id, str(origin), bool(terminated)] if name == _LINE:
            return Line(seq, data or b"", Kind(kind), id, Origin(origin), terminated)
        case [str(name), str(kind), id] if name == _SENT:
            return Sent(seq, data or b"", Kind(kind), id)
        case [str(name), status] if name == _STATUS:
            return StatusChanged(seq, _read(status, Status))
        case ["stderr"]:
            return Stderr(seq, data or b"")
        case [str(name), int(size)] if name == _TOO_LONG:
            return LineTooLong(seq, size, data or b"")
        case _:
            raise ValueError(f"event {seq} is of a kind that this version does not know: {text!r}")


_T = TypeVar("_T")


def _dump(value: object) -> bytes:
    """JSON, for any text: msgspec refuses a lone surrogate, the standard library escapes it."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return _dump_slowly(value)


def _dump_slowly(value: object) -> bytes:
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def _load(data: bytes, kind: type[_T]) -> _T:
    """What :func:`_dump` wrote; msgspec does not read an escaped lone surrogate."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not what a store was given: {error}") from error
    return _read(value, kind)


def _read(value: object, kind: type[_T]) -> _T:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"this is not what a store was given: {error}") from error
