"""A session's whole state: inputs in, events out, no I/O and no clock of its own.

The states and what moves between them are the table ``TRANSITIONS``. Beside the state stands the
set of requests in flight: a request is in flight from the moment it is accepted until it is
answered, by the worker or by us, and it is answered exactly once.

Everything that comes from a worker carries its *generation*, the count of workers that this
session has had. What an older generation still says changes nothing.

The order at a loss, for which this project exists, is in :meth:`Machine.ended`: the requests in
flight are cleared, each is answered with an error, and only then the status is announced.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, StrEnum, auto
from typing import Final

from msgspec import Struct

from ._dialect import (
    LOST_CODE,
    REFUSED_CODE,
    TOO_LONG_CODE,
    Dialect,
    Message,
    error_answer,
    success_answer,
)
from ._envelope import Envelope, answered_by
from ._errors import InvalidMessage
from ._events import Event, Kind, Line, LineTooLong, Origin, RequestId, Sent, StatusChanged, Stderr
from ._evidence import Loss
from ._framing import Cut, Frame, TooLong
from ._status import Cause, Delivery, Exit, Fate, Reason, State, Status

# On Python 3.11 it takes 0.1 µs to look up a member of an enum, and a line passes many.
_REQUEST: Final = Kind.REQUEST
_ANSWER: Final = Kind.ANSWER
_REFUSED: Final = Delivery.REFUSED
_UNKNOWN: Final = Delivery.UNKNOWN
_WRITTEN: Final = Delivery.WRITTEN


class Move(StrEnum):
    """What can happen to a session's state."""

    STARTED = auto()
    START_FAILED = auto()
    OCCUPIED = auto()
    """The first request that makes the session busy was accepted."""
    RELEASED = auto()
    """The last such request was answered."""
    LOST = auto()
    ABANDONED = auto()
    """The program that ran the worker ended without a word; another one goes on."""
    FINISHED = auto()
    """The worker ended by itself, with exit code 0 and nothing in flight."""
    RESTARTING = auto()
    STOPPED = auto()


TRANSITIONS: Final[Mapping[State, Mapping[Move, State]]] = {
    State.STOPPED: {
        Move.STARTED: State.IDLE,
        Move.START_FAILED: State.ERROR,
        Move.RESTARTING: State.RESTARTING,
        Move.STOPPED: State.STOPPED,
    },
    State.IDLE: {
        Move.OCCUPIED: State.BUSY,
        Move.LOST: State.ERROR,
        Move.ABANDONED: State.ERROR,
        Move.FINISHED: State.STOPPED,
        Move.RESTARTING: State.RESTARTING,
        Move.STOPPED: State.STOPPED,
    },
    State.BUSY: {
        Move.RELEASED: State.IDLE,
        Move.LOST: State.ERROR,
        Move.ABANDONED: State.ERROR,
        Move.RESTARTING: State.RESTARTING,
        Move.STOPPED: State.STOPPED,
    },
    State.RESTARTING: {
        Move.STARTED: State.IDLE,
        Move.START_FAILED: State.ERROR,
        Move.ABANDONED: State.ERROR,
        Move.RESTARTING: State.RESTARTING,
        Move.STOPPED: State.STOPPED,
    },
    State.ERROR: {
        Move.STARTED: State.IDLE,
        Move.START_FAILED: State.ERROR,
        Move.RESTARTING: State.RESTARTING,
        Move.STOPPED: State.STOPPED,
    },
}


ABANDONED: Final = "the program that ran this session ended without stopping its worker"


class Verdict(Enum):
    """What becomes of a message that a program wants to send."""

    SEND = auto()
    """Hand it to the worker."""
    REFUSED = auto()
    """It was refused, and answered if it is a request."""
    START = auto()
    """Start a new worker, or wait for the one that is being started; then ask again."""


class Phase(Enum):
    """What the current generation's worker is doing."""

    ABSENT = auto()
    STARTING = auto()
    RUNNING = auto()
    ENDING = auto()
    """We are stopping it: what it still says counts, and nothing more is sent."""


_RUNNING: Final = Phase.RUNNING
_SEND: Final = Verdict.SEND
_BUSY: Final = State.BUSY
_OCCUPIED: Final = Move.OCCUPIED
_RELEASED: Final = Move.RELEASED
_PROMPT: Final = Reason.PROMPT
_PROMPT_COMPLETE: Final = Reason.PROMPT_COMPLETE
_PROMPT_ERROR: Final = Reason.PROMPT_ERROR


class _Request(Struct, gc=False):
    busy: bool
    lane: str | None
    delivery: Delivery = _REFUSED


