"""What ``holdfast run`` does alike wherever its worker runs: over SSH, and in containers."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client

from .driving import Running, finished, request, run, sh, started

DEADLINE = 60.0
MIB = 1024 * 1024


class RunAnywhere:
    """A module that has a fixture ``target`` tries these by a subclass."""

    def test_twenty_mebibytes_both_ways(self, target: str) -> None:
        """20 MiB that are no text go to the worker and come back, byte by byte."""
        data = os.urandom(MIB) * 20
        code, out, err = finished(run("cat", target=target), data, DEADLINE)
        assert (code, err) == (0, b"")
        assert len(out) == len(data)
        assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()

    def test_the_streams_and_the_exit(self, target: str) -> None:
        """stdout, stderr and the exit code are the worker's."""
        worker = (*sh('cat; echo "$0" >&2; exit 7'), "it's $HOME\n")
        code, out, err = finished(run(*worker, target=target), b"in\n", DEADLINE)
        assert (code, out, err) == (7, b"in\n", b"it's $HOME\n\n")

    def test_death_by_signal(self, target: str) -> None:
        """A worker that is killed gives 128 and the signal's number."""
        code, _, _ = finished(run(*sh("kill -9 $$"), target=target), seconds=DEADLINE)
        assert code == 128 + signal.SIGKILL


@contextmanager
def pending(target: str) -> Iterator[Running]:
    """A run whose worker has read a request, and never answers it."""
    worker = sh("read -r line; echo '{\"up\":1}'; exec sleep 100")
    with started(run(*worker, target=target)) as running:
        running.write(request("7"))
        assert running.line(seconds=DEADLINE) == b'{"up":1}\n'
        yield running


def answered_in_its_place(running: Running) -> dict[str, Any]:
    """What the one answer to that request says of the loss; nothing comes behind it."""
    answer = json.loads(running.line(seconds=DEADLINE))
    assert answer["id"] == "7"
    assert running.rest(seconds=DEADLINE) == b""
    return answer["error"]["data"]


async def kill_an_mcp_server(
    command: Sequence[str], kill: Callable[[int], Awaitable[object]], folder: Path
) -> tuple[float, dict[str, Any]]:
    """Use an MCP server by its SDK, and kill it during a call.

    Returns:
        The seconds until the call ended, and what its error said of the loss.
    """
    parameters = StdioServerParameters(command=command[0], args=[*command[1:]], cwd=folder)
    with (folder / "log").open("w") as errlog, anyio.fail_after(DEADLINE):
        async with (
            stdio_client(parameters, errlog) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            result = await session.call_tool("add", {"a": 20, "b": 22})
            assert result.content[0].text == "42"
            text = "x" * MIB
            result = await session.call_tool("echo", {"text": text})
            assert result.content[0].text == text
            killed = 0.0

            async def on_progress(
                progress: float, total: float | None = None, message: str | None = None
            ) -> None:
                nonlocal killed
                killed = time.monotonic()
                await kill(int(message or ""))

            with pytest.raises(MCPError) as caught:
                await session.call_tool("hang", progress_callback=on_progress)
            seconds = time.monotonic() - killed
    assert (folder / "log").read_text() == ""
    print(f"a pending call ended {seconds:.3f} s after kill -9")
    return seconds, caught.value.error.data
