"""Many sessions, and one end for all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

import anyio
import msgspec
from anyio import CancelScope

from ._deadlines import Deadlines
from ._dialect import Dialect
from ._errors import HoldfastError, SessionBusy, SessionClosed, UnknownSession
from ._limits import Limits
from ._recorder import SKIP, Recorder
from ._registry import Registry
from ._resume import Refusing, describe, dialect_of, obstacle
from ._session import Session
from ._store import SessionHead, SessionSpec, Store, StoredSession
from ._transport import Command, Transport
from ._worker import close_transport

_SLACK = 15.0
"""Seconds beyond the graces of its slowest session that leaving a manager may take: for closing
channels and connections, each of which is bounded itself."""


class RestartSummary(msgspec.Struct, frozen=True):
    """What ``restart_all`` did, as session ids."""

    restarted: tuple[str, ...]
    skipped_busy: tuple[str, ...]
    failed: tuple[str, ...]


class SessionManager:
    """Many sessions; an async context manager, and leaving it stops them all.

    Leaving it by an exception or a cancellation stops them without the polite steps.

    Args:
        registry: Where transports and dialects come from; default: the installed plugins.
        limits: The bounds of sessions that are given none of their own.
        store: Where sessions and their events outlive this program; default: nowhere. The manager
            opens it, and closes it when it is left.
    """

    def __init__(
        self,
        *,
        registry: Registry | None = None,
        limits: Limits | None = None,
        store: Store | None = None,
    ) -> None:
        self._registry = registry if registry is not None else Registry()
        self._limits = limits if limits is not None else Limits()
        self._sessions: dict[str, Session] = {}
        self._transports: dict[str, Transport] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._scopes: set[CancelScope] = set()
        self._store = store
        self._recorder: Recorder | None = None
        self.sessions: Mapping[str, Session] = MappingProxyType(self._sessions)

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this SessionManager is entered already")
        if self._store is not None:
            self._recorder = Recorder(self._store)
            await self._recorder.open()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._deadlines = Deadlines()
        self._spawn(self._deadlines.run)
        if self._recorder is not None:
            self._spawn(self._recorder.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._tasks is not None
        tasks = self._tasks
        for session in self._sessions.values():
            session._seal()
            if error is not None:
                session._hurry()
        try:
            with CancelScope(shield=True):
                with anyio.move_on_after(self._bound()):
                    await self.stop_all()
                for session in self._sessions.values():
                    session._close()
                if self._recorder is not None:
                    await self._recorder.close()
        finally:
            self._tasks = None
            tasks.cancel_scope.cancel()
            for scope in self._scopes:
                scope.cancel()
            try:
                # Not told of the body's error, the task group does not wrap it in a group of one.
                await tasks.__aexit__(None, None, None)
            finally:
                with anyio.move_on_after(_SLACK, shield=True):
                    await self._close_transports()

    def _bound(self) -> float:
        graces = (
            each.limits.eof_grace
            + each.limits.term_grace
            + each.limits.kill_grace
            + each.limits.exit_grace
            for each in self._sessions.values()
        )
        return max(graces, default=0.0) + _SLACK

    async def _close_transports(self) -> None:
        transports = list(self._transports.values())
        self._transports.clear()
        async with anyio.create_task_group() as closing:
            for transport in transports:
                closing.start_soon(close_transport, transport)

    def create(
        self,
        target: str | Transport,
        command: Sequence[str] | Command,
        *,
        session_id: str | None = None,
        dialect: str | Dialect = "jsonrpc",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> Session:
        """A new session, listed and ``stopped``.

        Sessions with the same target URI share one transport, which the manager closes. A
        :class:`Transport` object stays yours to close.

        Args:
            target: Where to run the command: a target URI, or a transport.
            command: The program and its arguments, or a whole :class:`Command`.
            session_id: Its name here; by default a random one.
            dialect: The protocol that the worker speaks.
            cwd: The directory to run in.
            env: Environment variables to add.
            limits: Its bounds; by default the manager's.
            record: What the application keeps with the session, as JSON has it; it is found again
                in ``session.spec.record``, also after :meth:`restore`.

        Raises:
            InvalidTarget: The target cannot be read.
            UnknownTransport: Nobody provides its scheme.
            PluginLoadError: Its plugin is broken.
            ValueError: The id is taken, or the command, the dialect or the record is no such thing.
        """
        if self._tasks is None:
            raise SessionClosed("this SessionManager is not entered: use `async with`")
        if session_id is None:
            session_id = os.urandom(8).hex()
        elif session_id in self._sessions:
            raise ValueError(f"session id {session_id!r} is taken; forget that session first")
        made = _command(command, cwd, env)
        spoken = self._registry.dialect(dialect) if isinstance(dialect, str) else dialect
        bounds = limits if limits is not None else self._limits
        spec = describe(session_id, target, made, spoken, bounds, record)
        transport = self._transport(target) if isinstance(target, str) else target
        return self._list(spec, transport, made, spoken)

    def _list(
        self,
        spec: SessionSpec,
        transport: Transport,
        command: Command,
        dialect: Dialect,
        resumed: SessionHead | None = None,
    ) -> Session:
        session = Session(
            spec,
            transport,
            command,
            dialect,
            spawn=self._spawn,
            observe=self._registry.observe,
            deadlines=self._deadlines,
            recorder=self._recorder,
            resumed=resumed,
        )
        self._sessions[spec.id] = session
        return session

    async def restore(self) -> list[Session]:
        """List the sessions again that the store has; call it once, before others are created.

        They go on where they were, with their seq and generation; no worker is started. Where a
        program ended without stopping a worker, requests that nobody answered are answered now,
        and the session is in ``error`` / ``stdin_broken``, its worker ``maybe_alive``.

        Values of environment variables are not kept. A session that had any refuses to start a
        worker, and names them; so does one whose transport or dialect cannot be had again.

        Returns:
            The sessions; none without a store, or if it cannot be read at present.
        """
        if self._tasks is None:
            raise SessionClosed("this SessionManager is not entered: use `async with`")
        if self._recorder is None:
            return []
        resumed = [
            self._resume(stored)
            for stored in await self._recorder.sessions()
            if stored.spec.id not in self._sessions
        ]
        if not await self._recorder.catch_up():
            # The store still says that these were left properly, so they must count from elsewhere.
            for session in resumed:
                session._skip(SKIP)
        return resumed

    def _resume(self, stored: StoredSession) -> Session:
        spec, head = stored.spec, stored.head
        dialect, missing = dialect_of(spec, self._registry)
        why = obstacle(spec) or missing
        transport: Transport | None = None
        if why is None and spec.target is not None:
            try:
                transport = self._transport(spec.target)
            except (HoldfastError, ValueError) as error:
                why = f"its transport cannot be had again: {error}"
        if transport is None:
            transport = Refusing(why or "")
        if not head.clean:
            shown = stored.shown if stored.shown is not None else head.last_seq + SKIP
            head = msgspec.structs.replace(head, last_seq=max(head.last_seq, shown))
        return self._list(spec, transport, spec.command, dialect, head)

    def _transport(self, target: str) -> Transport:
        if target not in self._transports:
            self._transports[target] = self._registry.transport(target)
        return self._transports[target]

    def _spawn(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._tasks is None:
            raise SessionClosed("the SessionManager of this session was left")
        self._tasks.start_soon(self._run_shielded, task)

    async def _run_shielded(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of a session's tasks, out of reach of what cancels the manager's body.

        Else a cancelled body would kill its workers before it stops them, and each would be told
        as lost; and on asyncio a task that is started in a cancelled scope may spin there.
        """
        with CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            try:
                if self._tasks is None:
                    scope.cancel()
                await task()
            finally:
                self._scopes.discard(scope)

    async def start(
        self,
        target: str | Transport,
        command: Sequence[str] | Command,
        *,
        session_id: str | None = None,
        dialect: str | Dialect = "jsonrpc",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> Session:
        """:meth:`create` a session and start its worker.

        If the worker cannot be started, the session stays listed in ``error`` /
        ``initialization_failed``.

        Raises:
            TransportUnavailable: The place where it should run cannot be reached or used.
            WorkerNotStarted: The command cannot be started there.
            InvalidTarget: The target cannot be read.
            UnknownTransport: Nobody provides its scheme.
            PluginLoadError: Its plugin is broken.
            ValueError: The id is taken, or the command or the dialect is no such thing.
        """
        session = self.create(
            target,
            command,
            session_id=session_id,
            dialect=dialect,
            cwd=cwd,
            env=env,
            limits=limits,
            record=record,
        )
        await session.start()
        return session

    def get(self, session_id: str) -> Session:
        """The session of this id.

        Raises:
            UnknownSession: There is none.
        """
        try:
            return self._sessions[session_id]
        except KeyError:
            raise UnknownSession(
                f"no session {session_id!r}; {len(self._sessions)} session(s) are listed"
            ) from None

    async def restart_all(self, *, force: bool = False) -> RestartSummary:
        """Restart every session, all at once.

        Args:
            force: Restart those too that are answering a request.
        """
        restarted: list[str] = []
        skipped: list[str] = []
        failed: list[str] = []

        async def restart(session: Session) -> None:
            try:
                await session.restart(force=force)
            except SessionBusy:
                skipped.append(session.id)
            except (HoldfastError, OSError):
                failed.append(session.id)
            else:
                restarted.append(session.id)

        async with anyio.create_task_group() as restarts:
            for session in list(self._sessions.values()):
                restarts.start_soon(restart, session)
        return RestartSummary(tuple(restarted), tuple(skipped), tuple(failed))

    async def stop_all(self) -> None:
        """Stop every session, all at once; they stay listed."""
        async with anyio.create_task_group() as stops:
            for session in list(self._sessions.values()):
                stops.start_soon(session.stop)

    async def forget(self, session_id: str) -> None:
        """Stop a session and drop it with its journal, also from the store; subscriptions end.

        Raises:
            UnknownSession: There is none of this id.
        """
        session = self.get(session_id)
        session._seal()
        await session.stop()
        if self._sessions.get(session_id) is not session:
            return  # somebody else did it meanwhile, and the id may be another session's by now
        session._close()
        del self._sessions[session_id]
        if self._recorder is not None and session._track is not None:
            await self._recorder.forget(session._track)


def _command(
    command: Sequence[str] | Command, cwd: str | None, env: Mapping[str, str] | None
) -> Command:
    if not isinstance(command, Command):
        if isinstance(command, str | bytes):
            raise TypeError(f"a command is a sequence of strings, not one: [{command!r}]")
        return Command(tuple(command), cwd, env or {})
    if cwd is not None:
        command = msgspec.structs.replace(command, cwd=cwd)
    if env is not None:
        command = msgspec.structs.replace(command, env={**command.env, **env})
    return command
