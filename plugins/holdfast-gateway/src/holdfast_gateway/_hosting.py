"""The sessions behind the gateway: what is kept of each beside what holdfast keeps itself."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.abc
import msgspec

from holdfast import (
    Dialect,
    Durability,
    Event,
    HoldfastError,
    InvalidMessage,
    Kind,
    Limits,
    PluginError,
    Receipt,
    Registry,
    RequestId,
    RestartSummary,
    Sent,
    Session,
    SessionBusy,
    SessionClosed,
    SessionManager,
    State,
    Store,
    TransportError,
    demo,
)

from ._clients import given_back, made_unique, with_cancelled, with_id
from ._ledger import Ledger
from ._metrics import Metrics
from ._policy import Policy
from ._problems import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._stream import Stream

_log = logging.getLogger("holdfast.gateway")

MAX_MESSAGE: Final = 1024 * 1024
"""Bytes of one message or request body from a client."""

MAX_WAITING: Final = 4 * MAX_MESSAGE
"""Bytes that may wait for the worker from one client: beyond them, its messages are refused, so
that a worker that takes no input fills nobody's memory."""

LIMITS: Final = Limits(max_line=16 * 1024 * 1024, retained_bytes=8 * 1024 * 1024)
"""The bounds of a session that is given none: a service has hundreds of them, and an event log."""

LARGEST: Final = 64 * 1024 * 1024
"""The largest ``max_line`` and ``retained_bytes`` that a request may ask for."""


class Settings(msgspec.Struct, frozen=True):
    """What ``holdfast serve`` is told.

    Attributes:
        token: Who has it may do everything.
        port: Where it listens.
        hosts: The names by which it may be called, as in a ``Host`` header and without the port.
        tls: Whether it speaks TLS itself.
        origins: Further origins by which it is known, of a proxy in front.
        policy: What may be started.
        max_sessions: How many sessions there may be.
        max_clients: How many clients may stream one session.
    """

    token: str
    port: int
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    tls: bool = False
    origins: tuple[str, ...] = ()
    policy: Policy = Policy()
    max_sessions: int = 1000
    max_clients: int = 100


class AlreadyAnswered(Exception):
    """A worker's request was answered by another client, or its worker is gone.

    Attributes:
        client: Who answered it, if anybody did.
    """

    def __init__(self, client: str | None) -> None:
        super().__init__(client)
        self.client = client


class TooMuchWaits(Exception):
    """A client sent more than its worker takes."""


class NotAllowed(Exception):
    """A session's worker may not be started any more."""


class Hosted:
    """One session, and its clients.

    Args:
        session: The session.
        dialect: Its dialect.
        metrics: Where its figures go.
        barred: Why its worker may not be started: it was allowed once, by another gateway.
    """

    def __init__(
        self, session: Session, dialect: Dialect, metrics: Metrics, *, barred: str | None = None
    ) -> None:
        spec = session.spec
        self.session = session
        self.barred = barred
        self.demo = spec.target == "local:" and spec.command.argv == demo.WORKER
        self.ledger = Ledger(session, metrics, reads_pid=self.demo)
        self.streams: set[Stream] = set()
        self.starting = False
        self._dialect = dialect
        self._waiting: dict[str, int] = {}

    async def send(self, client: str, data: bytes) -> Receipt:
        """Send a client's message; its receipt has the client's own id.

        Up to the session's own ``send`` nothing is awaited for a request, so that messages keep
        the order in which their tasks were started.

        Raises:
            NotAllowed: This session's worker may not run.
            InvalidMessage: It is no message of this session's dialect.
            AlreadyAnswered: It answers what is answered already.
            TooMuchWaits: Too much of this client's waits for the worker already.
            SessionClosed: The session was deleted.
        """
        if self.barred is not None:
            raise NotAllowed(self.barred)
        waiting = self._waiting.get(client, 0)
        if waiting and waiting + len(data) > MAX_WAITING:
            raise TooMuchWaits
        self._waiting[client] = waiting + len(data)
        try:
            return await self._send(client, data)
        finally:
            self._waiting[client] -= len(data)
            if not self._waiting[client]:
                del self._waiting[client]

    async def _send(self, client: str, data: bytes) -> Receipt:
        envelope = self._dialect.read(data)
        if envelope.kind is Kind.REQUEST:
            assert envelope.id is not None
            try:
                data = with_id(data, made_unique(client, envelope.id))
            except ValueError as error:
                raise InvalidMessage(f"this request's id cannot be read: {error}") from None
        elif envelope.kind is Kind.NOTIFICATION:
            data = with_cancelled(data, envelope.method, client)
        elif envelope.kind is Kind.ANSWER and envelope.id is not None:
            await self.ledger.catch_up()
            first = self.ledger.answer(envelope.id, client)
            if first is not None:
                raise AlreadyAnswered(first.client)
        elif self._dialect.json and data.lstrip()[:1] == b"[":
            raise InvalidMessage("a batch cannot be told apart: send each message by itself")
        receipt = await self.session.send(data)
        return msgspec.structs.replace(receipt, id=envelope.id)

    def sender(self, event: Event) -> str | None:
        """Which client sent a message, as far as that is known."""
        if not isinstance(event, Sent):
            return None
        if event.kind is Kind.ANSWER:
            return self.ledger.who_answered(event.id)
        whose = given_back(event.id) if event.kind is Kind.REQUEST else None
        return whose[0] if whose is not None else None

    def id_of(self, data: bytes) -> RequestId | None:
        """The id that stands in a message, if any."""
        return self._dialect.read(data).id


