"""Sessions of a manager with a store: what is recorded, what is read back, what is resumed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from holdfast import (
    Cause,
    Dialect,
    Durability,
    Event,
    Fate,
    Lagged,
    Limits,
    Line,
    Origin,
    Reason,
    Registry,
    Session,
    SessionManager,
    State,
    StatusChanged,
    Store,
    StoredSession,
    StoreEntry,
    StoreError,
    StoreUnavailable,
    TransportSpec,
    WorkerNotStarted,
    hookimpl,
)
from holdfast._recorder import SKIP
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


async def take_all(store: FakeStore, session: Session) -> anyio.Event:
    """Let events come, and have all of them on their way into the store until the event is set."""
    track = session._track
    assert track is not None
    store.gate = first = anyio.Event()
    await session.call("flood", {"flood": 50})
    store.gate = second = anyio.Event()
    first.set()
    await until(lambda: track.taken == session.last_seq)
    return second


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


async def test_without_a_store_nothing_is_durable() -> None:
    """A manager without a store restores nothing, and its sessions say where they are."""
    async with SessionManager() as manager:
        assert await manager.restore() == []
        session = await manager.start(worker(), ["w"], record={"a": 1})
        assert (session.durability, session.durability_detail) == (Durability.MEMORY, None)
        assert (session.first_seq, session.stored_seq) == (1, 0)
        assert await session.read() == await everything(session)
        assert await session.read(after=session.last_seq) == ()
        with pytest.raises(ValueError, match="0 or more"):
            await session.read(after=-1)
    assert session.spec.record == {"a": 1}


async def test_a_record_is_json() -> None:
    """What cannot be kept as JSON is refused where it is handed in."""
    async with SessionManager() as manager:
        with pytest.raises(ValueError, match="record holds what JSON can"):
            manager.create(worker(), ["w"], record={"a": object()})
        assert not manager.sessions


def cut_off(store: FakeStore) -> FakeStore:
    """What the next program finds if this one ends now, without a word."""
    found = FakeStore()
    found.kept = dict(store.kept)
    found.events = {id: list(events) for id, events in store.events.items()}
    return found


async def test_an_abandoned_session_is_an_error_and_its_requests_are_answered() -> None:
    """Where a program died, each open request is answered once, then the loss is announced."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"], session_id="s", dialect="kimi-wire")
        await session.call("prompt", id="answered")
        await session.send(request("open", "silent"))
        await session.send(request(2**70, "prompt"))
        await session.wait_for(State.IDLE)
        await session.send(request("busy", "silent"))
        await stored(session)
        left = cut_off(store)
        seen = await everything(session)
    store = left
    async with SessionManager(store=store) as manager:
        (again,) = await manager.restore()
        status = again.status
        assert (status.state, status.reason) == (State.ERROR, Reason.STDIN_BROKEN)
        assert (status.cause, status.worker) == (Cause.LINK_LOST, Fate.MAYBE_ALIVE)
        assert again.in_flight == frozenset()
        events = await everything(again)
        assert events[: len(seen)] == seen
        gap, *given = events[len(seen) :]
        assert gap == Lagged(len(seen) + SKIP + 1)
        *answers, last = given
        assert [(each.id, each.origin) for each in answers if isinstance(each, Line)] == [
            ("open", Origin.HOLDFAST),
            ("busy", Origin.HOLDFAST),
        ]
        assert len(answers) == 2
        assert last == StatusChanged(status.seq, status)
        await stored(again)
    async with SessionManager(store=store) as manager:
        (third,) = await manager.restore()
        assert third.status == status.__class__(
            *(getattr(third.status, name) for name in status.__struct_fields__)
        )
        assert (third.status.state, third.status.reason) == (State.STOPPED, Reason.STOP)
        assert (await everything(third))[: len(events)] == events, "and nothing is answered twice"


