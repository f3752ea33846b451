"""Workers in memory: a transport without a process, whose faults are chosen or drawn from a seed.

A worker is a coroutine that is given three ends, as a program is::

    async def shout(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        async for line in stdin:
            await stdout.write(line.upper())

    session = await manager.start(MemoryTransport(shout), ["shout"], dialect="lines")

It ends with the code that it returns (nothing means 0), with code 1 and a traceback on its stderr
if it fails, or with a signal, which cancels it. Between it and the session stand pipes of bounded
size, as an operating system has them, and :class:`Fault` says what happens to those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import anyio

from .._errors import TransportUnavailable, WorkerNotStarted
from .._transport import Capability, Command, Transport
from ._faults import Fault, What, draw
from ._memory_channel import MemoryChannel
from ._memory_ends import ReadEnd, Step, WorkerFunction, WriteEnd, echo, read_line, script

__all__ = [
    "MemoryChannel",
    "MemoryTransport",
    "ReadEnd",
    "Step",
    "WorkerFunction",
    "WriteEnd",
    "echo",
    "read_line",
    "script",
]

PIPE_SIZE: Final = 65536
"""What a pipe holds on Linux."""


class MemoryTransport(Transport):
    """Workers as coroutines in this process.

    Args:
        worker: What runs, whatever the command says: a coroutine function, or the steps of a
            :func:`script`.
        faults: What goes wrong. It may be replaced later, for the channels that are opened then.
        seed: Draws further faults for each channel; the same seed draws the same ones.
        capabilities: What it can do. ``DETECTS_SILENT_LINK`` and the lack of any other one change
            how it behaves.
        pipe_size: How many bytes lie between a channel and its worker, each way.
        takes_at_once: Whether ``send_nowait`` takes anything.

    Attributes:
        channels: Every channel so far, in the order of opening.
        opens: How often ``open`` was called, successful or not.
    """

    capabilities: Capability = (
        Capability.STDERR
        | Capability.EXIT_STATUS
        | Capability.SIGNALS
        | Capability.HALF_CLOSE
        | Capability.REAPS_WORKER
        | Capability.EARLY_EOF
    )

    def __init__(
        self,
        worker: WorkerFunction | Iterable[Step],
        *,
        faults: Sequence[Fault] = (),
        seed: int | None = None,
        capabilities: Capability | None = None,
        pipe_size: int = PIPE_SIZE,
        takes_at_once: bool = True,
    ) -> None:
        self.worker: WorkerFunction = worker if callable(worker) else script(worker)
        self.faults: tuple[Fault, ...] = tuple(faults)
        self.seed = seed
        if capabilities is not None:
            self.capabilities = capabilities
        self.pipe_size = pipe_size
        self.takes_at_once = takes_at_once
        self.channels: list[MemoryChannel] = []
        self.opens: int = 0

    def __repr__(self) -> str:
        seed = f" seed={self.seed}" if self.seed is not None else ""
        return f"<MemoryTransport{seed} opens={self.opens} faults={list(map(str, self.faults))}>"

    def faults_of(self, channel: int) -> tuple[Fault, ...]:
        """What goes wrong on the channel of this number, the first being 0."""
        chosen = tuple(each for each in self.faults if each.channel in (None, channel))
        if self.seed is None:
            return chosen
        return chosen + draw(Random(f"{self.seed}/{channel}"))

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[MemoryChannel]:
        """Start the worker."""
        faults = self.faults_of(self.opens)
        self.opens += 1
        for fault in faults:
            await _at_open(fault, command)
        channel = MemoryChannel(
            faults, self.capabilities, self.pipe_size, takes_at_once=self.takes_at_once
        )
        self.channels.append(channel)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            channel.start(tasks, self.worker)
            try:
                yield channel
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                failure = error
            finally:
                await channel.aclose()
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _at_open(fault: Fault, command: Command) -> None:
    if fault.what is What.SLOW_OPEN:
        await anyio.sleep(fault.amount)
    elif fault.what is What.REFUSE:
        raise TransportUnavailable("the memory transport refuses: a fault says so")
    elif fault.what is What.MISSING:
        raise WorkerNotStarted(f"no such command: {command.argv[0]!r}: a fault says so")