class Machine:
    """One session's state.

    Every method is one input. It changes the state and gives the events that tell of it, which
    belong into the journal before anything else happens.
    """

    def __init__(self, session_id: str, dialect: Dialect, now: Callable[[], dt.datetime]) -> None:
        self.status = Status(session_id, State.STOPPED, 0, None, None, None, now())
        self.generation = 0
        self.phase = Phase.ABSENT
        self.last_seq = 0
        self._dialect = dialect
        self._now = now
        self._requests: dict[RequestId, _Request] = {}
        self._busy = 0  # how many of the requests make the session busy

    @property
    def in_flight(self) -> frozenset[RequestId]:
        """The ids of the requests that are not answered yet."""
        return frozenset(self._requests)

    def is_in_flight(self, id: RequestId) -> bool:
        """Whether a request of this id is not answered yet."""
        return id in self._requests

    # -- going on where another program was ---------------------------------------------------

    def resume(
        self, status: Status, last_seq: int, generation: int, in_flight: Iterable[RequestId]
    ) -> list[Event]:
        """Begin not anew but where an earlier program was. Comes before everything else.

        What that program had sent and nobody answered is answered now. A worker that it left
        running is out of reach: nobody holds its other end any more.
        """
        self.status, self.last_seq, self.generation = status, last_seq, generation
        self._requests = {id: _Request(False, None, _UNKNOWN) for id in in_flight}
        events: list[Event] = list(
            self._answer_all(Reason.STDIN_BROKEN, ABANDONED, Cause.LINK_LOST)
        )
        if Move.ABANDONED in TRANSITIONS[status.state]:
            events.append(
                self._move(
                    Move.ABANDONED,
                    Reason.STDIN_BROKEN,
                    ABANDONED,
                    cause=Cause.LINK_LOST,
                    worker=Fate.MAYBE_ALIVE,
                    exit=Exit(),
                )
            )
        return events

    # -- a worker's life ---------------------------------------------------------------------

    def starting(self) -> int:
        """A new worker is being started; gives its generation."""
        assert self.phase is Phase.ABSENT, self.phase
        self.phase = Phase.STARTING
        self.generation += 1
        return self.generation

    def started(self, generation: int) -> list[Event]:
        """The worker runs."""
        if generation != self.generation or self.phase is not Phase.STARTING:
            return []
        self.phase = _RUNNING
        restarted = self.status.state is State.RESTARTING
        return [
            self._move(
                Move.STARTED,
                Reason.RESTART if restarted else Reason.START,
                worker_id=f"{self.status.session_id}/{generation}",
            )
        ]

    def start_failed(self, generation: int, detail: str, cause: Cause | None = None) -> list[Event]:
        """The worker could not be started."""
        if generation != self.generation or self.phase is not Phase.STARTING:
            return []
        self.phase = Phase.ABSENT
        return [self._move(Move.START_FAILED, Reason.INITIALIZATION_FAILED, detail, cause=cause)]

    def stopping(self, generation: int) -> None:
        """We began to stop the worker."""
        if generation == self.generation and self.phase is _RUNNING:
            self.phase = Phase.ENDING

    def restarting(self) -> list[Event]:
        """We began a restart; what is in flight may still be answered by the old worker."""
        return [self._move(Move.RESTARTING, Reason.RESTART)]

    def ended(self, generation: int, loss: Loss) -> list[Event]:
        """The worker is over or out of reach: nothing of this generation counts from now on.

        Where we were stopping or restarting it, this is what was asked for, and no error.
        """
        if generation != self.generation or self.phase not in (_RUNNING, Phase.ENDING):
            return []
        asked_for, self.phase = self.phase is Phase.ENDING, Phase.ABSENT
        if asked_for and self.status.state is State.RESTARTING:
            return self._answer_all(Reason.RESTART, "the session was restarted", None)
        if asked_for:
            answers = self._answer_all(Reason.STOP, "the session was stopped", None)
            return [*answers, self._stopped(loss)]
        finished = loss.clean and not self._requests
        answers = self._answer_all(loss.reason, loss.detail, loss.cause)
        status = self._move(
            Move.FINISHED if finished else Move.LOST,
            loss.reason,
            loss.detail,
            cause=loss.cause,
            worker=loss.worker,
            exit=loss.exit,
        )
        return [*answers, status]

    def stopped(self) -> list[Event]:
        """A stop was asked for while no worker runs."""
        self.phase = Phase.ABSENT
        if self.status.state is State.STOPPED:
            return []
        return [self._stopped(None)]

    def exit_known(self, generation: int, exit: Exit) -> list[Event]:
        """How a lost worker ended became known after its loss was announced."""
        status = self.status
        if (
            generation != self.generation
            or self.phase is not Phase.ABSENT
            or not exit.reported
            or status.state not in (State.ERROR, State.STOPPED)
            or status.reason is Reason.INITIALIZATION_FAILED
            or (status.exit is not None and status.exit.reported)
        ):
            return []
        return [
            self._announce(
                status.state,
                status.reason,
                status.detail,
                status.cause,
                Fate.GONE,
                exit,
            )
        ]

    # -- what goes to the worker -------------------------------------------------------------

    def admit(self, message: Message) -> tuple[Verdict, list[Event]]:
        """A program wants to send ``message``.

        Raises:
            InvalidMessage: A request with this id is in flight already.
        """
        envelope = message.envelope
        id = envelope.id
        is_request = envelope.kind is _REQUEST
        if is_request and id in self._requests:
            raise InvalidMessage(
                f"a request with id {id!r} is in flight already: ids must differ until answered"
            )
        if is_request and not self._busy and envelope.method in self._dialect.cancel:
            assert id is not None
            return Verdict.REFUSED, [self._answer(id, success_answer(id))]
        if self.phase is not _RUNNING:
            if is_request and self._dialect.recovers and self._startable():
                return Verdict.START, []
            return Verdict.REFUSED, self.refuse(message)
        if not is_request:
            return _SEND, []
        assert id is not None
        if message.busy and self._dialect.exclusive and self._occupied(message.lane):
            text = f"the session is answering another {envelope.method}"
            data = {
                "reason": "busy",
                "cause": None,
                "delivery": _REFUSED,
                "detail": "wait for its answer, or cancel it",
            }
            return Verdict.REFUSED, [self._answer(id, error_answer(id, REFUSED_CODE, text, data))]
        self._requests[id] = _Request(message.busy, message.lane)
        if not message.busy:
            return _SEND, []
        self._busy += 1
        if self._busy > 1:
            return _SEND, []
        return _SEND, [self._move(_OCCUPIED, _PROMPT)]

    def refuse(self, message: Message, why: str | None = None) -> list[Event]:
        """``message`` was not accepted: answer it if it is a request.

        Args:
            message: The message.
            why: Why; by default because no worker runs.
        """
        if message.envelope.kind is not _REQUEST:
            return []
        status = self.status
        id = message.envelope.id
        assert id is not None
        if why is None:
            if self.phase is Phase.ENDING and status.state is not State.RESTARTING:
                why = "the session is being stopped: nothing was sent"
            else:
                why = f"the session is {status.state}: nothing was sent"
        return [self._lost_answer(id, why, status.reason, status.cause, _REFUSED, status.detail)]

    def sending(self, generation: int, message: Message) -> list[Event]:
        """``message`` is being handed to the transport; from now on a part may be written."""
        if generation != self.generation or self.phase is Phase.ABSENT:
            return []
        envelope = message.envelope
        request = self._request(message)
        if request is not None:
            request.delivery = _UNKNOWN
        self.last_seq = seq = self.last_seq + 1
        return [Sent(seq, message.data, envelope.kind, envelope.id)]

    def written(self, generation: int, message: Message) -> None:
        """The transport took every byte of ``message``."""
        request = self._request(message)
        if request is not None and generation == self.generation:
            request.delivery = _WRITTEN

    def withdraw(self, generation: int, message: Message, why: str) -> list[Event]:
        """``message`` was accepted, and not a byte of it will be written any more."""
        id = message.envelope.id
        if (
            generation != self.generation
            or message.envelope.kind is not _REQUEST
            or id not in self._requests
        ):
            return []
        assert id is not None
        events: list[Event] = [self._lost_answer(id, why, self.status.reason, None, _REFUSED, None)]
        return events + self._forget(id, failed=True)

    # -- what comes from the worker ----------------------------------------------------------

    def frames(self, generation: int, frames: Iterable[Frame]) -> list[Event]:
        """The worker wrote these messages."""
        if generation != self.generation or self.phase not in (_RUNNING, Phase.ENDING):
            return []
        events: list[Event] = []
        append = events.append
        requests = self._requests
        read = self._dialect.read
        seq = self.last_seq
        for frame in frames:
            seq += 1
            if isinstance(frame, bytes):
                envelope = read(frame)
                append(Line(seq, frame, envelope.kind, envelope.id))
            elif isinstance(frame, Cut):
                envelope = read(frame.data)
                append(Line(seq, frame.data, envelope.kind, envelope.id, terminated=False))
            elif isinstance(frame, TooLong):
                append(LineTooLong(seq, frame.size, frame.head))
                self.last_seq = seq
                events += self._too_long(frame)
                seq = self.last_seq
                continue
            else:
                append(Line(seq, frame.data))
                continue
            if envelope.kind is _ANSWER and envelope.id in requests:
                self.last_seq = seq
                events += self._answered(envelope)
                seq = self.last_seq
        self.last_seq = seq
        return events

    def stderr(self, generation: int, data: bytes) -> list[Event]:
        """The worker wrote these bytes to its stderr."""
        if generation != self.generation or self.phase not in (_RUNNING, Phase.ENDING):
            return []
        self.last_seq = seq = self.last_seq + 1
        return [Stderr(seq, data)]

    def _request(self, message: Message) -> _Request | None:
        """What is noted of a request in flight."""
        envelope = message.envelope
        if envelope.kind is not _REQUEST or envelope.id is None:
            return None
        return self._requests.get(envelope.id)

    # -- inside ------------------------------------------------------------------------------

    def _too_long(self, frame: TooLong) -> list[Event]:
        """A dropped message may have been the answer that a request waits for."""
        id = answered_by(frame.head, frame.tail) if self._dialect.json else None
        if id is None or id not in self._requests:
            return []
        if self._requests[id].delivery is Delivery.REFUSED:
            return []  # it was not sent yet, so this answers some other request
        detail = f"its answer of {frame.size} bytes is above the session's max_line"
        data = {
            "reason": "line_too_long",
            "cause": None,
            "delivery": self._requests[id].delivery,
            "detail": f"raise Limits.max_line above {frame.size}",
        }
        answer = self._answer(id, error_answer(id, TOO_LONG_CODE, detail, data))
        return [answer, *self._forget(id, failed=True)]

    def _answered(self, envelope: Envelope) -> list[Event]:
        id = envelope.id
        assert id is not None
        if self._requests[id].delivery is _REFUSED:
            return []  # it was not sent yet, so this answers some other request
        return self._forget(id, failed=envelope.failed)

    def _forget(self, id: RequestId, *, failed: bool) -> list[Event]:
        """A request is answered: it is no longer in flight."""
        if not self._requests.pop(id).busy:
            return []
        self._busy -= 1
        if self._busy or self.status.state is not _BUSY:
            return []
        return [self._move(_RELEASED, _PROMPT_ERROR if failed else _PROMPT_COMPLETE)]

    def _occupied(self, lane: str | None) -> bool:
        return any(each.busy and each.lane == lane for each in self._requests.values())

    def _startable(self) -> bool:
        """Whether a worker is on its way, or may be started without being asked for."""
        status = self.status
        return (
            self.phase is Phase.STARTING
            or status.state in (State.ERROR, State.RESTARTING)
            or (status.state is State.STOPPED and status.reason is Reason.PROCESS_EXIT)
        )

    def _answer_all(self, reason: Reason, detail: str, cause: Cause | None) -> list[Event]:
        """Clear what is in flight, then answer it."""
        requests, self._requests = self._requests, {}
        self._busy = 0
        return [
            self._lost_answer(
                id, f"no answer will come: {detail}", reason, cause, request.delivery, detail
            )
            for id, request in requests.items()
        ]

    def _lost_answer(
        self,
        id: RequestId,
        text: str,
        reason: Reason | None,
        cause: Cause | None,
        delivery: Delivery,
        detail: str | None,
    ) -> Line:
        data = {"reason": reason, "cause": cause, "delivery": delivery, "detail": detail}
        return self._answer(id, error_answer(id, LOST_CODE, text, data))

    def _answer(self, id: RequestId, data: bytes) -> Line:
        self.last_seq = seq = self.last_seq + 1
        return Line(seq, data, _ANSWER, id, Origin.HOLDFAST)

    def _stopped(self, loss: Loss | None) -> StatusChanged:
        if loss is None:
            return self._move(Move.STOPPED, Reason.STOP)
        uncertain = loss.reason is Reason.STDIN_BROKEN and loss.worker is not Fate.GONE
        return self._move(
            Move.STOPPED,
            Reason.STOP,
            loss.detail if uncertain else None,
            cause=loss.cause if uncertain else None,
            worker=loss.worker,
            exit=loss.exit,
        )

    def _move(
        self,
        move: Move,
        reason: Reason,
        detail: str | None = None,
        *,
        cause: Cause | None = None,
        worker: Fate | None = None,
        exit: Exit | None = None,
        worker_id: str | None = None,
    ) -> StatusChanged:
        state = TRANSITIONS[self.status.state][move]
        return self._announce(state, reason, detail, cause, worker, exit, worker_id)

    def _announce(
        self,
        state: State,
        reason: Reason | None,
        detail: str | None,
        cause: Cause | None,
        worker: Fate | None,
        exit: Exit | None,
        worker_id: str | None = None,
    ) -> StatusChanged:
        self.last_seq = seq = self.last_seq + 1
        self.status = status = Status(
            self.status.session_id,
            state,
            seq,
            worker_id or self.status.worker_id,
            reason,
            detail,
            self._now(),
            cause,
            worker,
            exit,
        )
        return StatusChanged(seq, status)
