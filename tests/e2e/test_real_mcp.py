"""The official MCP Python SDK, both ends, with ``holdfast run`` between them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

from .servers.driving import DEADLINE, SERVERS, gone, run

pytestmark = pytest.mark.anyio

SERVER = (sys.executable, str(SERVERS / "mcp_server.py"))

LAUNCHED = ("sh", "-c", f"sleep 600 & echo $! >helper; exec {shlex.join(SERVER)}")
"""The same server behind a launcher that leaves a helper running, which inherits its pipes."""

PATIENCE = 2.0
"""Seconds after which a client that still waits is said to hang."""


@asynccontextmanager
async def client(command: tuple[str, ...] | list[str], home: Path) -> AsyncIterator[ClientSession]:
    """An initialized client of the server that ``command`` starts in the directory ``home``."""
    parameters = StdioServerParameters(command=command[0], args=list(command[1:]), cwd=home)
    with (home / "log").open("w") as errlog, anyio.fail_after(DEADLINE):
        async with (
            stdio_client(parameters, errlog) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            yield session


async def kill_in_mid_call(
    session: ClientSession, patience: float
) -> tuple[float | None, MCPError | None, int]:
    """Kill the server while it works on a call.

    Gives the seconds until the call ended, its error (``None`` for both if it was still pending
    after ``patience`` seconds), and the server's process id.
    """
    pids: list[int] = []
    begun = anyio.Event()

    async def on_progress(
        progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        pids.append(int(message or ""))
        begun.set()

    ended = anyio.Event()
    errors: list[MCPError] = []

    async def call() -> None:
        try:
            await session.call_tool("hang", progress_callback=on_progress)
        except MCPError as error:
            errors.append(error)
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await begun.wait()
        os.kill(pids[0], signal.SIGKILL)
        killed = time.monotonic()
        with anyio.move_on_after(patience):
            await ended.wait()
        seconds = time.monotonic() - killed
        tasks.cancel_scope.cancel()
    if not ended.is_set():
        return None, None, pids[0]
    assert errors, "the call ended without an error"
    return seconds, errors[0], pids[0]


def text(result: Any) -> str:
    """What a tool gave."""
    found: str = result.content[0].text
    return found


async def test_a_session_works_as_without_holdfast(tmp_path: Path) -> None:
    """Initialize, list, call: the client cannot tell that holdfast is there."""
    async with client(run(*SERVER), tmp_path) as session:
        assert session.server_info is not None
        assert session.server_info.name == "holdfast-e2e"
        tools = await session.list_tools()
        assert [tool.name for tool in tools.tools] == ["add", "echo", "hang"]
        result = await session.call_tool("add", {"a": 20, "b": 22})
        assert not result.is_error
        assert text(result) == "42"
        unknown = await session.call_tool("echo", {"wrong": 1})
        assert unknown.is_error
        await session.send_ping()


async def test_a_mebibyte_goes_both_ways(tmp_path: Path) -> None:
    """Large payloads arrive whole, several at once."""
    texts = [mark * 1024 * 1024 for mark in "ab\N{LATIN SMALL LETTER E WITH ACUTE}"]
    answers: dict[int, Any] = {}
    async with client(run(*SERVER), tmp_path) as session:

        async def call(number: int) -> None:
            answers[number] = await session.call_tool("echo", {"text": texts[number]})

        async with anyio.create_task_group() as tasks:
            for number in range(len(texts)):
                tasks.start_soon(call, number)
    assert [text(answers[number]) for number in range(len(texts))] == texts


@pytest.mark.parametrize("command", [SERVER, LAUNCHED], ids=["server", "launched"])
async def test_a_killed_server_ends_the_pending_call_within_a_second(
    tmp_path: Path,
    command: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    """The client hears what happened, at once, whoever else still holds the server's pipes."""
    async with client(run(*command), tmp_path) as session:
        seconds, error, pid = await kill_in_mid_call(session, DEADLINE / 2)
        assert seconds is not None, "the call was still pending"
        record_property("seconds with holdfast", seconds)
        print(f"with holdfast: {error!r} after {seconds:.3f} s")
        assert error is not None
        assert error.code == -32000
        assert error.data["cause"] == "worker_exited"
        assert error.data["delivery"] == "written"
        assert "SIGKILL" in error.data["detail"]
        assert seconds < 1
        assert gone(pid)
        with anyio.fail_after(1), pytest.raises(MCPError):
            await session.call_tool("add", {"a": 1, "b": 1})
    assert (tmp_path / "log").read_text() == ""
    if command == LAUNCHED:
        assert gone(int((tmp_path / "helper").read_text())), "the helper was left running"


async def test_without_holdfast_a_killed_server_is_seen_by_the_end_of_its_output(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """For comparison, measured and not promised: what the client says of the bare server."""
    async with client(SERVER, tmp_path) as session:
        seconds, error, _ = await kill_in_mid_call(session, PATIENCE)
        record_property("seconds without holdfast", seconds)
        print(f"without holdfast: {error!r} after {seconds} s")
        if error is not None:
            assert "SIGKILL" not in str(error), "the SDK does not know why"


async def test_without_holdfast_the_client_of_a_launched_server_hangs(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """For comparison: a helper that holds the pipe is enough to make the client wait for ever."""
    async with client(LAUNCHED, tmp_path) as session:
        seconds, error, _ = await kill_in_mid_call(session, PATIENCE)
        record_property("seconds without holdfast", seconds)
        print(f"without holdfast, launched: {error!r} after {seconds} s")
        assert seconds is None, "it hangs no more: tell the README"
    with suppress(ProcessLookupError):
        os.kill(int((tmp_path / "helper").read_text()), signal.SIGKILL)
