"""The same over SSH: holdfast's transport against asyncssh and the system's ssh, on loopback.

All log in to one private sshd with the same key. What is compared is the transports' bare channels:
a session's own cost stands in the table without SSH.
"""

from __future__ import annotations

import asyncio
import shlex
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast_transports.ssh import SSHTransport

from tests.ssh.sshd import Sshd  # isort: skip

from . import bare, measures, workers
from .bare import FIRST, LINE

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


async def trip_holdfast(client: str = "paramiko") -> float:
    """A line to ``cat`` and back."""
    async with bare.channel(transport(client=client), ["cat"]) as opened:
        return await bare.trip_by_channel(opened)


async def trip_asyncssh() -> float:
    """The same by asyncssh's process streams."""
    async with by_asyncssh() as connection, connection.create_process("cat", encoding=None) as cat:

        async def trip() -> None:
            cat.stdin.write(LINE)
            await cat.stdout.readline()

        return await bare.trips(trip)


async def trip_openssh() -> float:
    """The same by ssh as a subprocess."""
    async with by_openssh(["cat"]) as cat:
        return await bare.trip_by_pipes(cat)


async def lines_holdfast(size: int, count: int, client: str = "paramiko") -> float:
    """Lines per second, as their bytes come."""
    command, total = workers.flood(size, count)
    async with bare.channel(transport(client=client), command) as opened:
        return await bare.flow_by_channel(opened, size, total)


async def lines_asyncssh(size: int, count: int) -> float:
    """The same by asyncssh's process streams."""
    command, total = workers.flood(size, count)
    async with (
        by_asyncssh() as connection,
        connection.create_process(shlex.join(command), encoding=None) as process,
    ):
        process.stdin.write(b"\n")
        return await bare.flow(size, total, lambda: process.stdout.read(65536))


async def lines_openssh(size: int, count: int) -> float:
    """The same by ssh as a subprocess."""
    command, total = workers.flood(size, count)
    async with by_openssh(command) as process:
        return await bare.flow_by_pipes(process, size, total)


async def first_byte_holdfast(client: str = "paramiko") -> float:
    """Seconds to the first byte of the first session, its connection and guard included."""
    return await bare.first_byte(transport(client=client))


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
        await bare.pipes(process)[1].readline()
        return time.perf_counter() - began


async def second_byte_holdfast(client: str = "paramiko") -> float:
    """Seconds to the first byte of a further session."""
    return await bare.second_byte(transport(client=client))


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
