"""An engine's API, as far as workers need it, and what its refusals and silences mean."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import msgspec

from holdfast import (
    Cause,
    Command,
    Fate,
    HoldfastError,
    Operation,
    Registry,
    Transport,
    TransportBroken,
    TransportError,
    TransportUnavailable,
)

from ._heart import Heart
from ._http import Answer, BadAnswer, HttpConnection, query
from ._owner import SESSION
from ._settings import Settings
from ._where import Endpoint, Kind, find
from ._wire import ChannelWire, TLSWire, Wire, connect_tcp, connect_unix

_log = logging.getLogger("holdfast.container")

_REMOVE: Final = 5.0
"""Seconds for a container to be removed, its processes killed; it takes a tenth of one."""

_BEING_REMOVED: Final = 409
"""The status of an answer that says so: a request of which we heard nothing is at work."""

_AGAIN: Final = 0.05
"""Seconds until an engine that is at work is asked again."""

_MAKING: Final = 60.0
"""Seconds in which a busy engine may still make a container, though its answer found nobody."""

NATIVE: Final = (OSError, BadAnswer, anyio.ClosedResourceError)
"""What a request to an engine that is gone may raise; ``TimeoutError`` and TLS's are among them."""

_MADE: Final = 3.0
"""Seconds from the moment that an engine lists a container until it has surely made it. Docker 28
removes one that it is still making, and then lists it for ever, and removes it no more."""

_MEANS: Final[Mapping[type[Exception], str]] = {
    FileNotFoundError: "{where} is not there: {start}",
    ConnectionRefusedError: "{where} does not listen: {start}",
    PermissionError: "{where} may not be used by this user: {permit}",
    TimeoutError: "{where} did not answer in time; is it overloaded, or frozen? (?timeout=)",
    socket.gaierror: "no such host: {where} ({error}); check its name and your network",
    ssl.SSLCertVerificationError: (
        "{where} did not prove who it is ({error}); correct DOCKER_CERT_PATH, or the context"
    ),
    ssl.SSLError: "{where} speaks no TLS that we speak ({error}); see DOCKER_TLS_VERIFY",
    ConnectionResetError: (
        "{where} closed the connection; does it want TLS (DOCKER_TLS_VERIFY), or no TLS?"
    ),
    BadAnswer: "what listens at {where} is no engine, or wants TLS (DOCKER_TLS_VERIFY): {error}",
    OSError: "{where} cannot be reached: {error}",
}
"""What it means when there is no engine to ask; the first that fits counts."""

_NEVER: Final = "0001-01-01"
"""The day on which what has not ended has ended."""


