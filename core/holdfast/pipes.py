"""Pipe ends for those who hold raw descriptors: transports that spawn, and ``holdfast run``.

A :class:`PipeReader` and a :class:`PipeWriter` wait with the event loop's own means and raise
plain ``OSError``: what an error means is for the transport to say.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import anyio
import anyio.lowlevel

from .wakeup import in_trio

Take = Callable[[bytes], Awaitable[None] | None]


class PipeReader(Protocol):
    """The reading end of a pipe, a socket, a terminal or a file."""

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Read up to ``max_bytes``; ``b""`` at the end. Cancelling it loses nothing.

        Raises:
            OSError: What the operating system said.
            anyio.ClosedResourceError: ``close`` was called, before or meanwhile.
        """
        ...

    async def forward(self, take: Take, max_bytes: int = 65536) -> None:
        """Read to the end, and give each piece to ``take``. Cancelling it loses nothing.

        Where ``take`` gives an awaitable, reading goes on when that is done.

        Raises:
            OSError: What the operating system said.
            anyio.ClosedResourceError: ``close`` was called, before or meanwhile.
        """
        ...

    def close(self) -> None:
        """Close the descriptor and end a pending ``read`` or ``forward``. Idempotent."""
        ...


def open_reader(fd: int) -> PipeReader:
    """A reader for ``fd``, which it owns from now on."""
    return _Reader(fd) if in_trio() else _AsyncioReader(fd)


class _Reader:
    """For any event loop that anyio knows: wait until readable, then read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pollable = True

    async def read(self, max_bytes: int = 65536) -> bytes:
        if self._fd < 0:
            raise anyio.ClosedResourceError
        while self._pollable:
            try:
                await anyio.wait_readable(self._fd)
            except PermissionError:  # epoll refuses files, which never make anybody wait
                self._pollable = False
                break
            try:
                return os.read(self._fd, max_bytes)
            except BlockingIOError:
                continue
        await anyio.lowlevel.checkpoint()
        return os.read(self._fd, max_bytes)

    async def forward(self, take: Take, max_bytes: int = 65536) -> None:
        while data := await self.read(max_bytes):
            if (slow := take(data)) is not None:
                await slow

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._pollable:
                anyio.notify_closing(fd)
            os.close(fd)


class _AsyncioReader:
    """For asyncio and uvloop: read in the loop's callback, and stay registered between reads.

    Reading in the callback spares two ``epoll_ctl`` calls and one spurious wake-up per read, and
    ``forward`` a task switch beside. While nobody reads, the descriptor is taken out of the loop:
    who writes feels the back pressure.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes | Awaitable[None]] | None = None
        self._take: Take | None = None
        self._max_bytes = 0
        self._registered = False
        self._unclaimed: bytes | None = None  # read for a task that was cancelled meanwhile

    async def read(self, max_bytes: int = 65536) -> bytes:
        data = await self._wait(None, max_bytes)
        assert isinstance(data, bytes)
        return data

    async def forward(self, take: Take, max_bytes: int = 65536) -> None:
        while True:
            what = await self._wait(take, max_bytes)
            if not isinstance(what, bytes):
                await what
            elif not what:
                return
            elif (slow := take(what)) is not None:
                await slow

    async def _wait(self, take: Take | None, max_bytes: int) -> bytes | Awaitable[None]:
        """Wait for data; or, with ``take``, until it ends or ``take`` has somebody wait."""
        if self._fd < 0:
            raise anyio.ClosedResourceError
        if self._waiting is not None:
            raise anyio.BusyResourceError("reading from")
        if self._unclaimed is not None:
            await anyio.lowlevel.checkpoint()
            data, self._unclaimed = self._unclaimed, None
            if len(data) > max_bytes:
                self._unclaimed = data[max_bytes:]
            return data[:max_bytes]
        if not self._registered:
            try:
                self._loop.add_reader(self._fd, self._ready)
            except PermissionError:  # epoll refuses files, which never make anybody wait
                await anyio.lowlevel.checkpoint()
                return os.read(self._fd, max_bytes)
            self._registered = True
        future: asyncio.Future[bytes | Awaitable[None]] = self._loop.create_future()
        self._waiting, self._take, self._max_bytes = future, take, max_bytes
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise
        finally:
            self._waiting = self._take = None

    def _give_back(self, what: bytes | Awaitable[None]) -> None:
        """The task that waited was cancelled when this was already on its way to it."""
        if isinstance(what, bytes):
            self._unclaimed = what
        elif isinstance(what, Coroutine):
            what.close()

    def _ready(self) -> None:
        future = self._waiting
        if future is None or future.done():
            self._loop.remove_reader(self._fd)
            self._registered = False
            return
        try:
            data = os.read(self._fd, self._max_bytes)
        except (BlockingIOError, InterruptedError):
            return  # somebody else read it first; the loop calls again
        except OSError as error:
            future.set_exception(error)
            return
        if self._take is None or not data:
            future.set_result(data)
        elif (slow := self._take(data)) is not None:
            future.set_result(slow)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._registered:
            self._loop.remove_reader(fd)
            self._registered = False
        os.close(fd)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(anyio.ClosedResourceError())


class PipeWriter:
    """The writing end of a pipe, a socket, a terminal or a file, which it owns from now on.

    A descriptor that blocks (a standard stream, whose mode is shared with other programs and so
    is left alone) is written in pieces that POSIX promises to take at once when ``poll`` says so.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll: select.poll | None = None
        if os.get_blocking(fd):
            self._poll = select.poll()
            self._poll.register(fd, select.POLLOUT)

    def write_nowait(self, data: bytes | memoryview) -> int:
        """Write what can be written without waiting, and say how much that was.

        Raises:
            OSError: What the operating system said; not a byte was taken.
            anyio.ClosedResourceError: ``close`` was called.
        """
        if self._fd < 0:
            raise anyio.ClosedResourceError
        if self._poll is None:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                return 0
        taken = 0
        view = memoryview(data)
        while taken < len(view) and self._poll.poll(0):
            try:
                taken += os.write(self._fd, view[taken : taken + select.PIPE_BUF])
            except OSError:
                if taken:
                    break  # the next write meets it again, and then nothing was taken
                raise
        return taken

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of ``data``. If it is cancelled, a part may have been written.

        Raises:
            OSError: What the operating system said.
            anyio.ClosedResourceError: ``close`` was called, before or meanwhile.
        """
        view = memoryview(data)
        while True:
            view = view[self.write_nowait(view) :]
            if not view:
                return
            await anyio.wait_writable(self._fd)

    async def wait_closed(self) -> None:
        """Wait until nobody is left to read what is written here (pipes and sockets only)."""
        while self._fd >= 0:
            await anyio.wait_readable(self._fd)
            if self._poll is None:
                return
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in self._poll.poll(0)):
                return

    def close(self) -> None:
        """Close the descriptor and end a pending ``write``. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            anyio.notify_closing(fd)
            os.close(fd)
