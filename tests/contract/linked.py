"""The local transport behind a link that can be cut: a correct one, for the HF-LINK clauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.lowlevel

from holdfast import (
    Cause,
    Channel,
    Command,
    Exit,
    Fate,
    Operation,
    Signal,
    Transport,
    TransportBroken,
)
from holdfast_transports.local import LocalTransport

T = TypeVar("T")


class Wrapped(Channel):
    """A channel that passes everything on to another."""

    def __init__(self, inner: Channel, transport: Transport) -> None:
        self.inner = inner
        self.transport = transport

    async def send(self, data: bytes) -> None:
        await self.inner.send(data)

    def send_nowait(self, data: bytes) -> int:
        return self.inner.send_nowait(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive(max_bytes)

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive_stderr(max_bytes)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def signal(self, signal: Signal) -> None:
        await self.inner.signal(signal)

    async def wait(self) -> Exit:
        return await self.inner.wait()

    async def aclose(self) -> None:
        await self.inner.aclose()


class LinkedChannel(Wrapped):
    """A local channel, and a link that may be lost."""

    def __init__(self, inner: Channel, transport: Transport) -> None:
        super().__init__(inner, transport)
        self.lost: TransportBroken | None = None
        self.arrived = b""
        self._closed = False
        self._pending: set[anyio.CancelScope] = set()

    async def cut(self, native: OSError, cause: Cause) -> None:
        """Lose the link; what has arrived stays."""
        self.lost = TransportBroken(Operation.RECEIVE, native, cause=cause, worker=Fate.MAYBE_ALIVE)
        for scope in self._pending:
            scope.cancel()
        await anyio.sleep(0.01)  # those who were pending leave
        with anyio.move_on_after(0.05):
            while data := await self.inner.receive():
                self.arrived += data

    async def _over_the_link(self, operation: Operation, call: Callable[[], Awaitable[T]]) -> T:
        if self.lost is None or self._closed:
            scope = anyio.CancelScope()
            self._pending.add(scope)
            try:
                with scope:
                    return await call()
            finally:
                self._pending.discard(scope)
        else:
            await anyio.lowlevel.checkpoint()
        assert self.lost is not None
        raise self.lost.during(operation)

    async def send(self, data: bytes) -> None:
        await self._over_the_link(Operation.SEND, lambda: self.inner.send(data))

    def send_nowait(self, data: bytes) -> int:
        return 0 if self.lost else self.inner.send_nowait(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.arrived and not self._closed:
            await anyio.lowlevel.checkpoint()
            data, self.arrived = self.arrived[:max_bytes], self.arrived[max_bytes:]
            return data
        return await self._over_the_link(Operation.RECEIVE, lambda: self.inner.receive(max_bytes))

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self._over_the_link(
            Operation.RECEIVE_STDERR, lambda: self.inner.receive_stderr(max_bytes)
        )

    async def send_eof(self) -> None:
        await self._over_the_link(Operation.SEND_EOF, self.inner.send_eof)

    async def wait(self) -> Exit:
        try:
            return await self._over_the_link(Operation.WAIT, self.inner.wait)
        except TransportBroken:
            return Exit()

    async def aclose(self) -> None:
        self._closed = True
        await self.inner.aclose()


class LinkedTransport(Transport):
    """The local transport, each channel behind a link of its own."""

    capabilities = LocalTransport.capabilities

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[LinkedChannel]:
        async with LocalTransport().open(command) as channel:
            linked = LinkedChannel(channel, self)
            try:
                yield linked
            finally:
                await linked.aclose()


def linked(channel: Channel) -> LinkedChannel:
    """The channel that has the link, in whatever it is wrapped."""
    while not isinstance(channel, LinkedChannel):
        assert isinstance(channel, Wrapped)
        channel = channel.inner
    return channel


async def cut(channel: Channel) -> None:
    """The fixture ``sever``."""
    await linked(channel).cut(ConnectionResetError(104, "the link was cut"), Cause.LINK_LOST)


async def silence(channel: Channel) -> None:
    """The fixture ``silence``: this link's heartbeat has a short deadline, and no mercy."""
    await linked(channel).cut(TimeoutError(110, "no answer to a heartbeat"), Cause.LINK_SILENT)
