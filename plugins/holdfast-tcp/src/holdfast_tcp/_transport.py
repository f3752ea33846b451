"""A byte pipe over a TCP connection."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypedDict

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


class _Means(TypedDict):
    cause: Cause
    worker: Fate


# What a native error means. A reset or a broken pipe: the other side's system said that the
# connection is gone; whether the worker is, it did not say. A timeout: nobody answered any more.
_MEANING: Final[dict[type[OSError], _Means]] = {
    TimeoutError: {"cause": Cause.LINK_SILENT, "worker": Fate.MAYBE_ALIVE},
    ConnectionError: {"cause": Cause.LINK_LOST, "worker": Fate.MAYBE_ALIVE},
    OSError: {"cause": Cause.LINK_LOST, "worker": Fate.UNKNOWN},
}


class TcpTransport(Transport):
    """Workers that listen on a TCP port. A command is ignored: what listens is what runs."""

    capabilities = Capability.HALF_CLOSE | Capability.EARLY_EOF

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
        self._socket = sock
        self._input = PipeWriter(os.dup(sock.fileno()))
        self._output = open_reader(os.dup(sock.fileno()))
        self._over = anyio.Event()
        self._broken: TransportBroken | None = None
        self._eof_sent = self._closed = False

    @contextmanager
    def _during(self, operation: Operation) -> Iterator[None]:
        if self._closed or (self._eof_sent and operation is Operation.SEND):
            raise ChannelClosed("our side closed it")
        if self._broken is not None and operation is not Operation.RECEIVE:
            raise self._broken.during(operation)
        try:
            yield
        except anyio.ClosedResourceError:
            raise ChannelClosed("our side closed it, with an operation pending") from None
        except OSError as error:
            means = next(_MEANING[kind] for kind in _MEANING if isinstance(error, kind))
            self._broken = self._broken or TransportBroken(operation, error, **means)
            self._over.set()
            raise self._broken.during(operation) from self._broken.__cause__

    async def send(self, data: bytes) -> None:
        with self._during(Operation.SEND):
            await self._input.write(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._during(Operation.RECEIVE):
            data = await self._output.read(max_bytes)
        if not data and self._broken is not None:  # the system says so after a reset, too
            raise self._broken.during(Operation.RECEIVE)
        if not data:
            self._over.set()
        return data

    async def send_eof(self) -> None:
        with self._during(Operation.SEND_EOF):
            self._eof_sent = True
            self._socket.shutdown(socket.SHUT_WR)

    async def wait(self) -> Exit:
        await self._over.wait()
        return Exit()

    async def aclose(self) -> None:
        self._closed = True
        self._over.set()
        for end in (self._socket, self._input, self._output):
            end.close()