async def test_a_store_that_knows_what_was_shown_leaves_out_no_more() -> None:
    """Seqs go on right behind the last event that anybody can have seen."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"], session_id="s")
        await stored(session)
        left = cut_off(store)
        last = session.last_seq
    left.kept["s"] = StoredSession(left.kept["s"].spec, left.kept["s"].head, last)
    async with SessionManager(store=left) as manager:
        (again,) = await manager.restore()
        assert again.status.seq == last + 1
        assert Lagged not in {type(each) for each in await everything(again)}


async def test_a_store_hears_of_each_event_at_once() -> None:
    """``shown`` is called before a reader can have the event, and again once a session is kept."""
    shown: list[tuple[str, int]] = []

    class Listening(FakeStore):
        def shown(self, session_id: str, seq: int) -> None:
            shown.append((session_id, seq))

    store = Listening()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"], session_id="s")
        async with session.subscribe(after=session.last_seq) as events:
            await session.send(request(1))
            event = await anext(events)
            assert isinstance(event, Event)
            assert any(seq >= event.seq for _, seq in shown)
        await stored(session)
        second = await take_all(store, session)
        shown.clear()
        second.set()
        await stored(session)
        assert shown[0] == ("s", session.last_seq)


async def test_values_of_environment_variables_are_not_kept() -> None:
    """Only names reach the store, and a session that had any refuses to start, naming them."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        env = {"API_KEY": "canary-in-the-mine", "MODE": "x"}
        session = manager.create("local:", ["cat"], session_id="s", env=env)
        assert session.command.env == env
        assert session.spec.env == ("API_KEY", "MODE")
        await until(lambda: "s" in store.kept)
    assert b"canary" not in store.kept["s"].spec.pack() + store.kept["s"].head.pack()
    async with SessionManager(store=store) as manager:
        (again,) = await manager.restore()
        with pytest.raises(WorkerNotStarted, match=r"API_KEY, MODE"):
            await again.start()
        status = again.status
        assert (status.state, status.reason) == (State.ERROR, Reason.INITIALIZATION_FAILED)
        assert status.detail is not None
        assert "API_KEY, MODE" in status.detail


@pytest.mark.parametrize("what", ["transport object", "scheme", "dialect"])
async def test_what_cannot_be_had_again_is_listed_and_refuses_to_start(what: str) -> None:
    """A session whose transport or dialect is gone can be seen and read, and says why it rests."""
    store = FakeStore()
    registry = Registry(entry_points=[])
    target: str | MemoryTransport = worker()
    if what == "scheme":
        registry.register(Lending(), "lending")
        target = "lent:"
    own = Dialect("own", "of this program")
    async with SessionManager(store=store, registry=registry) as manager:
        dialect = own if what == "dialect" else "jsonrpc"
        session = await manager.start(target, ["w"], session_id="s", dialect=dialect)
        await session.call("prompt")
    async with SessionManager(store=store, registry=Registry(entry_points=[])) as manager:
        (again,) = await manager.restore()
        assert await everything(again) == await everything(session)
        assert again.dialect == session.dialect
        expected = {"transport object": "create", "scheme": "'lent'", "dialect": "'own'|create"}
        with pytest.raises(WorkerNotStarted, match=expected[what]):
            await again.start()


class Lending:
    """A plugin with a transport."""

    @hookimpl
    def holdfast_transports(self) -> list[TransportSpec]:
        return [TransportSpec("lent", lambda target: worker(), "lent", "lent:")]


async def test_a_failing_store_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it fails sessions go on in memory; then it gets all that came meanwhile."""
    monkeypatch.setattr("holdfast._recorder._RETRY", 0.01)
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"])
        await stored(session)
        for failure in (StoreUnavailable("the disk is full"), StoreError("stolen")):
            store.failure = failure
            await session.call("prompt")
            await until(lambda: session.durability is Durability.MEMORY)
            assert session.durability_detail == str(store.failure)
            await session.call("flood", {"flood": 100})
            assert session.stored_seq < session.last_seq
            store.failure = None
            await stored(session)
            assert (session.durability, session.durability_detail) == (Durability.DURABLE, None)
        assert store.events[session.id] == await everything(session)


async def test_a_store_that_breaks_its_contract_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a store raises is told and logged, once, with its traceback; sessions go on."""
    monkeypatch.setattr("holdfast._recorder._RETRY", 0.01)
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"])
        await stored(session)
        store.failure = ZeroDivisionError("oh")  # type: ignore[assignment]
        await session.call("prompt")
        await until(lambda: session.durability is Durability.MEMORY)
        assert session.durability_detail == "ZeroDivisionError: oh"
        await session.call("prompt")
        store.failure = None
        await stored(session)
    (record,) = [each for each in caplog.records if "memory alone" in each.getMessage()]
    assert record.exc_info


async def test_a_store_that_cannot_be_opened_yet() -> None:
    """A manager is entered all the same; a store that must not be used is an error there."""
    store = FakeStore()
    store.failure = StoreUnavailable("read-only")
    async with SessionManager(store=store) as manager:
        assert await manager.restore() == []
        session = await manager.start(worker(), ["w"])
        assert (session.durability, session.durability_detail) == (Durability.MEMORY, "read-only")
        store.failure = None
        await stored(session)
        assert session.durability is Durability.DURABLE
    store.failure = StoreError("in use by another program")
    with pytest.raises(StoreError, match="in use"):
        async with SessionManager(store=store):
            pass


