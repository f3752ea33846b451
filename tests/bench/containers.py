"""The same in containers: holdfast's transports against Docker's command line and aiodocker.

All use one private engine and one image. What is compared is the transports' bare channels: a
session's own cost stands in the table without containers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast import Channel, Command, Registry

from tests.containers.engine import BUSYBOX, Dockerd  # isort: skip

from . import measures
from .ssh import LINE, _trips

ENGINE: list[tuple[Dockerd, str]] = []
FIRST = ["sh", "-c", "echo up; exec cat"]
PIECE = 100_000


@contextmanager
def engine() -> Iterator[None]:
    """An engine for what is measured within, and a container that runs in it."""
    with Dockerd() as dockerd:
        dockerd.images()
        ENGINE.append((dockerd, dockerd.create("sleep", "100000")))
        try:
            yield
        finally:
            ENGINE.pop()


@asynccontextmanager
async def channel(argv: list[str], scheme: str) -> AsyncIterator[Channel]:
    """A worker by holdfast."""
    dockerd, container = ENGINE[-1]
    place = Registry().transport(
        dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)
    )
    try:
        async with place.open(Command(tuple(argv))) as opened:
            yield opened
    finally:
        await place.aclose()


def _command(argv: list[str], how: str) -> list[str]:
    dockerd, container = ENGINE[-1]
    place = ["exec", "-i", container]
    if how == "run":
        place = ["run", "-i", "--rm", "--network=none", BUSYBOX]
    return ["docker", "--host", dockerd.host, *place, *argv]


@asynccontextmanager
async def by_aiodocker(argv: list[str]) -> AsyncIterator[Any]:
    """A process in the running container, by aiodocker."""
    import aiodocker

    dockerd, container = ENGINE[-1]
    async with aiodocker.Docker(url=dockerd.host) as client:
        found = await client.containers.get(container)
        made = await found.exec(argv, stdin=True, stdout=True, stderr=True)
        async with made.start(detach=False) as stream:
            yield stream


async def trip_holdfast(scheme: str) -> float:
    """A line to ``cat`` and back."""
    async with channel(["cat"], scheme) as opened:

        async def trip() -> None:
            taken = opened.send_nowait(LINE)
            if taken < len(LINE):
                await opened.send(LINE[taken:])
            got = 0
            while got < len(LINE):
                got += len(await opened.receive())

        return await _trips(trip)


async def trip_cli(how: str) -> float:
    """The same by the command line."""
    async with measures.raw(_command(["cat"], how)) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        stdin, stdout = cat.stdin, cat.stdout

        async def trip() -> None:
            stdin.write(LINE)
            await stdin.drain()
            await stdout.readline()

        return await _trips(trip)


async def trip_aiodocker() -> float:
    """The same by aiodocker."""
    async with by_aiodocker(["cat"]) as stream:

        async def trip() -> None:
            await stream.write_in(LINE)
            got = 0
            while got < len(LINE):
                got += len((await stream.read_out()).data)

        return await _trips(trip)


def _flood(size: int, count: int) -> list[str]:
    return ["sh", "-c", f"read x; exec dd if=/dev/zero bs={size} count={count} 2>/dev/null"]


async def _rate(total: int, size: int, read: Callable[[], Awaitable[bytes]]) -> float:
    got = start = len(await read())
    began = time.perf_counter()
    while got < total:
        got += len(await read())
    return (got - start) / size / (time.perf_counter() - began)


async def lines_holdfast(size: int, count: int, scheme: str) -> float:
    """Lines per second, as their bytes come."""
    async with channel(_flood(size, count), scheme) as opened:
        await opened.send(b"\n")
        got = start = len(await opened.receive())
        began = time.perf_counter()

        def take(data: bytes) -> None:
            nonlocal got
            got += len(data)

        await opened.forward(take)
        assert got == size * count
        return (got - start) / size / (time.perf_counter() - began)


async def lines_cli(size: int, count: int, how: str) -> float:
    """The same by the command line."""
    async with measures.raw(_command(_flood(size, count), how)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        stdout = process.stdout
        return await _rate(size * count, size, lambda: stdout.read(65536))


async def lines_aiodocker(size: int, count: int) -> float:
    """The same by aiodocker."""
    async with by_aiodocker(_flood(size, count)) as stream:
        await stream.write_in(b"\n")

        async def read() -> bytes:
            return bytes((await stream.read_out()).data)

        return await _rate(size * count, size, read)


async def first_byte_holdfast(scheme: str) -> float:
    """Seconds to the first byte of a worker."""
    began = time.perf_counter()
    async with channel(FIRST, scheme) as opened:
        await opened.receive()
        return time.perf_counter() - began


async def second_byte_holdfast(scheme: str) -> float:
    """The same beside another worker of the same transport, whose guard is up."""
    dockerd, container = ENGINE[-1]
    place = Registry().transport(
        dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)
    )
    try:
        async with place.open(Command(tuple(FIRST))):
            pass  # the guard ends it
        async with place.open(Command(tuple(FIRST))) as opened:
            await opened.receive()
            began = time.perf_counter()
            async with place.open(Command(tuple(FIRST))) as second:
                await second.receive()
                return time.perf_counter() - began
    finally:
        await place.aclose()


async def first_byte_cli(how: str) -> float:
    """The same by the command line."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*_command(FIRST, how), stdin=-1, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    took = time.perf_counter() - began
    process.stdin.close()
    await process.wait()  # a kill would leave its container
    return took


async def first_byte_aiodocker() -> float:
    """The same by aiodocker."""
    began = time.perf_counter()
    async with by_aiodocker(FIRST) as stream:
        await stream.read_out()
        return time.perf_counter() - began
