"""SSH connections by the system's own ``ssh``, with all that the user configured for it.

FIDO keys, GSSAPI, ``Match exec``, ``ProxyJump``: whatever ``ssh host`` can do. One ``ssh`` holds a
connection (:mod:`._master`) and opens the sessions that we ask for on its control socket
(:mod:`._mux`). It is given one end of three pipes for each (:mod:`._piped`) and moves the bytes: a
worker needs no thread and no process of ours, and its lines take the way of a local process's.

What OpenSSH's client does not tell:

- The name of a signal that killed a worker. So a shell stays above each one and exits with 128 and
  the number, and a code that may mean a signal is reported with that remark.
- That a worker closed its stderr alone: in SSH a session's stdout and stderr end together.
- What had arrived at ``ssh`` when the link was lost, beyond what its pipes held. It is gone.

If the user has a ``ControlMaster`` for the host, it is used, and left alone at the end. Whether a
silent link is noticed is then up to its ``ServerAliveInterval``; a master that is not configured
to is used with ``heartbeat=0`` only, which claims nothing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from holdfast import (
    Cause,
    Fate,
    InvalidTarget,
    Operation,
    TransportBroken,
    TransportUnavailable,
)
from holdfast.wakeup import bell, caller, in_trio

from .._shell import FOR_ANY_SHELL, PING, PING_EVERY
from . import _mux
from ._job import Job
from ._master import Borrowed, Master, borrow
from ._piped import OpenSSHChannel
from ._pool import Connection, SessionRefused

if TYPE_CHECKING:
    from ._channel import RemoteChannel
    from ._settings import Settings

_WHY: Final = 4.0
"""Seconds to learn why a master is gone: twice what it is given to say its last words."""

_RELEASE: Final = 1.0
"""Seconds for the event loop to come to it, when a connection is closed."""

_ANSWER: Final = 10.0
"""Seconds for a master on this machine to answer; it takes less than a millisecond."""


class EventLoop:
    """What a thread needs of the event loop that it was started from."""

    def __init__(self) -> None:
        self.call = caller()
        self.bell = bell()


class OpenSSHConnection:
    """A master, ours or the user's, for the pool.

    Attributes:
        where: The host as errors name it.
        loss: Why it is gone; ``None`` while it is not.
    """

    def __init__(self, where: str, master: Master | Borrowed, loop: EventLoop) -> None:
        self.where = where
        self.loss: TransportBroken | None = None
        self._master = master
        self._call = loop.call
        self._bell = loop.bell
        self._closing = False
        self._guard: OpenSSHChannel | None = None
        self._ping_fd = -1
        self._watch = threading.Thread(target=self._run, name="holdfast ssh: watch", daemon=True)
        self._watch.start()

    # -- in a thread of its own --------------------------------------------------------------

    def _run(self) -> None:
        """Tell the guard that we are there, until the master is gone; then say why it is."""
        while not self._master.watch(PING_EVERY):
            if self._guard is not None and self._guard.is_guard:
                with suppress(OSError):  # full, or gone: then the guard has other worries
                    os.write(self._ping_fd, PING)
        if not self._closing:
            self.loss = self._master.why()
        with suppress(RuntimeError):  # the event loop is over
            self._call(self._bell.ring)

    def close(self) -> None:
        self._closing = True
        self._master.hang_up()
        self._watch.join()
        if self.loss is None:
            text = "this connection was closed by our side"
            self.loss = TransportBroken(Operation.RECEIVE, ConnectionAbortedError(text))
        self._master.close()
        if self._guard is not None:
            os.close(self._ping_fd)
            self._release(self._guard)

    def _release(self, guard: OpenSSHChannel) -> None:
        """Close what the event loop may still watch: there, where it is not over."""
        released = threading.Event()
        tasks: list[asyncio.Task[None]] = []

        def release() -> None:
            try:
                guard.release()
            finally:
                released.set()

        async def release_in_a_task() -> None:
            release()

        def begin() -> None:
            if in_trio():
                release()
            else:  # anyio knows where it is in tasks only
                tasks.append(asyncio.get_running_loop().create_task(release_in_a_task()))

        try:
            self._call(begin)
        except RuntimeError:
            guard.release()
        else:
            released.wait(_RELEASE)

    # -- in the event loop -------------------------------------------------------------------

    @property
    def lost(self) -> bool:
        return self.loss is not None or _mux.hung_up(self._master.monitor)

    async def alive(self) -> bool:
        """Whether the master is at work *now*, and all that was met before was the worker's doing.

        A master that ends closes our pipes in any order, and so looks like a worker that ends; but
        it answers no more. If it is gone, ``loss`` says why.
        """
        with anyio.move_on_after(_ANSWER):
            if self.loss is None and await _mux.answers(self._master.path):
                return True
        with anyio.move_on_after(_WHY):
            while self.loss is None:
                await self._bell.wait()
        if self.loss is None:
            self.loss = TransportBroken(
                Operation.RECEIVE,
                TimeoutError("ssh does not answer on its control socket"),
                cause=Cause.LINK_SILENT,
                worker=Fate.MAYBE_ALIVE,
            )
        return False

    async def session(self) -> OpenSSHChannel:
        if self.loss is not None:
            raise self.loss.during(Operation.OPEN) from self.loss.__cause__
        try:
            control, *pipes = await _mux.open_session(self._master.path, FOR_ANY_SHELL, os.environ)
        except _mux.Refused as error:
            if error.by_master:
                raise TransportUnavailable(
                    f"your ControlMaster for {self.where} refused to open a session ({error}): "
                    f"let it (ControlMaster ask), or end it (ssh -O exit {self.where})"
                ) from error
            raise SessionRefused from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise TransportUnavailable(
                    f"this process is out of descriptors ({error}): "
                    f"stop some sessions, or raise its limit (ulimit -n)"
                ) from error
            if await self.alive():
                raise TransportUnavailable(f"ssh opened no session: {error}") from error
            assert self.loss is not None
            raise self.loss.during(Operation.OPEN) from error
        return OpenSSHChannel(self, control, *pipes)

    def guarded_by(self, guard: RemoteChannel) -> None:
        assert isinstance(guard, OpenSSHChannel)
        self._ping_fd = guard.duplicate_stdin()  # the thread's own: no other can take its number
        self._guard = guard


class Opener:
    """Opens the connections of one transport.

    The user's own master is asked at first, and again when we have left it. Where it has no more
    room, it has company.

    Args:
        settings: How to reach the host.

    Raises:
        InvalidTarget: The settings hold what cannot be passed to ``ssh``.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.password is not None or settings.passphrase is not None:
            raise InvalidTarget(
                "ssh takes no password or passphrase from a program: use an agent, a ControlMaster "
                "of yours, or client=paramiko"
            )
        self._settings = settings
        self._borrowing: OpenSSHConnection | None = None

    def dial(self) -> Job[Connection]:
        """Begin to connect."""
        loop = EventLoop()
        return Job(
            lambda: self._connect(loop),
            name="connect",
            unwanted=lambda connection: connection.close(),
        )

    def _connect(self, loop: EventLoop) -> Connection:
        where = self._settings.where
        if (self._borrowing is None or self._borrowing.lost) and (
            master := borrow(self._settings)
        ) is not None:
            self._borrowing = OpenSSHConnection(where, master, loop)
            return self._borrowing
        return OpenSSHConnection(where, Master(self._settings), loop)
