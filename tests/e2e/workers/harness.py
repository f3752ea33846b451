"""What the tests on real processes share: workers, sessions, and waiting for events.

Nothing here sleeps to wait: a test awaits the event it needs, under a deadline.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from tests.faults.history import of_events
from tests.faults.rules import broken_rules

from holdfast import (
    Delivery,
    Event,
    Kind,
    Lagged,
    Limits,
    Line,
    Origin,
    Receipt,
    Registry,
    RequestId,
    Sent,
    Session,
    SessionManager,
    State,
    Status,
    StatusChanged,
    Transport,
    hookimpl,
)
from holdfast_transports.local import LocalTransport

WORKER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("scripted.py")))
"""See scripted.py for what it can do."""

DEADLINE = 20.0
"""Seconds after which an awaited event is held not to come: a broken test, not a slow machine."""

TERMINAL = frozenset({State.STOPPED, State.ERROR})

MIB = 1024 * 1024

BIG = "x" * (10 * MIB)
"""More than any pipe takes."""

QUICK = Limits(eof_grace=0.3, term_grace=0.3)
"""For workers that ignore what the ladder says first."""


@asynccontextmanager
async def running(
    *,
    dialect: str = "kimi-wire",
    command: Sequence[str] = WORKER,
    transport: Transport | None = None,
    registry: Registry | None = None,
    **options: Any,
) -> AsyncIterator[Session]:
    """One started session, in a manager of its own."""
    async with SessionManager(registry=registry) as manager:
        yield await manager.start(
            transport or LocalTransport(), command, dialect=dialect, **options
        )


def request(id: RequestId, method: str, /, **params: Any) -> dict[str, Any]:
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def deadline(seconds: float = DEADLINE) -> Any:
    """The bound of all that is awaited."""
    return anyio.fail_after(seconds)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """What stands inside must not take longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"this took {took:.2f} s"


async def journal(session: Session, *, after: int = 0) -> list[Event]:
    """The session's events so far, which must all be retained and follow each other."""
    events: list[Event] = []
    async with session.subscribe(after=after) as subscription:
        batches = subscription.batches()
        while (events[-1].seq if events else after) < session.last_seq:
            with deadline():
                batch = await anext(batches)
            assert not any(isinstance(event, Lagged) for event in batch)
            events += batch
    assert [event.seq for event in events] == list(range(after + 1, after + len(events) + 1))
    return events


async def until(
    session: Session, match: Callable[[Any], bool], *, after: int = 0, seconds: float = DEADLINE
) -> list[Event]:
    """The session's events up to the first that matches, which is awaited."""
    events: list[Event] = []
    with deadline(seconds):
        async with session.subscribe(after=after) as subscription:
            async for event in subscription:
                assert not isinstance(event, Lagged)
                events.append(event)
                if match(event):
                    return events
    raise AssertionError("the session was forgotten")


def is_status(*states: State, reason: str | None = None) -> Callable[[Any], bool]:
    """Matches a status of one of these states, for this reason if one is given."""
    return lambda event: (
        isinstance(event, StatusChanged)
        and event.status.state in states
        and reason in (None, event.status.reason)
    )


def is_answer(id: RequestId) -> Callable[[Any], bool]:
    """Matches an answer to this request."""
    return lambda event: isinstance(event, Line) and event.kind is Kind.ANSWER and event.id == id


def is_notification(method: str) -> Callable[[Any], bool]:
    """Matches a notification of this method."""
    return lambda event: (
        isinstance(event, Line)
        and event.kind is Kind.NOTIFICATION
        and json.loads(event.data)["method"] == method
    )


def statuses(events: Sequence[Event]) -> list[Status]:
    """The statuses among these events."""
    return [event.status for event in events if isinstance(event, StatusChanged)]


def lines(events: Sequence[Event]) -> list[bytes]:
    """What the worker wrote, line by line."""
    return [
        event.data for event in events if isinstance(event, Line) and event.origin is Origin.WORKER
    ]


def answers(events: Sequence[Event], id: RequestId) -> list[dict[str, Any]]:
    """The answers to this request, whoever gave them."""
    return [json.loads(event.data) for event in events if is_answer(id)(event)]


def notifications(events: Sequence[Event], method: str) -> list[dict[str, Any]]:
    """The parameters of these notifications."""
    return [json.loads(event.data)["params"] for event in events if is_notification(method)(event)]


def sent(events: Sequence[Event]) -> list[RequestId | None]:
    """The ids of what was handed to the transport, in this order."""
    return [event.id for event in events if isinstance(event, Sent)]


async def answer_to(session: Session, receipt: Receipt, *, after: int = 0) -> dict[str, Any]:
    """The first answer to a request that was sent, awaited."""
    assert receipt.id is not None
    events = await until(session, is_answer(receipt.id), after=after)
    return answers(events, receipt.id)[0]


async def ask(session: Session, id: RequestId, method: str, /, **params: Any) -> Any:
    """Send a request that must reach the worker, and give its result."""
    after = session.last_seq
    receipt = await session.send(request(id, method, **params))
    assert receipt.delivery is Delivery.WRITTEN, receipt
    answer = await answer_to(session, receipt, after=after)
    assert "result" in answer, answer
    return answer["result"]


async def pid_of(session: Session) -> int:
    """The process id of the present worker."""
    with deadline():
        return (await session.call("ping"))["pid"]


def alive(pid: int) -> bool:
    """Whether this process runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def end_of(pid: int, *, seconds: float = DEADLINE) -> None:
    """Wait until this process, child or not, is over."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with deadline(seconds):
            await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


class Gate:
    """A named pipe at which a worker that takes no input waits (``pause``) until it is opened."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        os.mkfifo(self.path)
        self._fd = -1

    def open(self) -> None:
        """Let the worker go on, whether it stands there already or not."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR)

    def close(self) -> None:
        """Forget the gate."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def stuffed(
    session: Session, tasks: anyio.abc.TaskGroup, receipts: list[Receipt] | None = None
) -> None:
    """Begin to send 10 MiB to a worker that takes no input, and wait until a part is written."""

    async def send() -> None:
        receipt = await session.send(request("big", "echo_size", text=BIG))
        if receipts is not None:
            receipts.append(receipt)

    tasks.start_soon(send)
    await until(session, lambda event: getattr(event, "id", None) == "big")


class Observer:
    """A plugin that notes each status as the hook tells it, and what the session says then."""

    def __init__(self) -> None:
        self.seen: list[tuple[Status, bool, frozenset[RequestId], int]] = []

    @hookimpl
    def holdfast_status_changed(self, session: Session, status: Status) -> None:
        self.seen.append((status, session.is_busy, session.in_flight, session.last_seq))


def observed() -> tuple[Registry, Observer]:
    """A registry with an observer in it."""
    registry, observer = Registry(), Observer()
    registry.register(observer)
    return registry, observer


def check(events: Sequence[Event]) -> None:
    """What holds for every journal, whatever happened.

    The ids that stand in it were used once each.
    """
    assert broken_rules(of_events(events)) == []
