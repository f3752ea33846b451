"""``docker+exec://``: a worker in a container that runs already, and goes on to run.

An engine cannot end what it has started in a container so, and it lives on when its client is gone.
So the worker's process group is asked for at its start, and a guard runs beside the workers, which
signals these groups when we say so, and ends them when its connection to us does. The first worker
does not wait for it: the engine has the order to start the guard before the worker may begin, and
carries it out whatever becomes of us.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import Any, Final, Self

import anyio

from holdfast import (
    Command,
    Exit,
    Operation,
    Signal,
    TransportBroken,
    TransportUnavailable,
    Unsupported,
    WorkerNotStarted,
)

from .._guard import Guard
from .._shell import BOOTSTRAP, GUARD, PING, start_line
from ._channel import EngineChannel, told_exit
from ._created import placed
from ._engine import NATIVE, Engine, Refused
from ._frames import STDOUT, Demultiplexer, NotFramed
from ._heart import Heart
from ._http import HttpConnection, query
from ._wire import Wire

_log = logging.getLogger("holdfast.container")

_REAP: Final = 3.0
"""Seconds for a group to be killed, and the same again for the exit to be told."""

_ENDS: Final = ("exec_die", "exec_died", "die", "died", "destroy", "remove")
"""Docker's and Podman's words for the end of a process, or of the container."""

_GUARD: Final = f": holdfast-guard; exec 2>/dev/null; {GUARD.decode()}"
"""What a guard runs; who lists processes sees first what it is."""


class ExecChannel(EngineChannel):
    """A worker beside others in a container."""

    def __init__(
        self,
        engine: Engine,
        heart: Heart,
        wire: Wire,
        first: bytes,
        container: str,
        id: str,
        events: HttpConnection,
    ) -> None:
        super().__init__(engine, heart, wire, first)
        self._container = container
        self._id = id
        self._events = events
        self._guard: Guard | None = None
        self._group = 0
        self._out_of_memory = False

    @classmethod
    async def open(cls, engine: Engine, heart: Heart, guards: Guards, command: Command) -> Self:
        """Start a worker in the container.

        Raises:
            TransportUnavailable: The container does not run.
            WorkerNotStarted: There is no such command or directory in it.
        """
        settings = engine.settings
        line = start_line(placed(command, settings))
        container = await _running(engine)
        channel: Self | None = None
        try:
            channel = await cls._bootstrap(engine, heart, container)
            channel._group = await channel._until_ready()
            channel._guard = await guards.over(channel._group, container, heart)
            await channel.send(line)
            await channel._until_started(command, settings.name)
        except BaseException as error:
            if channel is not None:
                await channel.aclose()
            if isinstance(error, EOFError):
                said = channel._eof_error if channel is not None else None
                raise no_shell(settings.name, said or error) from error
            raise
        return channel

    @classmethod
    async def _bootstrap(cls, engine: Engine, heart: Heart, container: str) -> Self:
        events = await _ends(engine, container)
        try:
            id, wire, first = await execute(engine, container, BOOTSTRAP, "holdfast")
        except BaseException:
            await events.aclose()
            raise
        return cls(engine, heart, wire, first, container, id, events)

    # -- how it ends -------------------------------------------------------------------------

    async def watch(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._until_guarded)
            await super().watch()
            tasks.cancel_scope.cancel()

    async def _until_guarded(self) -> None:
        assert self._guard is not None
        try:
            await self._guard.ready()
        except TransportBroken as broken:
            if self._heart.loss is None and not self._closed:
                _log.warning(
                    "no guard could be started in %s (%s): if the engine is lost, the worker there "
                    "lives on",
                    self._engine.settings.name,
                    broken.detail,
                )

    async def _watch(self) -> None:
        rest = b""
        while self._exit is None and self._broken is None:
            try:
                if not (piece := await self._events.piece()):
                    raise ConnectionResetError("the engine ended its report of events")
            except NATIVE:
                if not await self._ask_anew():
                    return
                continue
            *lines, rest = (rest + piece).split(b"\n")
            for each in lines:
                if b'"oom"' in each:
                    self._out_of_memory = True
                if self._concerns_us(each):
                    with suppress(*NATIVE):  # the next event, or the stream's end, tells more
                        await self._look()

    def _concerns_us(self, line: bytes) -> bool:
        """Whether an event may be our worker's end."""
        try:
            attributes = json.loads(line)["Actor"]["Attributes"]
        except (ValueError, KeyError, TypeError):
            return bool(line.strip())
        return str(attributes.get("execID", self._id)) == self._id

    async def _look(self) -> bool:
        """Ask how it is; whether it is over."""
        path, seconds = f"/exec/{self._id}/json", self._engine.settings.deadline
        answer = await self._engine.call("GET", path, seconds=seconds)
        if answer.status == 404:
            self.exited(Exit(detail="its container was removed"))
        elif answer.ok:
            found: dict[str, Any] = answer.json
            if not found["Running"] and found["ExitCode"] is not None:
                exit = told_exit(int(found["ExitCode"]), killed=self._killed)
                if self._out_of_memory and exit.detail is not None:  # in it, of whatever process
                    exit = Exit(exit.code, detail=f"{exit.detail}; its container lacked memory")
                self.exited(exit)
            elif not found["Running"]:
                self.exited(Exit(detail="its container ended"))
        return self._exit is not None

    async def _ask_anew(self) -> bool:
        """The report of events was cut off; whether there is a new one."""
        await self._heart.beat()
        if self._heart.loss is not None or self._closed:
            return False
        try:
            await self._events.aclose()
            self._events = await _ends(self._engine, self._container)
            return not await self._look()
        except (*NATIVE, Refused) as error:
            self._break(self._engine.lost(Operation.WAIT, error))
            return False

    async def signal(self, signal: Signal) -> None:
        self._check_open()
        if self._exit is not None:
            return
        if self._broken is not None:
            raise self._broken.during(Operation.SIGNAL) from self._broken.__cause__
        self._killed = self._killed or signal is Signal.KILL
        await self._signal(signal)

    async def _signal(self, signal: Signal) -> None:
        assert self._guard is not None
        try:
            return await self._guard.kill(self._group, signal)
        except TransportBroken:
            await self._heart.beat()
        if self._heart.loss is not None:
            raise self._heart.loss.during(Operation.SIGNAL) from self._heart.loss.__cause__
        try:  # somebody killed the guard: what it does once can be done without it
            script = f"kill -{signal.name} -{self._group}"
            await self._engine.run(self._container, script, seconds=_REAP)
        except (*NATIVE, Refused) as error:
            lost = self._engine.lost(Operation.SIGNAL, error)
            raise lost from error

    async def _end(self) -> None:
        try:
            if self._guard is not None and self._heart.loss is None:
                self._killed = True
                with anyio.move_on_after(_REAP), suppress(TransportBroken, Unsupported):
                    await self._signal(Signal.KILL)
                    await self._guard.forget(self._group)
                known = await self._known(_REAP)
                if self._watched and not known and self._heart.loss is None:
                    _log.warning(
                        "the worker in %s was not seen to end; is the container paused?",
                        self._engine.settings.name,
                    )
        finally:
            await self._events.aclose()


