"""``holdfast run ssh://…``: what a client that starts it sees, on a real server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from tests.ssh.network import unused_port
from tests.ssh.sshd import Sshd

CLIENTS = ("paramiko", "openssh")
DEADLINE = 60.0
MIB = 1024 * 1024
SERVER = Path(__file__).parents[1] / "e2e" / "servers" / "mcp_server.py"

pytestmark = pytest.mark.parametrize("client", CLIENTS)


def run(target: str, *worker: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of ``holdfast run``."""
    return [sys.executable, "-m", "holdfast", "run", *options, target, "--", *worker]


def through(command: list[str], data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command to its end: exit code, stdout, stderr."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_twenty_mebibytes_both_ways(sshd: Sshd, client: str) -> None:
    """20 MiB that are no text go to the worker and come back, byte by byte."""
    data = os.urandom(MIB) * 20
    code, out, err = through(run(sshd.target(client=client), "cat"), data)
    assert (code, err) == (0, b"")
    assert len(out) == len(data)
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_the_streams_and_the_exit(sshd: Sshd, client: str) -> None:
    """stdout, stderr and the exit code are the worker's."""
    worker = ("sh", "-c", 'cat; echo "$0" >&2; exit 7', "it's $HOME\n")
    code, out, err = through(run(sshd.target(client=client), *worker), b"in\n")
    assert (code, out, err) == (7, b"in\n", b"it's $HOME\n\n")


def test_death_by_signal(sshd: Sshd, client: str) -> None:
    """A worker that is killed gives 128 and the signal's number."""
    code, _, _ = through(run(sshd.target(client=client), "sh", "-c", "kill -9 $$"))
    assert code == 128 + signal.SIGKILL


def test_what_cannot_be_started(sshd: Sshd, client: str) -> None:
    """A missing command and a missing server are told apart in one line, with exit code 69."""
    code, out, err = through(run(sshd.target(client=client), "no-such-command"))
    assert (code, out) == (69, b"")
    assert b"no such command: 'no-such-command'" in err
    closed = unused_port()
    code, out, err = through(run(sshd.target(port=closed, client=client), "cat"))
    assert (code, out) == (69, b"")
    assert b"refused" in err
    assert err.count(b"\n") == 1


def test_a_lost_link_answers_what_is_pending(sshd: Sshd, client: str) -> None:
    """A lost link answers a pending request with an error, and the exit code is 74."""
    process = subprocess.Popen(
        run(
            sshd.target(client=client),
            "sh",
            "-c",
            "read -r line; echo '{\"up\":1}'; exec sleep 100",
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    guard = threading.Timer(DEADLINE, process.kill)
    guard.start()
    try:
        process.stdin.write(b'{"jsonrpc":"2.0","id":"7","method":"work"}\n')
        process.stdin.flush()
        assert process.stdout.readline() == b'{"up":1}\n'
        sshd.kill_sessions()
        began = time.monotonic()
        answer = json.loads(process.stdout.readline())
        took = time.monotonic() - began
        assert answer["id"] == "7"
        assert answer["error"]["data"]["cause"] == "link_lost"
        assert process.stdout.read() == b""
        assert process.wait() == 74
        assert took < 5
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def test_a_terminated_run_leaves_no_worker(sshd: Sshd, client: str) -> None:
    """SIGTERM to ``run`` ends the worker on the far side; so does SIGKILL, which it cannot see."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        worker = ("sh", "-c", "trap '' HUP INT TERM; echo $$; while :; do sleep 0.1; done")
        process = subprocess.Popen(
            run(sshd.target(client=client), *worker),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        deadline = time.monotonic() + DEADLINE / 2
        while any(each.pid == pid for each in sshd.processes()):
            assert time.monotonic() < deadline, f"{number.name}: the worker lives"
            time.sleep(0.05)  # nobody tells of the end of what another machine runs
        process.communicate(timeout=DEADLINE)


@pytest.mark.anyio
async def test_an_mcp_server_far_away(sshd: Sshd, client: str, tmp_path: Path) -> None:
    """The MCP SDK works with a server over SSH; when that is killed it hears so at once."""
    command = run(sshd.target(client=client), sys.executable, str(SERVER))
    parameters = StdioServerParameters(command=command[0], args=command[1:], cwd=tmp_path)
    with (tmp_path / "log").open("w") as errlog, anyio.fail_after(DEADLINE):
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

            begun, seconds = anyio.Event(), 0.0
            pids: list[int] = []

            async def on_progress(
                progress: float, total: float | None = None, message: str | None = None
            ) -> None:
                pids.append(int(message or ""))
                begun.set()

            async def hang() -> None:
                nonlocal seconds
                with pytest.raises(MCPError) as caught:
                    await session.call_tool("hang", progress_callback=on_progress)
                seconds = time.monotonic() - killed
                assert caught.value.error.data["cause"] == "worker_exited"
                assert "KILL" in caught.value.error.data["detail"]

            killed = 0.0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await begun.wait()
                killed = time.monotonic()
                os.kill(pids[0], signal.SIGKILL)
    print(f"{client}: a pending call ended {seconds:.3f} s after kill -9")
    assert seconds < 1
    assert (tmp_path / "log").read_text() == ""
