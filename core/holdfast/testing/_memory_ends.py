"""What stands between a session and a worker in memory: bounded pipes, and the worker's ends."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import anyio
import anyio.lowlevel

from .._status import Exit
from ..wakeup import Bell, bell

ENDLESS: Final = 1 << 60
"""More bytes than anybody writes."""


class Pipe:
    """A byte buffer of bounded size, with somebody at each end or not."""

    __slots__ = ("bell", "data", "no_reader", "no_writer", "size")

    def __init__(self, size: int) -> None:
        self.size: int = size
        self.data: bytearray = bytearray()
        self.no_reader: bool = False
        self.no_writer: bool = False
        self.bell: Bell = bell()

    @property
    def room(self) -> int:
        """How many bytes still go into it."""
        return self.size - len(self.data)

    def take(self, at_most: int) -> bytes:
        """The first bytes of what lies in it."""
        data = bytes(self.data[:at_most])
        del self.data[:at_most]
        self.bell.ring()
        return data

    def end_reading(self) -> None:
        """Nobody will read it any more; what lies in it is lost."""
        self.no_reader = True
        self.data.clear()
        self.bell.ring()

    def end_writing(self) -> None:
        """Nobody will write to it any more; what lies in it can still be read."""
        self.no_writer = True
        self.bell.ring()


class ReadEnd:
    """A worker's stdin. Iterating over it gives its lines."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe: Pipe = pipe
        self.held = False  # nothing is read while this is so
        self.no_eof = False

    async def read(self, max_bytes: int = 65536) -> bytes:
        """Up to ``max_bytes`` bytes, at least one; ``b""`` at the end."""
        return await self._until(lambda data: min(len(data), max_bytes))

    async def readline(self) -> bytes:
        """One line with its newline, without it if the end cuts it short; ``b""`` at the end."""
        line = b""
        while not line.endswith(b"\n"):
            piece = await self._until(lambda data: data.find(b"\n") + 1 or len(data))
            if not piece:
                break
            line += piece
        return line

    async def _until(self, count: Callable[[bytearray], int]) -> bytes:
        await anyio.lowlevel.checkpoint()
        while True:
            pipe = self.pipe
            if not self.held:
                if pipe.data:
                    return pipe.take(count(pipe.data))
                if pipe.no_reader or (pipe.no_writer and not self.no_eof):
                    return b""
            await pipe.bell.wait()

    def close(self) -> None:
        """The worker closes its stdin; what lies in it is lost."""
        self.pipe.end_reading()

    def move(self, pipe: Pipe) -> None:
        """Connect it to another pipe; who waits for the old one goes on with the new one."""
        old, self.pipe = self.pipe, pipe
        old.bell.ring()

    def __aiter__(self) -> ReadEnd:
        return self

    async def __anext__(self) -> bytes:
        if line := await self.readline():
            return line
        raise StopAsyncIteration


class WriteEnd:
    """A worker's stdout or stderr."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe: Pipe = pipe
        self.held = False  # nothing is written while this is so

    async def write(self, data: bytes | str) -> None:
        """Write all of it; waits while the pipe is full.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        rest = memoryview(data.encode() if isinstance(data, str) else data)
        await anyio.lowlevel.checkpoint()
        while True:
            pipe = self.pipe
            if not self.held:
                if pipe.no_reader or pipe.no_writer:
                    raise BrokenPipeError(errno.EPIPE, "Broken pipe")
                if (room := pipe.room) > 0:
                    pipe.data += rest[:room]
                    rest = rest[room:]
                    pipe.bell.ring()
                if not rest:
                    return
            await pipe.bell.wait()

    def close(self) -> None:
        """The worker closes it."""
        self.pipe.end_writing()

    def move(self, pipe: Pipe) -> None:
        """Connect it to another pipe; who waits for the old one goes on with the new one."""
        old, self.pipe = self.pipe, pipe
        old.bell.ring()


WorkerFunction = Callable[[ReadEnd, WriteEnd, WriteEnd], Awaitable[int | None]]
"""A worker: its stdin, stdout and stderr in; its exit code out, ``None`` for 0."""

Step = bytes | str | float | Exit | WorkerFunction


async def echo(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
    """A worker that writes back what it reads."""
    while data := await stdin.read():
        await stdout.write(data)


async def read_line(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
    """A step of a script: read one line."""
    await stdin.readline()


def script(steps: Iterable[Step]) -> WorkerFunction:
    """A worker that does one thing after the other.

    Args:
        steps: ``bytes`` or ``str`` is written to stdout, a number is waited for in seconds, an
            :class:`~holdfast.Exit` ends the worker so, and a worker function (such as
            :func:`read_line`) is run.
    """
    steps = tuple(steps)

    async def run(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        for step in steps:
            if isinstance(step, bytes | str):
                await stdout.write(step)
            elif isinstance(step, Exit):
                raise Ended(step)
            elif isinstance(step, int | float):
                await anyio.sleep(step)
            else:
                await step(stdin, stdout, stderr)

    return run


class Ended(Exception):
    """A script came to the step that ends it."""

    def __init__(self, exit: Exit) -> None:
        self.exit = exit


def closed_pipe() -> Pipe:
    """A pipe with nobody at either end."""
    pipe = Pipe(0)
    pipe.no_reader = pipe.no_writer = True
    return pipe
