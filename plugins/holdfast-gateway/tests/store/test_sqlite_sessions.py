"""Sessions with real workers on a real log: nothing lost, nothing doubled, whatever ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from holdfast import (
    Cause,
    Durability,
    Event,
    Fate,
    Kind,
    Lagged,
    Limits,
    Line,
    Origin,
    Reason,
    Sent,
    SessionManager,
    State,
    WorkerNotStarted,
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


def empty(place: Path) -> None:
    for each in place.iterdir():
        each.unlink()


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not-noted"])
async def test_a_killed_program_leaves_all_that_it_called_stored(
    tmp_path: Path, anyio_backend: str, shown: Path, noted: bool
) -> None:
    """After SIGKILL, twice: what was stored is there once, in order, under its seq, each
    request in flight is answered once, and no seq that was shown is given to another event.
    """
    data = tmp_path / "data"
    told_stored = told_shown = 0
    for _ in range(2):
        told_shown, told_stored = await run_and_kill(data, anyio_backend, shown, lines=150)
        if not noted:  # as if the machine had been started again
            empty(shown)
        async with SessionManager(store=SQLiteStore(data)) as manager:
            (session,) = await manager.restore()
            assert session.spec.record == {"n": 1}
            status = session.status
            assert (status.state, status.reason) == (State.ERROR, Reason.STDIN_BROKEN)
            assert (status.cause, status.worker) == (Cause.LINK_LOST, Fate.MAYBE_ALIVE)
            assert not session.in_flight
            log = await everything(session)
            events = [each for each in log if isinstance(each, Event)]
            seqs = [each.seq for each in events]
            assert seqs == sorted(set(seqs))
            assert [*range(1, told_stored + 1)][-500:] == [
                seq for seq in seqs if told_stored - 500 < seq <= told_stored
            ]
            ours = [each for each in events if isinstance(each, Line) and each.kind is Kind.ANSWER]
            ours = [each for each in ours if each.origin is Origin.HOLDFAST]
            mine = [each for each in ours if each.seq > told_stored]
            assert mine
            assert all(each.seq > told_shown for each in mine), "shown seqs are not given again"
            assert (mine[0].seq < told_shown + 10_000) is noted, "nor others left out without need"
            sent = Counter(each.id for each in events if isinstance(each, Sent))
            answered = Counter(
                each.id for each in events if isinstance(each, Line) and each.kind is Kind.ANSWER
            )
            assert set(sent.values()) == {1}
            assert sent == answered
            assert len([each for each in log if isinstance(each, Lagged)]) <= 3


async def run_and_kill(data: Path, backend: str, shown: Path, lines: int) -> tuple[int, int]:
    """Run the program until it has told so much, kill it, and give the last that it told."""
    program_py = Path(__file__).with_name("program.py")
    command = [sys.executable, str(program_py), str(data), backend, str(shown)]
    told = b""
    async with await anyio.open_process(command, stderr=None) as program:
        assert program.stdout is not None
        with anyio.fail_after(60):
            while told.count(b"\n") < lines:
                told += await program.stdout.receive()
        os.kill(program.pid, signal.SIGKILL)
        with suppress(anyio.EndOfStream):
            while True:
                told += await program.stdout.receive()
        await program.wait()
    shown, stored = json.loads(told[: told.rindex(b"\n")].splitlines()[-1])
    return shown, stored


async def test_values_of_environment_variables_are_nowhere(tmp_path: Path) -> None:
    """No file of the log holds one; a session that had it names it, and does not start."""
    data = tmp_path / "data"
    command = ["sh", "-c", 'test "${#SECRET}" = 11 && exec cat']
    async with SessionManager(store=SQLiteStore(data)) as manager:
        session = await manager.start("local:", command, env={"SECRET": "canary-4711"})
        await session.send({"method": "x"})
        async with session.subscribe() as events:
            while not isinstance(await anext(events), Line):
                pass
        await stored(session)
        assert holders(data, b"SECRET")
        assert not holders(data, b"canary-4711")
    assert not holders(data, b"canary-4711")
    async with SessionManager(store=SQLiteStore(data)) as manager:
        (again,) = await manager.restore()
        assert again.spec.env == ("SECRET",)
        with pytest.raises(WorkerNotStarted, match="SECRET"):
            await again.start()


def holders(data: Path, what: bytes) -> list[str]:
    return [each.name for each in data.iterdir() if what in each.read_bytes()]
