"""The seam between core and the places where workers run: two nouns and their rules.

A :class:`Transport` is a place; a :class:`Channel` is one running worker's byte streams there.

**Ended, closed and broken are three things.** *Ended*: the worker closed its stdout, and
``receive`` returns ``b""``. *Closed*: we closed the channel, and every operation raises
:class:`~holdfast.ChannelClosed`. *Broken*: the peer or the link failed, and operations raise
:class:`~holdfast.TransportBroken`, again and again with the same cause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from enum import Flag, StrEnum, auto

import msgspec

from ._errors import Unsupported
from ._status import Exit


class Signal(StrEnum):
    """The signals that core sends to a worker's process group."""

    INT = "int"
    TERM = "term"
    KILL = "kill"
    HUP = "hup"


class Capability(Flag):
    """What a transport can do beyond moving bytes.

    Core and the conformance kit ask for these, never for a transport's name.
    """

    ANY_COMMAND = auto()
    """It runs the command it is given (and not one fixed worker)."""
    STDERR = auto()
    """The worker's stderr arrives apart from its stdout."""
    EXIT_STATUS = auto()
    """The worker's exit code or signal is reported."""
    SIGNALS = auto()
    """``signal`` reaches the worker's process group."""
    HALF_CLOSE = auto()
    """``send_eof`` closes the worker's stdin and leaves its stdout open."""
    REAPS_WORKER = auto()
    """After ``aclose`` no process of the worker's group is left."""
    DETECTS_SILENT_LINK = auto()
    """A link that drops everything without a word is noticed within a deadline."""
    EARLY_EOF = auto()
    """The end of stdout and stderr is told while the worker that closed them lives on."""


class Command(msgspec.Struct, frozen=True):
    """What to run.

    Attributes:
        argv: The program and its arguments, exactly as the worker shall see them.
        cwd: The directory to run it in; ``None`` for the transport's own choice.
        env: Environment variables to set.
        inherit_env: Whether ``env`` is added to the environment that the transport starts from
            (``True``), or replaces it.
    """

    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = {}
    inherit_env: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.argv, tuple):
            raise TypeError(f"argv is a tuple of strings, not {self.argv!r}")
        if not self.argv:
            raise ValueError("argv is empty: a command needs at least a program")
        for text in (*self.argv, *self.env, self.cwd or ""):
            if not isinstance(text, str):
                raise TypeError(f"argv, cwd and env hold strings, not {text!r}")
            if "\0" in text:
                raise ValueError(f"a NUL character cannot be passed to a program: {text!r}")
        for name, value in self.env.items():
            if not name or "=" in name:
                raise ValueError(f"not the name of an environment variable: {name!r}")
            if not isinstance(value, str):  # which may be secret, and is not repeated
                raise TypeError(f"the value of {name} is a string, not {type(value).__name__}")
            if "\0" in value:
                raise ValueError(f"a NUL character cannot be passed to a program: value of {name}")


class Channel(ABC):
    """One running worker's byte streams.

    At most one task sends, one receives, and one receives stderr at a time; any number may wait.
    After :class:`~holdfast.TransportBroken` every operation raises it again with the same cause,
    except that ``receive`` first hands out what had arrived (and goes on where the worker lives
    and only its stdin is gone), and that ``wait`` returns. An operation that is pending at our
    own ``aclose`` raises :class:`~holdfast.ChannelClosed`, as does every later one but ``wait``
    and ``aclose``.
    """

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write all of ``data`` to the worker's stdin.

        Returns when the operating system or the protocol's window has taken every byte, not when
        a buffer in this process has. If it is cancelled, a part may have been written, and the
        channel is then only fit to be closed.

        Raises:
            TransportBroken: The worker's stdin or the link is gone.
            ChannelClosed: We closed the channel.
        """

    def send_nowait(self, data: bytes) -> int:
        """Write what can be written at once, without waiting.

        It spares core a switch to its writer task. The default takes nothing.

        Returns:
            How many of the bytes were taken, from the first on; 0 if none.

        Raises:
            TransportBroken: The worker's stdin or the link is gone; not a byte was taken.
            ChannelClosed: We closed the channel.
        """
        return 0

    @abstractmethod
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Read from the worker's stdout.

        It lets other tasks run at least once, also when data lies ready. Cancelling it loses
        nothing.

        Returns:
            1 to ``max_bytes`` bytes, or ``b""`` if and only if the worker closed its stdout.
            Without ``EARLY_EOF`` that is told only once the worker is over.

        Raises:
            TransportBroken: The link is gone, and everything that had arrived was handed out.
            ChannelClosed: We closed the channel.
        """

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        """Read from the worker's stdout to its end, and give each piece to ``take``.

        The same as a loop around ``receive``, which is the default. A transport that is told of
        data by a callback may override it to spare a task switch for each piece. Cancelling it
        loses nothing: ``receive`` goes on where it ended.

        Args:
            take: Called with each piece; it does not raise. Where it gives an awaitable, reading
                goes on when that is done.
            max_bytes: The longest piece.

        Raises:
            TransportBroken: As ``receive`` does.
            ChannelClosed: We closed the channel.
        """
        while data := await self.receive(max_bytes):
            if (slow := take(data)) is not None:
                await slow

    @abstractmethod
    async def wait(self) -> Exit:
        """Wait until the worker is over. Many callers may wait, at any time, also after a close.

        A process that inherited the worker's pipes does not delay it.

        Returns:
            How it ended, as far as that was reported; ``Exit()`` if it was not.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the channel, by force, and take the worker with it where that is possible.

        Idempotent, bounded, and complete even if the calling task is cancelled.
        """

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        """Read from the worker's stderr: the rules of ``receive``. Needs ``STDERR``."""
        return b""

    async def send_eof(self) -> None:
        """Close the worker's stdin and leave its stdout open. Idempotent. Needs ``HALF_CLOSE``.

        Raises:
            TransportBroken: The worker's stdin or the link is gone.
            ChannelClosed: We closed the channel.
            Unsupported: The transport has no half close.
        """
        raise Unsupported(f"{type(self).__name__} cannot close the worker's stdin alone")

    async def signal(self, signal: Signal) -> None:
        """Send a signal to the worker's process group. Needs ``SIGNALS``.

        A worker that is already over is no error.

        Raises:
            TransportBroken: The link is gone.
            ChannelClosed: We closed the channel.
            Unsupported: The transport cannot send signals.
        """
        raise Unsupported(f"{type(self).__name__} cannot send signals")


class Transport(ABC):
    """A place where workers run. The channels of one transport may share a connection."""

    capabilities: Capability = Capability(0)

    @abstractmethod
    def open(self, command: Command) -> AbstractAsyncContextManager[Channel]:
        """Start ``command`` and give its channel; leaving the context closes the channel.

        Raises:
            TransportUnavailable: The place cannot be reached or used (host unreachable,
                authentication refused, host key unknown, engine down, image missing).
            WorkerNotStarted: There is no such command or directory there.
        """

    async def aclose(self) -> None:  # noqa: B027 - a default, not a gap
        """Close what the transport's channels share. The default has nothing to close."""
