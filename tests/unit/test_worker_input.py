"""The end of our input, when a worker that is over has not closed its stdout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from holdfast import Capability, Channel, ChannelClosed, Command, Exit, Limits, Lines, Transport
from holdfast._worker import Worker

pytestmark = pytest.mark.anyio


class Inherited(Channel):
    """Its worker is over, and who inherited its stdout keeps that open. Closing it takes time."""

    def __init__(self) -> None:
        self.closing = anyio.Event()
        self.go_on = anyio.Event()
        self.ended = False

    async def send(self, data: bytes) -> None:
        pass

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async def send_eof(self) -> None:
        if self.closing.is_set():
            raise ChannelClosed("our side closed it")
        self.ended = True

    async def wait(self) -> Exit:
        return Exit(code=0)

    async def aclose(self) -> None:
        self.closing.set()
        await self.go_on.wait()


class Place(Transport):
    """Gives that one channel."""

    capabilities = Capability.EXIT_STATUS | Capability.HALF_CLOSE

    def __init__(self) -> None:
        self.channel = Inherited()

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        yield self.channel


class Sink:
    """Nobody who is told anything; the one event that the test awaits is the channel's own."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


async def test_an_input_that_ends_while_the_channel_closes_is_no_error() -> None:
    """Who answers our word on a loss by closing our stdin must not be met by a traceback."""
    place = Place()
    worker = Worker(place, Command(("x",)), Lines(), Limits(settle=0.01), Sink())
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await place.channel.closing.wait()
            await worker.end_input()
            place.channel.go_on.set()
    assert not place.channel.ended
    assert worker.evidence.failure is None
