"""The multiplexing protocol of OpenSSH's client, as one of its clients speaks it.

An ``ssh`` that is a *master* listens on a Unix socket and opens sessions for others on its
connection: they pass the three standard streams as descriptors, and are told the exit code. See
PROTOCOL.mux of openssh-portable; version 4 has been the only one since OpenSSH 5.4.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import anyio

VERSION: Final = 4

HELLO: Final = 0x00000001
NEW_SESSION: Final = 0x10000002
ALIVE_CHECK: Final = 0x10000004
PERMISSION_DENIED: Final = 0x80000002
FAILURE: Final = 0x80000003
EXIT_MESSAGE: Final = 0x80000004
ALIVE: Final = 0x80000005
SESSION_OPENED: Final = 0x80000006

_LONGEST: Final = 256 * 1024
"""Bytes of a packet: the master's own bound."""

_ENVIRONMENT: Final = 32 * 1024
"""Bytes of environment that go along: with all else they fit into an empty socket's buffer."""

_BUSY: Final = 0.01
"""Seconds until the next attempt where 64 others are in the queue of the master's socket."""

_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


class MuxError(OSError):
    """The master said something else than the protocol has for us."""


class Refused(Exception):
    """The master opens no session.

    Attributes:
        by_master: Whether it was the master that refused (``ControlMaster ask``), and not the
            server.
    """

    def __init__(self, reason: str, *, by_master: bool) -> None:
        super().__init__(reason)
        self.by_master = by_master


# -- packets -----------------------------------------------------------------------------------


def packet(kind: int, *fields: int | bytes) -> bytes:
    """One packet; integers are ``uint32``, bytes are strings."""
    body = b"".join(
        struct.pack(">I", each) if isinstance(each, int) else struct.pack(">I", len(each)) + each
        for each in (kind, *fields)
    )
    return struct.pack(">I", len(body)) + body


class Packets:
    """Takes bytes as they come, and gives whole packets: their kind, and the rest."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        self._data += data
        while len(self._data) >= 4:
            (length,) = struct.unpack_from(">I", self._data)
            if not 4 <= length <= _LONGEST:
                raise MuxError(f"a packet of {length} bytes on the control socket of ssh")
            if len(self._data) < 4 + length:
                return
            body, self._data = self._data[4 : 4 + length], self._data[4 + length :]
            (kind,) = struct.unpack_from(">I", body)
            yield kind, body[4:]


def numbers(body: bytes, count: int) -> tuple[int, ...]:
    """The integers that a packet begins with."""
    try:
        return struct.unpack_from(f">{count}I", body)
    except struct.error as error:
        raise MuxError("a packet on the control socket of ssh is too short") from error


def check_hello(kind: int, body: bytes) -> None:
    """See that a master's first packet is a greeting in our version."""
    if kind != HELLO or numbers(body, 1)[0] != VERSION:
        raise MuxError(
            f"the control socket of ssh speaks another protocol than version {VERSION} of "
            f"OpenSSH's multiplexing"
        )


# -- the control socket ------------------------------------------------------------------------


