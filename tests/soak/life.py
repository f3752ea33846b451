"""One session's life in the soak: clients, subscribers, and a fate, all drawn from a seed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
from tests.faults.history import Deed, History, Reader, names_itself, read_account
from tests.faults.tap import Tap, brief, follow

from holdfast import (
    CallError,
    Cause,
    Delivery,
    Event,
    Fate,
    Lagged,
    Limits,
    Receipt,
    SessionBusy,
    SessionManager,
    State,
    StatusChanged,
    TransportUnavailable,
    WorkerLost,
    WorkerNotStarted,
)

from .body import Body
from .places import Place

DIALECTS = ("kimi-wire", "kimi-wire", "jsonrpc", "jsonrpc", "jsonrpc", "mcp", "acp", "lines")
METHODS = {"kimi-wire": "prompt", "acp": "session/prompt"}

LIMITS = Limits(
    retained_bytes=2 * 1024 * 1024,
    max_line=512 * 1024,
    eof_grace=1.0,
    term_grace=1.0,
)
"""The journal forgets, lines are dropped, and workers that do not end are soon told to."""

RECOVER = 90.0
"""Seconds for a session to work again once all faults are over, on a busy machine too."""

GONE = 45.0
"""Seconds for workers to be gone: an SSH host ends them 3 s after it knows of the link's end."""

KNOWN = 3.0
"""Seconds after which nobody may call a worker alive that was killed."""


