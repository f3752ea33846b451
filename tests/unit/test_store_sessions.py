"""Sessions of a manager with a store: what is recorded, what is read back, what is resumed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from holdfast import (
    Durability,
    Event,
    Lagged,
    Limits,
    Reason,
    Session,
    SessionManager,
    State,
    Store,
    StoredSession,
    StoreEntry,
    StoreError,
)
from holdfast.testing import MemoryTransport
from holdfast.testing._memory_ends import ReadEnd, WriteEnd

pytestmark = pytest.mark.anyio


class FakeStore(Store):
    """A store in memory that several managers may use in turn, and that fails when it is told to.

    It is as strict as the contract lets it be.
    """

    def __init__(self) -> None:
        self.kept: dict[str, StoredSession] = {}
        self.events: dict[str, list[Event]] = {}
        self.failure: StoreError | None = None
        self.is_open = False
        self.writes = 0
        self.reads = 0
        self.gate: anyio.Event | None = None
        self._at_work = False

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        assert not self._at_work, "one call at a time"
        self._at_work = True
        try:
            await anyio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            yield
        finally:
            self._at_work = False

    async def open(self) -> None:
        assert not self.is_open
        async with self._alone():
            self.is_open = True

    async def sessions(self) -> Sequence[StoredSession]:
        assert self.is_open
        async with self._alone():
            return list(self.kept.values())

    async def write(self, entries: Sequence[StoreEntry]) -> None:
        assert self.is_open
        async with self._alone():
            self.writes += 1
            for entry in entries:
                if entry.new:
                    self.events[entry.spec.id] = []
                self.kept[entry.spec.id] = StoredSession(entry.spec, entry.head)
                log = self.events.setdefault(entry.spec.id, [])
                for event in entry.events:
                    if log and event.seq <= log[-1].seq:
                        assert event == log[event.seq - log[-1].seq - 1], "kept already"
                    else:
                        log.append(event)

    async def read(self, session_id: str, after: int, at_most: int) -> Sequence[Event] | Lagged:
        assert self.is_open
        await anyio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.reads += 1
        found: list[Event] = []
        for event in self.events.get(session_id, ()):
            if event.seq > after + len(found) + 1:
                return found or Lagged(event.seq)
            if event.seq > after:
                found.append(event)
            if len(found) == at_most:
                break
        return found

    def first_seq(self, session_id: str) -> int | None:
        log = self.events.get(session_id)
        return log[0].seq if log else None

    async def remove(self, session_id: str) -> None:
        assert self.is_open
        async with self._alone():
            self.kept.pop(session_id, None)
            self.events.pop(session_id, None)

    async def close(self) -> None:
        self.is_open = False


async def echo(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
    """Answers ``{"id": N, ...}``; ``silent`` gets none, ``flood`` that many notifications first."""
    rest = b""
    while data := await stdin.read(65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["method"] == "silent":
                continue
            for n in range(message["params"]["flood"] if message["method"] == "flood" else 0):
                await stdout.write(b'{"method":"n","params":%d}\n' % n)
            await stdout.write(b'{"id":%s,"result":{}}\n' % json.dumps(message["id"]).encode())


def worker() -> MemoryTransport:
    return MemoryTransport(echo)


def request(id: int | str, method: str = "prompt", **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - the store tells nobody that it has written
            await anyio.sleep(0.01)


async def stored(session: Session) -> None:
    """Wait until the store has all of a session."""
    await until(lambda: session.stored_seq == session.last_seq)


async def everything(session: Session) -> list[Event | Lagged]:
    events: list[Event | Lagged] = []
    with anyio.fail_after(20):
        async with session.subscribe() as subscription:
            while (
                not events
                or not isinstance(last := events[-1], Event)
                or (last.seq < session.last_seq)
            ):
                events.append(await anext(subscription))
    return events


async def test_what_is_recorded_comes_back() -> None:
    """A manager that is left properly leaves everything to the next one."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        first = await manager.start(
            worker(), ["w"], session_id="s", record={"name": "build"}, limits=Limits(max_line=99)
        )
        await first.call("prompt")
        await first.restart()
        assert first.durability is Durability.DURABLE
    assert not store.is_open
    before = await everything(first)
    async with SessionManager(store=store) as manager:
        (again,) = await manager.restore()
        assert manager.get("s") is again
        assert again.status == first.status
        assert (again.status.state, again.status.reason) == (State.STOPPED, Reason.STOP)
        assert (again.last_seq, again.generation) == (first.last_seq, 2)
        assert again.spec == first.spec
        assert again.spec.record == {"name": "build"}
        assert again.limits.max_line == 99
        assert again.first_seq == 1
        assert await everything(again) == before
