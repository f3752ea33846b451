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

    @asynccontextmanager
    async def open(self, command: holdfast.Command) -> AsyncIterator[holdfast.Channel]:
        if not self.good:
            raise KeyError("host")
        self.good -= 1
        async with super().open(command) as channel:
            yield channel


async def test_start_raises_what_is_documented() -> None:
    """Whatever a transport raises at open, start raises a TransportError that names it."""
    async with holdfast.SessionManager() as manager:
        session = manager.create(Mistaken(echo), ["worker"])
        with pytest.raises(holdfast.TransportUnavailable, match="KeyError: 'host'") as caught:
            await session.start()
        assert isinstance(caught.value.__cause__, KeyError)
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
