"""What the tests of the event log share."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Sequence

import anyio

from holdfast import (
    Command,
    Event,
    Lagged,
    Limits,
    Line,
    Session,
    SessionHead,
    SessionSpec,
    State,
    Status,
    StoreEntry,
)

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)

# Answers each request; `flood` writes params.lines notifications of params.size bytes before.
WORKER = [
    sys.executable,
    "-c",
    """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    params = message.get("params") or {}
    if message["method"] == "silent":
        continue
    for n in range(params.get("lines", 0)):
        print(json.dumps({"method": "n", "params": [n, "x" * params.get("size", 0)]}))
    print(json.dumps({"id": message["id"], "result": {}}), flush=True)
""",
]


def spec(id: str = "s", **record: object) -> SessionSpec:
    return SessionSpec(id, "local:", Command(("cat",)), (), "jsonrpc", Limits(), NOW, record)


def head(last_seq: int, id: str = "s", *, clean: bool = False) -> SessionHead:
    status = Status(id, State.IDLE, 1, f"{id}/1", None, None, NOW)
    return SessionHead(status, last_seq, 1, (), clean)


def lines(first: int, last: int, size: int = 10) -> list[Event]:
    return [Line(seq, b"%d:" % seq + bytes(size)) for seq in range(first, last + 1)]


def entry(events: Sequence[Event], id: str = "s", *, new: bool = False) -> StoreEntry:
    return StoreEntry(spec(id), head(events[-1].seq if events else 0, id), events, new)


def request(id: int | str, method: str = "prompt", **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a store tells nobody that it has written
            await anyio.sleep(0.01)


async def stored(session: Session) -> None:
    """Wait until the store has all of a session."""
    await until(lambda: session.stored_seq == session.last_seq)


async def everything(session: Session, after: int = 0) -> list[Event | Lagged]:
    """All that a reader gets up to the present."""
    events: list[Event | Lagged] = []
    with anyio.fail_after(60):
        while got := await session.read(after=after):
            if isinstance(got, Lagged):
                events.append(got)
                after = got.resume_from - 1
            else:
                events += got
                after = got[-1].seq
    return events
