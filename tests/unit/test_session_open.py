"""A transport that makes a mistake while it opens: the session says so, and nobody else breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import holdfast
from holdfast.testing import MemoryTransport, echo

pytestmark = pytest.mark.anyio


class Mistaken(MemoryTransport):
    """Opens well so often, and then raises what no transport may raise."""

    good = 0
    mistake: Exception = KeyError("host")

    @asynccontextmanager
    async def open(self, command: holdfast.Command) -> AsyncIterator[holdfast.Channel]:
        if not self.good:
            raise self.mistake
        self.good -= 1
        async with super().open(command) as channel:
            yield channel


@pytest.mark.parametrize(
    "mistake",
    [
        KeyError("host"),
        holdfast.ChannelClosed("host"),
        holdfast.TransportBroken(holdfast.Operation.RECEIVE, ConnectionResetError("host")),
    ],
    ids=lambda mistake: type(mistake).__name__,
)
async def test_start_raises_what_is_documented(mistake: Exception) -> None:
    """Whatever a transport raises at open, start raises one of two errors, which names it."""
    transport = Mistaken(echo)
    transport.mistake = mistake
    async with holdfast.SessionManager() as manager:
        session = manager.create(transport, ["worker"])
        named = f"{type(mistake).__name__}: .*host"
        with pytest.raises(holdfast.TransportUnavailable, match=named) as caught:
            await session.start()
        assert caught.value.__cause__ is mistake
        assert session.status.reason is holdfast.Reason.INITIALIZATION_FAILED
        assert session.status.detail == str(caught.value)


async def test_send_never_raises_it() -> None:
    """A request that would start a new worker is refused and answered, not met by a traceback."""
    transport = Mistaken(echo)
    transport.good = 1
    async with holdfast.SessionManager() as manager:
        session = await manager.start(transport, ["worker"])
        transport.channels[0].kill()
        await session.wait_for(holdfast.State.ERROR, timeout=5)
        receipt = await session.send({"jsonrpc": "2.0", "id": 1, "method": "prompt"})
        assert receipt.delivery is holdfast.Delivery.REFUSED
        assert receipt.status.reason is holdfast.Reason.INITIALIZATION_FAILED
        assert session.in_flight == frozenset()
        with pytest.raises(holdfast.WorkerLost):
            await session.call("prompt")
