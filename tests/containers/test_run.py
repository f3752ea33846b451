"""``holdfast run docker://…``: what a client that starts it sees, on a real engine."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import anyio.to_thread
import pytest
from tests.containers.engine import BUSYBOX, PACKAGES, PYTHON, Dockerd, python
from tests.e2e.servers.anywhere import (
    DEADLINE,
    RunAnywhere,
    answered_in_its_place,
    kill_an_mcp_server,
    pending,
)
from tests.e2e.servers.driving import HOLDFAST, SERVERS, finished, run, sh, started


@pytest.fixture(params=["docker", "docker+exec"])
def target(request: pytest.FixtureRequest, dockerd: Dockerd, container: str) -> str:
    """A target of each kind."""
    scheme: str = request.param
    return dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)


class TestRun(RunAnywhere):
    """What holds everywhere."""


def test_what_cannot_be_started(target: str) -> None:
    """A missing command is told in one line, with exit code 69."""
    code, out, err = finished(run("no-such-command", target=target))
    assert (code, out) == (69, b"")
    assert b"no such command: 'no-such-command'" in err
    assert err.count(b"\n") == 1


def test_check_skips_what_an_engine_cannot_tell(target: str) -> None:
    """``holdfast check`` fails no engine for an end that no engine tells of, and says why."""
    asked = [*HOLDFAST, "check", "--json", "--backend=asyncio", target]
    clauses = ("--clause=HF-END-*", "--clause=HF-STDERR-*")
    code, out, err = finished([*asked, *clauses], seconds=110)
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
    code, out, err = finished(run("cat", target="docker://x?host=unix:///no/such/sock"))
    assert (code, out) == (69, b"")
    assert b"Docker's engine at /no/such/sock is not there" in err
    assert err.count(b"\n") == 1


def test_a_killed_container_answers_what_is_pending(dockerd: Dockerd) -> None:
    """A container that is removed under us answers a pending request with an error, at once."""
    with pending(dockerd.target()) as running:
        (made,) = {*dockerd.containers()} - dockerd.kept
        dockerd.remove(made)
        data = answered_in_its_place(running)
        assert data["cause"] == "worker_exited"
        assert "SIGKILL" in data["detail"]
        assert running.wait() == 128 + signal.SIGKILL


def test_a_terminated_run_leaves_no_container(dockerd: Dockerd) -> None:
    """SIGTERM to ``run`` ends a worker that ignores it, and removes its container."""
    worker = sh("trap '' HUP INT TERM; echo up; while :; do sleep 0.1; done")
    with started(run(*worker, target=dockerd.target())) as running:
        assert running.line(seconds=DEADLINE) == b"up\n"
        running.process.terminate()
        running.wait(DEADLINE)
        assert {*dockerd.containers()} == dockerd.kept


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_mcp_server_in_a_container(dockerd: Dockerd, tmp_path: Path) -> None:
    """The MCP SDK works with a server in a container; when that is killed it hears so at once."""
    await anyio.to_thread.run_sync(dockerd.bring, PYTHON, python)
    target = dockerd.target(
        PYTHON, mount=f"{PACKAGES}:/site:ro,{SERVERS}:/servers:ro", env="PYTHONPATH=/site"
    )

    async def kill(pid: int) -> None:
        (made,) = {*dockerd.containers()} - dockerd.kept
        path = f"/containers/{made}/kill?signal=KILL"
        await anyio.to_thread.run_sync(dockerd.api, "POST", path)

    command = run("python3", "/servers/mcp_server.py", target=target)
    seconds, data = await kill_an_mcp_server(command, kill, tmp_path)
    assert data["cause"] == "worker_exited"
    assert seconds < 5
