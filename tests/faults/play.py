"""Plays one schedule on a running event loop, and writes down all that can be seen of it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

import anyio
import msgspec

from holdfast import (
    CallError,
    Command,
    Delivery,
    InvalidMessage,
    Lagged,
    Limits,
    Line,
    Origin,
    Receipt,
    Registry,
    RequestId,
    Session,
    SessionBusy,
    SessionClosed,
    SessionManager,
    State,
    Status,
    StatusChanged,
    TransportUnavailable,
    WorkerLost,
    WorkerNotStarted,
)
from holdfast.testing._faults import Fault
from holdfast.testing._memory import MemoryChannel, MemoryTransport, ReadEnd, WriteEnd

from .history import Account, Asked, History, Reader
from .schedules import METHODS, Op, Plan, Schedule
from .tap import Tap, brief, tasks_living

SETTLED: Final = 120.0
"""Virtual seconds after which every start, stop and restart must be over."""

BOUND: Final = 60.0
"""Virtual seconds for each step of the end: a stop's whole ladder and its closes take less."""


REGISTRY: Final = Registry()
"""One for all runs: to make it takes as long as half of a schedule."""


_LEAVING: Final = 40.0
"""Virtual seconds for leaving a manager: two stop ladders, as a restart may be under way."""

_LEAVING_AT_ONCE: Final = 12.0
"""The same after a cancellation, which leaves out the polite steps."""


class Record(msgspec.Struct):
    """All that was seen of one run."""

    schedule: Schedule
    history: History
    channels: dict[int, MemoryChannel] = {}  # by generation


class _Watched(MemoryTransport):
    """Tells the player which generation each channel serves, and gives it a worker that knows."""

    def __init__(self, player: Player, schedule: Schedule) -> None:
        self._player = player
        super().__init__(
            player.work,
            faults=schedule.faults,
            capabilities=schedule.capabilities,
            pipe_size=schedule.pipe_size,
            takes_at_once=schedule.takes_at_once,
        )

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[MemoryChannel]:
        player, generation = self._player, self._player.session.generation
        async with super().open(command) as channel:
            player.record.channels[generation] = channel
            player.account(generation).took = channel.taken
            yield channel


