"""One worker, from its start to its end: the pumps, the writer, the stop ladder, the judgement.

This is the only file that meets :class:`~holdfast.TransportBroken`. Whoever meets it, and whoever
sees the end of stdout or the exit, leaves a note in :class:`~holdfast._evidence.Evidence`; one
task waits for the first note, gives the others a short time, and then declares the end.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import anyio
import anyio.lowlevel
from anyio import CancelScope

from ._dialect import Message
from ._errors import ChannelClosed, TransportBroken, Unsupported, WorkerNotStarted
from ._evidence import Evidence, Loss
from ._framing import Framing
from ._limits import Limits
from ._status import Delivery, Exit
from ._transport import Capability, Channel, Command, Signal, Transport
from .wakeup import Bell, bell

_log = logging.getLogger("holdfast")

_READ: Final = 64 * 1024
"""Bytes to ask for at once: what a pipe holds by default."""

_PIECE: Final = 64 * 1024
"""Bytes to write at once, so that a message's progress can be seen."""

_SETTLE_ROUNDS: Final = 20
"""How often ``Limits.settle`` may begin anew while a slow link still delivers a lot: what a worker
wrote before its end is not thrown away, and a grandchild that chats on cannot hold us up."""

_SETTLE_BYTES: Final = 2 * 1024 * 1024
"""How much of what a worker wrote may still be on its way when its exit is known: what a pipe holds
at most, and then some. Beyond this, it is a grandchild that floods the pipe."""

_STDERR_SETTLE: Final = 0.1
"""Seconds for the rest of stderr: it matters less than a prompt word about the loss."""

_CLOSE: Final = 10.0
"""Seconds for an ``aclose``, which promises to be bounded, before we go on without it."""


class Sink(Protocol):
    """Who is told what becomes of a worker. None of these may wait.

    Who has to hand output on to somebody slower gives back an awaitable from ``output`` or
    ``stderr``: reading goes on when it is done, so that the worker feels the back pressure.
    """

    def opened(self, worker: Worker) -> None:
        """It runs."""

    def output(self, worker: Worker, data: bytes) -> Awaitable[None] | None:
        """It wrote to its stdout; ``b""`` once, when it closed it."""

    def stderr(self, worker: Worker, data: bytes) -> Awaitable[None] | None:
        """It wrote to its stderr."""

    def sending(self, worker: Worker, message: Message) -> None:
        """The message's first bytes are being written."""

    def written(self, worker: Worker, message: Message) -> None:
        """The message's last byte was taken."""

    def ended(self, worker: Worker, loss: Loss) -> None:
        """It is over or out of reach; nothing more comes from it but its exit."""

    def exit_known(self, worker: Worker, exit: Exit) -> None:
        """How it ended became known, perhaps after ``ended``."""


class Outgoing:
    """A message on its way, and how far it has come."""

    __slots__ = ("bell", "delivery", "frame", "message", "settled", "taken")

    def __init__(self, message: Message, frame: bytes, taken: int) -> None:
        self.message = message
        self.frame = frame
        self.taken = taken
        self.delivery: Delivery = Delivery.UNKNOWN if taken else Delivery.REFUSED
        self.settled: bool = False
        self.bell: Bell | None = None

    def settle(self) -> None:
        self.settled = True
        if self.bell is not None:
            self.bell.ring()

    async def wait(self) -> None:
        """Wait until nothing more will become of it."""
        if self.bell is None:
            self.bell = bell()
        while not self.settled:
            await self.bell.wait()


