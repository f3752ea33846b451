"""Runs one session into one fault, and tells what it said, when, and what was left behind."""

from __future__ import annotations

import json
import os
import pwd
import re
import time

import anyio
import anyio.to_thread
import msgspec

import holdfast
from holdfast import (
    Cause,
    Delivery,
    Event,
    Limits,
    Line,
    Origin,
    Reason,
    Receipt,
    Sent,
    Session,
    State,
    Status,
    StatusChanged,
    Subscription,
    TransportError,
)

from .faults import Fault, Moment, Then
from .place import Place, our_children

PATIENCE = 7.0
"""Seconds after which a fault is said not to be noticed."""

LIMITS = Limits(eof_grace=0.2, term_grace=0.5)
"""Of the sessions: how long they are polite to workers that live on is no part of the table."""

LEAVE_WITHIN = 5.0
"""Seconds for what a lost session leaves to be gone; a guard gives SIGTERM 3 s of these."""

SILENCE = 75.0
"""The same where nobody tells the far side that the link is gone: a guard waits for a minute."""

PROMPT = {"jsonrpc": "2.0", "id": "1", "method": "work"}
MORE = {"jsonrpc": "2.0", "method": "more"}


class Row(msgspec.Struct, frozen=True):
    """What was said of a fault; the names of the package's enums, and texts.

    Attributes:
        exit: With "then" before it if it was known only after we had ended the worker.
        delivery: Of the last message.
        detail: Why a worker could not be started; nothing for other faults.
    """

    state: str
    reason: str
    cause: str = ""
    worker: str = ""
    exit: str = ""
    delivery: str = ""
    detail: str = ""


class Sample(msgspec.Struct, frozen=True):
    """What one run gave.

    Attributes:
        seconds: Until it was said; None if it was not.
        left: What ran on afterwards, for longer than it may.
        left_for: How many seconds it took for nothing to run on.
    """

    row: Row
    seconds: float | None
    left: tuple[str, ...] = ()
    left_for: float = 0.0


def sample(
    fault: Fault,
    place: Place,
    backend: str = "asyncio",
    *,
    thorough: bool = False,
    patience: float = PATIENCE,
    may_stay: int = 0,
) -> Sample:
    """Provoke a fault once, and make the place whole again.

    Args:
        fault: What goes wrong.
        place: Where.
        backend: The event loop.
        thorough: Wait for all that a lost link leaves behind; else a silent one is mended first.
        patience: Seconds to wait for something to be said.
        may_stay: How many processes need not be waited for: it is known that they stay.
    """
    children = our_children()  # of this process, not of the place
    try:
        row, seconds = anyio.run(_provoke, fault, place, patience, backend=backend)
        silent = row.cause == Cause.LINK_SILENT
        if silent and not thorough:
            place.mend()
        began = time.monotonic()
        lost = row.cause in (Cause.LINK_LOST, Cause.LINK_SILENT)
        within = SILENCE if lost and thorough else LEAVE_WITHIN
        while len(left := place.left() or place.ours(children)) > may_stay:
            waited = time.monotonic() - began
            if waited > within:
                break
            time.sleep(min(0.1 + waited / 10, 1))
        return Sample(row, seconds, tuple(left), time.monotonic() - began)
    finally:
        place.heal()


async def _provoke(fault: Fault, place: Place, patience: float) -> tuple[Row, float | None]:
    async with holdfast.SessionManager(limits=LIMITS) as manager:
        session = manager.create(place.target(fault), fault.argv(), env=place.env, cwd=fault.cwd)
        if fault.at is Moment.START:
            return await _start(session, fault, place)
        await session.start()
        async with session.subscribe() as events:
            return await _lose(session, events, fault, place, patience)


async def _start(session: Session, fault: Fault, place: Place) -> tuple[Row, float]:
    if fault.hand is not None:
        await anyio.to_thread.run_sync(place.act, fault.hand)
    began = time.monotonic()
    raised = ""
    try:
        await session.start()
    except TransportError as error:
        raised = type(error).__name__
    took = time.monotonic() - began
    status = session.status
    detail = f"{raised}: {_nameless(status.detail or '')}"
    return Row(str(status.state), str(status.reason), detail=detail), took


