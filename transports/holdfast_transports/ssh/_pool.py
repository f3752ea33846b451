"""The connections of one transport: shared by its channels, one handshake for all who wait."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import anyio

from holdfast import Command, Operation, TransportBroken, TransportError, TransportUnavailable

from .._guard import Guard
from ._channel import RemoteChannel
from ._job import Job


class SessionRefused(Exception):
    """The server opens no more sessions on this connection (``MaxSessions``)."""


class Connection(Protocol):
    """One authenticated connection, whichever client holds it."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether it is gone."""

    @abstractmethod
    async def session(self) -> RemoteChannel:
        """Open a session and run the bootstrap in it.

        Raises:
            SessionRefused: The server opens no more of them here.
            TransportBroken: The connection is gone.
        """

    @abstractmethod
    def guarded_by(self, guard: RemoteChannel) -> None:
        """The guard runs there: tell it from time to time that we are."""

    @abstractmethod
    def close(self) -> None:
        """Close it, and all on it. It blocks, for a bounded time."""


_ATTEMPTS: Final = 3
"""How often a connection that is lost while a channel opens is replaced by a new one."""

_CLOSE: Final = 5.0
"""Seconds for a connection to close, which takes a moment if all is well."""


_PAUSES: Final = (0.01, 0.05, 0.2)
"""Seconds until a request for a session is made again."""

_RECENTLY: Final = 1.0
"""Seconds after the close of a session in which its place may not be free yet."""


class _Line:
    """A connection, its guard, and who uses it."""

    def __init__(self, connection: Connection, guard: Guard) -> None:
        self.connection = connection
        self.guard = guard
        self.opening = anyio.Lock()
        self.preparing = anyio.Lock()
        self.given_up = False
        self.users = 0
        self.full = False
        self.last_closed = -math.inf

    @property
    def usable(self) -> bool:
        return not (self.given_up or self.connection.lost or self.guard.channel.finished)


class Pool:
    """Opens channels on as few connections as the server allows.

    Args:
        where: The host as errors name it.
        dial: Begins to connect.
        limit: How many connections to have at most.
        timeout: Seconds to open a channel on a connection that is there.
    """

    def __init__(
        self, where: str, dial: Callable[[], Job[Connection]], limit: int, timeout: float
    ) -> None:
        self._where = where
        self._dial = dial
        self._limit = limit
        self._timeout = timeout
        self._lines: list[_Line] = []
        self._dialing: Job[Connection] | None = None
        self._setting_up = anyio.Lock()
        self._closing: list[Job[None]] = []

    async def open(self, command: Command) -> RemoteChannel:
        """Start a worker on a connection that has room.

        Raises:
            TransportUnavailable: No connection could be made, or none has room.
            WorkerNotStarted: There is no such command or directory.
        """
        lost = 0
        while True:
            line = await self._line_with_room()
            line.users += 1
            opened = False
            try:
                with anyio.move_on_after(self._timeout):
                    channel = await self._open_on(line, command)
                    opened = True
                    return channel
                raise TransportUnavailable(
                    f"{self._where} started no worker within {self._timeout:g} s; is it "
                    f"overloaded, or do its login shell's start-up files wait for something? "
                    f"(?timeout= sets how long to wait)"
                )
            except SessionRefused:
                line.full = True
                if line.users == 1:
                    raise TransportUnavailable(
                        f"{self._where} allows one session for each connection, and a worker needs "
                        f"two (one guards it): raise MaxSessions in its sshd_config"
                    ) from None
            except TransportBroken as broken:
                lost += 1
                if lost == _ATTEMPTS:
                    raise TransportUnavailable(
                        f"the connection to {self._where} was lost while a worker started, "
                        f"{lost} times: {broken.detail}"
                    ) from broken
            finally:
                if not opened:
                    self._leave(line)

    async def _open_on(self, line: _Line, command: Command) -> RemoteChannel:
        async with line.opening:  # one after the other, so that a refusal means what it says
            if line.full:
                raise SessionRefused
            channel = await self._session(line)
        try:
            await self._prepare(line)
            await channel.start(command, line.guard)
        except BaseException:
            await channel.aclose()
            line.full = False
            raise

        def closed() -> None:
            line.full = False
            line.last_closed = anyio.current_time()
            self._leave(line)

        channel.on_closed = closed
        return channel

    async def _prepare(self, line: _Line) -> None:
        """Have the guard run: the first who needs it waits for it, and the others for that one.

        If that one is cancelled, what was said to the guard and what it said are half known, so
        that no other can go on from there: the connection is given up.
        """
        async with line.preparing:
            if line.given_up:
                raise TransportBroken(Operation.OPEN, "its guard did not come to run")
            try:
                await line.guard.ready()
            except BaseException:
                line.given_up = True
                raise

    async def _session(self, line: _Line) -> RemoteChannel:
        """A new session; one that takes the place of a closed one may have to ask again.

        OpenSSH frees a session's place only after all that it read at once, the next request for
        one among it.
        """
        for pause in _PAUSES:
            try:
                return await line.connection.session()
            except SessionRefused:
                if anyio.current_time() - line.last_closed > _RECENTLY:
                    raise
            await anyio.sleep(pause)
        return await line.connection.session()

    def _leave(self, line: _Line) -> None:
        """A session on it ended, or never began."""
        line.users -= 1
        if line.users:
            return
        spare = any(each.usable for each in self._lines if each is not line)
        if line in self._lines and (spare or not line.usable):
            self._lines.remove(line)
            self._close(line.connection)

    async def _line_with_room(self) -> _Line:
        while True:
            for line in self._lines:
                if line.usable and not line.full:
                    return line
            if sum(line.usable for line in self._lines) >= self._limit:
                raise TransportUnavailable(
                    f"all {self._limit} connections to {self._where} are full, with "
                    f"{sum(line.users for line in self._lines)} workers: raise ?connections=, or "
                    f"MaxSessions in the server's sshd_config"
                )
            await self._one_more()

    async def _one_more(self) -> None:
        """Connect once more, or wait for those who do."""
        job = self._dialing
        if job is None or job.dropped:
            job = self._dialing = self._dial()
        try:
            connection = await job.result()
        finally:
            if job.failed and job is self._dialing:
                self._dialing = None
        async with self._setting_up:
            if job is self._dialing:  # else another of those who waited was here before
                try:
                    self._lines.append(_Line(connection, await self._guard_for(connection)))
                finally:
                    self._dialing = None

    async def _guard_for(self, connection: Connection) -> Guard:
        """Begin the guard of a new connection; who needs it first waits for it."""
        try:
            with anyio.fail_after(self._timeout):
                channel = await connection.session()
        except BaseException as error:
            self._close(connection)
            if isinstance(error, (TransportBroken, SessionRefused, TimeoutError)):
                raise TransportUnavailable(
                    f"{self._where} let us in, and then started no session: "
                    f"{str(error) or type(error).__name__}; may this user run commands there?"
                ) from error
            raise
        connection.guarded_by(channel)
        return Guard(channel)

    def _close(self, connection: Connection) -> None:
        self._closing = [job for job in self._closing if not job.done]
        self._closing.append(Job(connection.close, name="close"))

    async def aclose(self) -> None:
        """Close all connections."""
        job, self._dialing = self._dialing, None
        if job is not None and job.done and not job.failed and not job.dropped:
            self._close(await job.result())  # those who waited for it were cancelled since
        while self._lines:
            self._close(self._lines.pop().connection)
        with anyio.move_on_after(_CLOSE, shield=True):
            for closing in self._closing:
                with suppress(TransportError, OSError):
                    await closing.result()