async def _running(engine: Engine) -> str:
    """The id of the container, if workers can be started in it."""
    name, command = engine.settings.name, engine.kind.command
    state = await engine.container(name)
    if state is None:
        raise TransportUnavailable(
            f"{engine.where} has no container {name!r}; see: {command} ps --all"
        )
    if state.paused:
        raise TransportUnavailable(f"container {name!r} is paused: {command} unpause {name}")
    if not state.running:
        raise TransportUnavailable(f"container {name!r} does not run: {command} start {name}")
    return state.id


async def _ends(engine: Engine, container: str) -> HttpConnection:
    """The engine's report of all that ends in a container."""
    filters = {"container": [container], "event": ["oom", *_ENDS]}
    return await engine.begin("GET", query("/events", filters=filters))


async def execute(engine: Engine, container: str, *script: str) -> tuple[str, Wire, bytes]:
    """Run a script, with its name and arguments; gives its id and its streams, in frames.

    When this returns the engine starts it, even if our connection is lost.
    """
    body: dict[str, Any] = {
        "Cmd": ["sh", "-c", *script],
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
    }
    if engine.settings.user is not None:
        body["User"] = engine.settings.user
    answer = await engine.call("POST", f"/containers/{container}/exec", body)
    if not answer.ok:
        raise Refused(answer)
    id = str(answer.json["Id"])
    wire, first = await engine.upgrade(f"/exec/{id}/start", {"Detach": False, "Tty": False})
    return id, wire, first


