"""A session: one command on one transport, through as many workers as it takes."""

from __future__ import annotations

import datetime as dt
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec

from ._deadlines import Deadlines
from ._dialect import Dialect, Message
from ._errors import (
    InvalidMessage,
    SessionBusy,
    SessionClosed,
    TransportError,
    TransportUnavailable,
    WorkerNotStarted,
)
from ._events import Event, Kind, Lagged, Line, RequestId, StatusChanged
from ._evidence import Loss
from ._journal import Journal
from ._limits import Limits
from ._machine import Machine, Phase, Verdict
from ._recorder import BACKLOG_BYTES, Recorder, Track
from ._reply import Reply
from ._status import Delivery, Exit, State, Status
from ._store import Durability, SessionHead, SessionSpec
from ._subscription import Subscription, read_back
from ._transport import Command, Transport
from ._worker import Outgoing, Worker
from .wakeup import Waiter, bell, waiter

_log = logging.getLogger("holdfast")

# On Python 3.11 it takes 0.1 µs to look up a member of an enum, and a line passes many.
_SEND: Final = Verdict.SEND
_START: Final = Verdict.START
_REFUSED: Final = Delivery.REFUSED
_WRITTEN: Final = Delivery.WRITTEN
_ANSWER: Final = Kind.ANSWER


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What became of a message.

    Attributes:
        delivery: How far it came.
        status: The session's status at that moment.
        id: The request's id, if it is a request or an answer.
    """

    delivery: Delivery
    status: Status
    id: RequestId | None = None


class Session:
    """One command on one transport, through as many workers as it takes.

    Made by :meth:`SessionManager.create <holdfast.SessionManager.create>`; all its methods belong
    to the event loop of that manager.

    Attributes:
        id: Its name in the manager.
        spec: What it was made of, and what the application keeps with it.
        command: What it runs.
        limits: Its bounds.
    """

    def __init__(
        self,
        spec: SessionSpec,
        transport: Transport,
        command: Command,
        dialect: Dialect,
        *,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None],
        observe: Callable[[Session, Status], None],
        deadlines: Deadlines,
        recorder: Recorder | None = None,
        resumed: SessionHead | None = None,
    ) -> None:
        self.id: str = spec.id
        self.spec = spec
        self.command = command
        self.limits: Limits = spec.limits
        self._transport = transport
        self._dialect = dialect
        self._spawn = spawn
        self._observe = observe
        self._deadlines = deadlines
        self._machine = Machine(spec.id, dialect, _now)
        self._bell = bell()
        self._journal = Journal(
            self.limits.retained_bytes,
            BACKLOG_BYTES if recorder is not None else 0,
            resumed.last_seq if resumed is not None else 0,
        )
        self._track: Track | None = None
        self._lifecycle = anyio.Lock()
        self._worker: Worker | None = None
        self._calls: dict[RequestId, Reply] = {}
        self._call_ids = itertools.count(1)
        self._watchers: list[_Watcher] = []
        self._starts = 0  # attempts that are over
        self._stops = 0  # callers of stop that wait
        self._sealed = False  # no worker is started any more
        self._closed = False
        if recorder is not None:
            self._track = Track(recorder, spec, self._journal, self._snapshot, resumed)
            recorder.add(self._track)
        if resumed is not None:
            self._apply(
                self._machine.resume(
                    resumed.status, resumed.last_seq, resumed.generation, resumed.in_flight
                )
            )

    def _snapshot(self) -> tuple[Status, int, frozenset[RequestId]]:
        machine = self._machine
        return machine.status, machine.generation, machine.in_flight

    def _skip(self, count: int) -> None:
        """Leave out seqs, if the session has shown no event yet."""
        if self._journal.first_seq > self._journal.last_seq:
            self._machine.last_seq += count
            self._journal.skip(count)
            if self._track is not None:
                self._track.skip(count)

    # -- what can be seen --------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """What the session says of itself now."""
        return self._machine.status

    @property
    def is_busy(self) -> bool:
        """Whether a request runs that makes the session busy."""
        return self._machine.status.state is State.BUSY

    @property
    def in_flight(self) -> frozenset[RequestId]:
        """The ids of the requests that are not answered yet."""
        return self._machine.in_flight

    @property
    def generation(self) -> int:
        """How many workers this session has had, the present one included."""
        return self._machine.generation

    @property
    def last_seq(self) -> int:
        """The seq of the latest event; 0 before the first."""
        return self._journal.last_seq

    @property
    def first_seq(self) -> int:
        """The seq of the oldest event that can still be read, or of the next one."""
        oldest = self._journal.first_seq
        kept = self._track.first_seq if self._track is not None else None
        return oldest if kept is None else min(kept, oldest)

    @property
    def stored_seq(self) -> int:
        """The seq of the latest event that the store has; 0 without a store."""
        return self._track.stored if self._track is not None else 0

    @property
    def durability(self) -> Durability:
        """Where its events are safe at present."""
        return self._track.durability if self._track is not None else Durability.MEMORY

    @property
    def durability_detail(self) -> str | None:
        """Why they are in memory alone, or what of them is not kept; one line."""
        return self._track.detail if self._track is not None else None

    @property
    def stderr_tail(self) -> bytes:
        """The latest stderr of the present or last worker."""
        return self._worker.stderr_tail if self._worker is not None else b""

    @property
    def dialect(self) -> str:
        """The name of its dialect."""
        return self._dialect.name

    @property
    def transport(self) -> Transport:
        """Where its workers run."""
        return self._transport

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.status.state}: {self.command.argv[0]}>"

    # -- its life ----------------------------------------------------------------------------

    async def start(self) -> Status:
        """Start the worker; nothing happens if it runs already.

        Cancelling it gives the start up.

        Raises:
            TransportUnavailable: The place where it should run cannot be reached or used.
            WorkerNotStarted: The command cannot be started there, or a stop came first.
            SessionClosed: The session was forgotten.
        """
        await self._operate(self._start, abort=True)
        return self.status

    async def restart(self, *, force: bool = False) -> Status:
        """Stop the worker and start a new one. It goes on if the caller is cancelled.

        A prompt that is sent meanwhile reaches the new worker where the dialect allows it, else
        it is answered with an error.

        Args:
            force: Restart although a request is running; it is answered with an error.

        Raises:
            SessionBusy: A request is running, and ``force`` is not given.
            TransportUnavailable: The place where it should run cannot be reached or used.
            WorkerNotStarted: The command cannot be started there, or a stop came first.
            SessionClosed: The session was forgotten.
        """
        await self._operate(lambda: self._restart(force))
        return self.status

    async def stop(self) -> Status:
        """Stop the worker: politely, then by force, within the graces of :class:`Limits`.

        What it still writes is kept. It goes on if the caller is cancelled.
        """
        if self._closed:
            return self.status
        self._stops += 1
        self._abort_start()
        await self._operate(self._stop)
        return self.status

    def _abort_start(self) -> None:
        if self._worker is not None and self._machine.phase is Phase.STARTING:
            self._worker.stop()

    async def _operate(
        self, operation: Callable[[], Awaitable[None]], *, abort: bool = False
    ) -> None:
        """Run one operation of the session's life, after those before it, in a task of its own."""
        if self._closed:
            raise SessionClosed(f"session {self.id} was forgotten; create a new one")
        done = waiter()
        failure: list[Exception] = []
        begun = given_up = False

        async def run() -> None:
            nonlocal begun
            try:
                async with self._lifecycle:
                    if not given_up:
                        begun = True
                        await operation()
            except Exception as error:  # noqa: BLE001 - raised again in the caller's task
                failure.append(error)
            finally:
                done.set()

        self._spawn(run)
        try:
            await done.wait()
        except BaseException:
            given_up = abort
            if abort and begun:
                self._abort_start()
            raise
        if failure:
            raise failure[0]

    def _check_open(self) -> None:
        if self._sealed:
            raise SessionClosed(f"session {self.id} was forgotten; create a new one")

    async def _start(self) -> None:
        if self._machine.phase is not Phase.ABSENT:
            return
        if self._worker is not None:
            await self._worker.wait_over()
        if self._stops and self.status.state is State.RESTARTING:
            return  # the stop that waits for its turn says what became of it
        self._check_open()
        generation = self._machine.starting()
        worker = self._worker = Worker(
            self._transport,
            self.command,
            self._dialect.framing,
            self.limits,
            _Generation(self, generation),
        )
        self._spawn(worker.run)
        await worker.wait_opened()
        self._starts += 1
        failure = worker.failure
        if failure is None:
            return
        if not isinstance(failure, (TransportUnavailable, WorkerNotStarted)):
            # A mistake in a transport, which has no say in what reaches our callers.
            failure = TransportUnavailable(
                f"the transport failed while it opened: {type(failure).__name__}: {failure}"
            )
            failure.__cause__ = worker.failure
        self._apply(self._machine.start_failed(generation, str(failure)))
        raise failure

    async def _restart(self, force: bool) -> None:
        self._check_open()
        if self.is_busy and not force:
            raise SessionBusy(
                f"session {self.id} is answering {len(self.in_flight)} request(s); wait for the "
                f"answer, or restart with force=True"
            )
        self._end_worker()
        self._apply(self._machine.restarting())
        if self._worker is not None:
            await self._worker.wait_over()
        await self._start()

    async def _stop(self) -> None:
        try:
            if self._end_worker():
                assert self._worker is not None
                await self._worker.wait_over()
            else:
                if self._worker is not None:
                    await self._worker.wait_over()
                self._apply(self._machine.stopped())
        finally:
            self._stops -= 1

    def _end_worker(self) -> bool:
        """Begin to stop the worker; ``False`` if none runs."""
        if self._worker is None or self._machine.phase is not Phase.RUNNING:
            return False
        self._machine.stopping(self._machine.generation)
        self._worker.stop()
        return True

    async def _recover(self) -> None:
        """Start a worker for a request, or wait for the one that is being started."""
        starts = self._starts

        async def start_once() -> None:
            if self._starts == starts and not self._stops and not self._sealed:
                await self._start()

        try:
            await self._operate(start_once)
        except (TransportError, SessionClosed) as error:
            _log.warning("session %s could not recover: %s", self.id, error)

    def _hurry(self) -> None:
        """Leave out the polite steps of a stop, now or later."""
        if self._worker is not None:
            self._worker.hurry()

    def _seal(self) -> None:
        """No worker is started any more: whoever asks for one behind the last stop is refused."""
        self._sealed = True

    def _close(self) -> None:
        """No more events will come: subscriptions end, and sending is an error."""
        self._sealed = self._closed = True
        self._bell.ring()
        for watcher in self._watchers:
            watcher.waiter.set()

    # -- sending -----------------------------------------------------------------------------

    async def send(
        self, message: bytes | str | Mapping[str, Any], *, timeout: float | None = None
    ) -> Receipt:
        """Send one message. Whatever happens to the worker is told by the receipt.

        When it returns without having written the message, and the message is a request, the
        request is answered in the journal already, and the status is there too.

        Cancelling it withdraws the message if not a byte of it was written; else it is finished.

        Args:
            message: One message without its newline, or a mapping to be written as JSON.
            timeout: Seconds until the message is withdrawn; or, if a part of it is written, until
                the worker is declared stuck. If a worker has to be started for it, that may take
                as many before. Default: ``Limits.send_timeout``.

        Raises:
            InvalidMessage: It is no message of this dialect, or its id is in flight already.
            SessionClosed: The session was forgotten.
        """
        if timeout is None:
            timeout = self.limits.send_timeout
        checked = self._dialect.message(message)
        outcome = self._offer(checked)
        if isinstance(outcome, Receipt):
            return outcome
        return await self._deliver(checked, outcome, timeout)

    def _offer(self, message: Message) -> Receipt | Outgoing | None:
        """Send a message as far as that goes without waiting.

        Returns:
            The receipt; or what is queued; or ``None`` if a worker has to be started first.
        """
        if self._closed:
            raise SessionClosed(f"session {self.id} was forgotten; create a new one")
        machine = self._machine
        verdict, events = machine.admit(message)
        if verdict is _START:
            return None
        id = message.envelope.id
        if verdict is not _SEND:
            self._apply(events)
            return Receipt(_REFUSED, machine.status, id)
        assert self._worker is not None
        item = self._worker.submit(message)
        if item is not None:
            if item.taken:
                events += machine.sending(machine.generation, message)
            self._apply(events)
            return item
        events += machine.sending(machine.generation, message)
        machine.written(machine.generation, message)
        self._apply(events)
        return Receipt(_WRITTEN, machine.status, id)

    async def _deliver(
        self, message: Message, outcome: Outgoing | None, timeout: float | None
    ) -> Receipt:
        """Send a message whose sending takes time."""
        if outcome is None:
            try:
                with anyio.move_on_after(timeout):
                    await self._recover()
            except BaseException:
                why = "it was cancelled before it was sent"
                self._apply(self._machine.refuse(message, why))
                raise
            again = self._offer(message)
            if again is None:
                self._apply(self._machine.refuse(message))
                again = Receipt(_REFUSED, self.status, message.envelope.id)
            if isinstance(again, Receipt):
                return again
            outcome = again
        if not outcome.settled:
            assert self._worker is not None
            await self._settled(outcome, self._worker, timeout)
        return Receipt(outcome.delivery, self.status, message.envelope.id)

    async def _settled(self, item: Outgoing, worker: Worker, timeout: float | None) -> None:
        generation = self.generation
        try:
            with anyio.move_on_after(timeout):
                await item.wait()
        except BaseException:
            if worker.withdraw(item):
                why = "it was cancelled before it was sent"
                self._apply(self._machine.withdraw(generation, item.message, why))
            raise
        if item.settled:
            return
        assert timeout is not None
        if worker.withdraw(item):
            why = f"the worker took no input for {timeout:g} s; the request was withdrawn"
            self._apply(self._machine.withdraw(generation, item.message, why))
            return
        worker.stuck(timeout)
        await item.wait()

    async def call(
        self,
        method: str,
        params: object = None,
        *,
        id: RequestId | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send a JSON-RPC request and wait for its answer.

        Args:
            method: The method.
            params: Its parameters, anything that JSON holds; ``None`` to leave them out.
            id: The request's id; by default one that is not in use.
            timeout: Seconds for all of it. A request that is already written stays in flight.

        Returns:
            The answer's result.

        Raises:
            CallError: It was answered with an error, or with what cannot be read.
            WorkerLost: No answer will come, because the worker was lost or could not be reached.
            TimeoutError: It took too long.
            InvalidMessage: It cannot be written as JSON, or its id is in flight already.
            SessionClosed: The session was forgotten.
        """
        if id is None:
            id = self._new_id()
        message = self._dialect.request(id, method, params)
        if id in self._calls:
            raise InvalidMessage(
                f"a call with id {id!r} is under way already: ids must differ until answered"
            )
        self._calls[id] = reply = Reply()
        try:
            outcome = self._offer(message)
            if isinstance(outcome, Receipt):
                await self._answer_to(reply, timeout)
            else:
                with anyio.fail_after(timeout):
                    await self._deliver(message, outcome, None)
                    await reply.waiter.wait()
        finally:
            if self._calls.get(id) is reply:
                del self._calls[id]
        return reply.result(self.status)

    async def _answer_to(self, reply: Reply, timeout: float | None) -> None:
        if timeout is None:
            await reply.waiter.wait()
            return
        with self._deadlines.until(timeout, reply.waiter.set):
            await reply.waiter.wait()
        if reply.line is None:
            raise TimeoutError(f"no answer within {timeout:g} s; the request stays in flight")

    def _new_id(self) -> RequestId:
        while True:
            id = f"hf-{next(self._call_ids)}"
            if not self._machine.is_in_flight(id):
                return id

    # -- reading -----------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribe(self, *, after: int | None = 0) -> AsyncIterator[Subscription]:
        """Read the session's events: first those that are retained, then as they come.

        Retained are those in memory and, where the manager has a store, those in the store.

        Args:
            after: The seq after which to begin; ``None`` to begin with what comes from now on.
        """
        if after is not None and after < 0:
            raise ValueError(f"after is the seq of an event, 0 or more, not {after}")
        yield Subscription(
            self._journal,
            self._track.read if self._track is not None else None,
            self._bell,
            lambda: self._closed,
            self.last_seq if after is None else after,
        )

    async def read(self, *, after: int = 0, at_most: int = 1024) -> Sequence[Event] | Lagged:
        """The events with ``seq > after``, up to ``at_most`` of them, without waiting for any.

        Fewer are given where events are large; who gets none is at the end.

        Returns:
            The events, or :class:`Lagged` if the next one is no longer retained.
        """
        if after < 0:
            raise ValueError(f"after is the seq of an event, 0 or more, not {after}")
        archive = self._track.read if self._track is not None else None
        if after >= self.last_seq:
            return ()
        return await read_back(self._journal, archive, after, at_most)

    async def wait_for(self, *states: State, timeout: float | None = None) -> Status:
        """Wait until the session is in one of ``states``, and give the status that says so.

        Raises:
            TimeoutError: It did not come to that.
            SessionClosed: The session was forgotten.
        """
        wanted = frozenset(State(state) for state in states)
        if self.status.state in wanted:
            return self.status
        watcher = _Watcher(wanted)
        if self._closed:
            watcher.waiter.set()
        self._watchers.append(watcher)
        try:
            with anyio.fail_after(timeout):
                await watcher.waiter.wait()
        finally:
            self._watchers.remove(watcher)
        if watcher.status is None:
            raise SessionClosed(f"session {self.id} was forgotten while it was {self.status.state}")
        return watcher.status

    def _apply(self, events: Sequence[Event]) -> None:
        """Put events into the journal, wake the readers, then tell everybody else.

        Calls are woken first: who waits for an answer has the next message to send.
        """
        if not events:
            return
        self._journal.append(events)
        if self._calls:
            for event in events:
                if type(event) is Line and event.kind is _ANSWER:
                    self._reply(event)
        self._bell.ring()
        if self._track is not None:
            self._track.touch()
        for event in events:
            if type(event) is StatusChanged:
                self._tell(event.status)

    def _reply(self, line: Line) -> None:
        if line.id is None or self._machine.is_in_flight(line.id):
            return  # a stray answer to a request that is not sent yet
        reply = self._calls.pop(line.id, None)
        if reply is not None:
            reply.line = line
            reply.waiter.set()

    def _tell(self, status: Status) -> None:
        for watcher in self._watchers:
            if watcher.status is None and status.state in watcher.states:
                watcher.status = status
                watcher.waiter.set()
        self._observe(self, status)


class _Generation:
    """One worker of a session, and what it tells: a :class:`holdfast._worker.Sink`."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._machine = session._machine
        self._number = number
        self._framer = session._dialect.framing.framer(session.limits.max_line)

    def opened(self, worker: Worker) -> None:
        self._session._apply(self._machine.started(self._number))

    def output(self, worker: Worker, data: bytes) -> None:
        frames = self._framer.feed(data) if data else self._framer.finish()
        if frames:
            self._session._apply(self._machine.frames(self._number, frames))

    def stderr(self, worker: Worker, data: bytes) -> None:
        self._session._apply(self._machine.stderr(self._number, data))

    def sending(self, worker: Worker, message: Message) -> None:
        self._session._apply(self._machine.sending(self._number, message))

    def written(self, worker: Worker, message: Message) -> None:
        self._machine.written(self._number, message)

    def ended(self, worker: Worker, loss: Loss) -> None:
        machine, session = self._machine, self._session
        if rest := self._framer.finish():  # a link that broke left a line cut
            session._apply(machine.frames(self._number, rest))
        if machine.phase is Phase.RUNNING and not (loss.clean and not machine.in_flight):
            _log.warning(
                "session %s lost its worker: %s (%s); worker %s, %s; requests in flight: %d",
                session.id,
                loss.detail,
                loss.reason,
                loss.worker,
                loss.exit if loss.exit is not None else "exit not known yet",
                len(machine.in_flight),
            )
        session._apply(machine.ended(self._number, loss))

    def exit_known(self, worker: Worker, exit: Exit) -> None:
        self._session._apply(self._machine.exit_known(self._number, exit))


class _Watcher:
    """One ``wait_for``."""

    __slots__ = ("states", "status", "waiter")

    def __init__(self, states: frozenset[State]) -> None:
        self.states = states
        self.status: Status | None = None
        self.waiter: Waiter = waiter()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
