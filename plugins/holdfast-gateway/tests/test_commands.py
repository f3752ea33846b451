"""``holdfast ls``, ``logs``, ``attach`` and ``stop`` against a gateway that runs."""

from __future__ import annotations

import json
import os
import pty
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .serving import DEADLINE, Serving

pytestmark = pytest.mark.anyio


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60, **options}
    return subprocess.run(command, check=False, **options)


def at(gateway: Serving) -> dict[str, str]:
    """The environment in which this gateway is meant."""
    return {**os.environ, "HOLDFAST_URL": gateway.url, "HOLDFAST_TOKEN": gateway.token}


def holdfast(gateway: Serving, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command at this gateway."""
    return run("holdfast", *words, input=stdin, env=at(gateway), text=True)


@contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs meanwhile."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as it:
        try:
            yield it
        finally:
            it.kill()


@contextmanager
def attached(gateway: Serving, session_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """``holdfast attach``, after one answer has come."""
    command = ["holdfast", "attach", session_id]
    with started(command, env=at(gateway), stdin=subprocess.PIPE) as process:
        process.stdin.write(request(1, "ping").encode())
        process.stdin.flush()
        while b'"result"' not in process.stdout.readline():
            pass
        yield process


async def over(gateway: Serving, session_id: str) -> None:
    """Wait until a session's worker has ended."""
    async with gateway.stream(session_id, format="events") as client:
        await client.until(
            lambda message: (
                message["params"].get("event") == "status_changed"
                and message["params"]["status"]["state"] in ("stopped", "error")
            )
        )


def request(id: object, do: str, **params: object) -> str:
    return json.dumps({"id": id, "method": "prompt", "params": {"do": do, **params}}) + "\n"


async def listed(gateway: Serving, session_id: str) -> dict[str, object]:
    async with gateway.http() as http:
        return (await http.get(f"/api/sessions/{session_id}")).json()


async def test_ls_lists_sessions(gateway):
    """Each session has a line: id, name, state, reason, target and command."""
    session = await gateway.create(name="mine")
    rows = holdfast(gateway, "ls").stdout.splitlines()
    assert rows[0].split() == ["SESSION", "NAME", "STATE", "REASON", "TARGET", "COMMAND"]
    (row,) = [row for row in rows if session["id"] in row]
    assert row.split()[:5] == [session["id"], "mine", "idle", "start", "local:"]


async def test_ls_as_json(gateway):
    """``--json`` prints what the gateway's list says."""
    session = await gateway.create()
    printed = json.loads(holdfast(gateway, "ls", "--json").stdout)
    assert session["id"] in [each["id"] for each in printed["sessions"]]


async def test_a_name_that_tries_to_write_on_the_terminal(gateway):
    """Control characters of a name are written out."""
    await gateway.create(name="\x1b[31mred\u202e")
    printed = holdfast(gateway, "ls").stdout
    assert "\\x1b[31mred\\u202e" in printed
    assert "\x1b" not in printed


async def test_attach_sends_stdin_and_waits_for_answers(gateway):
    """Requests on stdin are answered on stdout under their own ids; then it leaves, the session
    stays."""
    session = await gateway.create(dialect="jsonrpc")
    stdin = request(1, "ping") + request("two", "ping")
    done = holdfast(gateway, "attach", session["id"], stdin=stdin)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["id"] for each in answers if "result" in each} == {1, "two"}
    assert done.returncode == 0
    assert (await listed(gateway, session["id"]))["state"] == "idle"


async def test_attach_is_told_what_is_no_message(gateway):
    """A line that is no JSON is answered with the gateway's error before it leaves."""
    session = await gateway.create()
    done = holdfast(gateway, "attach", session["id"], stdin="no json\n")
    assert json.loads(done.stdout)["error"]["code"] == -32700


async def test_attach_to_a_lost_worker(gateway):
    """A request whose worker dies is answered with an error, and the state is told on stderr."""
    session = await gateway.create(dialect="jsonrpc")
    stdin = request(7, "exit", code=3)
    done = holdfast(gateway, "attach", session["id"], stdin=stdin)
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == -32000
    assert done.returncode == 0


async def test_attach_says_that_there_is_no_worker(gateway):
    """A session that is in error when we come says so, and why; there is nothing else to hear."""
    session = await gateway.create(["no-such-command-here"])
    done = holdfast(gateway, "attach", session["id"])
    text = "holdfast: error (initialization_failed): no such command: 'no-such-command-here'; "
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(text)


async def test_attach_to_a_full_disk(gateway):
    """What cannot be printed is told in one line, and by the exit code."""
    session = await gateway.create(dialect="jsonrpc")
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230 - it opens at once
        done = run(
            *("holdfast", "attach", session["id"]),
            input=request(1, "ping").encode(),
            stdout=full,
            env=at(gateway),
        )
    assert done.returncode == 74
    assert b"Traceback" not in done.stderr
    assert b"holdfast: the output cannot be written: [Errno 28]" in done.stderr


async def test_attach_ends_when_the_session_is_deleted(gateway):
    """A stream that ends before we leave is an error, said on stderr."""
    session = await gateway.create()
    with attached(gateway, session["id"]) as process:
        async with gateway.http() as http:
            await http.delete(f"/api/sessions/{session['id']}")
        assert b"session forgotten" in process.stderr.read()
        assert process.wait(DEADLINE) == 74


