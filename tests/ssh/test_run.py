"""``holdfast run ssh://…``: what a client that starts it sees, on a real server."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.servers.anywhere import (
    DEADLINE,
    RunAnywhere,
    answered_in_its_place,
    kill_an_mcp_server,
    pending,
)
from tests.e2e.servers.driving import SERVERS, finished, run, sh, started
from tests.ssh.network import unused_port
from tests.ssh.sshd import Sshd


@pytest.fixture(params=["paramiko", "openssh"])
def client(request: pytest.FixtureRequest) -> str:
    """Who speaks the protocol."""
    return request.param


@pytest.fixture
def target(sshd: Sshd, client: str) -> str:
    """The server, by each client."""
    return sshd.target(client=client)


class TestRun(RunAnywhere):
    """What holds everywhere."""


def test_what_cannot_be_started(sshd: Sshd, client: str, target: str) -> None:
    """A missing command and a missing server are told apart in one line, with exit code 69."""
    code, out, err = finished(run("no-such-command", target=target))
    assert (code, out) == (69, b"")
    assert b"no such command: 'no-such-command'" in err
    nobody = sshd.target(port=unused_port(), client=client)
    code, out, err = finished(run("cat", target=nobody))
    assert (code, out) == (69, b"")
    assert b"refused" in err
    assert err.count(b"\n") == 1


def test_a_lost_link_answers_what_is_pending(sshd: Sshd, target: str) -> None:
    """A lost link answers a pending request with an error, and the exit code is 74."""
    with pending(target) as running:
        sshd.kill_sessions()
        began = time.monotonic()
        assert answered_in_its_place(running)["cause"] == "link_lost"
        assert time.monotonic() - began < 5
        assert running.wait() == 74


def test_a_terminated_run_leaves_no_worker(sshd: Sshd, target: str) -> None:
    """SIGTERM to ``run`` ends the worker on the far side; so does SIGKILL, which it cannot see."""
    worker = sh("trap '' HUP INT TERM; echo $$; while :; do sleep 0.1; done")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with started(run(*worker, target=target)) as running:
            pid = int(running.line())
            running.process.send_signal(number)
            deadline = time.monotonic() + DEADLINE / 2
            while any(each.pid == pid for each in sshd.processes()):
                assert time.monotonic() < deadline, f"{number.name}: the worker lives"
                time.sleep(0.05)  # nobody tells of the end of what another machine runs
            running.wait()


@pytest.mark.anyio
async def test_an_mcp_server_far_away(target: str, tmp_path: Path) -> None:
    """The MCP SDK works with a server over SSH; when that is killed it hears so at once."""

    async def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    command = run(sys.executable, str(SERVERS / "mcp_server.py"), target=target)
    seconds, data = await kill_an_mcp_server(command, kill, tmp_path)
    assert data["cause"] == "worker_exited"
    assert "KILL" in data["detail"]
    assert seconds < 1
