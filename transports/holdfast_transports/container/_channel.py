"""A worker's streams, as an engine carries them: one upgraded connection for all three.

Who receives reads the connection itself, for both streams; what is the other one's waits for it, up
to a bound. So the two share back pressure, and no task stands between the socket and the reader.

What ends is judged here, and claimed only when the engine was asked: see :meth:`_judge`.
"""

from __future__ import annotations

import errno
import os
import signal
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Final, NoReturn

import anyio
import anyio.lowlevel

from holdfast import (
    Cause,
    Channel,
    ChannelClosed,
    Command,
    Exit,
    Fate,
    Operation,
    TransportBroken,
    WorkerNotStarted,
)
from holdfast.wakeup import bell

from .._shell import FAILED, READY, STARTED, not_started
from ._engine import NATIVE, Engine
from ._frames import STDERR, Demultiplexer, NotFramed
from ._heart import Heart
from ._wire import Wire

_READ: Final = 64 * 1024
"""Bytes to read at once."""

_HELD: Final = 1024 * 1024
"""Bytes of one stream that wait for its reader while the other stream is read on."""

_NOISE: Final = 64 * 1024
"""Bytes that may come before our own script speaks."""

_SIGKILLED: Final = 128 + 9

_SETTLED: Final = 2.0
"""Seconds for an engine to know of an end after the streams have: Podman's take up to a tenth of
one, since what carries them ends them before it writes down the exit."""

_SOON, _LATER = 0.01, 0.1
"""Seconds until it is asked again, at first and at most."""

CLOSE: Final = 8.0
"""Seconds for an engine to remove or kill what is ours; it takes a tenth of one."""


class _Backlog:
    """What was read of one stream and not asked for yet."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.size = 0

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.size += len(piece)

    def pop(self, max_bytes: int) -> bytes:
        piece = self.pieces.popleft()
        if len(piece) > max_bytes:
            self.pieces.appendleft(piece[max_bytes:])
            piece = piece[:max_bytes]
        self.size -= len(piece)
        return piece


class _Pause(Exception):
    """Ends a wire's ``forward`` with nothing lost."""


async def _pause() -> None:
    raise _Pause


