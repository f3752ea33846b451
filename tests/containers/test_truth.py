"""What an engine says while a worker ends may be old, early or wrong: what is made of it.

Each answer here was given by Podman 4.3 to a request that came at the wrong moment.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from tests.containers.kit import transport_to
from tests.containers.scripted import GONE, ScriptedEngine, scripted, state

from holdfast import Cause, Channel, Command, Exit, Fate, TransportBroken
from holdfast_transports.container import _channel, _created

pytestmark = pytest.mark.anyio

CUT = b"\1\0\0"
"""The beginning of a frame: streams that end so have broken."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedEngine]:
    monkeypatch.setattr(_created, "_TOLD", 0.3)
    with scripted(tmp_path / "sock") as engine:
        yield engine


@asynccontextmanager
async def worker(engine: ScriptedEngine) -> AsyncIterator[Channel]:
    """A worker of this engine, for as long as a test may take."""
    transport = transport_to(engine.target)
    with anyio.fail_after(15):
        async with transport.open(Command(("cat",))) as channel:
            yield channel
    await transport.aclose()


@pytest.mark.parametrize("last", [b"", CUT], ids=["ended", "broken"])
async def test_an_exit_that_the_engine_learns_late(engine: ScriptedEngine, last: bytes) -> None:
    """Streams that end before the engine knows why are the worker's end, not a lost link's."""
    async with worker(engine) as channel:
        engine.states = [state("running")] * 4 + [state("exited", 137)]
        engine.end_streams(last)
        assert await channel.receive() == b""
        exit = await channel.wait()
        with pytest.raises(TransportBroken) as broken:
            await channel.send(b"more\n")
    assert exit.code == 137
    assert (broken.value.cause, broken.value.worker) == (Cause.WORKER_EXITED, Fate.GONE)


async def test_a_code_that_is_none_yet(engine: ScriptedEngine) -> None:
    """A container that is being stopped does not run, and its code is said to be 0: it is not."""
    async with worker(engine) as channel:
        engine.states = [state("stopping")] * 3 + [state("stopped", 9)]
        engine.end_streams()
        assert await channel.receive() == b""
        assert await channel.wait() == Exit(code=9)


async def test_a_container_that_vanishes_while_the_engine_looks(engine: ScriptedEngine) -> None:
    """That is told as a failure of the engine, and is no loss of the link."""
    async with worker(engine) as channel:
        engine.states = [GONE]
        engine.end_streams()
        assert await channel.receive() == b""
        exit = await channel.wait()
    assert not exit.reported
    assert exit.detail == "its container was removed"


async def test_an_exit_that_was_told_is_kept(engine: ScriptedEngine) -> None:
    """Though the container is gone when it is asked for more."""
    async with worker(engine) as channel:
        engine.states = [GONE]
        engine.exits = [{"StatusCode": 5}]
        engine.may_tell.set()
        assert await channel.wait() == Exit(code=5)


async def test_an_exit_that_is_none(engine: ScriptedEngine) -> None:
    """Who waits for the exit may be told of a failure, with the code -1: it is asked again."""
    async with worker(engine) as channel:
        failed = {"StatusCode": -1, "Error": {"Message": "no such container"}}
        engine.states = [state("running"), state("exited", 3)]
        engine.exits = [failed, failed]
        engine.may_tell.set()
        assert await channel.wait() == Exit(code=3)


@pytest.mark.parametrize("last", [b"", CUT], ids=["ended", "broken"])
async def test_streams_that_end_while_the_worker_lives(
    engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    """No engine ends the streams of a worker that lives: after a while that is a lost link."""
    monkeypatch.setattr(_channel, "_SETTLED", 0.3)
    async with worker(engine) as channel:
        before, began = engine.asked, anyio.current_time()
        engine.end_streams(last)
        with pytest.raises(TransportBroken) as broken:
            await channel.receive()
        assert (broken.value.cause, broken.value.worker) == (Cause.LINK_LOST, Fate.ALIVE)
        assert engine.asked - before > 1
        assert anyio.current_time() - began >= 0.3
