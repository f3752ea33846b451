"""Sessions with real workers on a real log: nothing lost, nothing doubled, whatever ends."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from holdfast import (
    Durability,
    Event,
    Lagged,
    Limits,
    Line,
    Reason,
    SessionManager,
    State,
)
from holdfast_gateway._sqlite import SQLiteStore

from .kit import WORKER, everything, stored

pytestmark = pytest.mark.anyio


async def test_all_is_there_again(tmp_path: Path) -> None:
    """After a proper end the next manager has every event, under its seq, and goes on behind it."""
    async with SessionManager(store=SQLiteStore(tmp_path / "data")) as manager:
        first = await manager.start("local:", WORKER, session_id="s", record={"name": "one"})
        for _ in range(20):
            await first.call("prompt", {"lines": 20})
        assert (first.durability, first.durability_detail) == (Durability.DURABLE, None)
        await stored(first)
    before = await everything(first)
    assert [each.seq for each in before if isinstance(each, Event)] == [
        *range(1, first.last_seq + 1)
    ]
    async with SessionManager(store=SQLiteStore(tmp_path / "data")) as manager:
        (again,) = await manager.restore()
        assert again.spec == first.spec
        assert (again.status, again.first_seq) == (first.status, 1)
        assert (again.status.state, again.status.reason) == (State.STOPPED, Reason.STOP)
        assert await everything(again) == before
        await again.start()
        assert again.status.worker_id == "s/2"
        assert again.status.seq == first.last_seq + 1
        await again.call("prompt")


async def test_a_reader_crosses_from_the_store_into_memory(tmp_path: Path) -> None:
    """Under flow a reader sees every event once, though memory holds only the latest."""
    limits = Limits(retained_bytes=50_000)
    async with SessionManager(store=SQLiteStore(tmp_path / "data"), limits=limits) as manager:
        session = await manager.start("local:", WORKER, session_id="s")
        seen: list[list[int]] = [[] for _ in range(6)]

        async def read(number: int) -> None:
            own = seen[number]
            async with session.subscribe(after=0) as events:
                async for batch in events.batches(1 + 7 * number):
                    for event in batch:
                        assert not isinstance(event, Lagged), event
                        own.append(event.seq)
                    if number % 2:
                        await anyio.sleep(0.001 * number)
                    if any(isinstance(event, Line) and event.id == "end" for event in batch):
                        return

        with anyio.fail_after(100):
            async with anyio.create_task_group() as readers:
                for number in range(len(seen)):
                    readers.start_soon(read, number)
                for _ in range(30):
                    await session.call("prompt", {"lines": 300, "size": 50})
                await session.call("prompt", id="end")
        for own in seen:
            assert own == [*range(1, own[-1] + 1)]
            assert own[-1] >= session.last_seq - 1, "behind the last answer stands a status"
        assert session._journal.first_seq > session.last_seq / 2, "memory moved on"