class Gateway:
    """All that the routes share.

    Args:
        settings: What it is told.
        store: Where sessions and their events are kept; without one, in memory alone.
    """

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self.settings = settings
        self.store = store
        self.registry = Registry()
        self.metrics = Metrics(self)
        self.hosted: dict[str, Hosted] = {}
        self.broken: Sequence[PluginError] = ()
        self.closing = False
        self._manager: SessionManager | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the sessions, those of earlier gateways too; leaving it stops them all.

        Raises:
            StoreError: The store must not be used.
        """
        self.broken = self.registry.load_all()
        for error in self.broken:
            _log.warning("%s", error)
        async with (
            SessionManager(
                registry=self.registry, limits=LIMITS, store=self.store
            ) as self._manager,
            anyio.create_task_group() as self._tasks,
        ):
            for session in await self._manager.restore():
                self._host(session)
            yield
            self._tasks.cancel_scope.cancel()

    @property
    def manager(self) -> SessionManager:
        """Where the sessions live."""
        assert self._manager is not None, "the gateway does not run"
        return self._manager

    @property
    def durability(self) -> Durability:
        """Where events are safe, as far as that holds for every session."""
        lists = (hosted.session.durability for hosted in self.hosted.values())
        if self.store is None or Durability.MEMORY in lists:
            return Durability.MEMORY
        return Durability.DURABLE

    def spawn(self, task: Callable[..., Awaitable[Any]], *arguments: object) -> None:
        """Run something that no request waits for."""
        assert self._tasks is not None, "the gateway does not run"
        self._tasks.start_soon(_guarded, task, arguments)

    def get(self, session_id: str) -> Hosted:
        """The session of an id.

        Raises:
            Problem: 404.
        """
        hosted = self.hosted.get(session_id)
        if hosted is None:
            raise Problem(
                404,
                f"no session has the id {session_id!r}",
                "GET /api/sessions/ lists those there are",
            )
        return hosted

    def create(
        self,
        target: str,
        command: Sequence[str],
        *,
        dialect: str,
        cwd: str | None,
        env: dict[str, str],
        name: str | None,
        limits: Limits,
    ) -> Hosted:
        """A new session, stopped.

        Raises:
            Problem: It may not be, or cannot be.
        """
        self.settings.policy.check(target, command, env)
        if len(self.hosted) >= self.settings.max_sessions:
            raise Problem(
                429,
                f"there are {len(self.hosted)} sessions, and no more are allowed",
                "delete one, or raise holdfast serve --max-sessions",
            )
        try:
            session = self.manager.create(
                target,
                command,
                dialect=dialect,
                cwd=cwd,
                env=env,
                limits=limits,
                record={"name": name},
            )
        except (HoldfastError, ValueError, TypeError) as error:
            raise Problem(422, str(error), "GET /api/transports says what works here") from error
        return self._host(session)

    def _host(self, session: Session) -> Hosted:
        spec = session.spec
        barred = None
        try:
            self.settings.policy.check(spec.target or "", spec.command.argv, spec.env)
        except Problem as problem:
            barred = problem.detail
        try:
            dialect = self.registry.dialect(spec.dialect)
        except ValueError:  # its plugin is gone: the session says so when it should start
            dialect = self.registry.dialect("lines")
        hosted = Hosted(session, dialect, self.metrics, barred=barred)
        self.hosted[session.id] = hosted
        self.spawn(hosted.ledger.run)
        return hosted

    def new_client(self) -> str:
        """A name for a client that has none."""
        return f"c{secrets.token_hex(6)}"

    async def forget(self, hosted: Hosted) -> None:
        """Stop a session and drop it."""
        self.hosted.pop(hosted.session.id, None)
        await self.manager.forget(hosted.session.id)

    def ensure_started(self, hosted: Hosted) -> None:
        """Start a stopped worker, once for all who ask; a failure is a status."""
        stopped = hosted.session.status.state is State.STOPPED
        if stopped and not hosted.starting and hosted.barred is None:
            hosted.starting = True
            self.spawn(self._start, hosted)

    async def _start(self, hosted: Hosted) -> None:
        try:
            await start(hosted)
        finally:
            hosted.starting = False

    async def restart_all(self, *, force: bool) -> RestartSummary:
        """Restart every session that may run."""
        barred = [hosted.session.id for hosted in self.hosted.values() if hosted.barred]
        if not barred:
            return await self.manager.restart_all(force=force)
        outcome: dict[str, list[str]] = {"restarted": [], "skipped_busy": [], "failed": barred}

        async def restart(session: Session) -> None:
            try:
                await session.restart(force=force)
            except SessionBusy:
                outcome["skipped_busy"].append(session.id)
            except (HoldfastError, OSError):
                outcome["failed"].append(session.id)
            else:
                outcome["restarted"].append(session.id)

        async with anyio.create_task_group() as restarts:
            for hosted in self.hosted.values():
                if not hosted.barred:
                    restarts.start_soon(restart, hosted.session)
        return RestartSummary(*(tuple(ids) for ids in outcome.values()))

    async def close_streams(self) -> None:
        """Tell every client that the gateway goes away."""
        self.closing = True
        async with anyio.create_task_group() as closing:
            for hosted in self.hosted.values():
                for stream in list(hosted.streams):
                    closing.start_soon(stream.leave)


async def start(hosted: Hosted) -> None:
    """Start a session's worker; a failure is a status."""
    try:
        await hosted.session.start()
    except (TransportError, SessionClosed) as error:
        _log.info("session %s was not started: %s", hosted.session.id, error)


async def _guarded(task: Callable[..., Awaitable[Any]], arguments: Sequence[object]) -> None:
    try:
        await task(*arguments)
    except Exception:  # noqa: BLE001 - a mistake in one task ends no other
        _log.exception("a task of the gateway failed; the others go on")
