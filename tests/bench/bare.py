"""A round trip, a flow and a first byte on bare channels and bare pipes, whoever carries them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from holdfast import Channel, Command, Transport

LINE = b"x" * 199 + b"\n"
TRIPS = 300

FIRST = ["sh", "-c", "echo up; exec cat"]
"""A worker whose first byte is waited for."""

Pipes = tuple[asyncio.StreamWriter, asyncio.StreamReader]


@asynccontextmanager
async def channel(place: Transport, argv: list[str]) -> AsyncIterator[Channel]:
    """A worker by holdfast; its transport is closed behind it."""
    try:
        async with place.open(Command(tuple(argv))) as opened:
            yield opened
    finally:
        await place.aclose()


def pipes(process: asyncio.subprocess.Process) -> Pipes:
    """A process's stdin and stdout."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


# -- round trip -----------------------------------------------------------------------------------


async def trips(trip: Callable[[], Awaitable[object]]) -> float:
    """The median of some hundred, behind a first one that does not count."""
    times = []
    await trip()
    for _ in range(TRIPS):
        began = time.perf_counter()
        await trip()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def trip_by_channel(opened: Channel) -> float:
    """A line to ``cat`` and back, as core sends it."""

    async def trip() -> None:
        taken = opened.send_nowait(LINE)
        if taken < len(LINE):
            await opened.send(LINE[taken:])
        got = 0
        while got < len(LINE):
            got += len(await opened.receive())

    return await trips(trip)


async def trip_by_pipes(process: asyncio.subprocess.Process, line: bytes = LINE) -> float:
    """The same by asyncio's streams: ``write``, ``drain``, ``readline``."""
    stdin, stdout = pipes(process)

    async def trip() -> None:
        stdin.write(line)
        await stdin.drain()
        await stdout.readline()

    return await trips(trip)


# -- throughput -----------------------------------------------------------------------------------


async def flow_by_channel(opened: Channel, size: int, count: int) -> float:
    """Lines per second from the first bytes on, as they come."""
    await opened.send(b"\n")
    got = start = len(await opened.receive())
    began = time.perf_counter()

    def take(data: bytes) -> None:
        nonlocal got
        got += len(data)

    await opened.forward(take)
    assert got == size * count
    return (got - start) / size / (time.perf_counter() - began)


async def flow(size: int, count: int, read: Callable[[], Awaitable[bytes]]) -> float:
    """The same by whatever reads."""
    got = start = len(await read())
    began = time.perf_counter()
    while got < size * count and (data := await read()):
        got += len(data)
    return (got - start) / size / (time.perf_counter() - began)


async def flow_by_pipes(process: asyncio.subprocess.Process, size: int, count: int) -> float:
    """The same by asyncio's streams."""
    stdin, stdout = pipes(process)
    stdin.write(b"\n")
    return await flow(size, count, lambda: stdout.read(65536))


# -- first byte -----------------------------------------------------------------------------------


async def first_byte(place: Transport) -> float:
    """Seconds to the first byte of a worker, with all that its transport needs."""
    began = time.perf_counter()
    async with channel(place, FIRST) as opened:
        await opened.receive()
        return time.perf_counter() - began


async def second_byte(place: Transport) -> float:
    """Seconds to the first byte of a further worker; the median of five."""
    async with channel(place, FIRST) as opened:
        await opened.receive()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            async with place.open(Command(tuple(FIRST))) as second:
                await second.receive()
                times.append(time.perf_counter() - began)
        return statistics.median(times)
