"""The Agent Client Protocol's Python package, both ends, with ``holdfast run`` between them."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from acp import PROTOCOL_VERSION, RequestError, spawn_agent_process, text_block

from .servers.driving import DEADLINE, SERVERS, gone, run

pytestmark = pytest.mark.anyio

AGENT = (sys.executable, str(SERVERS / "acp_agent.py"))

LAUNCHED = ("sh", "-c", f"sleep 600 & echo $! >helper; exec {shlex.join(AGENT)}")
"""The same agent behind a launcher that leaves a helper running, which inherits its pipes."""

PATIENCE = 2.0
"""Seconds after which a client that still waits is said to hang."""


@pytest.fixture(scope="module", params=[("asyncio", {})], ids=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The package is written for asyncio alone."""
    return request.param


class Editor:
    """A client that collects what the agent says."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str] = asyncio.Queue()

    def on_connect(self, conn: Any) -> None:
        pass

    async def session_update(self, session_id: str, update: Any, **kwargs: Any) -> None:
        self.said.put_nowait(update.content.text)


@asynccontextmanager
async def session(
    command: tuple[str, ...] | list[str], home: Path
) -> AsyncIterator[tuple[Any, Editor, str]]:
    """A connection to the agent that ``command`` starts, with a session in ``home``."""
    editor = Editor()
    with (home / "log").open("wb") as log, anyio.fail_after(DEADLINE):
        async with spawn_agent_process(
            cast(Any, editor),
            *command,
            cwd=home,
            transport_kwargs={"stderr": log, "limit": 8 * 1024 * 1024},
        ) as (connection, process):
            answer = await connection.initialize(PROTOCOL_VERSION)
            assert answer.protocol_version == PROTOCOL_VERSION
            new = await connection.new_session(cwd=str(home))
            assert new.session_id == f"session-in-{home}"
            yield connection, editor, new.session_id
        # The package leaves this to the garbage collector, whose warning would fail another test.
        cast(Any, process)._transport.close()
        await asyncio.sleep(0)


async def kill_in_mid_prompt(
    connection: Any, editor: Editor, session_id: str, patience: float
) -> tuple[float | None, Exception | None, int]:
    """Kill the agent while it works on a prompt.

    Gives the seconds until the prompt ended, its error (``None`` for both if it was still pending
    after ``patience`` seconds), and the agent's process id.
    """
    prompt = asyncio.create_task(
        connection.prompt(session_id=session_id, prompt=[text_block("hang")])
    )
    pid = int(await editor.said.get())
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    done, _ = await asyncio.wait([prompt], timeout=patience)
    seconds = time.monotonic() - killed
    if not done:
        prompt.cancel()
        await asyncio.wait([prompt])
        return None, None, pid
    error = prompt.exception()
    assert isinstance(error, Exception), "the prompt ended without an error"
    return seconds, error, pid


async def test_a_prompt_is_answered_as_without_holdfast(tmp_path: Path) -> None:
    """Initialize, new session, prompts with updates: the client cannot tell the difference."""
    async with session(run(*AGENT, options=["--dialect", "acp"]), tmp_path) as (
        connection,
        editor,
        session_id,
    ):
        large = "\N{GREEK SMALL LETTER PI}" * 1024 * 1024
        for text in ("one", "two\nlines", large):
            answer = await connection.prompt(session_id=session_id, prompt=[text_block(text)])
            assert answer.stop_reason == "end_turn"
            assert await editor.said.get() == text


@pytest.mark.parametrize("dialect", ["acp", "jsonrpc"])
@pytest.mark.parametrize("command", [AGENT, LAUNCHED], ids=["agent", "launched"])
async def test_a_killed_agent_ends_the_pending_prompt_within_a_second(
    tmp_path: Path,
    command: tuple[str, ...],
    dialect: str,
    record_property: Callable[[str, object], None],
) -> None:
    """The client hears what happened, at once, whoever else still holds the agent's pipes."""
    guarded = run(*command, options=["--dialect", dialect])
    async with session(guarded, tmp_path) as (connection, editor, session_id):
        seconds, error, pid = await kill_in_mid_prompt(connection, editor, session_id, DEADLINE / 2)
        assert seconds is not None, "the prompt was still pending"
        record_property("seconds with holdfast", seconds)
        print(f"with holdfast: {error!r} after {seconds:.3f} s")
        assert isinstance(error, RequestError)
        assert error.code == -32000
        assert isinstance(error.data, dict)
        assert error.data["cause"] == "worker_exited"
        assert error.data["delivery"] == "written"
        assert "SIGKILL" in error.data["detail"]
        assert seconds < 1
        assert gone(pid)
        with anyio.fail_after(1), pytest.raises((RequestError, ConnectionError)):
            await connection.prompt(session_id=session_id, prompt=[text_block("more")])
    assert (tmp_path / "log").read_bytes() == b""
    if command == LAUNCHED:
        assert gone(int((tmp_path / "helper").read_text())), "the helper was left running"


async def test_without_holdfast_a_killed_agent_is_seen_by_the_end_of_its_output(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """For comparison, measured and not promised: what the client says of the bare agent."""
    async with session(AGENT, tmp_path) as (connection, editor, session_id):
        seconds, error, _ = await kill_in_mid_prompt(connection, editor, session_id, PATIENCE)
        record_property("seconds without holdfast", seconds)
        print(f"without holdfast: {error!r} after {seconds} s")
        if error is not None:
            assert "SIGKILL" not in str(error), "the package does not know why"


async def test_without_holdfast_the_client_of_a_launched_agent_hangs(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """For comparison: a helper that holds the pipe is enough to make the client wait for ever."""
    try:
        async with session(LAUNCHED, tmp_path) as (connection, editor, session_id):
            seconds, error, _ = await kill_in_mid_prompt(connection, editor, session_id, PATIENCE)
            record_property("seconds without holdfast", seconds)
            print(f"without holdfast, launched: {error!r} after {seconds} s")
            # On Python 3.11 to 3.13 even the package's own shutdown waits for the helper.
            os.kill(int((tmp_path / "helper").read_text()), signal.SIGKILL)
            assert seconds is None, "it hangs no more: tell the README"
    finally:
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((tmp_path / "helper").read_text()), signal.SIGKILL)
