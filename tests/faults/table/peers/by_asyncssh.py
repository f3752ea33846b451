"""asyncssh, with its process streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import asyncssh

from ..faults import Fault
from ..place import Place
from ..runner import PROMPT
from ..ssh import Ssh
from .peer import ANSWERED, Peer, Talk, ended, is_answer, line, pid_in, shell_line


class Process(Talk):
    """A remote process."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process

    async def begun(self) -> int:
        await self.send(line(PROMPT))
        return pid_in(await self._process.stdout.readline())

    async def send(self, line: bytes) -> None:
        self._process.stdin.write(line)
        await self._process.stdin.drain()

    async def outcome(self) -> str:
        while data := await self._process.stdout.readline():
            if is_answer(data):
                return ANSWERED
        result = await self._process.wait()
        if result.exit_signal is not None:
            return ended(f"signal {result.exit_signal[0]}")
        return ended(f"exit {result.exit_status}")


class Asyncssh(Peer):
    """As it comes."""

    name = "asyncssh"
    place = "ssh (paramiko)"
    packages = ("asyncssh",)
    tells = "`create_process`, a `readline` loop, then `wait()`; stderr to `DEVNULL`"
    options: ClassVar[dict[str, Any]] = {}

    @asynccontextmanager
    async def open(self, place: Place, fault: Fault) -> AsyncIterator[Talk]:
        assert isinstance(place, Ssh)
        server = place.server
        connection = await asyncssh.connect(
            server.host,
            place.port(fault),
            username=server.user,
            client_keys=[str(server.identity)],
            known_hosts=str(server.known_hosts),
            config=None,
            **self.options,
        )
        try:
            process = await connection.create_process(
                shell_line(place, fault.argv()), encoding=None, stderr=asyncssh.DEVNULL
            )
            yield Process(process)
        finally:
            connection.abort()


class AsyncsshAlive(Asyncssh):
    """With its keepalive."""

    name = "asyncssh, keepalive"
    tells = "the same with `keepalive_interval=1, keepalive_count_max=2`"
    options: ClassVar = {"keepalive_interval": 1, "keepalive_count_max": 2}
