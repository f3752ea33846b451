"""``docker://``: a container made for one worker, and removed with it.

Its main process is a shell of a few lines, which reads what to run from its stdin, starts the
worker and waits for it: the kernel shields a main process from signals that it does not handle,
which a worker has to feel. The shell holds none of the worker's streams. A signal goes to all
processes of the container but that shell, by a second, short-lived process in it; SIGKILL goes by
the engine.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any, Final, Self

import anyio

from holdfast import (
    Command,
    Exit,
    Operation,
    Signal,
    TransportUnavailable,
    WorkerNotStarted,
)

from .._shell import BOOTSTRAP, start_line
from ._channel import EngineChannel, told_exit
from ._engine import NATIVE, Engine, Refused, State
from ._heart import Heart
from ._http import Answer, BadAnswer, HttpConnection, query
from ._owner import LABEL, SESSION, this_process
from ._settings import Pull, Settings
from ._wire import Wire

_log = logging.getLogger("holdfast.container")

_TOLD: Final = 2.0
"""Seconds for the engine to tell the exit of a container that is no more."""

_SIGNAL: Final = 5.0
"""Seconds for a signal to be delivered by a process that the engine has to start first."""

_HOSTS: Final = (
    "{ [ -s /etc/hosts ] || printf '%s\\tlocalhost\\n' 127.0.0.1 ::1 >/etc/hosts; } 2>/dev/null; "
)
"""What an engine that sets up no network does not do."""

_NO_SHELL: Final = ("executable file not found", "no such file or directory", "not found in $PATH")


class CreatedChannel(EngineChannel):
    """A worker in a container of its own."""

    def __init__(
        self,
        engine: Engine,
        heart: Heart,
        wire: Wire,
        first: bytes,
        container: str,
        waiting: HttpConnection,
    ) -> None:
        super().__init__(engine, heart, wire, first)
        self._container = container
        self._waiting = waiting

    @classmethod
    async def open(cls, engine: Engine, heart: Heart, command: Command) -> Self:
        """Make a container, and start the worker in it.

        Raises:
            TransportUnavailable: The engine does not do it.
            WorkerNotStarted: There is no such command or directory in it.
        """
        settings = engine.settings
        line = start_line(placed(command, settings), keep_shell=True)
        session = uuid.uuid4().hex
        name = settings.container or f"holdfast-{session[:12]}"
        with anyio.CancelScope(shield=True):  # else nobody knows whether there is one
            container = await _create(engine, name, session)
        channel: Self | None = None
        try:
            waiting = await _wait_for_exit(engine, container)
            try:
                path = f"/containers/{container}/attach"
                flags = query(path, stream=1, stdin=1, stdout=1, stderr=1)
                wire, first = await engine.upgrade(flags)
            except BaseException:
                await waiting.aclose()
                raise
            channel = cls(engine, heart, wire, first, container, waiting)
            await channel.send(line)  # the engine keeps it for the shell
            await _start(engine, container)
            await channel._until_started(command, settings.name)
        except BaseException:
            if channel is not None:
                await channel.aclose()
            else:
                with anyio.CancelScope(shield=True):
                    await engine.remove(container)
            raise
        return channel

    # -- how it ends -------------------------------------------------------------------------

    async def _watch(self) -> None:
        while self._exit is None and self._broken is None:
            try:
                code = _code(Answer(200, await self._waiting.rest()))
            except NATIVE:
                if not await self._ask_anew():
                    return
                continue
            try:
                state = await self._engine.container(self._container)
            except NATIVE:  # the code is known; only whether memory lacked is not
                state = None
            self.exited(self._told(code, state))

    def _told(self, code: int, state: State | None) -> Exit:
        out_of_memory = state is not None and state.out_of_memory  # None: removed meanwhile
        return told_exit(code, killed=self._killed, out_of_memory=out_of_memory)

    async def _ask_anew(self) -> bool:
        """The question for the exit was cut off; whether there is a new one."""
        await self._heart.beat()
        if self._heart.loss is not None or self._closed:
            return False
        try:
            state = await self._engine.container(self._container)
            if state is None:
                self._vanished()
                return False
            if state.code is not None:
                self.exited(self._told(state.code, state))
                return False
            await self._waiting.aclose()
            self._waiting = await _wait_for_exit(self._engine, self._container, "not-running")
        except (*NATIVE, Refused) as error:
            self._break(self._engine.lost(Operation.WAIT, error))
            return False
        return True

    def _vanished(self) -> None:
        self.exited(Exit(detail="its container was removed"))

    async def _look(self) -> bool:
        state = await self._engine.container(self._container, self._engine.settings.deadline)
        if state is None:
            if not await self._known(_TOLD):  # who waits for the exit may have been told of it
                self._vanished()
        elif state.code is not None:
            self.exited(self._told(state.code, state))
        return self._exit is not None

    async def signal(self, signal: Signal) -> None:
        self._check_open()
        if self._exit is not None:
            return
        if self._broken is not None:
            raise self._broken.during(Operation.SIGNAL) from self._broken.__cause__
        try:
            if signal is Signal.KILL:
                self._killed = True
                path = f"/containers/{self._container}/kill"
                await self._engine.call("POST", path, seconds=_SIGNAL)
            else:
                # To all but the main process and the one that does it.
                script = f"kill -{signal.name} -1"
                await self._engine.run(self._container, script, seconds=_SIGNAL)
        except (*NATIVE, Refused) as error:
            await self._heart.beat()
            if self._heart.loss is None:
                _log.warning("a worker could not be sent %s: %s", signal.name, error)
            else:
                raise self._heart.loss.during(Operation.SIGNAL) from error

    async def _end(self) -> None:
        self._killed = True
        try:
            await self._engine.remove(self._container)
            await self._known(_TOLD)
        finally:
            await self._waiting.aclose()


def placed(command: Command, settings: Settings) -> Command:
    """A command with what the target says of its directory and its variables."""
    cwd = command.cwd
    if settings.workdir is not None:
        cwd = settings.workdir if cwd is None else f"{settings.workdir}/{cwd}"
        if command.cwd is not None and command.cwd.startswith("/"):
            cwd = command.cwd
    env = {**settings.env, **command.env}
    return Command(command.argv, cwd, env, command.inherit_env)


def description(settings: Settings, session: str, *, lone: bool = False) -> dict[str, Any]:
    """A container for one worker, as the engine is told of it.

    Args:
        settings: What the target says.
        session: What to find it by.
        lone: Whether the engine shall set up nothing for a network, and the shell the rest.
    """
    host: dict[str, Any] = {
        "NetworkMode": settings.network,
        "LogConfig": {"Type": "none"},  # what a worker says is for its reader, not for a disk
        "Mounts": [each.told for each in settings.mounts],
        "ReadonlyRootfs": settings.read_only,
        "SecurityOpt": [] if settings.new_privileges else ["no-new-privileges"],
        "CapDrop": [] if settings.capabilities else ["ALL"],
    }
    if settings.pids:
        host["PidsLimit"] = settings.pids
    if settings.memory is not None:
        host["Memory"] = settings.memory
        host["MemorySwap"] = settings.memory  # no swap beside it
    if settings.cpus is not None:
        host["NanoCpus"] = int(settings.cpus * 1e9)
    described: dict[str, Any] = {
        "Image": settings.name,
        "Entrypoint": ["sh", "-c", f"{_HOSTS}{BOOTSTRAP}" if lone else BOOTSTRAP, "holdfast"],
        "Cmd": [],
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": lone,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",  # what else it says to the shell, the worker does not hear
        "Labels": {**settings.labels, SESSION: session, LABEL: str(this_process())},
        "HostConfig": host,
    }
    if settings.user is not None:
        described["User"] = settings.user
    return described


async def _create(engine: Engine, name: str, session: str) -> str:
    """Make the container; gives its id."""
    settings = engine.settings
    path = query("/containers/create", name=name)

    async def make() -> Answer:
        body = description(settings, session, lone=await _may_be_lone(engine))
        return await engine.call("POST", path, body)

    try:
        answer = await make()
        if answer.status == 404 and settings.pull is Pull.MISSING:
            await _pull(engine, settings.name)
            answer = await make()
    except NATIVE:  # it may have been made, or be in the making
        await engine.remove_made(session)
        raise
    if not answer.ok:
        raise _not_created(engine, answer)
    return str(answer.json["Id"])


def _not_created(engine: Engine, answer: Answer) -> TransportUnavailable:
    """Why the engine makes no container, and what to do about it."""
    image, command, said = engine.settings.name, engine.kind.command, answer.message
    match answer.status:
        case 404 if "image" in said.lower() or image in said:
            text = f"{engine.where} has no image {image!r}: {command} pull {image}"
            return TransportUnavailable(f"{text} (or say ?pull=missing)")
        case 409:
            return TransportUnavailable(
                f"{said}; remove the old one ({command} rm), or choose another ?name="
            )
        case 400 if "mount" in said or "bind" in said:
            return TransportUnavailable(f"{engine.where} mounts no such thing: {said} (?mount=)")
    return TransportUnavailable(f"{engine.where} makes no container of {image!r}: {said}")


async def _may_be_lone(engine: Engine) -> bool:
    """Whether nothing is lost if the engine sets up no network, rather than one of nothing.

    A container has its own loopback interface either way. Without, Docker starts it in half the
    time, but writes no ``/etc/hosts``: so our shell has to, as root on a disk that can be written.
    """
    settings = engine.settings
    if settings.network != "none" or settings.read_only:
        return False
    user = settings.user
    if user is None:
        answer = await engine.call("GET", f"/images/{settings.name}/json")
        if not answer.ok:
            return False
        user = answer.json["Config"].get("User") or "0"
    return user.partition(":")[0] in ("0", "root")


async def _pull(engine: Engine, image: str) -> None:
    """Have the engine bring an image; its answer tells of the progress, line by line."""
    name, colon, tag = image.rpartition(":")
    if "@" in image or not colon or "/" in tag:
        name, tag = image, "" if "@" in image else "latest"
    path = query("/images/create", fromImage=name, **({"tag": tag} if tag else {}))
    answer = await engine.call("POST", path, seconds=3600)
    last = answer.body.strip().rpartition(b"\n")[2]
    said = Answer(answer.status, last)
    if not answer.ok or b'"error"' in last:
        why = said.json.get("error") if answer.ok else answer.message
        raise TransportUnavailable(
            f"{engine.where} could not pull {image!r}: {why}; try: {engine.kind.command} pull "
            f"{image}"
        )


def _code(answer: Answer) -> int:
    """The exit code of which the engine told.

    Raises:
        BadAnswer: It tells of none; Podman then says -1, and why.
    """
    match answer.json:
        case {"StatusCode": int(code)} if code >= 0:
            return code
    raise BadAnswer(f"no exit code in {answer.body[:200]!r}")


async def _wait_for_exit(
    engine: Engine, container: str, condition: str = "next-exit"
) -> HttpConnection:
    path = query(f"/containers/{container}/wait", condition=condition)
    return await engine.begin("POST", path)


async def _start(engine: Engine, container: str) -> None:
    """Start the container's shell.

    Raises:
        WorkerNotStarted: It has none.
        TransportUnavailable: The engine does not start it.
    """
    answer = await engine.call("POST", f"/containers/{container}/start")
    if answer.ok:
        return
    said = answer.message
    if any(each in said for each in _NO_SHELL) and '"sh"' in said:
        raise WorkerNotStarted(
            f"the image {engine.settings.name!r} has no sh, by which workers are started: use an "
            f"image with a POSIX shell"
        )
    raise TransportUnavailable(f"{engine.where} does not start the container: {said}")