class Refused(Exception):
    """An engine's answer that says no."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.message)
        self.status = answer.status


class State(msgspec.Struct, frozen=True):
    """What an engine says of a container.

    Attributes:
        id: Its whole id.
        running: Whether its main process lives; it may be about to end.
        paused: Whether it is held still.
        code: The exit code of its main process, once that is over and the code is known.
        out_of_memory: Whether the kernel killed in it for lack of memory.
    """

    id: str
    running: bool
    paused: bool
    code: int | None
    out_of_memory: bool


class Engine:
    """An engine, wherever it is; its connections, and the one heart that all channels share."""

    def __init__(self, kind: Kind, settings: Settings) -> None:
        self.kind = kind
        self.settings = settings
        self._endpoint: Endpoint | None = None
        self._by_ssh: Transport | None = None
        self._heart: Heart | None = None
        self._looking = anyio.Lock()
        self._unremoved: set[str] = set()
        self._unsure: dict[str, float] = {}  # sessions whose container may be made, and until when
        self._young: dict[str, float] = {}  # containers to be removed, and from when on

    @property
    def endpoint(self) -> Endpoint:
        """Where it is, looked up when first asked for."""
        if self._endpoint is None:
            self._endpoint = find(self.kind, self.settings.host, self.settings.context)
        return self._endpoint

    @property
    def where(self) -> str:
        """As errors name it."""
        return f"{self.kind.name}'s engine at {self.endpoint.text}"

    # -- connections -------------------------------------------------------------------------

    async def connect(self) -> Wire:
        """A new connection; raises what the system says."""
        endpoint = self.endpoint
        if endpoint.scheme == "unix":
            return await connect_unix(endpoint.address)
        if endpoint.scheme == "ssh":
            return await self._dial()
        wire = await connect_tcp(endpoint.address, endpoint.port)
        if endpoint.certificates is None:
            return wire
        try:
            secure = TLSWire(wire, endpoint.tls(), endpoint.address)
            await secure.handshake()
        except BaseException:
            await wire.aclose()
            raise
        return secure

    async def _dial(self) -> Wire:
        """Through a program on another machine, by whichever transport knows that address."""
        if self._by_ssh is None:
            self._by_ssh = Registry().transport(self.endpoint.address)
        context = self._by_ssh.open(Command(self.kind.dial))
        channel = await context.__aenter__()
        return ChannelWire(channel, lambda: context.__aexit__(None, None, None))

    async def call(
        self, method: str, path: str, body: object = None, *, seconds: float | None = None
    ) -> Answer:
        """Ask, and read the whole answer; raises what the system says."""
        with anyio.fail_after(self.settings.timeout if seconds is None else seconds):
            async with self._connected() as connection:
                await connection.request(method, path, body)
                return await connection.answer()

    async def begin(self, method: str, path: str) -> HttpConnection:
        """Ask what is answered at length; the caller reads the answer's body, and closes.

        Raises:
            Refused: The engine says no.
        """
        connection = HttpConnection(await self.connect())
        try:
            await connection.request(method, path)
            status = await connection.head()
            if status >= 400:
                raise Refused(Answer(status, await connection.rest()))
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def upgrade(self, path: str, body: object = None) -> tuple[Wire, bytes]:
        """Ask for a connection of raw bytes; gives it with the first of them.

        Raises:
            Refused: The engine says no.
        """
        wire = await self.connect()
        try:
            connection = HttpConnection(wire)
            await connection.request("POST", path, body, upgrade=True)
            answer = await connection.upgraded()
            if isinstance(answer, Answer):
                raise Refused(answer)
        except BaseException:
            await wire.aclose()
            raise
        return wire, answer

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[HttpConnection]:
        connection = HttpConnection(await self.connect())
        try:
            yield connection
        finally:
            await connection.aclose()

    async def heart(self) -> Heart:
        """That of the engine as it is now: the one that still beats, or a new one."""
        async with self._looking:
            if self._heart is not None:
                await self._heart.beat()
                if self._heart.loss is not None:
                    await self._heart.aclose()
                    self._heart = None
            if self._heart is None:
                connection = HttpConnection(await self.connect())
                settings = self.settings
                heart = Heart(connection, self.where, settings.heartbeat, settings.deadline)
                await heart.beat()
                if heart.loss is not None:
                    await heart.aclose()
                    native = heart.loss.native
                    assert isinstance(native, Exception)
                    raise native
                self._heart = heart
            heart = self._heart
        await self._remove_the_rest()
        return heart

    async def aclose(self) -> None:
        """Close what channels share, and remove what could not be removed before."""
        with anyio.CancelScope(shield=True):
            await self._remove_the_rest(last=True)
        heart, self._heart = self._heart, None
        if heart is not None:
            await heart.aclose()
        by_ssh, self._by_ssh = self._by_ssh, None
        if by_ssh is not None:
            await by_ssh.aclose()

    # -- questions ---------------------------------------------------------------------------

    async def container(self, name: str, seconds: float | None = None) -> State | None:
        """What it says of a container; ``None`` if there is none of this name or id."""
        answer = await self.call("GET", f"/containers/{name}/json", seconds=seconds)
        if _is_gone(answer):
            return None
        if not answer.ok:
            raise BadAnswer(answer.message)
        found: dict[str, Any] = answer.json
        state = found["State"]
        running = bool(state["Running"]) or bool(state.get("Paused"))
        return State(
            id=found["Id"],
            running=running,
            paused=bool(state.get("Paused")),
            code=None if running or not _finished(state) else int(state["ExitCode"]),
            out_of_memory=bool(state.get("OOMKilled")),
        )

    async def run(self, container: str, script: str, *, seconds: float) -> None:
        """Run a shell script in a container, beside its worker; nothing, where nothing runs there.

        Raises:
            Refused: The engine says no.
        """
        body: dict[str, Any] = {
            "Cmd": ["sh", "-c", script],
            "AttachStdout": True,
            "AttachStderr": True,
        }
        if self.settings.user is not None:
            body["User"] = self.settings.user
        with anyio.fail_after(seconds):
            answer = await self.call("POST", f"/containers/{container}/exec", body)
            if answer.status in (404, 409):  # it is over; or paused, and feels nothing
                return
            if not answer.ok:
                raise Refused(answer)
            path = f"/exec/{answer.json['Id']}/start"
            wire, _ = await self.upgrade(path, {"Detach": False, "Tty": False})
            try:
                while await wire.read():
                    pass
            finally:
                await wire.aclose()

    async def remove(self, name: str) -> bool:
        """Remove a container and its unnamed volumes, its processes killed; bounded.

        If that fails it is tried again before the next worker starts, and at the transport's close.
        """
        path = query(f"/containers/{name}", force=1, v=1)
        failure: object = "no answer"
        self._unremoved.add(name)
        with suppress(TransportError), anyio.move_on_after(_REMOVE):
            try:
                while (  # noqa: ASYNC110 - nobody tells when it is done
                    answer := await self.call("DELETE", path)
                ).status == _BEING_REMOVED:
                    await anyio.sleep(_AGAIN)
            except NATIVE as error:
                failure = error
            else:
                if answer.ok or _is_gone(answer):
                    self._unremoved.discard(name)
                    return True
                failure = answer.message
        _log.warning(
            "container %s could not be removed (%s); after the end of this program holdfast doctor "
            "--reap removes it",
            name[:12],
            failure,
        )
        return False

    async def remove_made(self, session: str) -> None:
        """Remove the container of a session, if there is one: nobody told us whether it was made.

        It is looked for by its label, since a name that was chosen may be another's; now, before
        each next start for a while, and at the transport's close.
        """
        self._unsure[session] = anyio.current_time() + _MAKING
        await self._look_for(session)

    async def _look_for(self, session: str) -> None:
        filters = {"label": [f"{SESSION}={session}"]}
        with suppress(TransportError, *NATIVE), anyio.move_on_after(_REMOVE):
            answer = await self.call("GET", query("/containers/json", all=1, filters=filters))
            found = [each["Id"] for each in answer.json] if answer.ok else []
            now = anyio.current_time()
            self._young.update(dict.fromkeys(found, now + _MADE))
            if found or now > self._unsure.get(session, now):
                self._unsure.pop(session, None)  # starts at the same time look, too

    async def _remove_the_rest(self, *, last: bool = False) -> None:
        """Remove what could not be removed before; the last time, wait for what is too young."""
        for session in [*self._unsure]:
            await self._look_for(session)
        for each, ripe in [*self._young.items()]:
            if last:
                await anyio.sleep(max(0.0, ripe - anyio.current_time()))
            if ripe <= anyio.current_time() and self._young.pop(each, None) is not None:
                await self.remove(each)
        for each in [*self._unremoved]:
            await self.remove(each)

    # -- what it means -----------------------------------------------------------------------

    def unavailable(self, error: Exception) -> TransportError:
        """Why there is no engine to start a worker, and what to do about it."""
        if isinstance(error, HoldfastError):  # by ssh: it says so itself
            if isinstance(error, TransportError):
                return error
            return TransportUnavailable(f"{self.where} cannot be reached: {error}")
        text = next(text for kind, text in _MEANS.items() if isinstance(error, kind))
        start = f"{self.kind.start}; see: holdfast doctor"
        return TransportUnavailable(
            text.format(where=self.where, start=start, permit=self.kind.permit, error=error)
        )

    def lost(self, operation: Operation, error: Exception) -> TransportBroken:
        """The loss of the engine, as met by a request beside its heart."""
        silent = isinstance(error, TimeoutError)
        return TransportBroken(
            operation,
            error,
            cause=Cause.LINK_SILENT if silent else Cause.LINK_LOST,
            worker=Fate.MAYBE_ALIVE,
        )


def _is_gone(answer: Answer) -> bool:
    """Whether there is no such container; Podman says 500 where it vanished while it looked."""
    return answer.status == 404 or (answer.status == 500 and "no such container" in answer.message)


def _finished(state: Mapping[str, Any]) -> bool:
    """Whether it has ended: while Podman stops it, it does not run and its code is said to be 0."""
    return not str(state.get("FinishedAt") or _NEVER).startswith(_NEVER)
