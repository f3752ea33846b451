"""The MCP Python SDK's stdio client, which starts a server's command and speaks to it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

from ..faults import BEGIN, TAKE, Fault
from ..place import Place
from ..ssh import Ssh
from .peer import ANSWERED, Peer, Talk, pid_in, shell_line

HANDSHAKE = (
    TAKE + r"""printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","""
    r""""capabilities":{},"serverInfo":{"name":"faults","version":"1"}}}\n' "$id"; """
    "read -r line; "
)
"""What a server of MCP does first: it answers ``initialize``, and hears ``initialized``."""

TO_STDERR = BEGIN.replace("; ", " >&2; ")
"""The SDK has no use for notifications that it does not know."""


class Session(Talk):
    """A session of MCP; its request is a ping."""

    def __init__(self, session: ClientSession, tasks: anyio.abc.TaskGroup, log: Path) -> None:
        self._session, self._tasks, self._log = session, tasks, log
        self._answered = anyio.Event()
        self._failure: Exception | None = None

    async def _ask(self, request: Callable[[], Awaitable[object]]) -> None:
        try:
            await request()
        except Exception as error:  # noqa: BLE001 - it is for outcome() to raise
            self._failure = error
        self._answered.set()

    async def begun(self) -> int:
        self._tasks.start_soon(self._ask, self._session.send_ping)
        while not (lines := self._log.read_bytes().splitlines(keepends=True)):  # noqa: ASYNC110 - a file
            await anyio.sleep(0.005)
        return pid_in(lines[0])

    async def send(self, line: bytes) -> None:
        arguments = json.loads(line).get("params", {})
        self._tasks.start_soon(
            self._ask, partial(self._session.call_tool, "more", arguments=arguments)
        )

    async def outcome(self) -> str:
        await self._answered.wait()
        if self._failure is not None:
            raise self._failure
        return ANSWERED


class Mcp(Peer):
    """A server on this machine."""

    name = "MCP SDK"
    place = "local"
    packages = ("mcp",)
    tells = "`stdio_client` and `ClientSession`, `send_ping()` in flight"

    def command(self, place: Place, fault: Fault) -> Sequence[str]:
        return fault.argv(HANDSHAKE, TO_STDERR)

    @asynccontextmanager
    async def open(self, place: Place, fault: Fault) -> AsyncIterator[Talk]:
        command, *arguments = self.command(place, fault)
        parameters = StdioServerParameters(command=command, args=arguments, env=place.env)
        with tempfile.NamedTemporaryFile("w") as log:
            async with (
                stdio_client(parameters, log) as (read, write),  # type: ignore[arg-type]
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                async with anyio.create_task_group() as tasks:
                    yield Session(session, tasks, Path(log.name))
                    tasks.cancel_scope.cancel()


class McpSsh(Mcp):
    """A server on another machine."""

    name = "MCP SDK + ssh"
    place = "ssh (openssh)"
    tells = "the same with the command `ssh HOST -- COMMAND`, as it comes"

    def command(self, place: Place, fault: Fault) -> Sequence[str]:
        assert isinstance(place, Ssh)
        options = ["-p", str(place.port(fault))]
        return place.server.ssh(
            shell_line(place, fault.argv(HANDSHAKE, TO_STDERR)), options=options
        )