class Life:
    """One session, from its making to the last rule held against its history.

    Args:
        manager: Who runs it.
        place: Where.
        name: Its id.
        seed: What all is drawn from.
        folder: Where its workers write down their accounts.
        done: Where faults are counted, by kind.
    """

    def __init__(
        self,
        manager: SessionManager,
        place: Place,
        name: str,
        seed: str,
        folder: Path,
        done: Counter[str],
    ) -> None:
        self.place = place
        self.folder = folder
        self.random = Random(seed)
        self.dialect = self.random.choice(DIALECTS)
        self.method = METHODS.get(self.dialect, "ask")
        self.history = History(
            log=[],
            deeds=[],
            retains_all=False,
            reports_exit=place.reports_exit,
            patience=15.0,
            slack=90.0,
        )
        self.session = manager.create(
            place.target(folder),
            place.command(folder),
            session_id=name,
            dialect=self.dialect,
            limits=LIMITS,
        )
        self._manager = manager
        self._done = done
        self._names: dict[str, int] = {}  # of accounts, with the generations that wrote them
        self._bodies: dict[int, Body] = {}
        self._ids = 0
        self._over = False
        self._forgotten = anyio.Event()
        tap = Tap(self.session, self.history, told=self._told, marked=True)
        follow(self.session, tap)

    # -- the whole life ----------------------------------------------------------------------

    async def live(self, seconds: float) -> None:
        """Clients, subscribers and fate, until the time is over."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._client, Random(self.random.random()))
            tasks.start_soon(self._client, Random(self.random.random()))
            with anyio.move_on_after(seconds):
                await self._fate(Random(self.random.random()))
            self._over = True

    def watch(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start the subscribers; they end when the session is forgotten."""
        for read in (self._read_all, self._read_slowly, self._read_never, self._read_in_parts):
            tasks.start_soon(read)

    async def recover(self) -> None:
        """All faults are over: it works again, by the next prompt or a restart; then it ends."""
        for body in self._bodies.values():
            body.send(signal.SIGCONT)
        session, trouble = self.session, self.history.trouble
        failure: object = None
        with anyio.move_on_after(RECOVER):
            while not await self._works():
                failure = session.status
                await anyio.sleep(0.2)
            failure = None
        if failure is not None:
            trouble.append(f"no recovery within {RECOVER:g} s: {failure}")
        with anyio.move_on_after(RECOVER) as bound:
            await session.stop()
        if bound.cancelled_caught:
            trouble.append(f"the last stop took more than {RECOVER:g} s")
        if session.is_busy or session.in_flight:
            trouble.append(f"stopped, and in flight: {sorted(map(str, session.in_flight))}")
        await self._manager.forget(session.id)
        self._forgotten.set()

    async def _works(self) -> bool:
        session = self.session
        try:
            if session.status.state in (State.STOPPED, State.IDLE, State.BUSY) or not (
                session._dialect.recovers
            ):
                await session.restart(force=True)
            if self.dialect == "lines":
                return (await session.send(self._message("echo"), timeout=20)).delivery == "written"
            await session.call(self.method, self._params("echo", echo=1), timeout=20)
        except (TransportUnavailable, WorkerNotStarted, WorkerLost, CallError, TimeoutError):
            return False
        return True

    async def collect(self) -> History:
        """The whole history, with the workers' accounts, once they are gone."""
        deadline = time.monotonic() + GONE
        # Nobody tells of the end of another machine's processes.
        left = self.place.processes(self.folder)
        while left and time.monotonic() < deadline:
            await anyio.sleep(0.05)
            left = self.place.processes(self.folder)
        history = self.history
        history.trouble += [f"left over: process {pid}: {text}" for pid, text in left.items()]
        for pid in left:  # the next round is to find its own only
            os.kill(pid, signal.SIGKILL)
        history.accounts, history.strangers = {}, []
        for path in sorted(self.folder.iterdir()):
            account = read_account(path)
            generation = self._names.get(account.name)
            if generation is None:
                history.strangers.append(account)
            elif generation in history.accounts:
                history.trouble.append(f"two workers in generation {generation}")
            else:
                history.accounts[generation] = account
        for body in self._bodies.values():
            body.close()
        self.place.end_session(self.folder)
        return history

    # -- what the tap tells ------------------------------------------------------------------

    def _told(self, event: Event, generation: int) -> None:
        if (name := names_itself(event)) is not None:
            self._names[name] = generation
            pid = self.place.process(self.folder, int(name.partition("-")[0]))
            self._bodies[generation] = Body(pid, self.folder)
        elif isinstance(event, StatusChanged):
            self._judge(event)

    def _judge(self, event: StatusChanged) -> None:
        """What is said of a worker, against its process."""
        status = event.status
        body = self._bodies.get(int((status.worker_id or "/0").rpartition("/")[2]))
        if body is None or body.fd < 0:
            return
        if status.worker is Fate.GONE and body.lives:
            self.history.trouble.append(f"{brief(event)}: gone, and process {body.pid} lives")
        elif status.worker is Fate.ALIVE and time.monotonic() > body.killed + KNOWN:
            self.history.trouble.append(f"{brief(event)}: alive, and {body.pid} was killed")

    # -- clients -----------------------------------------------------------------------------

    async def _client(self, random: Random) -> None:
        while not self._over:
            await anyio.sleep(random.choice((0, 0, 0.001, 0.02, 0.1, 0.4)))
            # What became of it stands in the journal, where the rules look at it.
            with suppress(WorkerLost, CallError, TimeoutError):
                await self._ask(random)

    async def _ask(self, random: Random) -> None:
        session, timeout = self.session, random.choice((0.3, 2.0, 10.0))
        size = random.choice((0, 0, 0, 0, 50, 5000, 100_000))
        do = random.choices(
            ("echo", "chatter", "fail", "hold", "release", "slow"), (60, 8, 8, 4, 12, 4)
        )[0]
        given = {"pad": "." * size, "count": random.randrange(30), "seconds": random.random() / 3}
        match random.choices(("call", "send", "notify", "cancelled"), (50, 25, 15, 10))[0]:
            case "call" if self.dialect != "lines":
                if session.status.state in (State.STOPPED, State.RESTARTING):
                    timeout = 10.0
                await session.call(self.method, self._params(do, **given), timeout=timeout)
            case "notify":
                await self._send(self._message("chatter", id=False, **given), timeout)
            case "cancelled":
                with anyio.move_on_after(random.choice((0, 0.0005, 0.01, 0.2))):
                    await self._send(self._message(do, **given), timeout)
            case _:
                await self._send(self._message(do, **given), timeout)

    async def _send(self, message: dict[str, Any], timeout: float) -> Receipt:
        """Send, and note it where our patience ended with a part of the message written."""
        generation, began = self.session.generation, time.monotonic()
        receipt = await self.session.send(message, timeout=timeout)
        if receipt.delivery is Delivery.UNKNOWN and time.monotonic() - began >= timeout:
            self.note("an impatient send", first=generation, causes=frozenset({Cause.STUCK}))
        return receipt

    def _params(self, do: str, **given: Any) -> dict[str, Any]:
        self._ids += 1
        return {"do": do, "mark": f"<m{self._ids}>", "sessionId": "one", **given}

    def _message(self, do: str, *, id: bool = True, **given: Any) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "method": self.method, "params": self._params(do, **given)}
        if id:
            message["id"] = self._ids if self._ids % 2 else f"n{self._ids}"
        return message

    # -- subscribers -------------------------------------------------------------------------

    def _reader(self, name: str) -> Reader:
        reader = Reader(name, 0, [])
        self.history.readers.append(reader)
        return reader

    async def _read_all(self) -> None:
        reader = self._reader("all")
        async with self.session.subscribe() as events:
            async for batch in events.batches():
                reader.events += batch
        reader.ended = True

    async def _read_slowly(self) -> None:
        reader, random = self._reader("slow"), Random(self.random.random())
        async with self.session.subscribe() as events:
            async for event in events:
                reader.events.append(event)
                if not self._over:
                    await anyio.sleep(random.random() / 20)
        reader.ended = True

    async def _read_never(self) -> None:
        """A client that hangs, and looks at its events only when all is over."""
        reader = self._reader("never")
        async with self.session.subscribe() as events:
            await self._forgotten.wait()
            async for batch in events.batches():
                reader.events += batch
        reader.ended = True

    async def _read_in_parts(self) -> None:
        """Is cancelled again and again, and comes back with its cursor."""
        reader, random, cursor = self._reader("parts"), Random(self.random.random()), 0
        while not reader.ended:
            async with self.session.subscribe(after=cursor) as events:
                with anyio.move_on_after(random.random() / 4):
                    async for event in events:
                        reader.events.append(event)
                        cursor = event.resume_from - 1 if isinstance(event, Lagged) else event.seq
                    reader.ended = True
            await anyio.lowlevel.checkpoint()

    # -- fate --------------------------------------------------------------------------------

    async def _fate(self, random: Random) -> None:
        await self._lifecycle("start")
        while True:
            await anyio.sleep(random.choice((0.0, 0.02, 0.1, 0.3, 0.6, 1.0)))
            what = random.choices(tuple(_FATES), tuple(_FATES.values()))[0]
            if what in ("close_stdin", "grandchild", "kill_group") and not self.place.reaps:
                continue
            if what == "recover":
                await self._mend()
            elif what in ("restart", "force", "stop"):
                self._done[what] += 1
                await self._lifecycle(what)
            elif what in ("kill", "kill_group", "freeze"):
                await self._hurt(what, random)
            else:
                await self._tell(what, random)

    async def _mend(self) -> None:
        """Restart what no prompt brings back."""
        session = self.session
        if session.status.state is State.STOPPED or (
            session.status.state is State.ERROR and not session._dialect.recovers
        ):
            await self._lifecycle("restart")

    async def _lifecycle(self, what: str) -> None:
        session = self.session
        try:
            if what == "stop":
                await session.stop()
            elif what == "start":
                await session.start()
            else:
                await session.restart(force=what == "force")
        except (SessionBusy, TransportUnavailable, WorkerNotStarted):
            pass  # said in the journal, too

    def note(self, what: str, **named: Any) -> Deed:
        """Put a fault on the list, for the worker that there is now."""
        generation = self.session.generation
        deed = Deed(what, named.pop("first", generation), generation, **named)
        assert self.history.deeds is not None
        self.history.deeds.append(deed)
        return deed

    @property
    def _over_causes(self) -> frozenset[Cause]:
        """What may be said where a worker is over."""
        if self.place.reports_exit:
            return frozenset({Cause.WORKER_EXITED})
        return self.place.link_causes

    async def _hurt(self, what: str, random: Random) -> None:
        """Do something to the worker's process."""
        generation = self.session.generation
        body = self._bodies.get(generation)
        if body is None:
            return
        if what == "freeze":
            if body.send(signal.SIGSTOP):
                self._done[what] += 1
                deed = self.note("SIGSTOP", causes=self._stuck_causes)
                await anyio.sleep(random.choice((0.1, 1.0, 3.0)))
                body.send(signal.SIGCONT)
                deed.last = self.session.generation
            return
        hit = body.send if what == "kill" else body.send_group
        if hit(signal.SIGKILL):
            self._done[what] += 1
            unnamed = what == "kill_group" and not self.place.names_group_kill
            self.note(
                what,
                first=generation,
                ends=True,
                causes=self._over_causes | ({Cause.UNKNOWN} if unnamed else set()),
                exits=frozenset({"SIGKILL"}),
                unnamed=unnamed,
            )

    @property
    def _stuck_causes(self) -> frozenset[Cause]:
        """What may be said of a worker that holds still, apart from impatient sends."""
        return frozenset() if self.place.reports_exit else self.place.link_causes

    async def _tell(self, what: str, random: Random) -> None:
        """Let the worker do something to itself."""
        code = random.choice((0, 1, 3, 7))
        size = random.choice((70_000, 300_000, 700_000, 2_000_000))
        given: dict[str, Any] = {"code": code, "size": size, "count": random.randrange(2000)}
        deed = None
        if what in ("exit", "half", "grandchild"):
            deed = self.note(what, causes=self._over_causes, exits=frozenset({str(code)}))
        elif what == "close_stdin":
            deed = self.note(what, causes=frozenset({Cause.STDIN_CLOSED}))
        elif what == "close_stdout":
            causes = frozenset({Cause.UNKNOWN, Cause.WORKER_EXITED}) | self._stuck_causes
            deed = self.note(what, causes=causes, exits=frozenset({"0"}))
        message = self._message(what, id=what == "long_answer", **given)
        receipt = await self._send(message, random.choice((1.0, 5.0)))
        if receipt.delivery is not Delivery.REFUSED:
            self._done[what] += 1
        elif deed is not None:
            assert self.history.deeds is not None
            self.history.deeds.remove(deed)  # the worker does not know of it


_FATES = {
    "kill": 10,
    "kill_group": 5,
    "freeze": 6,
    "exit": 5,
    "half": 3,
    "grandchild": 2,
    "close_stdin": 3,
    "close_stdout": 3,
    "flood": 6,
    "garbage": 6,
    "huge": 6,
    "long_answer": 4,
    "chatter": 6,
    "restart": 5,
    "force": 5,
    "stop": 5,
    "recover": 20,
}