async def _lose(
    session: Session, events: Subscription, fault: Fault, place: Place, patience: float
) -> tuple[Row, float | None]:
    """From an open session to what is said of its loss."""
    receipts = [] if fault.at is Moment.IDLE else [await session.send(PROMPT)]
    async for event in events:
        if isinstance(event, Line):
            place.worker = json.loads(event.data)["params"]["pid"]
            break
    place.acted, took = time.monotonic(), None
    acted = anyio.Event()

    async def act() -> None:
        if fault.at is Moment.MESSAGE:
            tasks.start_soon(_send_large, session, receipts)
            await _next(session, Sent)
        if fault.hand is not None:
            await anyio.to_thread.run_sync(place.act, fault.hand)
        if fault.then is Then.SMALL:
            await _send_small(session, receipts)
        elif fault.then is Then.LARGE:
            await _send_large(session, receipts, timeout=1)
        acted.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(act)
        status = session.status
        with anyio.move_on_after(patience):
            status = await _verdict(events, session, fault)
            took = time.monotonic() - place.acted
        with anyio.move_on_after(patience):
            await acted.wait()  # its receipts, which come with the status or soon after
        tasks.cancel_scope.cancel()
    return _row(status, await _exit(events, status), receipts), took


async def _verdict(events: Subscription, session: Session, fault: Fault) -> Status:
    """What ends the wait: a terminal status, or the worker's own answer."""
    answers = []
    async for event in events:
        if isinstance(event, Line) and event.id == PROMPT["id"]:
            answers.append(event.origin)
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        if status.state in (State.ERROR, State.STOPPED):
            assert answers == ([] if fault.at is Moment.IDLE else [Origin.HOLDFAST]), answers
            assert not session.is_busy
            return status
        if status.reason is Reason.PROMPT_COMPLETE:
            assert answers == [Origin.WORKER], answers
            return status
    raise AssertionError("the session was forgotten")


async def _exit(events: Subscription, status: Status) -> str:
    """How the worker ended, and whether that was known at once."""
    if status.exit is not None or status.state not in (State.ERROR, State.STOPPED):
        return str(status.exit or "")
    with anyio.move_on_after(10):
        async for event in events:
            if isinstance(event, StatusChanged) and event.status.exit is not None:
                exit = event.status.exit
                return f"then {exit}" if exit.reported else str(exit)
    return ""


async def _next(session: Session, kind: type[Event]) -> None:
    """Wait for the next event of a kind."""
    async with session.subscribe(after=session.last_seq) as events:
        async for event in events:
            if isinstance(event, kind):
                return


async def _send_small(session: Session, receipts: list[Receipt]) -> None:
    for _ in range(40):
        receipts.append(await session.send(MORE, timeout=2))
        if receipts[-1].delivery is not Delivery.WRITTEN:
            return
        await anyio.sleep(0.05)


async def _send_large(
    session: Session, receipts: list[Receipt], *, timeout: float | None = None
) -> None:
    message = {**MORE, "params": {"text": "x" * 8 * 1024 * 1024}}
    receipts.append(await session.send(message, timeout=timeout))


def _row(status: Status, exit: str, receipts: list[Receipt]) -> Row:
    return Row(
        state=str(status.state),
        reason=str(status.reason),
        cause=str(status.cause or ""),
        worker=str(status.worker or ""),
        exit=exit,
        delivery=str(receipts[-1].delivery) if receipts else "",
    )


def _nameless(text: str) -> str:
    """Without ports, paths and fingerprints, which differ from run to run."""
    for pattern, instead in _DIFFERS.items():
        text = re.sub(pattern, instead, text)
    return text


_DIFFERS = {
    rf"\b{re.escape(pwd.getpwuid(os.geteuid()).pw_name)}\b": "USER",
    r"SHA256:[\w+/]+": "SHA256:…",
    r"/tmp/[\w./-]+/([\w.]+)": r"…/\1",
    r"(127\.0\.0\.1\]?:|port |-p )\d+": r"\1PORT",
}
