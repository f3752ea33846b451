"""Pipe ends for those who hold raw descriptors: transports that spawn, and ``holdfast run``.

A :class:`PipeReader` and a :class:`PipeWriter` wait with the event loop's own means and raise
plain ``OSError``: what an error means is for the transport to say.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from ._wakeup import in_trio

if TYPE_CHECKING:
    import asyncio

_PIECE = 65536


class PipeReader(Protocol):
    """The reading end of a pipe, a socket, a terminal or a file."""

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Read up to ``max_bytes``; ``b""`` at the end. Cancelling it loses nothing.

        Raises:
            OSError: What the operating system said.
            anyio.ClosedResourceError: ``close`` was called, before or meanwhile.
        """

    def close(self) -> None:
        """Close the descriptor and end a pending ``read``. Idempotent."""


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

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if self._pollable:
                anyio.notify_closing(fd)
            os.close(fd)


class _AsyncioReader:
    """For asyncio and uvloop: read in the loop's callback, and stay registered between reads.

    Reading in the callback spares two ``epoll_ctl`` calls and one spurious wake-up per read. While
    nobody reads, the descriptor is taken out of the loop: the worker feels the back pressure.
    """

    def __init__(self, fd: int) -> None:
        import asyncio

        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes] | None = None
        self._max_bytes = 0
        self._registered = False
        self._unclaimed: bytes | None = None  # read for a task that was cancelled meanwhile

    async def read(self, max_bytes: int = 65536) -> bytes:
        if self._fd < 0:
            raise anyio.ClosedResourceError
        if self._waiting is not None:
            raise anyio.BusyResourceError("reading from")
        if self._unclaimed is not None:
            return await self._claim(max_bytes)
        if not self._registered:
            try:
                self._loop.add_reader(self._fd, self._ready)
            except PermissionError:  # epoll refuses files, which never make anybody wait
                await anyio.lowlevel.checkpoint()
                return os.read(self._fd, max_bytes)
            self._registered = True
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting, self._max_bytes = future, max_bytes
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._unclaimed = future.result()
            raise
        finally:
            self._waiting = None

    async def _claim(self, max_bytes: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        data = self._unclaimed or b""
        self._unclaimed = data[max_bytes:] or None
        return data[:max_bytes]

    def _ready(self) -> None:
        future = self._waiting
        if future is None or future.done():
            self._loop.remove_reader(self._fd)
            self._registered = False
            return
        try:
            future.set_result(os.read(self._fd, self._max_bytes))
        except (BlockingIOError, InterruptedError):
            pass  # somebody else read it first; the loop calls again
        except OSError as error:
            future.set_exception(error)

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