async def test_nobody_waits_for_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs delays neither sessions nor readers, and leaving only within a bound."""
    monkeypatch.setattr("holdfast._recorder._FAREWELL", 0.2)
    store = FakeStore()
    with anyio.fail_after(20):
        async with SessionManager(store=store) as manager:
            session = await manager.start(worker(), ["w"])
            await stored(session)
            store.gate = anyio.Event()
            for _ in range(20):
                await session.call("flood", {"flood": 50})
            assert len(await everything(session)) == session.last_seq
            await manager.forget(session.id)
            await (await manager.start(worker(), ["w"])).call("prompt")
    assert not store.is_open


async def test_a_reader_waits_for_events_on_their_way_into_the_store() -> None:
    """An event that memory dropped while it is being written is read once it is written."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        limits = Limits(retained_bytes=2000)
        session = await manager.start(worker(), ["w"], limits=limits)
        await session.call("flood", {"flood": 50})
        await stored(session)
        second = await take_all(store, session)
        session._journal.release(session.last_seq)  # as if others had pressed it out of memory
        assert isinstance(session._journal.read(session.stored_seq, 1), Lagged)
        async with anyio.create_task_group() as tasks:
            got: list[Event | Lagged] = []

            async def read() -> None:
                got.extend(await everything(session))

            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            assert got == []
            second.set()
        assert [each.seq for each in got if isinstance(each, Event)] == [
            *range(1, session.last_seq + 1)
        ]


async def test_a_gap_is_told_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What neither memory nor the store could hold is named, and nobody reads across it unaware."""
    monkeypatch.setattr("holdfast._recorder._RETRY", 0.01)
    monkeypatch.setattr("holdfast._session.BACKLOG_BYTES", 5000)
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"], limits=Limits(retained_bytes=5000))
        await stored(session)
        last = session.stored_seq
        store.failure = StoreUnavailable("full")
        await session.send(request("open", "silent"))
        await session.call("flood", {"flood": 200})
        await until(lambda: session.durability is Durability.MEMORY)
        first = session._journal.first_seq
        store.failure = None
        await stored(session)
        assert session.durability is Durability.DURABLE
        assert session.durability_detail == f"events {last + 1} to {first - 1} are not kept"
        got = await everything(session)
        assert got[last] == Lagged(first)
        seqs = [each.seq for each in got if isinstance(each, Event)]
        assert seqs == [*range(1, last + 1), *range(first, session.last_seq + 1)]
        assert store.kept[session.id].head.in_flight == ("open",), "though its Sent is lost"


async def test_a_forgotten_session_leaves_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """``forget`` takes it out at once, or as soon as the store works again."""
    monkeypatch.setattr("holdfast._recorder._RETRY", 0.01)
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        for name in ("a", "b", "c"):
            await manager.start(worker(), ["w"], session_id=name)
        await manager.forget("a")
        assert store.kept.keys() == {"b", "c"}
        store.failure = StoreUnavailable("full")
        await manager.forget("b")
        assert "b" in store.kept
        store.failure = None
        await until(lambda: store.kept.keys() == {"c"})
        again = await manager.start(worker(), ["w"], session_id="a")
        await stored(again)
        assert store.events["a"] == await everything(again)


async def test_seqs_are_left_out_if_the_store_cannot_note_that_they_are_in_use() -> None:
    """A session that cannot be marked as in use again goes on where no confusion can come from."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        session = await manager.start(worker(), ["w"], session_id="s")
    async with SessionManager(store=store) as manager:
        real = store.write

        async def fail(entries: Sequence[StoreEntry]) -> None:
            raise StoreUnavailable("full")

        store.write = fail  # type: ignore[method-assign]
        (again,) = await manager.restore()
        assert again.last_seq == session.last_seq + SKIP
        store.write = real  # type: ignore[method-assign]
        await until(lambda: not store.kept["s"].head.clean)
        manager.create(worker(), ["w"])
        assert again.status.seq == session.last_seq


async def test_many_sessions_share_a_write() -> None:
    """What comes while a write is under way is one group for the store."""
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        sessions = [await manager.start(worker(), ["w"]) for _ in range(50)]
        for session in sessions:
            await stored(session)
        before = store.writes
        async with anyio.create_task_group() as calls:
            for session in sessions:
                calls.start_soon(session.call, "flood", {"flood": 20})
        for session in sessions:
            await stored(session)
        assert store.writes - before < 200


async def test_a_few_events_wait_for_others_to_share_their_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came during a write is not written at once, but with what comes in a short time."""
    monkeypatch.setattr("holdfast._recorder._LINGER", 3600)
    store = FakeStore()
    async with SessionManager(store=store) as manager:
        store.gate = anyio.Event()
        session = await manager.start(worker(), ["w"])
        await session.call("prompt")
        store.gate.set()
        await until(lambda: store.writes > 0)
        await session.call("prompt")
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert store.writes == 1