def no_shell(container: str, error: Exception) -> WorkerNotStarted:
    """Our bootstrap did not run."""
    said = str(error)
    if "executable file not found" in said or "no such file" in said:
        return WorkerNotStarted(
            f"there is no sh in {container!r}, by which workers are started: it needs a POSIX shell"
        )
    return WorkerNotStarted(f"the sh in {container!r} ran nothing of ours: {said or 'no word'}")


class Guards:
    """The guards of one transport's workers: one for each container."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guards: dict[str, tuple[Heart, Guard, _GuardShell]] = {}
        self._one_starts = anyio.Lock()

    async def over(self, group: int, container: str, heart: Heart) -> Guard:
        """Have a process group of a container guarded.

        Its guard is a new one where there is none, or the engine is a new one; it may not run yet.
        """
        async with self._one_starts:
            if (found := self._guards.get(container)) is not None:
                _, guard, shell = found
                if found[0] is heart and not shell.finished:
                    with suppress(TransportBroken):  # a new one, then
                        await guard.watch(group)
                        return guard
                await self._end(container)
            _, wire, first = await execute(self._engine, container, _GUARD, "holdfast", str(group))
            shell = _GuardShell(wire, first, self._engine.settings.name)
            guard = Guard(shell)
            heart.on_beat.append(shell.ping)
            self._guards[container] = heart, guard, shell
            return guard

    async def aclose(self) -> None:
        """Let all guards end what they guard."""
        for container in [*self._guards]:
            await self._end(container)

    async def _end(self, container: str) -> None:
        heart, _, shell = self._guards.pop(container)
        heart.on_beat.remove(shell.ping)
        await shell.aclose()


class _GuardShell:
    """The streams of a guard."""

    def __init__(self, wire: Wire, first: bytes, where: str) -> None:
        self.where = where
        self._wire = wire
        self._frames = Demultiplexer()
        self._rest = first
        self._out = b""
        self._over = False

    @property
    def finished(self) -> bool:
        return self._over

    async def become_guard(self) -> None:
        """Nothing: it is one from the start."""

    async def send(self, data: bytes) -> None:
        try:
            await self._wire.write(data)
        except NATIVE as error:
            self._over = True
            raise TransportBroken(Operation.SIGNAL, error) from error

    async def receive(self) -> bytes:
        while not self._out and not self._over:
            try:
                data = self._rest or await self._wire.read()
                self._rest = b""
                for stream, piece in self._frames.feed(data):
                    if stream == STDOUT:
                        self._out += piece
            except (*NATIVE, NotFramed) as error:
                self._over = True
                raise TransportBroken(Operation.SIGNAL, error) from error
            self._over = not data
        out, self._out = self._out, b""
        return out

    def ping(self) -> None:
        """Tell it that we are there."""
        if not self._over:
            with suppress(*NATIVE):  # who asks it for something will find out
                self._wire.write_nowait(PING)

    async def aclose(self) -> None:
        self._over = True
        await self._wire.aclose()
