"""A session that a master carries: three pipes, and a control connection that tells the exit."""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import anyio
import anyio.lowlevel

from holdfast import Cause, ChannelClosed, Exit, Fate, Operation, Signal, TransportBroken
from holdfast.pipes import PipeWriter, open_reader

from . import _mux
from ._channel import RemoteChannel

if TYPE_CHECKING:
    from ._openssh import OpenSSHConnection

_UNTOLD: Final = 0.5
"""Seconds that an exit may take to be told after our SIGKILL; a death by signal never is."""


class OpenSSHChannel(RemoteChannel):
    """One session on a master: three pipes, and a control connection that tells the exit."""

    def __init__(
        self,
        connection: OpenSSHConnection,
        control: _mux.Control,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> None:
        super().__init__(connection.where, keeps_shell=True)
        self._connection = connection
        self._control = control
        self._stdin_fd = stdin
        self._stdin = PipeWriter(stdin)
        self._stdout = open_reader(stdout)
        self._stderr = _Stderr(stderr, stdout)
        self._ends = (self._stdin, stdin), (self._stdout, stdout), (self._stderr, stderr)
        self._unread = b""
        self._ended: set[Operation] = set()
        self._exit: Exit | None = None
        self._broken: TransportBroken | None = None
        self._stdin_broken: TransportBroken | None = None
        self._eof_sent = False
        self._kill_asked = False
        self._killed = False
        self._hung_up = False
        self._one_waits = anyio.Lock()

    # -- what is known -----------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        return self._connection.lost

    @property
    def finished(self) -> bool:
        return self._look() or self._control.ended or self.lost

    def _look(self) -> bool:
        """Look for the exit, without waiting; whether it is known."""
        if self._exit is None:
            for kind, body in self._control.poll():
                if kind == _mux.EXIT_MESSAGE:
                    self._exit = _exit(_mux.numbers(body, 2)[1])
            if self._exit is not None:
                self._control.wake()  # who waited for what we have read
        return self._exit is not None

    async def wait(self) -> Exit:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._exit is not None:
                return self._exit
            async with self._one_waits:
                if self._look():
                    continue
                if not self._control.ended:
                    patience = _UNTOLD if self._killed else None
                    with anyio.move_on_after(patience) as scope:
                        await self._control.readable()
                    if not scope.cancelled_caught:
                        continue
                exit = await self._untold()
                if not self._look():
                    self._exit = exit

    async def _untold(self) -> Exit:
        """How it ended, where the session is over and no exit was told."""
        if self._hung_up or not await self._connection.alive():
            return Exit()
        if self._kill_asked or self._closed:
            return Exit(signal="SIGKILL")  # by us: the shell above the worker got it, too
        return Exit(detail="killed by a signal that OpenSSH's client does not name")

    async def _check_link(self, operation: Operation) -> None:
        """See that what we met was the worker's doing, and not the end of the link."""
        if self._closed:
            self._check_open()
        if not await self._connection.alive():
            self._fail(operation)

    def _fail(self, operation: Operation) -> NoReturn:
        """Raise the loss of the link, the same each time."""
        if self._broken is None:
            loss = self._connection.loss
            assert loss is not None
            known = self._exit if self._exit is not None and self._exit.reported else None
            self._broken = TransportBroken(
                operation,
                loss.native,
                cause=loss.cause,
                worker=Fate.GONE if known else loss.worker,
                exit=known,
            )
        raise self._broken.during(operation) from self._broken.__cause__

    # -- writing -----------------------------------------------------------------------------

    def _check_stdin(self, operation: Operation) -> None:
        self._check_open()
        if (broken := self._stdin_broken or self._broken) is not None:
            raise broken.during(operation) from broken.__cause__
        if self._eof_sent and operation is Operation.SEND:
            raise ChannelClosed("the worker's stdin was closed by our side (send_eof)")

    async def send(self, data: bytes) -> None:
        self._check_stdin(Operation.SEND)
        try:
            await self._stdin.write(data)
        except anyio.ClosedResourceError:
            self._check_stdin(Operation.SEND)
            raise
        except OSError as error:
            await self._stdin_failed(error)

    def send_nowait(self, data: bytes) -> int:
        if self._closed or self._eof_sent or self._stdin_broken or self._broken:
            self._check_stdin(Operation.SEND)
        try:
            return self._stdin.write_nowait(data)
        except OSError:
            return 0  # why, is for `send` to find out, which may wait

    async def _stdin_failed(self, error: OSError) -> NoReturn:
        """What a failed write means: ``ssh`` closes our pipe if the worker closed its stdin."""
        if error.errno != errno.EPIPE:
            raise error
        await self._check_link(Operation.SEND)
        self._check_open()
        if self._look() and self._exit is not None and self._exit.reported:
            self._stdin_broken = TransportBroken(
                Operation.SEND,
                error,
                cause=Cause.WORKER_EXITED,
                worker=Fate.GONE,
                exit=self._exit,
            )
        else:  # it closed its stdin, or its exit is on its way
            self._stdin_broken = TransportBroken(Operation.SEND, error)
        raise self._stdin_broken from error

    async def send_eof(self) -> None:
        self._check_stdin(Operation.SEND_EOF)
        await anyio.lowlevel.checkpoint()
        self._eof_sent = True
        self._stdin.close()

    # -- reading -----------------------------------------------------------------------------

    def unread(self, data: bytes) -> None:
        self._unread = data + self._unread

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._check_open()
        if self._unread:
            await anyio.lowlevel.checkpoint()
            data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
            return data
        return await self._read(self._stdout.read, max_bytes, Operation.RECEIVE)

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        self._check_open()
        return await self._read(self._stderr.read, max_bytes, Operation.RECEIVE_STDERR)

    async def _read(
        self, read: Callable[[int], Awaitable[bytes]], max_bytes: int, operation: Operation
    ) -> bytes:
        if operation in self._ended:
            await anyio.lowlevel.checkpoint()
            return b""
        try:
            if data := await read(max_bytes):
                return data
        except anyio.ClosedResourceError:
            self._check_open()
            raise
        await self._at_end(operation)
        return b""

    async def _at_end(self, operation: Operation) -> None:
        """See that the end of a stream is the worker's: a lost link ends our pipes, too."""
        if self._broken is not None:
            self._fail(operation)
        await self._check_link(operation)
        self._check_open()
        self._ended.add(operation)

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        self._check_open()
        while self._unread:
            data = await self.receive(max_bytes)
            if (slow := take(data)) is not None:
                await slow
        if Operation.RECEIVE in self._ended:
            return
        try:
            await self._stdout.forward(take, max_bytes)
        except anyio.ClosedResourceError:
            self._check_open()
            raise
        await self._at_end(Operation.RECEIVE)

    # -- the end -----------------------------------------------------------------------------

    async def signal(self, signal: Signal) -> None:
        if signal is Signal.KILL:
            self._kill_asked = True  # the session may be over before the guard has answered
        await super().signal(signal)
        if signal is Signal.KILL:
            self._killed = True
            self._control.wake()

    def wake(self) -> None:
        # What nobody will read shall not hold up the end. stdin stays open until the exit is told:
        # a session whose pipes are all closed is closed by ssh.
        self._stdout.close()
        self._stderr.close()
        if not self._eof_sent:
            anyio.notify_closing(self._stdin_fd)
        self._control.wake()

    async def hang_up(self) -> None:
        self.release()

    def duplicate_stdin(self) -> int:
        """Another descriptor of the worker's stdin, for the caller to close."""
        return os.dup(self._stdin_fd)

    def release(self) -> None:
        """Close all that is ours; in a task, or when the event loop is over."""
        self._hung_up = True
        for end, fd in self._ends:
            try:
                end.close()
            except RuntimeError:  # no event loop is left to be told of it
                os.close(fd)
        self._control.close()


def _exit(code: int) -> Exit:
    """An exit code, of which those above 128 may be a signal's."""
    with suppress(ValueError):
        name = signal.Signals(code - 128).name
        return Exit(code=code, detail=f"or {name}: OpenSSH's client cannot tell")
    return Exit(code=code)


class _Stderr:
    """A session's stderr, which ends where its stdout ends, since SSH has one end for both.

    ``ssh`` closes the pipe of stdout then, when it has written all of stderr, and keeps that of
    stderr. So the hang-up of stdout is watched, whether its data was read or not.
    """

    def __init__(self, fd: int, stdout: int) -> None:
        self._fd = fd
        self._wait_on = fd
        self._hang_up = select.poll()
        self._hang_up.register(stdout, 0)
        if hasattr(select, "epoll"):  # elsewhere stderr ends with the session
            self._both = select.epoll()
            self._both.register(fd, select.EPOLLIN)
            self._both.register(stdout, 0)
            self._wait_on = self._both.fileno()

    async def read(self, max_bytes: int) -> bytes:
        while True:
            if self._fd < 0:
                raise anyio.ClosedResourceError
            await anyio.wait_readable(self._wait_on)
            ended = bool(self._hang_up.poll(0))  # before the read: what it leaves comes after
            try:
                return os.read(self._fd, max_bytes)
            except BlockingIOError:
                if ended:
                    return b""

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                anyio.notify_closing(self._wait_on)
            finally:
                if self._wait_on != fd:
                    self._both.close()
            os.close(fd)