class Worker:
    """One generation of a session's worker.

    Args:
        transport: Where it runs.
        command: What runs.
        framing: How its messages stand on the wire.
        limits: The bounds of its session.
        sink: Who is told.
        outlives_stdin: Whether it may go on and write when it has closed its stdin, as in a
            pipeline; its loss is declared all the same.

    Attributes:
        evidence: What is known of its end.
        failure: Why it could not be started.
        stderr_tail: The latest of its stderr.
    """

    def __init__(
        self,
        transport: Transport,
        command: Command,
        framing: Framing,
        limits: Limits,
        sink: Sink,
        *,
        outlives_stdin: bool = False,
    ) -> None:
        self.evidence = Evidence(Capability.EXIT_STATUS in transport.capabilities)
        self.failure: Exception | None = None
        self.stderr_tail = b""
        self._transport = transport
        self._can = transport.capabilities
        self._command = command
        self._framing = framing
        self._limits = limits
        self._sink = sink
        self._outlives_stdin = outlives_stdin
        self._bell = bell()
        self._scope = CancelScope()
        self._pumps: anyio.abc.TaskGroup | None = None
        self._channel: Channel | None = None
        self._outbox: deque[Outgoing] = deque()
        self._writing = False
        self._stop_asked = False
        self._ending = False  # it is being stopped, or there is evidence of its end
        self._hurried = False
        self._stdout_done = False
        self._stdout_read = 0
        self._read_at_exit = 0
        self._held = False  # output waits for somebody who is slower than the worker
        self._holds = 0
        self._stderr_done = Capability.STDERR not in self._can
        self._stderr_held = False
        self._declared = False
        self._torn = False  # a message was partly written when the end was declared
        self._done = False

    # -- its life ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the worker, live with it until it is over, and leave nothing of it behind."""
        try:
            with self._scope:
                async with self._transport.open(self._command) as channel:
                    await self._live(channel)
        except Exception as error:  # noqa: BLE001 - a transport's own tasks may fail in any way
            self._failed(error)
        finally:
            if self._channel is not None and not self._declared:
                self._declare()
            elif self._channel is None and self.failure is None:
                self.failure = WorkerNotStarted("the start was cancelled")
            self._done = True
            self._bell.ring()

    async def _live(self, channel: Channel) -> None:
        try:
            async with anyio.create_task_group() as pumps:
                self._pumps, self._channel = pumps, channel
                self._sink.opened(self)
                self._bell.ring()
                pumps.start_soon(self._pump_stdout, channel)
                if Capability.STDERR in self._can:
                    pumps.start_soon(self._pump_stderr, channel)
                pumps.start_soon(self._await_exit, channel)
                await self._until(lambda: self._stop_asked or bool(self.evidence))
                await self._finish(channel)
                pumps.cancel_scope.cancel()
        finally:
            self._pumps = None
            await _close(channel)
            await self._learn_exit(channel)

    async def _finish(self, channel: Channel) -> None:
        if not self.evidence:
            await self._ladder(channel)
        await self._settle()
        if self._stop_asked and not self.evidence.worker_gone:
            return  # the channel's close ends it, and what is known then is declared
        self._declare()
        if self._outlives_stdin and self.evidence.only_stdin_closed:
            await self._until(lambda: self._at_end or self._stop_asked)
            await self._settle()
        if not self.evidence.worker_gone:
            await self._ladder(channel)
        if self._outlives_stdin:
            await self._drain_stderr()

    async def _drain_stderr(self) -> None:
        """Bring the rest of stderr to somebody who reads it more slowly than it was written."""
        while not self._stderr_done and not self._stop_asked:
            await self._until(
                lambda: self._stderr_done or self._stderr_held or self._stop_asked,
                self._limits.settle,
            )
            if not self._stderr_held:
                break
            await self._until(lambda: not self._stderr_held or self._stop_asked)

    def _declare(self) -> None:
        self._declared = self._ending = True
        self._torn = self._partly_written
        self._sink.ended(self, self.evidence.judge(self.stderr_tail))
        for item in self._outbox:
            item.settle()
        self._outbox.clear()
        self._bell.ring()

    async def _learn_exit(self, channel: Channel) -> None:
        """After the close: how did it end?"""
        if self.evidence.exit is None:
            with anyio.move_on_after(self._limits.kill_grace, shield=True):
                self.evidence.exit = await channel.wait()
        if self._declared and self.evidence.exit is not None:
            self._sink.exit_known(self, self.evidence.exit)

    def _failed(self, error: Exception) -> None:
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if self._channel is None:
            self.failure = error
            return
        _log.error("the transport of %s failed", self._command.argv[0], exc_info=error)
        if self.evidence.failure is None:
            self.evidence.failure = f"{type(error).__name__}: {error}"

    # -- for the session ---------------------------------------------------------------------

    async def wait_opened(self) -> None:
        """Wait until it runs, or could not be started."""
        await self._until(lambda: self._channel is not None or self._done)

    async def wait_over(self) -> None:
        """Wait until nothing of it is left."""
        await self._until(lambda: self._done)

    def stop(self) -> None:
        """Begin to stop it: politely where it runs, at once where it is being started."""
        self._stop_asked = self._ending = True
        if self._channel is None:
            self._scope.cancel()
        self._bell.ring()

    def hurry(self) -> None:
        """Leave out the polite steps of the ladder."""
        self._hurried = True
        self._bell.ring()

    def stuck(self, seconds: float) -> None:
        """Declare that it takes no input, after a part of a message was written."""
        self.evidence.stuck = seconds
        self._noticed()

    def submit(self, message: Message) -> Outgoing | None:
        """Hand over a message.

        Returns:
            ``None`` if every byte of it was taken at once; else what becomes of it, in its turn.
            The sink is not told of what was ``taken`` here: only the caller can say when that
            stands in the journal.
        """
        frame = self._framing.encode(message.data)
        taken = 0
        if not self._writing and not self._ending:
            try:  # as `_noting` does, without its cost
                taken = self._channel.send_nowait(frame)  # type: ignore[union-attr]
            except TransportBroken as broken:
                self._broke(broken)
            except Exception as error:  # noqa: BLE001 - a plugin's mistake ends this worker only
                self._crashed("writing", error)
            if taken == len(frame):
                return None
        item = Outgoing(message, frame, taken)
        if self._declared:
            item.settle()
            return item
        self._outbox.append(item)
        if not self._writing and not self._ending:
            assert self._pumps is not None
            assert self._channel is not None
            self._writing = True
            self._pumps.start_soon(self._pump_stdin, self._channel)
        return item

    async def end_input(self) -> None:
        """Close its stdin once all that was handed over is written; or stop it, if need be."""
        await self._until(lambda: not self._writing or self._ending)
        if self._ending or self._channel is None:
            return
        if Capability.HALF_CLOSE not in self._can:
            self.stop()
            return
        with self._noting("closing the stdin of"):
            await self._channel.send_eof()

    def withdraw(self, item: Outgoing) -> bool:
        """Take a message back; ``False`` if a part of it may be written already."""
        if item.delivery is not Delivery.REFUSED or item.settled:
            return False
        self._outbox.remove(item)
        item.settle()
        return True

    # -- the pumps ---------------------------------------------------------------------------

    async def _pump_stdout(self, channel: Channel) -> None:
        with self._noting("reading"):
            await channel.forward(self._take_stdout, _READ)
            self._sink.output(self, b"")
            self.evidence.eof = self._ending = True
        self._stdout_done = True
        self._bell.ring()

    async def _pump_stderr(self, channel: Channel) -> None:
        limit = self._limits.stderr_tail
        with self._noting("reading stderr"):
            while data := await channel.receive_stderr(_READ):
                self.stderr_tail = (self.stderr_tail + data)[-limit:] if limit else b""
                if (slow := self._sink.stderr(self, data)) is not None:
                    self._stderr_held = True
                    await slow
                    self._stderr_held = False
                    self._bell.ring()
        self._stderr_done = True
        self._bell.ring()

    def _take_stdout(self, data: bytes) -> Awaitable[None] | None:
        self._stdout_read += len(data)
        if self._flooded:
            self._bell.ring()
        try:
            slow = self._sink.output(self, data)
        except Exception as error:  # noqa: BLE001 - a mistake in core ends this worker only
            self._crashed("reading", error)
            return None
        return None if slow is None else self._held_up(slow)

    async def _held_up(self, slow: Awaitable[None]) -> None:
        self._held = True
        self._holds += 1
        try:
            await slow
        finally:
            self._held = False

    async def _await_exit(self, channel: Channel) -> None:
        try:
            self.evidence.exit = await channel.wait()
            self._read_at_exit = self._stdout_read
        except Exception as error:  # noqa: BLE001 - a plugin's mistake ends this worker only
            self._crashed("waiting", error)
        self._bell.ring()

    async def _pump_stdin(self, channel: Channel) -> None:
        """Write what lies in the outbox; there is never more than one of these."""
        with self._noting("writing"):
            while self._outbox and (not self._ending or self._partly_written):
                item = self._outbox[0]
                if not item.taken:
                    item.delivery = Delivery.UNKNOWN
                    self._sink.sending(self, item.message)
                while item.taken < len(item.frame):
                    piece = item.frame[item.taken : item.taken + _PIECE]
                    await channel.send(piece)
                    item.taken += len(piece)
                if self._declared:
                    break  # a stuck worker read on after all; what became of this was told
                self._outbox.popleft()
                item.delivery = Delivery.WRITTEN
                self._sink.written(self, item.message)
                item.settle()
        self._writing = False
        self._bell.ring()

    @contextmanager
    def _noting(self, doing: str) -> Iterator[None]:
        """Whatever is met within is a note in the evidence."""
        try:
            yield
        except TransportBroken as broken:
            self._broke(broken)
        except Exception as error:  # noqa: BLE001 - a plugin's mistake ends this worker only
            self._crashed(doing, error)

    def _broke(self, broken: TransportBroken) -> None:
        if self.evidence.broken is None:
            self.evidence.broken = broken
        self._noticed()

    def _noticed(self) -> None:
        self._ending = True
        self._bell.ring()

    def _crashed(self, doing: str, error: Exception) -> None:
        """Something other than a broken transport: a mistake in a transport, or in core."""
        if isinstance(error, ChannelClosed) and (self._declared or self._stop_asked):
            return
        _log.error("%s a worker failed", doing, exc_info=error)
        if self.evidence.failure is None:
            self.evidence.failure = f"{type(error).__name__}: {error}"
        self._noticed()

    # -- its end -----------------------------------------------------------------------------

    @property
    def _partly_written(self) -> bool:
        if self._torn:
            return True
        return bool(self._outbox) and self._outbox[0].delivery is Delivery.UNKNOWN

    async def _ladder(self, channel: Channel) -> None:
        """EOF, grace, TERM, grace, KILL: each step where the transport has it, each bounded."""
        limits = self._limits
        if Capability.HALF_CLOSE in self._can and not self._partly_written:
            await self._step(channel.send_eof, limits.eof_grace)
        if Capability.SIGNALS in self._can:
            await self._step(lambda: channel.signal(Signal.TERM), limits.term_grace)
            self._hurried = False
            await self._step(lambda: channel.signal(Signal.KILL), limits.kill_grace)

    async def _step(self, act: Callable[[], Awaitable[None]], grace: float) -> None:
        if self._at_end or self._hurried:
            return
        with anyio.move_on_after(grace):
            try:
                await act()
            except TransportBroken as broken:  # a stdin that is gone is no reason to skip SIGTERM
                self._broke(broken)
                return
            except (ChannelClosed, Unsupported) as error:
                self._crashed("stopping", error)
                return
            await self._until(lambda: self._at_end or self._hurried)

    @property
    def _at_end(self) -> bool:
        """Whether no step of the ladder could add anything."""
        evidence = self.evidence
        if evidence.exit is not None or evidence.link_failed:
            return True
        return self._stdout_done and not evidence.reports_exit

    @property
    def _flooded(self) -> bool:
        """Whether more arrived after the exit than the worker itself can have written."""
        if self.evidence.exit is None:
            return False
        return self._stdout_read - self._read_at_exit > _SETTLE_BYTES

    async def _settle(self) -> None:
        """Collect what a worker that is over has still said, for a short and bounded time."""
        evidence, limits = self.evidence, self._limits
        if evidence.is_stuck:
            return
        only_eof = evidence.broken is None and evidence.exit is None
        rounds = _SETTLE_ROUNDS
        lay_ready = False
        while rounds:
            read_before, holds_before = self._stdout_read, self._holds
            if await self._until(
                lambda: (
                    self._flooded
                    or (
                        self._stdout_done
                        and (evidence.exit is not None or not evidence.reports_exit)
                    )
                ),
                limits.exit_grace if only_eof else limits.settle,
            ):
                break
            if (self._held or self._holds > holds_before) and not self._stop_asked:
                continue  # whoever reads our output was slow, not the worker
            rounds -= 1
            if self._stdout_read - read_before < _PIECE:
                if lay_ready or not await self._more_lay_ready():
                    break
                lay_ready = True  # once: a grandchild's chat may look the same, again and again
        await self._until(lambda: self._stderr_done, _STDERR_SETTLE)

    async def _more_lay_ready(self) -> bool:
        """Whether there was output that a busy machine left us no time to read."""
        read_before = self._stdout_read
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return self._stdout_read > read_before

    async def _until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        if seconds is None or condition():  # a cancel scope costs more than all the rest here
            while not condition():
                await self._bell.wait()
            return True
        with anyio.move_on_after(seconds):
            while not condition():
                await self._bell.wait()
            return True
        return condition()


async def _close(what: Channel | Transport) -> None:
    with anyio.move_on_after(_CLOSE, shield=True) as bound:
        await what.aclose()
    if bound.cancelled_caught:
        _log.error("%r did not close within %g s", what, _CLOSE)


async def close_transport(transport: Transport) -> None:
    """Close what a transport's channels shared; one that fails or hangs changes nothing else."""
    try:
        await _close(transport)
    except Exception:  # noqa: BLE001 - a plugin's mistake, and nothing is left that it could end
        _log.exception("%r could not be closed", transport)
