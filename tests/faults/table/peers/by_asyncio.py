"""asyncio's own subprocesses and streams, with a readline loop: what most programs begin with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

from ..faults import Fault
from ..place import Place
from ..runner import PROMPT
from ..ssh import Ssh
from ..tcp import Tcp
from .peer import ANSWERED, Peer, Talk, ended, is_answer, line, pid_in, shell_line


class Streams(Talk):
    """A reader and a writer."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        process: asyncio.subprocess.Process | None = None,
    ) -> None:
        self._reader, self._writer, self._process = reader, writer, process

    async def begun(self) -> int:
        await self.send(line(PROMPT))
        return pid_in(await self._reader.readline())

    async def send(self, line: bytes) -> None:
        self._writer.write(line)
        await self._writer.drain()

    async def outcome(self) -> str:
        while data := await self._reader.readline():
            if is_answer(data):
                return ANSWERED
        if self._process is None:
            return ended("and no more is known")
        return ended(f"exit {await self._process.wait()}")


class Asyncio(Peer):
    """A subprocess."""

    name = "asyncio"
    place = "local"
    tells = "`asyncio.create_subprocess_exec`, a `readline` loop, then `wait()`; stderr is read"

    def command(self, place: Place, fault: Fault) -> Sequence[str]:
        return fault.argv()

    @asynccontextmanager
    async def open(self, place: Place, fault: Fault) -> AsyncIterator[Talk]:
        process = await asyncio.create_subprocess_exec(
            *self.command(place, fault),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **place.env},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        drain = asyncio.create_task(_drain(process.stderr))
        try:
            yield Streams(process.stdout, process.stdin, process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            drain.cancel()
            await asyncio.wait([drain])
            process._transport.close()  # type: ignore[attr-defined] - it has no other way


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


class AsyncioSsh(Asyncio):
    """The system's ssh as a subprocess."""

    name = "asyncio + ssh"
    place = "ssh (openssh)"
    tells = "the same with the command `ssh HOST -- COMMAND`, as it comes"
    options: ClassVar[Sequence[str]] = ()

    def command(self, place: Place, fault: Fault) -> Sequence[str]:
        assert isinstance(place, Ssh)
        options = ["-p", str(place.port(fault)), *self.options]
        return place.server.ssh(shell_line(place, fault.argv()), options=options)


class AsyncioSshAlive(AsyncioSsh):
    """With OpenSSH's keepalive."""

    name = "asyncio + ssh, keepalive"
    tells = "the same with `-o ServerAliveInterval=1 -o ServerAliveCountMax=2`"
    options = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2")


class AsyncioTcp(Peer):
    """A TCP connection."""

    name = "asyncio streams"
    place = "tcp"
    tells = "`asyncio.open_connection`, a `readline` loop"

    @asynccontextmanager
    async def open(self, place: Place, fault: Fault) -> AsyncIterator[Talk]:
        assert isinstance(place, Tcp)
        port = int(place.target(fault).partition("?")[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield Streams(reader, writer)
        finally:
            writer.transport.abort()