def greet(path: str, timeout: float) -> socket.socket:
    """Connect to a master, and see that it answers. It blocks.

    Raises:
        OSError: There is none, or it does not answer.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(packet(HELLO, VERSION) + packet(ALIVE_CHECK, 0))
        packets, greeted = Packets(), False
        while data := sock.recv(4096):
            for kind, body in packets.feed(data):
                if not greeted:
                    check_hello(kind, body)
                    greeted = True
                elif kind == ALIVE:
                    sock.setblocking(False)
                    return sock
        raise ConnectionResetError("ssh closed its control socket")
    except BaseException:
        sock.close()
        raise


def hung_up(sock: socket.socket) -> bool:
    """Whether the other end is gone; nothing is read, and nobody waits."""
    try:
        return sock.recv(1, _PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Control:
    """One connection to a master, in the event loop.

    Attributes:
        ended: Whether the master closed it, or we did.
    """

    def __init__(self) -> None:
        self.ended = False
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.setblocking(False)
        self._packets = Packets()
        self._read: list[tuple[int, bytes]] = []

    async def connect(self, path: str) -> None:
        """Connect and exchange greetings.

        Raises:
            OSError: There is no such master.
        """
        while True:
            try:
                self._sock.connect(path)
                break
            except BlockingIOError:
                await anyio.sleep(_BUSY)
        self.send(packet(HELLO, VERSION))
        check_hello(*await self.next())

    def send(self, data: bytes) -> None:
        """Send at once: what we ever send fits into the socket's buffer."""
        if self._sock.send(data) != len(data):
            raise MuxError("the control socket of ssh takes no whole packet")

    def send_descriptor(self, fd: int) -> None:
        """Pass a descriptor, as OpenSSH does: one with a byte of its own."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        self._sock.sendmsg([b"\0"], [rights])

    def poll(self) -> list[tuple[int, bytes]]:
        """What lies ready, without waiting; look at :attr:`ended` afterwards."""
        while not self.ended:
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = True
            self._read += self._packets.feed(data)
        packets, self._read = self._read, []
        return packets

    async def readable(self) -> None:
        """Wait until there is something to poll, or somebody calls :meth:`wake`."""
        if not self.ended:
            with suppress(anyio.ClosedResourceError):
                await anyio.wait_readable(self._sock)

    async def next(self) -> tuple[int, bytes]:
        """The next packet.

        Raises:
            ConnectionResetError: The master closed the connection.
        """
        while not self._read:
            self._read = self.poll()
            if not self._read:
                if self.ended:
                    raise ConnectionResetError("ssh closed its control socket")
                await self.readable()
        return self._read.pop(0)

    def wake(self) -> None:
        """Let those who wait look again."""
        if self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)

    def close(self) -> None:
        """Close it: a session that was opened by it is closed, too. Idempotent."""
        self.ended = True
        try:
            with suppress(RuntimeError):  # the event loop is over, and nobody waits
                self.wake()
        finally:
            self._sock.close()


async def answers(path: str) -> bool:
    """Whether the master at this path is at work: it answers what it is asked now."""
    control = Control()
    try:
        await control.connect(path)
        control.send(packet(ALIVE_CHECK, 0))
        return (await control.next())[0] == ALIVE
    except OSError:
        return False
    finally:
        control.close()


async def open_session(
    path: str, command: str, environment: Mapping[str, str]
) -> tuple[Control, int, int, int]:
    """Have a master run a command; gives our ends of its stdin, stdout and stderr.

    Args:
        path: The master's control socket.
        command: For the login shell on the far side.
        environment: What the master may pass on; it passes what the user's ``SendEnv`` names.

    Raises:
        Refused: The server, or the master, opens no more sessions.
        OSError: The master is gone, or this process is out of descriptors.
    """
    control = Control()
    ends: list[int] = []
    try:
        await control.connect(path)
        for _ in range(3):
            ends += os.pipe()
        stdin, our_stdin, our_stdout, stdout, our_stderr, stderr = ends
        # All in one go: the master does nothing else until it has them.
        control.send(
            packet(NEW_SESSION, 0, b"", 0, 0, 0, 0, 0xFFFFFFFF, b"", os.fsencode(command),
                   *_passed_on(environment))
        )  # fmt: skip
        for fd in (stdin, stdout, stderr):
            control.send_descriptor(fd)
            ends.remove(fd)
            os.close(fd)
        kind, body = await control.next()
        if kind in (FAILURE, PERMISSION_DENIED):
            reason = body[8:].decode("utf-8", "replace")
            raise Refused(reason, by_master=kind == PERMISSION_DENIED)
        if kind != SESSION_OPENED:
            raise MuxError(f"ssh answered a request for a session with packet {kind:#x}")
        for fd in ends:
            os.set_blocking(fd, False)
    except BaseException:
        control.close()
        for fd in ends:
            os.close(fd)
        raise
    return control, our_stdin, our_stdout, our_stderr


def _passed_on(environment: Mapping[str, str]) -> list[bytes]:
    """``NAME=value`` for each variable, as many as surely fit."""
    passed: list[bytes] = []
    room = _ENVIRONMENT
    for name, value in environment.items():
        each = os.fsencode(f"{name}={value}")
        if len(name) < 1000 and len(each) + 4 <= room:  # the master's bounds, and ours
            passed.append(each)
            room -= len(each) + 4
    return passed
