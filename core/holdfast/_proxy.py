"""``holdfast run``: a worker's standard streams as our own, byte for byte.

Nothing is decoded on the way. Beside the bytes stand two framers and a session's state machine
that only watch: they know which requests are pending when the worker is lost, and these are
answered in its place, each on a line of its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import math
import os
import select
import signal
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc
import msgspec

from ._dialect import Dialect, Message, success_answer
from ._envelope import answered_by
from ._errors import InvalidMessage
from ._events import Event, Kind, Line, Origin, StatusChanged
from ._evidence import Loss
from ._framing import Cut, Frame, Framer, Lines, TooLong, Unframed
from ._limits import Limits
from ._machine import Machine, Phase, Verdict
from ._status import Delivery, Exit, Status
from ._transport import Command, Transport
from ._worker import Outgoing, Worker, close_transport
from .pipes import PipeReader, PipeWriter, open_reader

LINK_BROKEN: Final = 74
"""The exit code for a lost link or an exit that was not reported (``EX_IOERR`` of sysexits.h)."""

NOT_STARTED: Final = 69
"""The exit code for a worker that could not be started (``EX_UNAVAILABLE``)."""

_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write fails with although its reader is there: that is no end, and is told."""

_FLUSH: Final = 2.0
"""Seconds for our reader to take the rest of the output after we were asked to stop."""


class _Raw:
    """No framing at all: what comes in goes out."""

    def framer(self, max_size: int) -> Framer:
        raise NotImplementedError("bytes on their way are not framed")

    def encode(self, message: bytes) -> bytes:
        return message


