"""The same over SSH: holdfast's transport against asyncssh and the system's ssh, on loopback.

All log in to one private sshd with the same key. What is compared is the transports' bare channels:
a session's own cost stands in the table without SSH.
"""

from __future__ import annotations

import asyncio
import shlex
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast import Channel, Command
from holdfast_transports.ssh import SSHTransport

from tests.ssh.sshd import Sshd  # isort: skip

from . import measures, workers

LINE = b"x" * 199 + b"\n"
TRIPS = 500

SERVER: list[Sshd] = []


@contextmanager
def server() -> Iterator[None]:
    """An sshd for what is measured within."""
    with Sshd() as sshd:
        SERVER.append(sshd)
        try:
            yield
        finally:
            SERVER.remove(sshd)


def transport(**options: Any) -> SSHTransport:
    """holdfast's way to the server."""
    sshd = SERVER[-1]
    return SSHTransport(
        sshd.host,
        port=sshd.port,
        user=sshd.user,
        identity=sshd.identity,
        known_hosts=sshd.known_hosts,
        config="none",
        **options,
    )


@asynccontextmanager
async def channel(argv: list[str], client: str = "paramiko") -> AsyncIterator[Channel]:
    """A worker by holdfast."""
    place = transport(client=client)
    try:
        async with place.open(Command(tuple(argv))) as opened:
            yield opened
    finally:
        await place.aclose()


@asynccontextmanager
async def by_asyncssh() -> AsyncIterator[Any]:
    """A connection by asyncssh, with the cipher that holdfast chooses."""
    import asyncssh

    sshd = SERVER[-1]
    async with asyncssh.connect(
        sshd.host,
        sshd.port,
        username=sshd.user,
        client_keys=[str(sshd.identity)],
        known_hosts=str(sshd.known_hosts),
        config=None,
        encryption_algs=["aes128-gcm@openssh.com"],
    ) as connection:
        yield connection


@asynccontextmanager
async def by_openssh(argv: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker by the system's ssh."""
    command = SERVER[-1].ssh(shlex.join(argv), options=["-c", "aes128-gcm@openssh.com"])
    async with measures.raw(command) as process:
        yield process


async def _trips(trip: Callable[[], Awaitable[object]]) -> float:
    times = []
    await trip()
    for _ in range(TRIPS):
        began = time.perf_counter()
        await trip()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def trip_holdfast(client: str = "paramiko") -> float:
    """A line to ``cat`` and back."""
    async with channel(["cat"], client) as opened:

        async def trip() -> None:
            taken = opened.send_nowait(LINE)
            if taken < len(LINE):
                await opened.send(LINE[taken:])
            got = 0
            while got < len(LINE):
                got += len(await opened.receive())

        return await _trips(trip)


async def trip_asyncssh() -> float:
    """The same by asyncssh's process streams."""
    async with by_asyncssh() as connection, connection.create_process("cat", encoding=None) as cat:

        async def trip() -> None:
            cat.stdin.write(LINE)
            await cat.stdout.readline()

        return await _trips(trip)


async def trip_openssh() -> float:
    """The same by ssh as a subprocess."""
    async with by_openssh(["cat"]) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        stdin, stdout = cat.stdin, cat.stdout

        async def trip() -> None:
            stdin.write(LINE)
            await stdin.drain()
            await stdout.readline()

        return await _trips(trip)


async def _rate(
    size: int, count: int, first: Awaitable[bytes], read: Callable[[], Awaitable[bytes]]
) -> float:
    """Lines per second from the first bytes on."""
    got = len(await first)
    began, start = time.perf_counter(), got
    while got < size * count and (data := await read()):
        got += len(data)
    return (got - start) / size / (time.perf_counter() - began)


async def lines_holdfast(size: int, count: int, client: str = "paramiko") -> float:
    """Lines per second, as their bytes come."""
    command, total = workers.flood(size, count)
    async with channel(command, client) as opened:
        await opened.send(b"\n")
        got = start = len(await opened.receive())
        began = time.perf_counter()

        def take(data: bytes) -> None:
            nonlocal got
            got += len(data)

        await opened.forward(take)
        assert got == size * total
        return (got - start) / size / (time.perf_counter() - began)


async def lines_asyncssh(size: int, count: int) -> float:
    """The same by asyncssh's process streams."""
    command, total = workers.flood(size, count)
    async with (
        by_asyncssh() as connection,
        connection.create_process(shlex.join(command), encoding=None) as process,
    ):
        process.stdin.write(b"\n")
        read = process.stdout.read
        return await _rate(size, total, read(65536), lambda: read(65536))


async def lines_openssh(size: int, count: int) -> float:
    """The same by ssh as a subprocess."""
    command, total = workers.flood(size, count)
    async with by_openssh(command) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        read = process.stdout.read
        return await _rate(size, total, read(65536), lambda: read(65536))


FIRST = ["sh", "-c", "echo up; exec cat"]


async def first_byte_holdfast(client: str = "paramiko") -> float:
    """Seconds to the first byte of the first session, its connection and guard included."""
    began = time.perf_counter()
    async with channel(FIRST, client) as opened:
        await opened.receive()
        return time.perf_counter() - began


async def first_byte_asyncssh() -> float:
    """The same by asyncssh."""
    began = time.perf_counter()
    async with by_asyncssh() as connection, connection.create_process(shlex.join(FIRST)) as process:
        await process.stdout.readline()
        return time.perf_counter() - began


async def first_byte_openssh() -> float:
    """The same by ssh."""
    began = time.perf_counter()
    async with by_openssh(FIRST) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        return time.perf_counter() - began


async def second_byte_holdfast(client: str = "paramiko") -> float:
    """Seconds to the first byte of a further session."""
    place = transport(client=client)
    try:
        async with place.open(Command(tuple(FIRST))) as opened:
            await opened.receive()
            times = []
            for _ in range(5):
                began = time.perf_counter()
                async with place.open(Command(tuple(FIRST))) as opened_too:
                    await opened_too.receive()
                    times.append(time.perf_counter() - began)
            return statistics.median(times)
    finally:
        await place.aclose()


async def second_byte_asyncssh() -> float:
    """The same by asyncssh."""
    async with by_asyncssh() as connection:
        times = []
        for _ in range(6):
            began = time.perf_counter()
            async with connection.create_process(shlex.join(FIRST)) as process:
                await process.stdout.readline()
                times.append(time.perf_counter() - began)
                process.kill()
        return statistics.median(times[1:])
