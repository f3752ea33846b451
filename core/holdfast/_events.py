"""What a session's journal holds: one kind of record for each thing that can happen."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ._status import Status

RequestId = int | float | str
"""A JSON-RPC request's id."""


class Kind(StrEnum):
    """What a message is, as far as its envelope says."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    ANSWER = "answer"
    OPAQUE = "opaque"


class Origin(StrEnum):
    """Who wrote a line: the worker, or holdfast in a lost worker's place."""

    WORKER = "worker"
    HOLDFAST = "holdfast"


class Event(msgspec.Struct, frozen=True, gc=False, tag_field="event", tag=str.lower):
    """One entry of a session's journal. ``seq`` counts from 1, without a gap."""

    seq: int


class Line(Event, frozen=True, gc=False, tag="line"):
    """A message from the worker, or an answer given in its place.

    Attributes:
        data: The message without its newline or header, byte for byte.
        kind: What its envelope says it is.
        id: The id of a request or an answer.
        origin: Who wrote it.
        terminated: Whether its end was seen; ``False`` for a line cut by the end of the stream.
    """

    data: bytes
    kind: Kind = Kind.OPAQUE
    id: RequestId | None = None
    origin: Origin = Origin.WORKER
    terminated: bool = True


class Sent(Event, frozen=True, gc=False, tag="sent"):
    """A message that was handed to the transport, in the order on the wire."""

    data: bytes
    kind: Kind = Kind.OPAQUE
    id: RequestId | None = None


class StatusChanged(Event, frozen=True, gc=False, tag="status_changed"):
    """The session's status changed; ``status.seq`` is this event's ``seq``."""

    status: Status


class Stderr(Event, frozen=True, gc=False, tag="stderr"):
    """Bytes from the worker's stderr, as they came."""

    data: bytes


class LineTooLong(Event, frozen=True, gc=False, tag="line_too_long"):
    """A line above the session's ``max_line``; it was dropped.

    Attributes:
        size: Its whole length in bytes, without the newline.
        head: Its first bytes.
    """

    size: int
    head: bytes


class Lagged(msgspec.Struct, frozen=True, gc=False, tag_field="event", tag="lagged"):
    """A subscriber fell behind what the journal retains.

    Attributes:
        resume_from: The seq of the oldest retained event, which comes next; what lies between
            the subscriber's last event and this one is gone.
    """

    resume_from: int
