"""A channel to a worker in memory, and the levers that break it."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel
from anyio import CancelScope

from .._errors import ChannelClosed, Operation, TransportBroken, Unsupported
from .._status import Cause, Exit, Fate
from .._transport import Capability, Channel, Signal
from ..wakeup import bell
from ._faults import AT_OPEN, ONCE, Fault, What
from ._memory_ends import ENDLESS, Ended, Pipe, ReadEnd, WorkerFunction, WriteEnd, closed_pipe

_CLOSE: Final = 1.0
"""Seconds that a closed channel waits for a worker that resists its cancellation."""

_DEADLINE: Final = 15.0
"""Seconds until a silent link is noticed where the fault does not say."""


class MemoryChannel(Channel):
    """A channel to a worker in memory, and the levers that break it.

    Attributes:
        faults: What goes wrong by itself.
        taken: Every byte that was taken for the worker's stdin, whether the worker read it or not.
        delivered: How many bytes of its stdout were handed out.
        ended: How the worker really ended, ``None`` while it runs; not what ``wait`` reports.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        capabilities: Capability,
        pipe_size: int,
        *,
        takes_at_once: bool,
    ) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.taken: bytearray = bytearray()
        self.delivered: int = 0
        self.ended: Exit | None = None
        self._can = capabilities
        self._size = pipe_size
        self._takes_at_once = takes_at_once
        self._stdin = Pipe(self._size)
        self._stdout = Pipe(self._size)
        self._stderr = Pipe(self._size)
        self._worker_stdin = ReadEnd(self._stdin)
        self._worker_stdout = WriteEnd(self._stdout)
        self._worker_stderr = WriteEnd(
            self._stderr if Capability.STDERR in self._can else Pipe(ENDLESS)
        )
        self._exit: Exit | None = None  # as reported
        self._frozen = False
        self._reachable = True  # whether anything still passes between us and the worker
        self._closed = False
        self._eof_sent = False
        self._stdin_broken: TransportBroken | None = None
        self._link_broken: TransportBroken | None = None
        self._only_send_breaks: TransportBroken | None = None
        self._gone = False  # the worker's coroutine is over
        self._bell = bell()  # rings at what concerns wait() and aclose()
        self._scope = CancelScope()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._on_sent: list[Fault] = []
        self._on_received: list[Fault] = []
        amounts = {each.what: each.amount for each in faults if each.what not in ONCE | AT_OPEN}
        self._amounts = amounts
        self._split_send = int(amounts.get(What.SPLIT_SEND, ENDLESS)) or 1
        self._split_read = int(amounts.get(What.SPLIT_READ, ENDLESS)) or 1
        self._slow_read = amounts.get(What.SLOW_READ, 0.0)
        self._late_errors = int(amounts.get(What.LATE_ERROR, 0))
        self._worker_stdin.no_eof = What.IGNORE_EOF in amounts

    def start(self, tasks: anyio.abc.TaskGroup, worker: WorkerFunction) -> None:
        """Run the worker, and let happen what is to happen."""
        self._tasks = tasks
        tasks.start_soon(self._run, worker)
        for fault in self.faults:
            if fault.what not in ONCE:
                continue
            if fault.after is not None:
                tasks.start_soon(self._later, fault.after, self.happen, fault)
            elif fault.received is not None:
                self._on_received.append(fault)
            else:
                self._on_sent.append(fault)
        self._on_sent.sort(key=_sent)
        self._on_received.sort(key=_received)
        self._passed(self._on_sent, len(self.taken), _sent)
        self._passed(self._on_received, self.delivered, _received)

    # -- the worker --------------------------------------------------------------------------

    async def _run(self, worker: WorkerFunction) -> None:
        exit = Exit(code=0)
        stdin, stdout, stderr = self._worker_stdin, self._worker_stdout, self._worker_stderr
        try:
            with self._scope:
                code = await worker(stdin, stdout, stderr)
                exit = Exit(code=code or 0)
        except Ended as ended:
            exit = ended.exit
        except BrokenPipeError:
            exit = Exit(signal="SIGPIPE")
        except Exception:  # noqa: BLE001 - as a program's: a traceback, and exit code 1
            exit = Exit(code=1)
            if self.ended is None:
                self._stderr.data += traceback.format_exc().encode()[-self._size :]
                self._stderr.bell.ring()
        finally:
            self._gone = True
            self._bell.ring()
        while self._frozen and self.ended is None:
            await self._bell.wait()
        self._die(exit)

    def _die(self, exit: Exit) -> None:
        """The worker is over, at once; what it has written stays."""
        if self.ended is not None:
            return
        self.ended = exit
        self._scope.cancel()
        self._worker_stdin.close()
        for end, held in (
            (self._worker_stdout, What.HOLD_STDOUT),
            (self._worker_stderr, What.HOLD_STDERR),
        ):
            pipe = end.pipe
            end.move(closed_pipe())
            self._soon(self._amounts.get(held, 0), pipe.end_writing)
        if self._reachable:
            self._soon(self._amounts.get(What.LATE_EXIT, 0), self._report)
        self._bell.ring()

    def _report(self) -> None:
        """How the worker ended is known to us."""
        if self._exit is None:
            told = self._reachable and Capability.EXIT_STATUS in self._can
            self._exit = (self.ended if told else None) or Exit()
            self._bell.ring()

    def _soon(self, seconds: float, act: Callable[[], None]) -> None:
        if seconds and self._tasks is not None and not self._closed:
            self._tasks.start_soon(self._later, seconds, act)
        else:
            act()

    async def _later(self, seconds: float, act: Callable[..., None], *args: object) -> None:
        await anyio.sleep(seconds)
        act(*args)

    # -- the levers --------------------------------------------------------------------------

    def happen(self, fault: Fault) -> None:
        """Let this fault happen now, whatever moment it names."""
        if self._closed:
            return
        levers: dict[What, Callable[[], None]] = {
            What.KILL: self.kill,
            What.EXIT: lambda: self.exit(int(fault.amount)),
            What.VANISH: self.vanish,
            What.CUT: self.cut,
            What.RESET: self.reset,
            What.RESET_SEND: self.reset_send,
            What.SILENCE: lambda: self.silence(fault.amount or None),
            What.FREEZE: self.freeze,
            What.DEAF: self.deafen,
            What.CLOSE_STDIN: self.close_stdin,
            What.CLOSE_STDOUT: self.close_stdout,
        }
        levers[fault.what]()

    def kill(self) -> None:
        """The worker dies of SIGKILL."""
        self._die(Exit(signal="SIGKILL"))

    def exit(self, code: int = 0) -> None:
        """The worker exits with ``code``."""
        self._die(Exit(code=code))

    def vanish(self) -> None:
        """The worker is over, and nobody says how it ended."""
        self._die(Exit())

    def cut(self) -> None:
        """The link is lost, and says so; the worker lives on, out of reach."""
        self._lose(ConnectionAbortedError(errno.ECONNABORTED, "link lost"), Cause.LINK_LOST)

    def reset(self) -> None:
        """The link is lost, and the transport cannot tell why."""
        self._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def reset_send(self) -> None:
        """The link is lost, and only who sends notices."""
        error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        self._only_send_breaks = TransportBroken(Operation.SEND, error)
        self.silence()

    def silence(self, deadline: float | None = None) -> None:
        """The link drops everything without a word.

        Args:
            deadline: Seconds until that is noticed, where the transport can.
        """
        if not self._reachable:
            return
        self._part()
        if Capability.DETECTS_SILENT_LINK in self._can:
            error = TimeoutError(errno.ETIMEDOUT, "no answer to the heartbeat")
            self._soon(
                deadline if deadline is not None else _DEADLINE,
                lambda: self._lose(error, Cause.LINK_SILENT),
            )

    def freeze(self) -> None:
        """The worker does nothing any more, as after SIGSTOP."""
        self._hold(True)

    def thaw(self) -> None:
        """The worker goes on, as after SIGCONT."""
        self._hold(False)

    def deafen(self) -> None:
        """The worker lives and writes, and never again reads its stdin."""
        self._worker_stdin.held = True

    def close_stdin(self) -> None:
        """The worker closes its stdin and lives."""
        self._worker_stdin.close()

    def close_stdout(self) -> None:
        """The worker closes its stdout and lives."""
        self._worker_stdout.close()

    def _hold(self, held: bool) -> None:
        self._frozen = held
        for end in (self._worker_stdin, self._worker_stdout, self._worker_stderr):
            end.held = held
            end.pipe.bell.ring()
        self._bell.ring()

    def _part(self) -> None:
        """From now on nothing passes; what arrived on our side before stays there."""
        self._reachable = False
        for end in (self._worker_stdin, self._worker_stdout, self._worker_stderr):
            end.move(Pipe(self._size))

    def _lose(self, error: OSError, cause: Cause = Cause.UNKNOWN) -> None:
        if self._link_broken is not None or self._closed:
            return
        fate = Fate.MAYBE_ALIVE if cause is not Cause.UNKNOWN else Fate.UNKNOWN
        self._link_broken = TransportBroken(Operation.RECEIVE, error, cause=cause, worker=fate)
        if self._reachable:
            self._part()
        self._worker_stdin.pipe.end_writing()
        self._report()
        self._ring()

    # -- the channel -------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        rest = memoryview(data)
        while True:
            taken = self._put(rest, Operation.SEND)
            rest = rest[taken:]
            if not rest:
                return
            if taken:
                await anyio.lowlevel.checkpoint()  # what was taken may have let something happen
            else:
                await self._stdin.bell.wait()

    def send_nowait(self, data: bytes) -> int:
        if not self._takes_at_once:
            return 0
        return self._put(memoryview(data), Operation.SEND)

    def _put(self, data: memoryview, operation: Operation) -> int:
        """Take what there is room for."""
        self._check_stdin(operation)
        if not data:
            return 0
        pipe = self._stdin
        if pipe.no_reader:
            self._late_errors -= 1  # this write still goes well
            count = len(data)
        else:
            count = min(len(data), max(pipe.room, 0), self._split_send)
        if self._on_sent:
            count = min(count, max(_sent(self._on_sent[0]) - len(self.taken), 1))
        if not count:
            return 0
        self.taken += data[:count]
        if not pipe.no_reader:
            pipe.data += data[:count]
            pipe.bell.ring()
        self._passed(self._on_sent, len(self.taken), _sent)
        return count

    def _check_stdin(self, operation: Operation) -> None:
        self._check(operation)
        if self._only_send_breaks is not None:
            raise self._only_send_breaks.during(operation)
        if self._stdin_broken is not None:
            raise self._stdin_broken.during(operation)
        if self._eof_sent:
            raise ChannelClosed("the worker's stdin was closed by our side (send_eof)")
        if self._stdin.no_reader and self._late_errors <= 0:
            native = BrokenPipeError(errno.EPIPE, "Broken pipe")
            self._stdin_broken = TransportBroken(operation, native)
            raise self._stdin_broken

    def _check(self, operation: Operation) -> None:
        if self._closed:
            raise ChannelClosed("this channel was closed by our side")
        if self._link_broken is not None:
            raise self._link_broken.during(operation)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        most = min(max_bytes, self._split_read)
        data = await self._read(self._stdout, most, Operation.RECEIVE)
        self.delivered += len(data)
        self._passed(self._on_received, self.delivered, _received)
        return data

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self._read(self._stderr, max_bytes, Operation.RECEIVE_STDERR)

    async def _read(self, pipe: Pipe, max_bytes: int, operation: Operation) -> bytes:
        await anyio.lowlevel.checkpoint()
        late = self._slow_read
        while True:
            if self._closed:
                raise ChannelClosed("this channel was closed by our side")
            if pipe.data:
                if not late:
                    return pipe.take(max_bytes)
                await anyio.sleep(late)
                late = 0
                continue
            self._check(operation)
            if pipe.no_writer and (self.ended is not None or Capability.EARLY_EOF in self._can):
                return b""
            await pipe.bell.wait()

    async def wait(self) -> Exit:
        await anyio.lowlevel.checkpoint()
        while self._exit is None:
            await self._bell.wait()
        return self._exit

    async def send_eof(self) -> None:
        if Capability.HALF_CLOSE not in self._can:
            raise Unsupported("this transport cannot close the worker's stdin alone")
        await anyio.lowlevel.checkpoint()
        self._check(Operation.SEND_EOF)
        if not self._eof_sent:
            self._check_stdin(Operation.SEND_EOF)
            self._eof_sent = True
            self._stdin.end_writing()

    async def signal(self, signal: Signal) -> None:
        if Capability.SIGNALS not in self._can:
            raise Unsupported("this transport cannot send signals")
        await anyio.lowlevel.checkpoint()
        self._check(Operation.SIGNAL)
        deaf_to_it = self._frozen or What.IGNORE_TERM in self._amounts
        if self._reachable and (signal is Signal.KILL or not deaf_to_it):
            self._die(Exit(signal=f"SIG{signal.upper()}"))

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.kill()
            self._report()
            for pipe in (self._stdin, self._stdout, self._stderr):
                pipe.end_reading()
                pipe.end_writing()
            self._ring()
        if not self._gone:
            with anyio.move_on_after(_CLOSE, shield=True):
                while not self._gone:
                    await self._bell.wait()
        await anyio.lowlevel.checkpoint()

    def _ring(self) -> None:
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.bell.ring()
        self._bell.ring()

    def _passed(self, faults: list[Fault], count: int, moment: Callable[[Fault], int]) -> None:
        while faults and count >= moment(faults[0]):
            self.happen(faults.pop(0))


def _sent(fault: Fault) -> int:
    return fault.sent or 0


def _received(fault: Fault) -> int:
    return fault.received or 0
