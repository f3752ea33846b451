"""A byte pipe over a TCP connection."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
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

HEARTBEAT: Final = 5.0
"""Seconds without a packet until the other side's system is asked for a sign of life."""

DEADLINE: Final = 15.0
"""Seconds that the sign of life may take: TCP repeats what was lost some six times meanwhile."""

_LOOK: Final = 0.5
"""Seconds between two looks at what is not acknowledged; one is a system call."""

_LONGEST: Final = 32767
"""Seconds that Linux takes for a probe's time at most (``MAX_TCP_KEEPIDLE``)."""

_UNANSWERED: Final = 2
"""Probes or repetitions without an answer that count: one may be on its way at this moment."""


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

    capabilities: Capability = (
        Capability.HALF_CLOSE | Capability.EARLY_EOF | Capability.DETECTS_SILENT_LINK
    )

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        heartbeat: float = HEARTBEAT,
        deadline: float = DEADLINE,
    ) -> None:
        self._host, self._port, self._timeout = host, port, connect_timeout
        self._heartbeat, self._deadline = heartbeat, deadline
        if not heartbeat or sys.platform != "linux":  # others tell less of a connection
            self.capabilities &= ~Capability.DETECTS_SILENT_LINK

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        """Connect to the worker, and watch the link until the channel is closed."""
        sock = await self._connect()
        channel = _TcpChannel(sock)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                if Capability.DETECTS_SILENT_LINK in self.capabilities:
                    _probe_when_idle(sock, self._heartbeat, self._deadline)
                    tasks.start_soon(channel.watch, self._heartbeat + self._deadline)
                yield channel
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                failure = error
            finally:
                await channel.aclose()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure

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
            with suppress(BlockingIOError):  # what fails at once leaves nothing in SO_ERROR
                sock.connect(address)
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


def _probe_when_idle(sock: socket.socket, heartbeat: float, deadline: float) -> None:
    """Let the system probe a connection on which nothing passes; Linux takes whole seconds."""
    times = {"TCP_KEEPIDLE": heartbeat, "TCP_KEEPINTVL": min(heartbeat, deadline / 3)}
    for name, seconds in times.items():
        value = min(max(1, round(seconds)), _LONGEST)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _silence(sock: socket.socket) -> float:
    """Seconds since the last acknowledgement, where several are due; else 0.

    By Linux's ``struct tcp_info``: ``tcpi_retransmits`` and ``tcpi_probes`` are its third and
    fourth byte, ``tcpi_last_ack_recv`` (milliseconds) is the word at 56.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    (last_ack,) = struct.unpack_from("I", info, 56)
    return last_ack / 1000 if max(info[2], info[3]) >= _UNANSWERED else 0.0


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
            broken = self._lose(operation, error)
            raise broken.during(operation) from broken.__cause__

    def _lose(self, operation: Operation, error: OSError) -> TransportBroken:
        means = next(_MEANING[kind] for kind in _MEANING if isinstance(error, kind))
        self._broken = self._broken or TransportBroken(operation, error, **means)
        self._over.set()
        return self._broken

    async def watch(self, limit: float) -> None:
        """Give the link up when ``limit`` seconds brought no acknowledgement that was due.

        ``TCP_USER_TIMEOUT`` does the same, and more: it ends the connection to a worker that reads
        nothing for that long, although its system answers every probe.
        """
        while not self._over.is_set():
            if (silent := _silence(self._socket)) >= limit:
                error = TimeoutError(errno.ETIMEDOUT, f"no acknowledgement for {silent:.0f} s")
                self._lose(Operation.RECEIVE, error)
                with suppress(OSError):  # the system may have given it up in this moment, too
                    self._socket.shutdown(socket.SHUT_RDWR)  # wakes who waits
            await anyio.sleep(_LOOK)

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
