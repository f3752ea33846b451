"""paramiko's ``exec_command``, with a thread that reads lines."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import anyio.to_thread
import paramiko

from ..faults import Fault
from ..place import Place
from ..runner import PROMPT
from ..ssh import Ssh
from .peer import ANSWERED, Peer, Talk, ended, is_answer, line, pid_in, shell_line


class Files(Talk):
    """The three files that ``exec_command`` gives."""

    def __init__(self, stdin: Any, stdout: Any, stderr: Any) -> None:
        self._stdin, self._stdout, self._stderr = stdin, stdout, stderr
        self._lines: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        for read in (self._read, self._drain):
            threading.Thread(target=read, daemon=True).start()

    def _read(self) -> None:
        try:
            for data in self._stdout:
                self._lines.put(data.encode() if isinstance(data, str) else data)
            self._lines.put(b"")
        except Exception as error:  # noqa: BLE001 - it is for who reads the queue
            self._lines.put(error)

    def _drain(self) -> None:
        with suppress(Exception):
            while self._stderr.read(65536):
                pass

    async def _next(self) -> bytes:
        item = await anyio.to_thread.run_sync(self._lines.get, abandon_on_cancel=True)
        if isinstance(item, Exception):
            raise item
        return item

    async def begun(self) -> int:
        await self.send(line(PROMPT))
        return pid_in(await self._next())

    async def send(self, line: bytes) -> None:
        def write() -> None:
            self._stdin.write(line)
            self._stdin.flush()

        await anyio.to_thread.run_sync(write, abandon_on_cancel=True)

    async def outcome(self) -> str:
        while data := await self._next():
            if is_answer(data):
                return ANSWERED
        exit = await anyio.to_thread.run_sync(
            self._stdout.channel.recv_exit_status, abandon_on_cancel=True
        )
        return ended(f"exit {exit}")


class Paramiko(Peer):
    """As it comes."""

    name = "paramiko"
    place = "ssh (paramiko)"
    packages = ("paramiko",)
    tells = (
        "`exec_command`, a thread that iterates over `stdout` and one that reads `stderr`, "
        "then `recv_exit_status()`"
    )
    keepalive: ClassVar[int] = 0

    @asynccontextmanager
    async def open(self, place: Place, fault: Fault) -> AsyncIterator[Talk]:
        assert isinstance(place, Ssh)
        server = place.server
        client = paramiko.SSHClient()
        client.load_host_keys(str(server.known_hosts))
        client.connect(
            server.host,
            place.port(fault),
            server.user,
            key_filename=str(server.identity),
            allow_agent=False,
            look_for_keys=False,
        )
        try:
            transport = client.get_transport()
            assert transport is not None
            transport.set_keepalive(self.keepalive)
            yield Files(*client.exec_command(shell_line(place, fault.argv())))
        finally:
            client.close()


class ParamikoAlive(Paramiko):
    """With its keepalive."""

    name = "paramiko, keepalive"
    tells = "the same with `set_keepalive(1)`"
    keepalive = 1
