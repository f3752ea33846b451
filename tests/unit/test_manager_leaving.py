"""Leaving a manager, or a session: quick, honest, and with an error as it was."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from holdfast import (
    Reason,
    Registry,
    SessionManager,
    State,
    TransportSpec,
    WorkerNotStarted,
    hookimpl,
)
from holdfast.testing import MemoryTransport, echo

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


class Shared(MemoryTransport):
    """What its channels share takes a moment to close, or cannot be closed."""

    def __init__(self, mistake: Exception | None = None) -> None:
        super().__init__(echo)
        self.mistake = mistake
        self.closed = False

    async def aclose(self) -> None:
        if self.mistake is not None:
            raise self.mistake
        await anyio.lowlevel.checkpoint()
        self.closed = True


class Places:
    """A plugin with a scheme for each of these transports."""

    def __init__(self, places: dict[str, Shared]) -> None:
        self._places = places

    @hookimpl
    def holdfast_transports(self) -> list[TransportSpec]:
        return [
            TransportSpec(scheme, lambda target: self._places[target.scheme], "", f"{scheme}:")
            for scheme in self._places
        ]


async def test_a_transport_that_cannot_be_closed_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged; the others are closed, and an error of the body comes out as it was."""
    places = {"bad": Shared(KeyError("socket")), "good": Shared()}
    registry = Registry(entry_points=())
    registry.register(Places(places), "places")

    async def body() -> None:
        async with SessionManager(registry=registry) as manager:
            for scheme in places:
                await manager.start(f"{scheme}:", ALIVE)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()
    assert places["good"].closed
    [record] = caplog.records
    assert "could not be closed" in record.getMessage()


async def test_who_forgets_a_session_twice_forgets_no_other_of_its_name() -> None:
    """The second of two who forget it at once leaves alone what was created meanwhile."""
    async with SessionManager() as manager:
        await manager.start("local:", ALIVE, session_id="s")

        async def forget_and_create() -> None:
            await manager.forget("s")
            manager.create("local:", ALIVE, session_id="s")

        async with anyio.create_task_group() as both:
            both.start_soon(forget_and_create)
            both.start_soon(manager.forget, "s")
        assert "s" in manager.sessions