class _Output:
    """One of our own standard streams; once its reader is gone, what is written is dropped."""

    def __init__(self, fd: int, on_closed: Callable[[], None]) -> None:
        self._fd = fd
        self._writer = PipeWriter(fd)
        self._on_closed = on_closed
        self._waiting = bytearray()
        self._one_flushes = anyio.Lock()
        self._open = True
        self.at_line_start = True
        self.failure: OSError | None = None

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Write, and give an awaitable if somebody has to wait for our reader."""
        if not self._open or not data:
            return None
        self.at_line_start = data.endswith(b"\n")
        if not self._waiting:
            try:
                taken = self._writer.write_nowait(data)
            except OSError as error:
                self._close(error)
                return None
            if taken == len(data):
                return None
            data = data[taken:]
        self._waiting += data
        return self.flush()

    async def flush(self) -> None:
        """Write what waits. Cancelling it loses nothing: the rest goes on waiting."""
        async with self._one_flushes:
            try:
                while self._waiting:
                    taken = self._writer.write_nowait(bytes(self._waiting))
                    del self._waiting[:taken]
                    if self._waiting:
                        await anyio.wait_writable(self._fd)
            except OSError as error:
                self._close(error)

    def _close(self, error: OSError) -> None:
        if error.errno in _UNWRITABLE:
            self.failure = error
        self._open = False
        self._waiting.clear()
        self._on_closed()


class Proxy:
    """One run of one command, between our standard streams and its own.

    Args:
        transport: Where to run it.
        command: What to run.
        dialect: How to watch for requests.
        report: Called with each status.
        max_line: The longest message that is watched; longer ones pass unwatched.
    """

    def __init__(
        self,
        transport: Transport,
        command: Command,
        dialect: Dialect,
        report: Callable[[Status, Callable[[bytes], None]], None],
        max_line: int,
    ) -> None:
        limits = Limits(max_line=max_line)
        # Watching refuses nothing and answers nothing while the worker is there to do it.
        watched = msgspec.structs.replace(
            dialect, exclusive=False, cancel=frozenset(), recovers=False
        )
        self._dialect = watched
        self._machine = Machine("run", watched, lambda: dt.datetime.now(dt.UTC))
        self._requests = watched.framing.framer(max_line)
        self._answers = watched.framing.framer(max_line)
        self._worker = Worker(transport, command, _Raw(), limits, self, outlives_stdin=True)
        self._transport = transport
        self._report = report
        self._stdin: PipeReader | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._input_ended = False
        self._stop_asked = False
        self._flushing = anyio.CancelScope()
        self._loss: Loss | None = None

    async def run(self) -> int:
        """Run to the end, and give the exit code."""
        self._stdin = open_reader(0)
        self._stdout = _Output(1, self._stdout_closed)
        self._stderr = _Output(2, lambda: None)
        self._machine.starting()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await tasks.start(self._obey_signals)
            tasks.start_soon(self._watch_stdout)
            await self._worker.run()
            bound = anyio.current_time() + _FLUSH if self._stop_asked else math.inf
            self._flushing.deadline = bound  # a stop may come while we wait
            with self._flushing:
                await self._stdout.flush()
                await self._stderr.flush()
            tasks.cancel_scope.cancel()
        await close_transport(self._transport)
        return self._exit_code()

    def _say(self, data: bytes) -> None:
        if not self._stderr.at_line_start:
            data = b"\n" + data
        if (slow := self._stderr.write(data)) is not None and self._tasks is not None:
            self._tasks.start_soon(_finish, slow)

    def _stdout_closed(self) -> None:
        if not self._stop_asked:
            self._stop()

    def _stop(self) -> None:
        if self._stop_asked:
            self._worker.hurry()
        self._flushing.deadline = anyio.current_time() + (0 if self._stop_asked else _FLUSH)
        self._stop_asked = True
        self._worker.stop()

    async def _obey_signals(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        # One that was ignored when we were started stays so: `nohup holdfast run …` works.
        asked = [
            each
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(each) is not signal.SIG_IGN
        ]
        with anyio.open_signal_receiver(*asked) as signals:
            task_status.started()
            async for _ in signals:
                self._stop()

    async def _watch_stdout(self) -> None:
        """Notice that our reader is gone before there is anything to write to it."""
        if sys.platform == "linux":
            # An epoll that asks for nothing is "readable" at an error or a hang-up, and not when
            # somebody writes to us on a socket that is our stdin too (inetd, socat).
            with select.epoll() as errors:
                try:
                    errors.register(1, 0)
                except PermissionError:  # a file, whose readers nobody counts
                    return
                await anyio.wait_readable(errors.fileno())
            self._stdout_closed()
            return
        kind = os.fstat(1).st_mode
        if not stat.S_ISFIFO(kind) and not stat.S_ISSOCK(kind):
            return
        poll = select.poll()
        poll.register(1, 0)  # errors and hang-ups are always told
        while not poll.poll(0):
            # A pipe's writing end is only ever "readable" when its reader is gone. A socket is
            # also when the other side writes to us, which nobody does to a program's stdout.
            await anyio.wait_readable(1)
            if stat.S_ISSOCK(kind):
                break
        self._stdout_closed()

    async def _pump_stdin(self) -> None:
        assert self._stdin is not None
        with contextlib.suppress(OSError):  # a terminal that is gone, a descriptor for writing
            await self._stdin.forward(self._take_stdin)
        self._watch_requests(b"")
        self._input_ended = True
        await self._worker.end_input()

    def _take_stdin(self, data: bytes) -> Awaitable[None] | None:
        # On their way first, then watched: the answer cannot be read before this returns.
        item = self._worker.submit(Message(data, _OPAQUE))
        messages = self._watch_requests(data)
        if item is not None:
            return self._written_later(item, messages)
        self._note_written(messages)
        return None

    async def _written_later(self, item: Outgoing, messages: list[Message]) -> None:
        await item.wait()
        if item.delivery is Delivery.WRITTEN:
            self._note_written(messages)

    def _note_written(self, messages: list[Message]) -> None:
        for message in messages:
            self._machine.written(self._machine.generation, message)

    def _watch_requests(self, data: bytes) -> list[Message]:
        """Note the requests that these bytes complete, as being sent."""
        seen: list[Message] = []
        for frame in self._requests.feed(data) if data else self._requests.finish():
            content = frame.data if isinstance(frame, Cut) else frame
            if not isinstance(content, bytes):
                continue
            message = self._dialect.look(content)
            if message.envelope.kind is not Kind.REQUEST:
                continue
            with contextlib.suppress(InvalidMessage):  # an id twice: it passes all the same
                verdict, events = self._machine.admit(message)
                self._tell(events)
                if verdict is Verdict.SEND:
                    self._machine.sending(self._machine.generation, message)
                    seen.append(message)
        return seen

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StatusChanged):
                self._report(event.status, self._say)
            elif isinstance(event, Line) and event.origin is Origin.HOLDFAST:
                self._answer(event.data)

    def _answer(self, data: bytes) -> None:
        """Write an answer in the worker's place."""
        frame = self._dialect.framing.encode(data)
        if isinstance(self._dialect.framing, Lines) and not self._stdout.at_line_start:
            frame = b"\n" + frame
        if (slow := self._stdout.write(frame)) is not None and self._tasks is not None:
            self._tasks.start_soon(_finish, slow)

    def _exit_code(self) -> int:
        if self._worker.failure is not None:
            return NOT_STARTED
        if self._stdout.failure is not None:
            return LINK_BROKEN
        evidence = self._worker.evidence
        exit = evidence.exit
        if exit is not None and exit.code is not None:
            return exit.code
        if exit is not None and exit.signal is not None:
            return 128 + _signal_number(exit.signal)
        if evidence.reports_exit or evidence.broken is not None or evidence.failure is not None:
            return LINK_BROKEN
        return 0 if self._input_ended else LINK_BROKEN

    @property
    def failure(self) -> Exception | None:
        """Why the worker could not be started."""
        return self._worker.failure

    @property
    def unwritten(self) -> OSError | None:
        """Why the worker's output could not be written, although it has a reader."""
        return self._stdout.failure

    @property
    def lost(self) -> str | None:
        """What the exit code ``LINK_BROKEN`` stands for, if nobody asked for the end."""
        exit = self._worker.evidence.exit or Exit()
        if self._stop_asked or self._loss is None or exit.reported:
            return None
        if self._exit_code() != LINK_BROKEN:
            return None
        return f"{self._loss.detail}; worker {self._loss.worker}; {exit}"

    # -- what the worker tells (holdfast._worker.Sink) ---------------------------------------

    def opened(self, worker: Worker) -> None:
        self._tell(self._machine.started(self._machine.generation))
        assert self._tasks is not None
        self._tasks.start_soon(self._pump_stdin)

    def output(self, worker: Worker, data: bytes) -> Awaitable[None] | None:
        slow = self._stdout.write(data)
        frames = self._answers.feed(data) if data else self._answers.finish()
        if self._machine.phase is Phase.RUNNING:
            self._tell(
                self._machine.frames(self._machine.generation, [self._passed(f) for f in frames])
            )
        return slow

    def _passed(self, frame: Frame) -> Frame:
        """A message that is too long to be watched passed all the same: it may be an answer."""
        if not isinstance(frame, TooLong):
            return frame
        id = answered_by(frame.head, frame.tail)
        return Unframed(b"") if id is None else success_answer(id)

    def stderr(self, worker: Worker, data: bytes) -> Awaitable[None] | None:
        return self._stderr.write(data)

    def sending(self, worker: Worker, message: Message) -> None:
        """Watched where it came in."""

    def written(self, worker: Worker, message: Message) -> None:
        """Watched where it came in."""

    def ended(self, worker: Worker, loss: Loss) -> None:
        self._loss = loss
        if self._stop_asked:
            self._machine.stopping(self._machine.generation)
        self._tell(self._machine.ended(self._machine.generation, loss))

    def exit_known(self, worker: Worker, exit: Exit) -> None:
        self._tell(self._machine.exit_known(self._machine.generation, exit))


_OPAQUE = Dialect("raw", "", json=False).read(b"")


async def _finish(slow: Awaitable[None]) -> None:
    await slow


def fill_standard_descriptors() -> None:
    """A standard stream that is closed would be taken by the next descriptor that is opened.

    Call it before the event loop starts, whose own descriptors would be the next.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)
            if taken != fd:
                os.dup2(taken, fd)
                os.close(taken)


def _signal_number(name: str) -> int:
    try:
        return int(signal.Signals[name])
    except KeyError:
        offset = name.rpartition("+")[2]
        return signal.SIGRTMIN + int(offset) if offset.isdigit() else 0
