"""A worker on the far side of an SSH connection, whichever client carries it.

The client moves bytes; what is here is the same for all: how the bootstrap becomes the worker, how
the guard ends it, and what closing means.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Final

import anyio

from holdfast import (
    Channel,
    ChannelClosed,
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
from .._shell import FAILED, GUARD, READY, STARTED, not_started, start_line

_REAP: Final = 3.0
"""Seconds for the guard to kill a group, and the same again for the exit to be told."""

_NOISE: Final = 64 * 1024
"""Bytes that a login shell's start-up files may print before our own script speaks."""


class RemoteChannel(Channel):
    """One session of an SSH connection: a worker, or a guard of workers.

    Attributes:
        where: The host as it is named in errors.
        on_closed: Called once, when the channel is closed.
        is_guard: Whether a guard runs there that wants to hear from us.
    """

    def __init__(self, where: str, *, keeps_shell: bool) -> None:
        self.where = where
        self.on_closed: Callable[[], None] = lambda: None
        self.is_guard = False
        self._keeps_shell = keeps_shell
        self._guard: Guard | None = None
        self._group = 0
        self._closed = False
        self._gone: anyio.Event | None = None

    # -- what a client brings ----------------------------------------------------------------

    @abstractmethod
    def unread(self, data: bytes) -> None:
        """Give back what was read too far: the next ``receive`` gives it once more."""

    @abstractmethod
    def wake(self) -> None:
        """Let all pending operations look again: the channel was closed."""

    @abstractmethod
    async def hang_up(self) -> None:
        """Close the SSH session; bounded. The connection stays."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether the connection is gone."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether what runs there is over, or out of reach."""

    # -- starting ----------------------------------------------------------------------------

    async def start(self, command: Command, guard: Guard) -> None:
        """Turn the bootstrap into the worker.

        Raises:
            WorkerNotStarted: There is no such command or directory.
            TransportUnavailable: The login shell does not run commands as it should.
            TransportBroken: The connection was lost meanwhile.
        """
        line = start_line(command, keep_shell=self._keeps_shell)
        group = await self.bootstrapped()
        await guard.ready()
        await guard.watch(group)
        self._guard, self._group = guard, group
        await self.send(line)
        heard = b""
        while STARTED not in heard:
            if failed := FAILED.search(heard):
                raise not_started(command, failed[1])
            if not (data := await self.receive()):
                raise WorkerNotStarted(
                    f"{command.argv[0]!r} could not be started on {self.where}: the shell there "
                    f"gave up ({await self._last_words(heard)})"
                )
            heard += data
        self.unread(heard.partition(STARTED)[2])

    async def become_guard(self) -> None:
        await self.bootstrapped()
        await self.send(GUARD)
        self.is_guard = True

    async def bootstrapped(self) -> int:
        """Wait for the bootstrap to say where it runs; gives its process group."""
        heard = b""
        while not (ready := READY.search(heard)):
            data = await self.receive()
            heard += data
            if not data or len(heard) > _NOISE:
                raise TransportUnavailable(
                    f"the login shell on {self.where} ran no command of ours "
                    f"({await self._last_words(heard)}); try: ssh {self.where} echo fine"
                )
        if ready[1] != ready[2]:
            raise TransportUnavailable(
                f"the SSH server of {self.where} runs commands in a process group of its own: a "
                f"worker there could neither be signalled nor ended"
            )
        return int(ready[1])

    async def _last_words(self, heard: bytes) -> str:
        """What a shell said that did not do as it was told."""
        with anyio.move_on_after(1):
            while data := await self.receive_stderr():
                heard += data
        exit = Exit()
        with anyio.move_on_after(1):
            exit = await self.wait()
        text = heard[-500:].decode("utf-8", "replace").strip()
        said = "".join(c if c.isprintable() else " " for c in text)
        return f"{exit}; it said: {said}" if said else str(exit)

    # -- what all clients do alike -----------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("this channel was closed by our side")

    async def signal(self, signal: Signal) -> None:
        self._check_open()
        assert self._guard is not None
        try:
            await self._guard.kill(self._group, signal)
        except TransportBroken as broken:
            raise broken.during(Operation.SIGNAL) from broken.__cause__

    async def aclose(self) -> None:
        if self._gone is not None:
            with anyio.CancelScope(shield=True):
                await self._gone.wait()
            return
        self._gone, self._closed = anyio.Event(), True
        self.wake()
        try:
            with anyio.CancelScope(shield=True):
                await self._end()
        finally:
            self._gone.set()
            self.on_closed()

    async def _end(self) -> None:
        if self._guard is not None and not self.lost:
            with anyio.move_on_after(_REAP):
                try:
                    await self._guard.kill(self._group, Signal.KILL)
                    await self._guard.forget(self._group)
                except (TransportBroken, Unsupported):
                    pass  # lost on the way: the guard ends what it watches; not ours: not ours
            with anyio.move_on_after(_REAP):
                await self.wait()
        await self.hang_up()
