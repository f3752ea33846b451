"""A place: where workers run, and the hands that break things there."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import ClassVar, Self

from tests.ssh.machine import (
    Process,
    command_line,
    environment,
    owner,
    running,
    send_signal,
    until,
)

from holdfast import Capability, Registry

from .faults import Fault

MARK = "HOLDFAST_FAULTS"
"""An environment variable of all workers: their processes are known by it, wherever they run on
this machine, in containers too."""

numbers = count(1)


class Place(ABC):
    """Where faults happen; open it as a context.

    A hand is a method named in the list of faults. It may be called from any thread, and when it
    returns, the thing is done.

    Attributes:
        name: As the tables have it.
        example: A target of this kind.
        mark: The value of :data:`MARK` here.
        worker: The worker's process id, once it has said it: as it sees it itself.
        acted: When the last hand did what it does: looking for processes takes its time before.
    """

    name: ClassVar[str]
    example: ClassVar[str]

    def __init__(self) -> None:
        self.mark = f"{owner()}-{next(numbers)}"
        self.worker: int | None = None
        self.acted = 0.0
        self._stack = ExitStack()
        self._undo: list[Callable[[], object]] = []
        self._ours: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.heal()
        self._stack.close()

    def open(self, stack: ExitStack) -> None:
        """Start what the place needs."""
        self._ours = {os.getpid()}

    @abstractmethod
    def target(self, fault: Fault) -> str:
        """Where a session shall run its worker."""

    @property
    def env(self) -> dict[str, str]:
        """What a worker's environment must hold."""
        return {MARK: self.mark}

    @classmethod
    def capabilities(cls) -> Capability:
        """What the transport can do."""
        return Registry().transport(cls.example).capabilities

    @classmethod
    def can(cls, fault: Fault) -> bool:
        """Whether a fault can happen here."""
        return (fault.hand is None or hasattr(cls, fault.hand)) and (
            fault.needs in cls.capabilities()
        )

    # -- after a fault -------------------------------------------------------------------------

    def undone_by(self, undo: Callable[[], object]) -> None:
        """Let :meth:`heal` do this."""
        self._undo.append(undo)

    def mend(self) -> None:
        """Undo what hands have done."""
        while self._undo:
            self._undo.pop()()

    def heal(self) -> None:
        """Make the place as it was, and leave nothing running."""
        self.mend()

        def none_left() -> bool:
            found = [each.pid for each in self.marked()]
            send_signal(found, signal.SIGKILL)
            return not found

        until(none_left, "the workers are gone")
        self.worker = None

    def marked(self) -> list[Process]:
        """The workers' processes, as this machine sees them."""
        mark = f"{MARK}={self.mark}".encode()
        found = [Process(pid, command_line(pid)) for pid in running() if mark in environment(pid)]
        return [each for each in found if each.pid not in self._ours]

    def left(self) -> list[str]:
        """What runs on of a session that is over: where the transport owns its workers."""
        if Capability.REAPS_WORKER not in self.capabilities():
            return []
        return [each.command for each in self.marked()]

    def servers(self) -> set[int]:
        """The processes that the place itself has started."""
        return set()

    def ours(self, before: set[int]) -> list[str]:
        """The processes on our side that a session has started and left."""
        if Capability.REAPS_WORKER not in self.capabilities():
            return []
        marked = {each.pid for each in self.marked()}
        return [command_line(pid) for pid in our_children() - before - marked - self.servers()]

    # -- hands ---------------------------------------------------------------------------------

    def act(self, hand: str) -> None:
        """Do what a fault names."""
        self.acted = time.monotonic()
        getattr(self, hand)()

    def kill_worker(self) -> None:
        """``kill -9``, of the worker alone."""
        self._signal_worker(signal.SIGKILL)

    def stop_worker(self) -> None:
        self._signal_worker(signal.SIGSTOP)

    def _signal_worker(self, number: signal.Signals) -> None:
        found = [each.pid for each in self.marked() if _inner_pid(each.pid) == self.worker]
        assert len(found) == 1, f"which is the worker {self.worker}? {self.marked()}"
        self.acted = time.monotonic()
        send_signal(found, number)


def _inner_pid(pid: int) -> int | None:
    """A process's number as it sees it itself: in a container it is another (proc(5), NSpid)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return None


def our_children() -> set[int]:
    """This process's own children."""
    return {pid for pid, each in running().items() if each.ppid == os.getpid()}
