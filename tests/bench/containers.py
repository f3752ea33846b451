"""The same in containers: holdfast's transports against Docker's command line and aiodocker.

All use one private engine and one image. What is compared is the transports' bare channels: a
session's own cost stands in the table without containers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast import Registry, Transport

from tests.containers.engine import BUSYBOX, Dockerd  # isort: skip

from . import bare, measures
from .bare import FIRST, LINE

ENGINE: list[tuple[Dockerd, str]] = []


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


def transport(scheme: str) -> Transport:
    """holdfast's way to a container."""
    dockerd, container = ENGINE[-1]
    image = BUSYBOX if scheme == "docker" else container
    return Registry().transport(dockerd.target(image, scheme))


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
    async with bare.channel(transport(scheme), ["cat"]) as opened:
        return await bare.trip_by_channel(opened)


async def trip_cli(how: str) -> float:
    """The same by the command line."""
    async with measures.raw(_command(["cat"], how)) as cat:
        return await bare.trip_by_pipes(cat)


async def trip_aiodocker() -> float:
    """The same by aiodocker."""
    async with by_aiodocker(["cat"]) as stream:

        async def trip() -> None:
            await stream.write_in(LINE)
            got = 0
            while got < len(LINE):
                got += len((await stream.read_out()).data)

        return await bare.trips(trip)


def _flood(size: int, count: int) -> list[str]:
    return ["sh", "-c", f"read x; exec dd if=/dev/zero bs={size} count={count} 2>/dev/null"]


async def lines_holdfast(size: int, count: int, scheme: str) -> float:
    """Lines per second, as their bytes come."""
    async with bare.channel(transport(scheme), _flood(size, count)) as opened:
        return await bare.flow_by_channel(opened, size, count)


async def lines_cli(size: int, count: int, how: str) -> float:
    """The same by the command line."""
    async with measures.raw(_command(_flood(size, count), how)) as process:
        return await bare.flow_by_pipes(process, size, count)


async def lines_aiodocker(size: int, count: int) -> float:
    """The same by aiodocker."""
    async with by_aiodocker(_flood(size, count)) as stream:
        await stream.write_in(b"\n")

        async def read() -> bytes:
            return bytes((await stream.read_out()).data)

        return await bare.flow(size, count, read)


async def first_byte_holdfast(scheme: str) -> float:
    """Seconds to the first byte of a worker."""
    return await bare.first_byte(transport(scheme))


async def second_byte_holdfast(scheme: str) -> float:
    """The same beside another worker of the same transport."""
    return await bare.second_byte(transport(scheme))


async def first_byte_cli(how: str) -> float:
    """The same by the command line."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*_command(FIRST, how), stdin=-1, stdout=-1)
    stdin, stdout = bare.pipes(process)
    await stdout.readline()
    took = time.perf_counter() - began
    stdin.close()
    await process.wait()  # a kill would leave its container
    return took


async def first_byte_aiodocker() -> float:
    """The same by aiodocker."""
    began = time.perf_counter()
    async with by_aiodocker(FIRST) as stream:
        await stream.read_out()
        return time.perf_counter() - began