async def test_attach_is_left_by_an_interrupt(gateway):
    """Ctrl-C leaves the session as it is."""
    session = await gateway.create()
    with attached(gateway, session["id"]) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130
    assert (await listed(gateway, session["id"]))["state"] == "idle"


async def test_logs_print_what_the_worker_wrote(gateway):
    """stdout goes to stdout, stderr and states to stderr; a cursor leaves out what was before."""
    script = "echo '{\"a\": 1}'; echo oops >&2; printf '\\377\\n'; exit 3"
    session = await gateway.create(["sh", "-c", script], dialect="lines")
    await over(gateway, session["id"])
    done = run("holdfast", "logs", session["id"][:8], env=at(gateway))
    assert done.stdout == b'{"a": 1}\n\xff\n'
    assert b"oops\n" in done.stderr
    assert b"holdfast: error (process_exit)" in done.stderr
    assert b"exit 3" in done.stderr
    last = (await listed(gateway, session["id"]))["last_seq"]
    assert holdfast(gateway, "logs", "--after", str(last), session["id"]).stdout == ""


async def test_logs_on_a_terminal(gateway):
    """What a worker writes is not obeyed by the terminal."""
    script = "printf '\\033]0;title\\007\\n'"
    session = await gateway.create(["sh", "-c", script], dialect="lines")
    await over(gateway, session["id"])
    ours, theirs = pty.openpty()
    try:
        run("holdfast", "logs", session["id"], env=at(gateway), stdout=theirs, stderr=theirs)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"\\x1b]0;title\\x07" in shown
    assert b"\x1b" not in shown


async def test_logs_follow_as_json(gateway):
    """``-f --json`` gives every event as a line, those that come later too."""
    session = await gateway.create(dialect="jsonrpc")
    command = ["holdfast", "logs", "-f", "--json", session["id"]]
    with started(command, env=at(gateway)) as process:
        first = json.loads(process.stdout.readline())
        assert (first["seq"], first["event"]) == (1, "status_changed")
        async with gateway.http() as http:
            await http.post(f"/api/sessions/{session['id']}/stop")
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "status_changed" and event["status"]["state"] == "stopped":
                break
        else:
            raise AssertionError("the stop was not told")


async def test_logs_to_a_reader_that_leaves(gateway):
    """A closed stdout ends it without a traceback."""
    script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done"
    session = await gateway.create(["sh", "-c", script], dialect="lines")
    await over(gateway, session["id"])
    done = run("sh", "-c", 'holdfast logs "$1" | head -n 1', "sh", session["id"], env=at(gateway))
    assert done.stdout == b"0\n"
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


async def test_stop_by_name(gateway):
    """A session is stopped by its name, and what became of it is told."""
    name = f"to be stopped {secrets.token_hex(4)}"
    session = await gateway.create(name=name)
    done = holdfast(gateway, "stop", name)
    assert done.stdout.split()[:3] == [session["id"], "stopped", "(stop):"]
    assert (await listed(gateway, session["id"]))["state"] == "stopped"


async def test_a_name_that_two_sessions_have(gateway):
    """What could mean several sessions is refused, with their ids."""
    both = [(await gateway.create(name="twice"))["id"] for _ in range(2)]
    done = holdfast(gateway, "stop", "twice")
    assert done.returncode == 69
    assert all(each in done.stderr for each in both)


async def test_no_such_session(gateway):
    """A session that is not there is said, with what to do next."""
    done = holdfast(gateway, "logs", "no-such-session")
    assert done.returncode == 69
    assert "`holdfast ls` lists them" in done.stderr


async def test_a_wrong_token(gateway):
    """A gateway that does not let us in is told in its own words, without the token."""
    done = holdfast(gateway, "ls", "--token", "wrong-token-0123456789")
    assert done.returncode == 69
    assert "this token is not the gateway's" in done.stderr
    assert "wrong-token" not in done.stderr


async def test_no_gateway_there(gateway):
    """A URL where nobody answers is said."""
    done = holdfast(gateway, "ls", "--url", "http://127.0.0.1:1")
    assert done.returncode == 69
    assert "is holdfast serve running there?" in done.stderr


class Page(BaseHTTPRequestHandler):
    """A server of something else, which has a page for every path."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html>")

    def log_message(self, *arguments):
        pass


async def test_a_server_of_something_else():
    """Whatever it answers, it is told that this is no gateway."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        done = run("holdfast", "ls", "--url", url, "--token", "any-token-0123456789")
        server.shutdown()
    assert done.returncode == 69
    assert b"is it a holdfast gateway?" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment in which no gateway runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    return env | {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}


def test_no_gateway_at_all(nowhere):
    """Where none runs, it is said how to start one."""
    done = run("holdfast", "ls", env=nowhere)
    assert done.returncode == 69
    assert b"holdfast serve" in done.stderr


def test_the_running_gateway_is_found(nowhere):
    """Without a URL the gateway that runs for this user is found, until it has ended."""
    with started(["holdfast", "serve", "--port", "0"], env=nowhere) as process:
        assert b"token=" in process.stdout.readline()
        folder = Path(nowhere["XDG_RUNTIME_DIR"], "holdfast")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert run("holdfast", "ls", env=nowhere).stdout.startswith(b"SESSION")
        process.terminate()
        process.wait(DEADLINE)
    assert run("holdfast", "ls", env=nowhere).returncode == 69
