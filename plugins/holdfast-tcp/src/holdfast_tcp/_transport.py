"""A byte pipe over a TCP connection."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NoReturn

import anyio

from holdfast import (
    Capability,
    Cause,
    Channel,
    ChannelClosed,
    Command,
    Exit,
    Fate,
    Operation,
    Transport,
    TransportBroken,
    TransportUnavailable,
)
from holdfast.pipes import PipeWriter, open_reader

CONNECT_TIMEOUT: Final = 10.0
"""Seconds to wait for a connection: two lost SYNs (1 s and 3 s) and a slow name server."""

# What a native error means. A reset or a broken pipe: the other side's system said that the
# connection is gone; whether the worker is, it did not say. A timeout: nobody answered any more.
_MEANING: Final = (
    (TimeoutError, Cause.LINK_SILENT, Fate.MAYBE_ALIVE),
    (ConnectionError, Cause.LINK_LOST, Fate.MAYBE_ALIVE),
    (OSError, Cause.LINK_LOST, Fate.UNKNOWN),
)


class TcpTransport(Transport):
    """Workers that listen on a TCP port. A command is ignored: what listens is what runs."""

    capabilities = Capability.HALF_CLOSE

    def __init__(self, host: str, port: int, *, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        self._host, self._port, self._timeout = host, port, connect_timeout

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        """Connect to the worker."""
        channel = _TcpChannel(await self._connect())
        try:
            yield channel
        finally:
            await channel.aclose()

    async def _connect(self) -> socket.socket:
        place = f"tcp://{self._host}:{self._port}"
        try:
            with anyio.fail_after(self._timeout):
                return await _connect(self._host, self._port)
        except TimeoutError as error:
            raise TransportUnavailable(
                f"{place} did not answer within {self._timeout:g} s; check the address and the "
                f"firewalls on the way, or give ?connect_timeout=SECONDS"
            ) from error
        except socket.gaierror as error:
            raise TransportUnavailable(
                f"{self._host!r} cannot be resolved ({error}); check the name"
            ) from error
        except OSError as error:
            raise TransportUnavailable(
                f"{place} cannot be reached ({error}); check that the worker is listening there"
            ) from error


async def _connect(host: str, port: int) -> socket.socket:
    """Try the host's addresses one after another."""
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await anyio.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            if sock.connect_ex(address):
                await anyio.wait_writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


class _TcpChannel(Channel):
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._input = PipeWriter(os.dup(sock.fileno()))
        self._output = open_reader(os.dup(sock.fileno()))
        self._over = anyio.Event()
        self._broken: TransportBroken | None = None
        self._eof_sent = self._closed = False

    def _fail(self, operation: Operation, error: Exception) -> NoReturn:
        self._check(operation)
        cause, worker = next(means for native, *means in _MEANING if isinstance(error, native))
        self._broken = TransportBroken(operation, error, cause=cause, worker=worker)
        self._over.set()
        raise self._broken from error

    def _check(self, operation: Operation) -> None:
        if self._closed or (self._eof_sent and operation is Operation.SEND):
            raise ChannelClosed("this channel was closed by our side")
        if self._broken is not None:
            raise self._broken.during(operation)

    async def send(self, data: bytes) -> None:
        self._check(Operation.SEND)
        try:
            await self._input.write(data)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.SEND, error)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._closed:
            self._check(Operation.RECEIVE)
        try:
            data = await self._output.read(max_bytes)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.RECEIVE, error)
        if not data:
            self._check(Operation.RECEIVE)  # after a reset that a send met, the system says "end"
            self._over.set()
        return data

    async def send_eof(self) -> None:
        self._check(Operation.SEND_EOF)
        self._eof_sent = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(Operation.SEND_EOF, error)

    async def wait(self) -> Exit:
        await self._over.wait()
        return Exit()

    async def aclose(self) -> None:
        self._closed = True
        self._over.set()
        for end in (self._sock, self._input, self._output):
            end.close()
