"""The bytes to and from an engine: a socket, TLS on a socket, or another transport's channel.

All that is above it speaks to a :class:`Wire` and hears plain ``OSError`` from it. On a bare socket
reading and writing are the event loop's own means (``holdfast.pipes``), since a worker's lines go
this way once the connection is upgraded.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
import anyio.lowlevel

from holdfast import Channel, ChannelClosed, TransportBroken
from holdfast.pipes import PipeReader, PipeWriter, open_reader

Take = Callable[[bytes], Awaitable[None] | None]

_FULL: Final = 0.005
"""Seconds until a Unix socket whose queue of new connections is full is tried again."""


class Wire(ABC):
    """A connection to an engine. Every method may raise ``OSError``."""

    @abstractmethod
    def write_nowait(self, data: bytes) -> int:
        """Write what the system takes at once; how many bytes that were."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Write all of it: when it returns, the system has it."""

    @abstractmethod
    async def read(self, max_bytes: int = 65536) -> bytes:
        """Read; ``b""`` at the end. Cancelling it loses nothing."""

    async def forward(self, take: Take, max_bytes: int = 65536) -> None:
        """Read to the end; as ``Channel.forward``."""
        while data := await self.read(max_bytes):
            if (slow := take(data)) is not None:
                await slow

    @abstractmethod
    async def write_eof(self) -> None:
        """Close our half."""

    @abstractmethod
    def stop_writing(self) -> None:
        """The same at once: who waits to write, and who writes later, meets ``OSError``."""

    @abstractmethod
    def abort(self) -> None:
        """Let what arrived be read, and then the end: nothing more is expected."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close it. Pending operations raise ``anyio.ClosedResourceError``."""


class SocketWire(Wire):
    """A connected, non-blocking socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        self._writer = PipeWriter(os.dup(connection.fileno()))  # fails where there are no more
        self._fd = connection.detach()
        self._reader: PipeReader = open_reader(self._fd)

    def write_nowait(self, data: bytes) -> int:
        return self._writer.write_nowait(data)

    async def write(self, data: bytes) -> None:
        await self._writer.write(data)

    async def read(self, max_bytes: int = 65536) -> bytes:
        return await self._reader.read(max_bytes)

    async def forward(self, take: Take, max_bytes: int = 65536) -> None:
        await self._reader.forward(take, max_bytes)

    async def write_eof(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.stop_writing()

    def stop_writing(self) -> None:
        self._shut(socket.SHUT_WR)

    def abort(self) -> None:
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        if self._fd < 0:
            return
        borrowed = socket.socket(fileno=self._fd)
        try:
            borrowed.shutdown(how)
        except OSError:  # the peer is gone already, which the next operation tells
            pass
        finally:
            borrowed.detach()

    async def aclose(self) -> None:
        self._fd = -1
        self._reader.close()
        self._writer.close()


class TLSWire(Wire):
    """TLS on another wire, by hand: anyio's has no half close."""

    def __init__(self, below: Wire, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._writing = anyio.Lock()
        self._ready = bytearray()
        self._ended = False

    async def handshake(self) -> None:
        """Agree on keys.

        Raises:
            ssl.SSLError: They do not trust each other, or speak no TLS.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                data = await self._below.read()
                if not data:
                    raise ConnectionResetError(
                        errno.ECONNRESET, "the connection was closed in the TLS handshake"
                    ) from None
                self._incoming.write(data)
            except ssl.SSLError:
                with suppress(OSError):
                    await self._flush()  # the alert that says why
                raise
            else:
                return await self._flush()

    def write_nowait(self, data: bytes) -> int:
        return 0

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), 65536):
            self._tls.write(view[start : start + 65536])
            await self._flush()
        await anyio.lowlevel.checkpoint()

    async def _flush(self) -> None:
        async with self._writing:
            if data := self._outgoing.read():
                await self._below.write(data)

    async def read(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while not self._ready and not self._ended:
            if self._decrypt(max_bytes):
                break
            if more := await self._below.read():
                self._incoming.write(more)
            else:
                self._incoming.write_eof()
        data = bytes(self._ready[:max_bytes])
        del self._ready[:max_bytes]
        return data

    def _decrypt(self, max_bytes: int) -> bool:
        """Decrypt some of what has arrived; whether there was anything."""
        if self._ended:
            return False
        try:
            data = self._tls.read(max_bytes)
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            data = b""
        self._ended = not data
        self._ready += data
        return True

    async def write_eof(self) -> None:
        while self._decrypt(65536):  # unwrapping throws away what has arrived and was not read
            pass
        with suppress(ssl.SSLError):  # it wants the peer's answer, for which we do not wait
            self._tls.unwrap()
        with suppress(OSError):
            await self._flush()

    def stop_writing(self) -> None:
        self._below.stop_writing()

    def abort(self) -> None:
        self._below.abort()

    async def aclose(self) -> None:
        await self._below.aclose()


class ChannelWire(Wire):
    """A program on another machine whose standard streams are the connection."""

    def __init__(self, channel: Channel, close: Callable[[], Awaitable[object]]) -> None:
        self._channel = channel
        self._close = close
        self._reads = anyio.CancelScope()
        self._aborted = False

    def write_nowait(self, data: bytes) -> int:
        try:
            return self._channel.send_nowait(data)
        except (TransportBroken, ChannelClosed) as error:
            raise _native(error) from error

    async def write(self, data: bytes) -> None:
        try:
            await self._channel.send(data)
        except (TransportBroken, ChannelClosed) as error:
            raise _native(error) from error

    async def read(self, max_bytes: int = 65536) -> bytes:
        try:
            with anyio.CancelScope() as self._reads:
                if not self._aborted:
                    return await self._channel.receive(max_bytes)
        except (TransportBroken, ChannelClosed) as error:
            raise _native(error) from error
        return b""

    async def write_eof(self) -> None:
        try:
            await self._channel.send_eof()
        except (TransportBroken, ChannelClosed) as error:
            raise _native(error) from error

    def stop_writing(self) -> None:
        """Nothing: the program there ends with the connection that it carries."""

    def abort(self) -> None:
        self._aborted = True
        self._reads.cancel()

    async def aclose(self) -> None:
        await self._close()


def _native(error: TransportBroken | ChannelClosed) -> Exception:
    """What a socket would have said."""
    if isinstance(error, ChannelClosed):
        return anyio.ClosedResourceError()
    if isinstance(error.native, OSError):
        return error.native
    return ConnectionResetError(errno.ECONNRESET, error.detail)


async def connect_unix(path: str) -> SocketWire:
    """Connect to a Unix socket."""
    await anyio.lowlevel.checkpoint()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        while True:
            try:
                connection.connect(path)
            except BlockingIOError:
                await anyio.sleep(_FULL)
            else:
                return SocketWire(connection)
    except BaseException:
        connection.close()
        raise


async def connect_tcp(host: str, port: int) -> SocketWire:
    """Connect to a TCP port, by the first of the host's addresses that lets us."""
    failure: OSError | None = None
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                connection.connect(address)
            await anyio.wait_writable(connection)
            if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return SocketWire(connection)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
    assert failure is not None, found
    raise failure
