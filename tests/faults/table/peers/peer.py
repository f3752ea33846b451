"""What a peer is, and how it runs into a fault."""

from __future__ import annotations

import json
import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

import anyio
import anyio.to_thread

from ..faults import Fault, Moment, Then
from ..place import Place
from ..runner import MORE

PATIENCE = 30.0
"""Seconds after which a peer that has said nothing is said to hang."""

HANGS = "hangs"
ANSWERED = "answered"


class Talk(ABC):
    """A worker that runs, as its client sees it; used as the client's documentation shows."""

    @abstractmethod
    async def begun(self) -> int | None:
        """Send the request, and wait until the worker says that it works on it: its process id."""

    @abstractmethod
    async def send(self, line: bytes) -> None:
        """Send a further message, and wait until it is on its way."""

    @abstractmethod
    async def outcome(self) -> str:
        """Wait for the answer, or for whatever else is said."""


class Peer(ABC):
    """Something that runs workers.

    Attributes:
        name: As the tables have it.
        place: The name of the place where it is tried.
        packages: The distributions whose versions matter.
        tells: How it is used.
    """

    name: ClassVar[str]
    place: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    tells: ClassVar[str]

    @abstractmethod
    def open(self, place: Place, fault: Fault) -> AbstractAsyncContextManager[Talk]:
        """Start a worker."""

    @classmethod
    def can(cls, fault: Fault, place: type[Place]) -> bool:
        """Whether it is tried with a fault: with all that happen in a request."""
        return fault.at in (Moment.REQUEST, Moment.MESSAGE) and place.can(fault)


def line(message: Mapping[str, object]) -> bytes:
    """A message on the wire."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def pid_in(data: bytes) -> int:
    """The process id in the worker's first message."""
    pid: int = json.loads(data)["params"]["pid"]
    return pid


def shell_line(place: Place, argv: tuple[str, ...]) -> str:
    """A command for a remote shell, with the mark by which the place knows its processes."""
    marks = [f"{name}={value}" for name, value in place.env.items()]
    return shlex.join(["env", *marks, *argv])


def is_answer(data: bytes) -> bool:
    """Whether a line is the answer to the request."""
    return data.startswith(b'{"jsonrpc":"2.0","id":"1","result"')


def ended(exit: object) -> str:
    """What is said where reading ends as it does when a worker ends, and how it ended."""
    return f"EOF, {exit}"


async def provoke(peer: Peer, fault: Fault, place: Place) -> tuple[str, float | None]:
    """Run a peer into a fault: what it says, and after how many seconds."""
    said: list[str] = []
    over = anyio.Event()

    def say(text: str) -> None:
        said.append(text)
        over.set()

    async def receive(talk: Talk) -> None:
        try:
            say(await talk.outcome())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the peer says
            say(named(error))

    async def send(talk: Talk) -> None:
        try:
            if fault.then is Then.SMALL:
                for _ in range(40):
                    await talk.send(line(MORE))
                    await anyio.sleep(0.05)
            else:
                await talk.send(line({**MORE, "params": {"text": "x" * 8 * 1024 * 1024}}))
        except Exception as error:  # noqa: BLE001 - the same
            say(named(error))

    took = 0.0
    try:
        async with peer.open(place, fault) as talk:
            with anyio.fail_after(20):
                place.worker = await talk.begun()
            place.acted = time.monotonic()
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive, talk)
                    if fault.at is Moment.MESSAGE:
                        tasks.start_soon(send, talk)
                        await anyio.sleep(0.5)  # nobody tells when a part of it is written
                    if fault.hand is not None:
                        await anyio.to_thread.run_sync(place.act, fault.hand)
                    if fault.then is not None:
                        tasks.start_soon(send, talk)
                    with anyio.move_on_after(PATIENCE):
                        await over.wait()
                    if not said:
                        say(HANGS)
                    tasks.cancel_scope.cancel()
            finally:
                took = time.monotonic() - place.acted
                place.heal()  # so that nothing hangs while it is closed
    except Exception as error:  # noqa: BLE001 - it ends the whole client, whatever it is doing
        if not said:
            say(named(error))
    return said[0], None if said[0] == HANGS else took


def named(error: BaseException) -> str:
    """An error, as a traceback's last line has it, on one line and not long."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text[:80]}" if text else name
