"""Guards: a shell beside the workers that ends them when we say so, and when we are lost."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import anyio

from holdfast import Operation, Signal, TransportBroken, Unsupported

from ._shell import KILLED, STARTED


class Shell(Protocol):
    """A shell of ours that runs where the workers run.

    Attributes:
        where: The place, as errors name it.
    """

    where: str

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether what runs there is over, or out of reach."""

    @abstractmethod
    async def become_guard(self) -> None:
        """Have it run the guard's script, unless it does from the start."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """As ``Channel.send``."""

    @abstractmethod
    async def receive(self) -> bytes:
        """As ``Channel.receive``."""


class Guard:
    """Ends the workers of one connection: when we say so, and when the connection is lost."""

    def __init__(self, channel: Shell) -> None:
        self.channel = channel
        self._one_asks = anyio.Lock()
        self._asked = 0
        self._ready = False
        self._rest = b""

    async def ready(self) -> None:
        """Wait until it runs; the first who comes sees to it.

        Raises:
            TransportUnavailable: The login shell does not run commands as it should.
            TransportBroken: The connection was lost meanwhile.
        """
        async with self._one_asks:
            await self._begin()

    async def _begin(self) -> None:
        if not self._ready:
            await self.channel.become_guard()
            await self._read(STARTED)
            self._ready = True

    async def watch(self, group: int) -> None:
        """End this process group when the connection is lost."""
        await self.channel.send(b"+ %d\n" % group)

    async def forget(self, group: int) -> None:
        """It is over."""
        await self.channel.send(b"- %d\n" % group)

    async def kill(self, group: int, signal: Signal) -> None:
        """Signal a process group; if it is over, that is no error.

        Raises:
            Unsupported: It belongs to another user now.
            TransportBroken: The connection is gone, or the guard is.
        """
        async with self._one_asks:
            await self._begin()
            self._asked += 1
            number = self._asked
            await self.channel.send(b"%s %d %d\n" % (signal.name.encode(), group, number))
            while True:  # an earlier answer is for somebody who was cancelled
                answer = KILLED.match(await self._read(b"\n"))
                if answer is not None and int(answer[1]) == number:
                    break
        if answer[2] != b"0" and b"permitted" in answer[3]:
            raise Unsupported(
                f"the worker's process group {group} on {self.channel.where} belongs to another "
                f"user now: {answer[3].decode('utf-8', 'replace')}"
            )

    async def _read(self, end: bytes) -> bytes:
        while end not in self._rest:
            if not (data := await self.channel.receive()):
                raise TransportBroken(
                    Operation.SIGNAL, f"the guard of our workers on {self.channel.where} is gone"
                )
            self._rest += data
        line, end, self._rest = self._rest.partition(end)
        return line + end
