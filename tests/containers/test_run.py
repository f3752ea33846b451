"""``holdfast run docker://…``: what a client that starts it sees, on a real engine."""

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
import anyio.to_thread
import pytest
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from tests.containers.engine import BUSYBOX, PACKAGES, PYTHON, Dockerd, python

SCHEMES = ("docker", "docker+exec")
DEADLINE = 60.0
MIB = 1024 * 1024
SERVERS = Path(__file__).parents[1] / "e2e" / "servers"


@pytest.fixture(params=SCHEMES)
def target(request: pytest.FixtureRequest, dockerd: Dockerd, container: str) -> str:
    """A target of each kind."""
    scheme: str = request.param
    return dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)


def run(target: str, *worker: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command line of ``holdfast run``."""
    return [sys.executable, "-m", "holdfast", "run", *options, target, "--", *worker]


def through(command: list[str], data: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command to its end: exit code, stdout, stderr."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_twenty_mebibytes_both_ways(target: str) -> None:
    """20 MiB that are no text go to the worker and come back, byte by byte."""
    data = os.urandom(MIB) * 20
    code, out, err = through(run(target, "cat"), data)
    assert (code, err) == (0, b"")
    assert len(out) == len(data)
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_the_streams_and_the_exit(target: str) -> None:
    """stdout, stderr and the exit code are the worker's."""
    worker = ("sh", "-c", 'cat; echo "$0" >&2; exit 7', "it's $HOME\n")
    code, out, err = through(run(target, *worker), b"in\n")
    assert (code, out, err) == (7, b"in\n", b"it's $HOME\n\n")


def test_death_by_signal(target: str) -> None:
    """A worker that is killed gives 128 and the signal's number."""
    code, _, _ = through(run(target, "sh", "-c", "kill -9 $$"))
    assert code == 128 + signal.SIGKILL


def test_what_cannot_be_started(target: str) -> None:
    """A missing command is told in one line, with exit code 69."""
    code, out, err = through(run(target, "no-such-command"))
    assert (code, out) == (69, b"")
    assert b"no such command: 'no-such-command'" in err
    assert err.count(b"\n") == 1


def test_check_skips_what_an_engine_cannot_tell(target: str) -> None:
    """``holdfast check`` fails no engine for an end that no engine tells of, and says why."""
    asked = [sys.executable, "-m", "holdfast", "check", "--json", "--backend=asyncio", target]
    code, out, err = through([*asked, "--clause=HF-END-*", "--clause=HF-STDERR-*"])
    assert (code, err) == (0, b"")
    found = json.loads(out)
    skipped = {each["id"]: each["missing"] for each in found["clauses"] if each["missing"]}
    assert skipped == {
        "HF-END-3": ["early_eof"],
        "HF-END-5": ["early_eof"],
        "HF-STDERR-6": ["sever"],
    }
    assert found["counts"] == {"passed": 8, "failed": 0, "skipped": 3}
    assert "looks like one that thinks" in found["costs"]["early_eof"]


def test_no_engine() -> None:
    """An engine that is not there is told in one line, with exit code 69."""
    code, out, err = through(run("docker://x?host=unix:///no/such/sock", "cat"))
    assert (code, out) == (69, b"")
    assert b"Docker's engine at /no/such/sock is not there" in err
    assert err.count(b"\n") == 1


def test_a_killed_container_answers_what_is_pending(dockerd: Dockerd) -> None:
    """A container that is removed under us answers a pending request with an error, at once."""
    script = "read -r line; echo '{\"up\":1}'; exec sleep 100"
    process = subprocess.Popen(
        run(dockerd.target(), "sh", "-c", script),
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
        (made,) = {*dockerd.containers()} - dockerd.kept
        dockerd.remove(made)
        answer = json.loads(process.stdout.readline())
        assert answer["id"] == "7"
        assert answer["error"]["data"]["cause"] == "worker_exited"
        assert "SIGKILL" in answer["error"]["data"]["detail"]
        assert process.stdout.read() == b""
        assert process.wait() == 128 + signal.SIGKILL
    finally:
        guard.cancel()
        process.kill()
        process.communicate()


def test_a_terminated_run_leaves_no_container(dockerd: Dockerd) -> None:
    """SIGTERM to ``run`` ends a worker that ignores it, and removes its container."""
    worker = ("sh", "-c", "trap '' HUP INT TERM; echo up; while :; do sleep 0.1; done")
    process = subprocess.Popen(
        run(dockerd.target(), *worker),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.terminate()
    process.communicate(timeout=DEADLINE)
    assert {*dockerd.containers()} == dockerd.kept


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_mcp_server_in_a_container(dockerd: Dockerd, tmp_path: Path) -> None:
    """The MCP SDK works with a server in a container; when that is killed it hears so at once."""
    await anyio.to_thread.run_sync(dockerd.bring, PYTHON, python)
    target = dockerd.target(
        PYTHON, mount=f"{PACKAGES}:/site:ro,{SERVERS}:/servers:ro", env="PYTHONPATH=/site"
    )
    command = run(target, "python3", "/servers/mcp_server.py")
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
            begun = anyio.Event()
            seconds = 0.0

            async def on_progress(
                progress: float, total: float | None = None, message: str | None = None
            ) -> None:
                begun.set()

            async def hang() -> None:
                nonlocal seconds
                with pytest.raises(MCPError) as caught:
                    await session.call_tool("hang", progress_callback=on_progress)
                seconds = time.monotonic() - killed
                assert caught.value.error.data["cause"] == "worker_exited"

            killed = 0.0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang)
                await begun.wait()
                (made,) = {*dockerd.containers()} - dockerd.kept
                killed = time.monotonic()
                await anyio.to_thread.run_sync(
                    dockerd.api, "POST", f"/containers/{made}/kill?signal=KILL"
                )
    print(f"a pending call ended {seconds:.3f} s after docker kill")
    assert seconds < 5
    assert (tmp_path / "log").read_text() == ""
