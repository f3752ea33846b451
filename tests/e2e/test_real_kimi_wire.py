"""A coding agent in wire mode behind the Python API: its prompts, events, requests and death."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import holdfast
from holdfast import (
    CallError,
    Cause,
    Delivery,
    Kind,
    Line,
    Origin,
    Reason,
    Session,
    SessionManager,
    State,
    StatusChanged,
    WorkerLost,
)

from .servers.driving import DEADLINE, SERVERS

pytestmark = pytest.mark.anyio

WORKER = (sys.executable, "-I", "-S", str(SERVERS / "kimi_worker.py"))


@asynccontextmanager
async def agent() -> AsyncIterator[Session]:
    with anyio.fail_after(DEADLINE):
        async with SessionManager() as manager:
            yield await manager.start("local:", WORKER, dialect="kimi-wire")


def prompt(id: str, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "prompt", "params": {"user_input": text}}


def cancel(id: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "cancel"}


async def until(session: Session, after: int, wanted: Any) -> list[holdfast.Event]:
    """The events behind ``after`` up to the first that is wanted."""
    events: list[holdfast.Event] = []
    async with session.subscribe(after=after) as subscription:
        async for each in subscription:
            assert not isinstance(each, holdfast.Lagged)
            events.append(each)
            if wanted(each):
                break
    return events


def answers(id: str) -> Any:
    return lambda event: isinstance(event, Line) and event.kind is Kind.ANSWER and event.id == id


def state(*states: State) -> Any:
    return lambda event: isinstance(event, StatusChanged) and event.status.state in states


def is_event(type: str) -> Any:
    return lambda event: isinstance(event, Line) and f'"type": "{type}"' in event.data.decode()


def told(events: list[holdfast.Event]) -> list[str]:
    """Each event in a word or two, in order."""
    words = []
    for each in events:
        if isinstance(each, StatusChanged):
            words.append(f"{each.status.state} {each.status.reason}")
        elif isinstance(each, Line):
            message = json.loads(each.data)
            if each.kind is Kind.NOTIFICATION:
                words.append(message["params"]["type"])
            else:
                outcome = "error" if "error" in message else "result"
                words.append(f"{each.origin} {message.get('method', outcome)} {each.id}")
        else:
            words.append(f"sent {each.id}" if isinstance(each, holdfast.Sent) else "?")
    return words


def content(event: holdfast.Event) -> Any:
    assert isinstance(event, Line)
    return json.loads(event.data)


async def test_a_prompt_streams_its_events_before_its_answer() -> None:
    """Busy, what the agent says as it says it, the answer, idle: in this order, every time."""
    async with agent() as session:
        for number in range(3):
            after, id = session.last_seq, f"p{number}"
            receipt = await session.send(prompt(id, "all is well"))
            assert receipt.delivery is Delivery.WRITTEN
            assert receipt.id == id
            events = await until(session, after, state(State.IDLE))
            assert told(events) == [
                "busy prompt",
                f"sent {id}",
                "TurnBegin",
                "ContentPart",
                "ContentPart",
                "ContentPart",
                f"worker result {id}",
                "idle prompt_complete",
            ]
            assert [each.seq for each in events] == list(range(after + 1, session.last_seq + 1))
            assert not session.is_busy
        assert await session.call("prompt", {"user_input": "again"}) == {"status": "finished"}


async def test_the_agents_own_request_is_answered_by_the_client() -> None:
    """A request from the worker is a line like another; its answer goes back and ends nothing."""
    async with agent() as session:
        await session.send(prompt("p", "before approve after"))
        events = await until(
            session, 0, lambda event: isinstance(event, Line) and event.kind is Kind.REQUEST
        )
        asked = content(events[-1])
        assert asked["method"] == "request"
        assert asked["params"]["payload"]["description"] == "rm -r build"
        assert session.is_busy
        assert session.in_flight == {"p"}
        receipt = await session.send({"id": asked["id"], "result": {"response": "approve"}})
        assert receipt.delivery is Delivery.WRITTEN
        events = await until(session, events[-1].seq, state(State.IDLE))
        response = next(each for each in events if is_event("ApprovalResponse")(each))
        assert content(response)["params"]["payload"] == {"response": "approve"}
        assert told(events)[-2:] == ["worker result p", "idle prompt_complete"]


async def test_cancel_ends_a_running_prompt() -> None:
    """The worker answers both: the cancel with success, the prompt with what became of it."""
    async with agent() as session:
        await session.send(prompt("p", "one wait two"))
        await until(session, 0, is_event("ContentPart"))
        after = session.last_seq
        assert (await session.send(cancel("c"))).delivery is Delivery.WRITTEN
        events = await until(session, after, state(State.IDLE))
        assert told(events) == [
            "sent c",
            "StepInterrupted",
            "worker result c",
            "worker result p",
            "idle prompt_complete",
        ]
        assert content(events[3])["result"] == {"status": "cancelled"}


async def test_cancel_of_nothing_succeeds_without_the_worker() -> None:
    """While idle there is nothing to cancel: it is answered with success, once, by us."""
    async with agent() as session:
        after = session.last_seq
        receipt = await session.send(cancel("c"))
        assert receipt.delivery is Delivery.REFUSED
        (event,) = await until(session, after, answers("c"))
        assert isinstance(event, Line)
        assert event.origin is Origin.HOLDFAST
        assert content(event) == {"jsonrpc": "2.0", "id": "c", "result": {}}
        assert await session.call("prompt", {"user_input": "go"}) == {"status": "finished"}


async def test_a_second_prompt_is_refused_with_its_own_id() -> None:
    """One prompt at a time: the second hears -32001 under its own id, the first is not touched."""
    async with agent() as session:
        await session.send(prompt("first", "wait"))
        await until(session, 0, is_event("TurnBegin"))
        after = session.last_seq
        receipt = await session.send(prompt("second", "me too"))
        assert receipt.delivery is Delivery.REFUSED
        (event,) = await until(session, after, answers("second"))
        assert content(event)["error"]["code"] == -32001
        with pytest.raises(CallError) as refused:
            await session.call("prompt", {"user_input": "me three"})
        assert refused.value.code == -32001
        assert session.is_busy
        assert session.in_flight == {"first"}
        await session.send(cancel("c"))
        events = await until(session, after, state(State.IDLE))
        assert "worker result first" in told(events)


async def test_a_kill_in_mid_prompt_is_told_in_order_and_the_next_prompt_recovers() -> None:
    """Our answer, then the status, and not busy any more; the next prompt has a new worker."""
    async with agent() as session:
        assert session.generation == 1
        await session.send(prompt("p", "one wait"))
        events = await until(session, 0, is_event("ContentPart"))
        (begun,) = [each for each in events if is_event("TurnBegin")(each)]
        pid = content(begun)["params"]["payload"]["pid"]
        after = session.last_seq

        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(2):
            events = await until(session, after, state(State.ERROR))
        assert not session.is_busy
        assert session.in_flight == set()
        words = told(events)
        assert words[0] == "holdfast error p"
        assert words[1] in ("error process_exit", "error stdin_broken")
        assert len(words) == 2
        lost = content(events[0])["error"]
        assert lost["code"] == -32000
        assert lost["data"]["cause"] == "worker_exited"
        assert lost["data"]["delivery"] == "written"
        assert session.status.cause is Cause.WORKER_EXITED
        assert session.status.exit is not None
        assert session.status.exit.signal == "SIGKILL"

        after = session.last_seq
        receipt = await session.send(prompt("q", "back again"))
        assert receipt.delivery is Delivery.WRITTEN
        events = await until(session, after, answers("q"))
        assert session.generation == 2
        words = told(events)
        assert words[0] == "idle start"
        assert words[1:3] == ["busy prompt", "sent q"]
        assert words[-1] == "worker result q"
        assert words.count("ContentPart") == 2
        assert "p" not in {each.id for each in events if isinstance(each, Line)}
        await session.wait_for(State.IDLE, timeout=DEADLINE)


async def test_a_call_that_waits_hears_of_the_kill() -> None:
    """``call`` raises ``WorkerLost`` with the status that everybody sees."""
    async with agent() as session:
        lost: list[WorkerLost] = []

        async def ask() -> None:
            with pytest.raises(WorkerLost) as caught:
                await session.call("prompt", {"user_input": "wait"}, id="p")
            lost.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            events = await until(session, 0, is_event("TurnBegin"))
            pid = content(events[-1])["params"]["payload"]["pid"]
            os.kill(pid, signal.SIGKILL)
        assert lost[0].delivery is Delivery.WRITTEN
        assert lost[0].status.state is State.ERROR
        assert lost[0].status.reason in (Reason.PROCESS_EXIT, Reason.STDIN_BROKEN)
        assert await session.call("prompt", {"user_input": "and on"}) == {"status": "finished"}