class EngineChannel(Channel):
    """A worker whose streams an engine carries."""

    def __init__(self, engine: Engine, heart: Heart, wire: Wire, first: bytes) -> None:
        self._engine = engine
        self._heart = heart
        self._wire = wire
        self._frames = Demultiplexer()
        self._out, self._err = _Backlog(), _Backlog()
        self._bell = bell()
        self._reading = False
        self._eof = False  # of the connection; what it means is for `_judge` to find out
        self._eof_error: Exception | None = None
        self._one_judges = anyio.Lock()
        self._ended = False
        self._exit: Exit | None = None
        self._broken: TransportBroken | None = None
        self._stdin_broken: TransportBroken | None = None
        self._eof_sent = False
        self._closed = False
        self._killed = False
        self._watched = False  # else the start failed, and nobody will be told of an exit
        self._gone: anyio.Event | None = None
        self._slow: Awaitable[None] | None = None
        heart.listeners.add(self)
        if first:
            self._store(first)

    # -- what each kind of worker brings -----------------------------------------------------

    async def watch(self) -> None:
        """Find out how the worker ends; a task of its own runs this."""
        self._watched = True
        await self._watch()

    @abstractmethod
    async def _watch(self) -> None:
        """Find out how the worker ends, and call :meth:`exited`."""

    @abstractmethod
    async def _look(self) -> bool:
        """Ask the engine how the worker is; whether it is over, and :meth:`exited` was called.

        Raises what a request may raise.
        """

    @abstractmethod
    async def _end(self) -> None:
        """End the worker by force, and remove what was made for it."""

    # -- what is known -----------------------------------------------------------------------

    def engine_lost(self, loss: TransportBroken) -> None:
        """The heart says so."""
        self._break(loss)

    def _break(self, loss: TransportBroken) -> None:
        if self._broken is None and not self._ended:
            known = self._exit if self._exit is not None and self._exit.reported else None
            self._broken = TransportBroken(
                loss.operation,
                loss.native,
                cause=loss.cause,
                worker=Fate.GONE if known else loss.worker,
                exit=known or loss.exit,
            )
            self._wire.abort()  # what has arrived can still be read; then comes the end
            self._bell.ring()

    def exited(self, exit: Exit) -> None:
        """The worker is over."""
        if self._exit is None:
            self._exit = exit
            self._wire.stop_writing()  # the engine goes on to take what nobody will read
            self._bell.ring()

    async def wait(self) -> Exit:
        await anyio.lowlevel.checkpoint()
        while self._exit is None and self._broken is None and not self._over:
            await self._bell.wait()
        return self._exit or Exit()

    @property
    def _over(self) -> bool:
        return self._gone is not None and self._gone.is_set()

    async def _known(self, seconds: float) -> bool:
        """Whether the exit is known, at once or soon."""
        with anyio.move_on_after(seconds):
            while self._watched and self._exit is None and self._broken is None:
                await self._bell.wait()
        return self._exit is not None

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("this channel was closed by our side")

    # -- writing -----------------------------------------------------------------------------

    def _check_stdin(self, operation: Operation) -> None:
        self._check_open()
        if self._exit is not None and self._stdin_broken is None and self._broken is None:
            self._stdin_broken = TransportBroken(
                operation,
                BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
                cause=Cause.WORKER_EXITED,
                worker=Fate.GONE,
                exit=self._exit if self._exit.reported else None,
            )
        if (broken := self._stdin_broken or self._broken) is not None:
            raise broken.during(operation) from broken.__cause__
        if self._eof_sent and operation is Operation.SEND:
            raise ChannelClosed("the worker's stdin was closed by our side (send_eof)")

    async def send(self, data: bytes) -> None:
        self._check_stdin(Operation.SEND)
        try:
            await self._wire.write(data)
        except anyio.ClosedResourceError:
            self._check_stdin(Operation.SEND)
            raise
        except OSError as error:
            await self._stdin_failed(error)

    def send_nowait(self, data: bytes) -> int:
        if (
            self._closed
            or self._eof_sent
            or self._exit is not None
            or self._stdin_broken is not None
            or self._broken is not None
        ):
            self._check_stdin(Operation.SEND)
        try:
            return self._wire.write_nowait(data)
        except (OSError, anyio.ClosedResourceError):
            return 0  # why, is for `send` to find out, which may wait

    async def _stdin_failed(self, error: OSError) -> NoReturn:
        """The engine takes no more: the worker's end, or its own?"""
        await self._judge(error)
        self._check_stdin(Operation.SEND)
        self._stdin_broken = TransportBroken(Operation.SEND, error)
        raise self._stdin_broken from error

    async def send_eof(self) -> None:
        self._check_stdin(Operation.SEND_EOF)
        if self._eof_sent:
            return await anyio.lowlevel.checkpoint()
        self._eof_sent = True
        try:
            await self._wire.write_eof()
        except anyio.ClosedResourceError:
            self._check_stdin(Operation.SEND_EOF)
            raise

    # -- reading -----------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._take(self._out, self._err, max_bytes, Operation.RECEIVE)

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self._take(self._err, self._out, max_bytes, Operation.RECEIVE_STDERR)

    async def _take(
        self, mine: _Backlog, other: _Backlog, max_bytes: int, operation: Operation
    ) -> bytes:
        self._check_open()
        if mine.size or self._eof:  # else it waits below
            await anyio.lowlevel.checkpoint()
        while not mine.size:
            if not await self._more(operation):
                return b""
            if mine.size:
                break
            if self._reading or other.size >= _HELD:
                await self._bell.wait()
            else:
                await self._read()
        self._check_open()
        return self._pop(mine, max_bytes)

    def _pop(self, backlog: _Backlog, max_bytes: int) -> bytes:
        was_full = backlog.size >= _HELD
        piece = backlog.pop(max_bytes)
        if was_full and backlog.size < _HELD:
            self._bell.ring()  # the other stream's reader was held up by it
        return piece

    async def _more(self, operation: Operation) -> bool:
        """Whether more may come; raises the loss if that is why not."""
        self._check_open()
        if self._eof:
            await self._judge(self._eof_error)
            self._check_open()
            if not self._ended:
                assert self._broken is not None
                raise self._broken.during(operation) from self._broken.__cause__
        return not self._eof

    async def _read(self) -> None:
        self._reading = True
        try:
            data = await self._wire.read(_READ)
        except anyio.ClosedResourceError:
            self._check_open()
            raise
        except OSError as error:
            self._end_of_stream(error)
        else:
            if data:
                self._store(data)
            else:
                self._end_of_stream(None)
        finally:
            self._reading = False
            self._bell.ring()

    def _end_of_stream(self, error: Exception | None) -> None:
        if not self._eof:
            if error is None and self._frames.cut:
                error = ConnectionResetError(errno.ECONNRESET, "the stream ended within a frame")
            self._eof, self._eof_error = True, error

    def _store(self, data: bytes) -> None:
        try:
            for stream, piece in self._frames.feed(data):
                (self._err if stream == STDERR else self._out).add(piece)
        except NotFramed as error:
            self._end_of_stream(error)

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        self._check_open()
        out, err = self._out, self._err

        def split(data: bytes) -> Awaitable[None] | None:
            try:
                pieces = self._frames.feed(data)
            except NotFramed as error:
                self._end_of_stream(error)
                return _pause()
            for stream, piece in pieces:
                if stream == STDERR:
                    err.add(piece)
                    self._bell.ring()
                elif out.size or self._slow is not None or len(piece) > max_bytes:
                    out.add(piece)
                else:
                    self._slow = take(piece)
            if self._slow is not None or out.size or err.size >= _HELD:
                return _pause()
            return None

        try:
            while True:
                if self._slow is not None:
                    slow, self._slow = self._slow, None
                    await slow
                if out.size:
                    if (slow_now := take(self._pop(out, max_bytes))) is not None:
                        await slow_now
                    continue
                if not await self._more(Operation.RECEIVE):
                    return
                if self._reading or err.size >= _HELD:
                    await self._bell.wait()
                else:
                    await self._forward_frames(split, max_bytes)
        finally:
            if isinstance(self._slow, Coroutine):
                self._slow.close()
            self._slow = None

    async def _forward_frames(
        self, split: Callable[[bytes], Awaitable[None] | None], max_bytes: int
    ) -> None:
        self._reading = True
        try:
            await self._wire.forward(split, max(max_bytes, 4096))
        except _Pause:
            pass
        except anyio.ClosedResourceError:
            self._check_open()
            raise
        except OSError as error:
            self._end_of_stream(error)
        else:
            self._end_of_stream(None)
        finally:
            self._reading = False
            self._bell.ring()

    async def _until_started(self, command: Command, where: str) -> None:
        """Read what the bootstrap says: that the worker takes its place, or why it does not.

        Raises:
            WorkerNotStarted: There is no such command or directory.
        """
        heard = b""
        while STARTED not in heard:
            if failed := FAILED.search(heard):
                raise not_started(command, failed[1])
            data = await self.receive()
            heard += data
            if not data:
                await self._known(1.0)
                raise WorkerNotStarted(
                    f"{command.argv[0]!r} could not be started in {where}: its sh gave up "
                    f"({self._exit or Exit()})"
                )
        self._unread(heard.partition(STARTED)[2])

    async def _until_ready(self) -> int:
        """Read where the bootstrap runs; gives its process group.

        Raises:
            EOFError: It says nothing; what it said instead.
        """
        heard = b""
        while not (ready := READY.search(heard)):
            data = await self.receive()
            heard += data
            if not data or len(heard) > _NOISE:
                raise EOFError(heard[-500:].decode("utf-8", "replace").strip())
        self._unread(heard[ready.end() :])
        return int(ready[2])

    def _unread(self, data: bytes) -> None:
        if data:
            self._out.pieces.appendleft(data)
            self._out.size += len(data)

    # -- the end -----------------------------------------------------------------------------

    async def _examine(self, error: Exception | None) -> TransportBroken | None:
        """The connection ended: ask the engine what that means, until it can know.

        No engine ends the streams of a worker that lives, so one that is said to live is either
        about to be over, or cut off from us.

        Returns:
            ``None`` if it is the worker's own end.
        """
        give_up, pause = anyio.current_time() + _SETTLED, _SOON
        while True:
            await self._heart.beat()
            if self._heart.loss is not None:
                return self._heart.loss
            try:
                over = await self._look()
            except NATIVE as failure:
                return self._engine.lost(Operation.RECEIVE, failure)
            if over:
                return None
            if anyio.current_time() >= give_up:
                break
            with anyio.move_on_after(pause):
                while self._exit is None and self._broken is None and not self._closed:
                    await self._bell.wait()
            if self._exit is not None or self._broken is not None or self._closed:
                return None
            pause = min(2 * pause, _LATER)
        if error is None:
            error = ConnectionResetError(errno.ECONNRESET, "the engine ended the worker's streams")
        return TransportBroken(Operation.RECEIVE, error, cause=Cause.LINK_LOST, worker=Fate.ALIVE)

    async def _judge(self, error: Exception | None) -> None:
        """Find out, once, what the end of the connection means."""
        async with self._one_judges:
            if self._ended or self._broken is not None:
                return
            if error is None and self._exit is not None:
                self._ended = True
                return
            broken = await self._examine(error)
            if self._closed or self._broken is not None:
                return
            if broken is not None:
                self._break(broken)
            elif self._exit is not None or self._eof:
                self._ended = True
                self._wire.stop_writing()

    async def aclose(self) -> None:
        if self._gone is not None:
            with anyio.CancelScope(shield=True):
                await self._gone.wait()
            return
        self._gone, self._closed = anyio.Event(), True
        self._bell.ring()
        try:
            with anyio.CancelScope(shield=True):
                await self._wire.aclose()
                with anyio.move_on_after(CLOSE):
                    await self._end()
        finally:
            self._heart.listeners.discard(self)
            self._exit = self._exit or Exit()  # whoever waits is told the same from now on
            self._gone.set()
            self._bell.ring()


def told_exit(code: int, *, killed: bool = False, out_of_memory: bool = False) -> Exit:
    """An engine's exit code, of which those above 128 may be a signal's.

    Args:
        code: What the engine says.
        killed: We had it killed.
        out_of_memory: So the kernel did, the engine says.
    """
    if code == _SIGKILLED and out_of_memory:
        return Exit(signal="SIGKILL", detail="out of memory")
    if code == _SIGKILLED and killed:
        return Exit(signal="SIGKILL")
    with suppress(ValueError):
        name = signal.Signals(code - 128).name
        return Exit(code=code, detail=f"or {name}: an engine cannot tell")
    return Exit(code=code)