class _Errors(logging.Handler):
    """Collects what core itself calls an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {_said(record.exc_info[1])}"
        self.seen.append(text)


ERRORS: Final = _Errors()


class Player:
    """One run of one schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.history = History(retains_all=schedule.retained_bytes > 1e6)
        self.record = Record(schedule, self.history)
        self.healed = False
        self.begin = 0.0
        self.session: Session
        self.tap: Tap
        self.transport = _Watched(self, schedule)
        self._due = 0
        self._done = 0
        self._lifecycle = 0
        self._changed = anyio.Event()

    # -- the whole run -----------------------------------------------------------------------

    def account(self, generation: int) -> Account:
        """The story of this generation's worker."""
        return self.history.accounts.setdefault(generation, Account(wrote=[], exact=True))

    async def play(self) -> Record:
        record, schedule, history = self.record, self.schedule, self.history
        self.begin = anyio.current_time()
        ERRORS.seen.clear()
        limits = Limits(
            retained_bytes=schedule.retained_bytes,
            max_line=schedule.max_line,
            send_timeout=schedule.send_timeout,
        )
        before, left = tasks_living(), 0.0
        try:
            with anyio.fail_after(1000):
                async with anyio.create_task_group() as tasks:
                    with anyio.CancelScope() as scope:
                        async with SessionManager(registry=REGISTRY, limits=limits) as manager:
                            self.session = manager.create(
                                self.transport, ["worker"], session_id="s", dialect=schedule.dialect
                            )
                            self.tap = Tap(self.session, history)
                            await self._begin(tasks)
                            if schedule.ending == "stop":
                                await self._live(manager)
                            else:
                                await anyio.sleep(schedule.left_at)
                                left = anyio.current_time()
                                if schedule.ending == "cancel":
                                    scope.cancel()
                    if schedule.ending != "stop":
                        self._was_left(anyio.current_time() - left)
                    await self._end(tasks)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            history.trouble.append(f"the run failed: {_said(error)}")
        if (after := tasks_living()) != before:
            history.trouble.append(f"tasks left over: {before} before, {after} after")
        for generation, channel in record.channels.items():
            if not (channel._closed and channel._gone):
                history.trouble.append(f"the channel of generation {generation} was not closed")
        history.trouble += [f"core logged an error: {text}" for text in ERRORS.seen]
        return record

    async def _begin(self, tasks: anyio.abc.TaskGroup) -> None:
        for kind, measure in self.schedule.readers:
            tasks.start_soon(getattr(self, f"_read_{kind}"), measure)
        if self.schedule.start_first:
            await self._run(Op(0.0, "start"))
        self._due = len(self.history.asked) + len(self.schedule.ops)
        for op in self.schedule.ops:
            tasks.start_soon(self._at, op)

    async def _live(self, manager: SessionManager) -> None:
        session, history = self.session, self.history
        await self._until(
            lambda: self._lifecycle == 0 and len(history.asked) == self._due,
            SETTLED,
            "a start, stop or restart did not end",
        )
        await self._until(lambda: self._done == len(history.asked), 10.0)
        await self._recover()
        with anyio.move_on_after(BOUND) as bound:
            await session.stop()
        if bound.cancelled_caught:
            history.trouble.append(f"the last stop took more than {BOUND} s")
        await self._until(
            lambda: self._done == len(history.asked),
            1.0,
            "an operation hung although the session was stopped",
        )
        if session.is_busy or session.in_flight:
            history.trouble.append(f"stopped, and in flight: {sorted(map(str, session.in_flight))}")
        with anyio.move_on_after(BOUND):
            await manager.forget("s")

    def _was_left(self, seconds: float) -> None:
        session, history = self.session, self.history
        bound = _LEAVING if self.schedule.ending == "leave" else _LEAVING_AT_ONCE
        if seconds > bound:
            history.trouble.append(f"leaving the manager took {seconds:.3f} s")
        if session.status.state is not State.STOPPED or session.in_flight:
            history.trouble.append(
                f"the manager was left, and the session is {session.status.state} with "
                f"{sorted(map(str, session.in_flight))} in flight"
            )

    async def _end(self, tasks: anyio.abc.TaskGroup) -> None:
        history = self.history
        await self._until(
            lambda: self._done == len(history.asked) >= self._due,
            3.0,
            "an operation hung although its session was closed",
        )
        await self._until(
            lambda: (
                all(reader.ended for reader in history.readers)
                and len(history.readers) == len(self.schedule.readers)
            ),
            BOUND,
            "a subscription did not end with its session",
        )
        tasks.cancel_scope.cancel()

    async def _until(
        self, condition: Callable[[], bool], seconds: float, otherwise: str | None = None
    ) -> None:
        with anyio.move_on_after(seconds):
            while not condition():
                self._changed = anyio.Event()
                await self._changed.wait()
            return
        if otherwise is not None and not condition():
            pending = [str(each) for each in self.history.asked if each.ended is None]
            self.history.trouble.append(f"{otherwise} within {seconds} s: {pending}")

    # -- recovery ----------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Faults are over: the session must work again, by a prompt alone where it can."""
        session, history = self.session, self.history
        self.healed, self.transport.faults = True, ()
        await self._until_settled()
        status = session.status
        recovers = session._dialect.recovers and (
            status.state is State.ERROR or status.reason == "process_exit"
        )
        if not recovers:
            await self._run(Op(self._now(), "restart", arg=True))
        if self.schedule.dialect == "lines":
            asked = await self._run(Op(self._now(), "notify", "last", timeout=30.0))
        else:
            method = METHODS.get(self.schedule.dialect, "ask")
            asked = await self._run(Op(self._now(), "request", "last", timeout=30.0, arg=method))
        receipt = asked.result
        if not isinstance(receipt, Receipt) or receipt.delivery is not Delivery.WRITTEN:
            history.trouble.append(f"no recovery from {status}: {receipt}")
            return
        with anyio.move_on_after(10):
            async with session.subscribe(after=0) as events:
                async for event in events:
                    if not isinstance(event, Line) or event.origin is not Origin.WORKER:
                        continue
                    if event.id == "last" or asked.mark in event.data:
                        return
        history.trouble.append("the request after the recovery was not answered by its worker")

    async def _until_settled(self) -> None:
        try:
            await self.session.wait_for(
                State.IDLE, State.BUSY, State.ERROR, State.STOPPED, timeout=SETTLED
            )
        except TimeoutError:
            self.history.trouble.append(f"the session stayed {self.session.status.state}")
        if self.session.status.state in (State.ERROR, State.STOPPED):
            await anyio.sleep(30)  # what is left of its worker goes

    # -- operations --------------------------------------------------------------------------

    def _now(self) -> float:
        return round(anyio.current_time() - self.begin, 3)

    async def _at(self, op: Op) -> None:
        await anyio.sleep(op.at)
        await self._run(op)

    async def _run(self, op: Op) -> Asked:
        asked = self._asked(op)
        self.history.asked.append(asked)
        self._changed.set()
        is_lifecycle = op.do in ("start", "stop", "restart")
        self._lifecycle += is_lifecycle
        documented: tuple[type[Exception], ...] = _RAISES.get(op.do, ())
        if self.schedule.ending != "stop":
            documented = (*documented, SessionClosed)
        try:
            act = getattr(self, f"_do_{op.do}")
            if op.cancel is None:
                asked.result = await act(op, asked)
            else:
                with anyio.move_on_after(op.cancel) as scope:
                    asked.result = await act(op, asked)
                asked.cancelled = scope.cancelled_caught
        except documented as error:
            asked.result = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            asked.result = error
            self.history.trouble.append(f"{op} raised {_said(error)}")
        finally:
            self._lifecycle -= is_lifecycle
            asked.ended = anyio.current_time()
            self._done += 1
            self._changed.set()
        asked.answered = self.tap.answers[asked.id] if asked.request else None
        return asked

    def _asked(self, op: Op) -> Asked:
        plain = self.schedule.dialect == "lines"
        sends = op.do in _SENDS and not (plain and op.do == "call")
        return Asked(
            what=str(op),
            do="send" if sends and op.do != "call" else op.do,
            id=op.id,
            request=op.do in _REQUESTS and not plain,
            mark=b"<%s>" % op.id.encode() if sends else b"",
            timeout=op.timeout,
            cancel=op.cancel,
            # The request r0 may be in flight already.
            may_be_invalid=op.do == "invalid" or op.id == "r0" or (plain and op.do == "call"),
            began=anyio.current_time(),
        )

    def _message(self, op: Op, mark: bytes, **fields: Any) -> bytes | dict[str, Any]:
        if self.schedule.dialect == "lines":
            return mark + b"." * op.size
        params = {"mark": mark.decode(), "pad": "." * op.size, "sessionId": op.id[-1:]}
        return {"jsonrpc": "2.0", **fields, "params": params}

    async def _do_request(self, op: Op, asked: Asked) -> Receipt:
        message = self._message(op, asked.mark, id=op.id, method=op.arg)
        return await self.session.send(message, timeout=op.timeout)

    async def _do_again(self, op: Op, asked: Asked) -> Receipt:
        """A request whose id may be in flight already."""
        asked.mark = b"<again %s>" % op.id.encode()
        other = msgspec.structs.replace(op, id="r0")
        asked.id, asked.may_be_invalid = other.id, True
        return await self._do_request(msgspec.structs.replace(other, arg="other"), asked)

    async def _do_cancel(self, op: Op, asked: Asked) -> Receipt:
        return await self._do_request(msgspec.structs.replace(op, arg="cancel"), asked)

    async def _do_notify(self, op: Op, asked: Asked) -> Receipt:
        return await self.session.send(
            self._message(op, asked.mark, method="note"), timeout=op.timeout
        )

    async def _do_answer(self, op: Op, asked: Asked) -> Receipt:
        """Our answer to a request of the worker, whose ids are its own."""
        asked.mark = b"<answer %s>" % op.id.encode()
        message = {"jsonrpc": "2.0", "id": "r0", "result": asked.mark.decode()}
        if self.schedule.dialect == "lines":
            return await self.session.send(asked.mark)
        return await self.session.send(message, timeout=op.timeout)

    async def _do_invalid(self, op: Op, asked: Asked) -> Receipt:
        text = b"two\nlines" if self.schedule.dialect == "lines" else b"no json \xff"
        receipt = await self.session.send(text)
        raise AssertionError(f"{text!r} was accepted: {receipt}")

    async def _do_call(self, op: Op, asked: Asked) -> Any:
        params = {"mark": asked.mark.decode(), "pad": "." * op.size, "sessionId": op.id[-1:]}
        return await self.session.call(op.arg, params, id=op.id, timeout=op.timeout)

    async def _do_start(self, op: Op, asked: Asked) -> Status:
        return await self.session.start()

    async def _do_restart(self, op: Op, asked: Asked) -> Status:
        return await self.session.restart(force=op.arg)

    async def _do_stop(self, op: Op, asked: Asked) -> Status:
        return await self.session.stop()

    async def _do_wait_for(self, op: Op, asked: Asked) -> Status:
        return await self.session.wait_for(State(op.arg), timeout=op.timeout)

    async def _do_lever(self, op: Op, asked: Asked) -> None:
        if self.transport.channels:
            self.transport.channels[-1].happen(Fault(*op.arg))

    # -- subscribers -------------------------------------------------------------------------

    def _reader(self, name: str, after: int) -> Reader:
        reader = Reader(name, after, [])
        self.history.readers.append(reader)
        return reader

    def _ended(self, reader: Reader) -> None:
        reader.ended = True
        self._changed.set()

    async def _read_early(self, _: float) -> None:
        reader = self._reader("early", 0)
        async with self.session.subscribe(after=0) as events:
            async for event in events:
                reader.events.append(event)
                if (
                    isinstance(event, StatusChanged)
                    and event.status is self.session.status
                    and event.status.state in (State.ERROR, State.STOPPED)
                    and (self.session.is_busy or self.session.in_flight)
                ):
                    self.history.trouble.append(f"who reacts to {brief(event)} finds it busy")
        self._ended(reader)

    async def _read_late(self, moment: float) -> None:
        await anyio.sleep(moment)
        from_now = moment < 0.3
        after = self.session.last_seq if from_now else int(moment * self.session.last_seq)
        reader = self._reader("late", after)
        async with self.session.subscribe(after=None if from_now else after) as events:
            async for batch in events.batches(3):
                reader.events += batch
        self._ended(reader)

    async def _read_slow(self, pause: float) -> None:
        reader = self._reader("slow", 0)
        async with self.session.subscribe() as events:
            async for event in events:
                reader.events.append(event)
                if len(reader.events) < 6:
                    await anyio.sleep(pause)
        self._ended(reader)

    async def _read_resuming(self, moment: float) -> None:
        """Reads some, leaves, and comes back with its cursor, again and again."""
        reader = self._reader("resuming", 0)
        cursor, portion = 0, 1 + int(moment * 7)
        closed = False
        while not closed:
            async with self.session.subscribe(after=cursor) as events:
                for _ in range(portion):
                    try:
                        event = await anext(events)
                    except StopAsyncIteration:
                        closed = True
                        break
                    reader.events.append(event)
                    cursor = event.resume_from - 1 if isinstance(event, Lagged) else event.seq
            if not closed:
                await anyio.sleep(moment / 10)
            portion *= 2
        self._ended(reader)

    async def _read_cancelled(self, moment: float) -> None:
        """Is cancelled while it waits, again and again, and goes on with the same subscription."""
        reader = self._reader("cancelled", 0)
        patience = 0.003 + moment / 20
        async with self.session.subscribe() as events:
            while True:
                with anyio.move_on_after(patience):
                    async for event in events:
                        reader.events.append(event)
                    break
                patience *= 4
        self._ended(reader)

    # -- the workers -------------------------------------------------------------------------

    async def work(self, stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> int:
        generation = self.session.generation
        log = self.account(generation).wrote
        plan = Plan() if self.healed else self.schedule.plan
        random = Random(f"{self.schedule.seed}/{generation}")
        framed, stamp = self.history.framed, f"@{generation:04}@"
        postponed: list[bytes] = []

        async def say(text: bytes) -> None:
            log.append(text)
            await stdout.write(framed(text))

        if plan.greeting:
            await say(_note(stamp))
        if random.random() < plan.stderr:
            await stderr.write("warming up\n")
        while (message := await self._read_message(stdin)) is not None:
            if delay := random.choice(plan.delays):
                await anyio.sleep(delay)
            if random.random() < plan.chatter:
                await say(_note(stamp))
            if random.random() < plan.odd:
                await say(random.choice((b"42", b"", b"\xff\xfe no text", b"null", b"[1]")))
            if random.random() < plan.stderr:
                await stderr.write("something\nhappened\n")
            if self.schedule.dialect == "lines":
                await say(b"%b %b" % (stamp.encode(), message))
                continue
            content = json.loads(message)
            if "id" not in content or "method" not in content:
                continue
            if random.random() < plan.mute:
                continue
            answer = _answer(content["id"], stamp, plan.size, random.random() < plan.fail)
            if random.random() < plan.postpone:
                postponed.append(answer)
                continue
            await say(answer)
            while postponed:
                await say(postponed.pop())
        if plan.linger:
            await anyio.sleep(plan.linger)
        for answer in postponed:
            await say(answer)
        return plan.code

    async def _read_message(self, stdin: ReadEnd) -> bytes | None:
        line = await stdin.readline()
        if self.schedule.dialect != "lsp" or not line:
            return line.removesuffix(b"\n") if line.endswith(b"\n") else None
        missing = int(line.split(b":")[1])
        await stdin.readline()
        body = b""
        while len(body) < missing:
            if not (piece := await stdin.read(missing - len(body))):
                return None
            body += piece
        return body


_REQUESTS: Final = frozenset({"request", "call", "again", "cancel"})
_SENDS: Final = _REQUESTS | {"notify", "answer"}
_STARTS: Final = (TransportUnavailable, WorkerNotStarted)
_RAISES: Final[dict[str, tuple[type[Exception], ...]]] = {
    "again": (InvalidMessage,),
    "cancel": (InvalidMessage,),
    "invalid": (InvalidMessage,),
    "call": (CallError, WorkerLost, TimeoutError, InvalidMessage),
    "request": (InvalidMessage,),
    "start": _STARTS,
    "restart": (*_STARTS, SessionBusy),
    "wait_for": (TimeoutError,),
}


def _note(stamp: str) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "method": "tick", "params": stamp})


def _answer(id: RequestId, stamp: str, size: int, failed: bool) -> bytes:
    if failed:
        content: dict[str, Any] = {"error": {"code": 1, "message": stamp}}
    else:
        content = {"result": stamp + "." * size}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": id, **content})


def _said(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_said(each) for each in error.exceptions)
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in reversed(frames))
    return f"{error!r} ({where})"


__all__ = ["ERRORS", "Player", "Record"]
