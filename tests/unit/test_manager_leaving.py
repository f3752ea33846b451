"""Leaving a manager by an error or a cancellation: quick, honest, and with the error as it was."""

from __future__ import annotations

import time

import anyio
import pytest

from holdfast import Reason, SessionManager, State, WorkerNotStarted

pytestmark = pytest.mark.anyio

ALIVE = ["cat"]
DEAD = ["sh", "-c", "exit 3"]


async def test_an_error_of_the_body_comes_out_as_it_was() -> None:
    """``except ValueError`` around a manager catches it: no group of one is wrapped around it."""

    async def body(command: list[str]) -> None:
        async with SessionManager() as manager:
            await manager.start("local:", command)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body(ALIVE)
    with pytest.raises(WorkerNotStarted, match="no-such-command"):
        await body(["no-such-command"])


@pytest.mark.parametrize("command", [ALIVE, DEAD], ids=["alive", "dead"])
async def test_a_cancelled_manager_stops_its_sessions(
    command: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that we stop is told as stopped, not as lost; one that is dead delays nothing."""
    with anyio.move_on_after(20) as scope:
        async with SessionManager() as manager:
            session = await manager.start("local:", command)
            if command is DEAD:
                await session.wait_for(State.ERROR)
                caplog.clear()
            began = time.monotonic()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert time.monotonic() - began < 5
    assert (session.status.state, session.status.reason) == (State.STOPPED, Reason.STOP)
    assert caplog.records == []
