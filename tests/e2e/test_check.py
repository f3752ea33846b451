"""``holdfast check`` at live targets: a good one, a fixed worker's, and broken ones."""

from __future__ import annotations

import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.terminal import on_terminal, plain

from holdfast.testing import CLAUSES, SCRIPT_WORKER

SERVER = Path(__file__).parents[2] / "plugins" / "holdfast-tcp" / "tests" / "server.py"

PLUGIN = """
from contextlib import asynccontextmanager
import time
import holdfast
from holdfast import Capability, Exit
from holdfast_transports.local import LocalTransport

class Sick(holdfast.Channel):
    def __init__(self, inner):
        self.inner = inner
        for name in ("send", "receive", "receive_stderr", "send_eof", "signal", "aclose", "wait"):
            if name not in vars(type(self)):
                setattr(self, name, getattr(inner, name))

    async def send(self, data): await self.inner.send(data)
    async def receive(self, max_bytes=65536): return await self.inner.receive(max_bytes)
    async def aclose(self): await self.inner.aclose()
    async def wait(self): return await self.inner.wait()

class Liar(Sick):
    async def wait(self):
        await self.inner.wait()
        return Exit(code=0)

class Blocking(Sick):
    async def receive(self, max_bytes=65536):
        time.sleep(1000)

class SickTransport(holdfast.Transport):
    def __init__(self, channel):
        self.channel = channel
        self.capabilities = LocalTransport.capabilities & ~Capability.EXIT_STATUS

    @asynccontextmanager
    async def open(self, command):
        async with LocalTransport().open(command) as inner:
            yield self.channel(inner)

@holdfast.hookimpl
def holdfast_transports():
    kinds = {"liar": Liar, "blocking": Blocking}
    return [holdfast.TransportSpec("sick", lambda target: SickTransport(kinds[target.path]),
                                   "a broken one", "sick:liar")]
"""


def check(*arguments: str, seconds: float = 100, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "holdfast", "check", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=seconds,
        env={**os.environ, **variables},
    )


@pytest.fixture
def sick(tmp_path: Path) -> dict[str, str]:
    """The environment in which a plugin with broken transports is installed."""
    info = tmp_path / "holdfast_sick-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-sick\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast]\nsick = holdfast_sick\n")
    (tmp_path / "holdfast_sick.py").write_text(PLUGIN)
    return {"PYTHONPATH": str(tmp_path)}


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture
def echo_port() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.timeout(300)
def test_a_good_target_passes_every_clause() -> None:
    """``local:`` passes all that can be tried from a command line, on both event loops."""
    done = check("local:", "--json", seconds=280)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["ok"]
    assert found["costs"] == {}
    assert len(found["clauses"]) == len(CLAUSES)
    assert {each["outcome"] for each in found["clauses"]} == {"passed", "skipped"}
    for each in found["clauses"]:
        assert [run["backend"] for run in each["runs"]] == ["asyncio", "trio"]
        fixture = CLAUSES[each["id"]].fixture
        assert each["missing"] == ([fixture] if fixture else [])


def test_a_fixed_worker_that_runs_no_scripts(echo_port: int) -> None:
    """Nothing can be tried there, and that is no success; what is missing and costs is told."""
    done = check(f"tcp://127.0.0.1:{echo_port}")
    assert done.returncode == 69
    assert re.search(r"^skipped +HF-EXIT-1 .* needs EXIT_STATUS$", done.stdout, re.MULTILINE)
    assert re.search(r"^skipped +HF-SEND-1 .* needs ANY_COMMAND$", done.stdout, re.MULTILINE)
    assert "no   exit_status" in done.stdout
    assert "no exit status: a crash and a clean end look alike" in done.stdout
    assert "yes  half_close" in done.stdout
    assert f"0 passed, 0 failed, {len(CLAUSES)} skipped" in done.stdout
    assert "nothing was tried" in done.stderr
    assert 'eval "$script"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_fixed_worker_that_runs_scripts_and_a_link_that_can_be_cut(tmp_path: Path) -> None:
    """With CMD and --sever the clauses of a byte pipe and of its link are tried."""
    cuts = tmp_path / "cuts"
    os.mkfifo(cuts)
    program = [sys.executable, str(SERVER), *SCRIPT_WORKER]
    keep_open = os.open(cuts, os.O_RDWR)
    with subprocess.Popen(program, stdin=keep_open, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            target = f"tcp://127.0.0.1:{int(server.stdout.readline())}"
            chosen = ["--clause=HF-SEND-3", "--clause=HF-LINK-[19]", "--clause=HF-ARGV-1"]
            sever = f"--sever=echo cut > {cuts}"
            done = check(target, *chosen, sever, "--json", "--", *SCRIPT_WORKER)
        finally:
            server.kill()
    os.close(keep_open)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each["id"]: each for each in json.loads(done.stdout)["clauses"]}
    assert {id: each["outcome"] for id, each in found.items()} == {
        "HF-ARGV-1": "skipped",
        "HF-SEND-3": "passed",
        "HF-LINK-1": "passed",
        "HF-LINK-9": "passed",
    }
    assert found["HF-ARGV-1"]["missing"] == ["any_command"]


def test_a_target_that_runs_but_one_command() -> None:
    """With CMD every clause's worker is that command, and none may ask for another."""
    worker = ("sh", "-c", 'IFS= read -r script; eval "$script"')
    chosen = ["--clause=HF-SEND-3", "--clause=HF-ARGV-1"]
    done = check("local:", *chosen, "--backend=trio", "--", *worker)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed   HF-SEND-3" in done.stdout
    assert re.search(r"^skipped +HF-ARGV-1 .* needs ANY_COMMAND$", done.stdout, re.MULTILINE)


def test_a_sever_command_that_fails_is_told() -> None:
    """A link that was not cut is not taken for one that was."""
    done = check("local:", "--clause=HF-LINK-1", "--backend=trio", "--sever=echo cannot; exit 3")
    assert done.returncode == 1
    assert "--sever 'echo cannot; exit 3' failed: cannot" in done.stdout


def test_a_command_that_runs_no_scripts() -> None:
    """A CMD that is no script worker is told before a hundred clauses fail for it."""
    done = check("local:", "--patience=0.1", "--", "cat")
    assert done.returncode == 69
    assert done.stderr.startswith("holdfast: cat at local: did not run the line of shell script")


def test_a_broken_transport(sick: dict[str, str]) -> None:
    """Exit code 1; the clause, its rule and the timeline are told, and how to try it once more."""
    done = check("sick:liar", "--clause=HF-EXIT-*", **sick)
    assert done.returncode == 1
    assert re.search(r"^failed +HF-EXIT-3 .*reported if and only if", done.stdout, re.MULTILINE)
    assert re.search(r"^skipped +HF-EXIT-1 .* needs EXIT_STATUS$", done.stdout, re.MULTILINE)
    assert "HF-EXIT-3 failed on asyncio and trio:" in done.stdout
    assert "once more: holdfast check sick:liar --clause HF-EXIT-3" in done.stdout
    assert re.search(r"A\.wait\(\)  ->  Exit\(code=0", done.stdout)
    assert "a crash and a clean end look alike" in done.stdout


def test_a_transport_that_blocks(sick: dict[str, str]) -> None:
    """A transport that blocks the event loop, and so every deadline, cannot hang the check."""
    done = check("sick:blocking", "--patience=0.02", **sick)
    assert done.returncode == 1
    assert "the transport blocked the event loop for 2.7 s" in done.stdout


def test_on_a_terminal() -> None:
    """A person sees how far it is, and tables; no pytest settings of the user's interfere."""
    arguments = ["check", "local:", "--clause", "HF-EXIT-*", "--backend", "asyncio"]
    command = [sys.executable, "-m", "holdfast", *arguments]
    text = plain(on_terminal(*command, PYTEST_ADDOPTS="--no-such-option"))
    assert "3/3" in text
    assert re.search(r"passed +HF-EXIT-2 +Death by a signal", text)
    assert "What its absence costs" in text


def test_an_unavailable_target() -> None:
    """One line says why nothing was tried."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = check(f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 69
    assert done.stdout == ""
    assert re.fullmatch(r"holdfast: tcp://\S+ cannot be reached .*\n", done.stderr)


def test_without_the_kits_requirements(tmp_path: Path) -> None:
    """Where pytest is missing, the error says what to install."""
    code = (
        "import sys, importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'pytest' else find(name, *more)\n"
        "sys.modules['pytest'] = None\n"
        "from holdfast._cli import main\n"
        "main(['check', 'local:'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 69
    assert "without pytest; run: pip install 'holdfast[testing]'" in done.stderr


def found_shape(value: Any) -> Any:
    """The types of what a JSON document holds."""
    if isinstance(value, dict):
        return {key: found_shape(each) for key, each in value.items()}
    return [found_shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_the_shape_of_the_json() -> None:
    """What programs rely on."""
    done = check("local:", "--clause=HF-CWD-1", "--backend=asyncio", "--json")
    found = json.loads(done.stdout)
    assert list(found["capabilities"]) == [
        "any_command", "stderr", "exit_status", "signals", "half_close", "reaps_worker",
        "detects_silent_link", "early_eof",
    ]  # fmt: skip
    assert set(found["capabilities"].values()) == {True}
    del found["capabilities"]
    assert found_shape(found) == {
        "target": "str",
        "ok": "bool",
        "backends": ["str"],
        "costs": {},
        "counts": {"passed": "int", "failed": "int", "skipped": "int"},
        "clauses": [
            {
                "id": "str",
                "rule": "str",
                "outcome": "str",
                "missing": "list",
                "see": "str",
                "runs": [
                    {"backend": "str", "outcome": "str", "seconds": "float", "detail": "NoneType"}
                ],
            }
        ],
        "seconds": "float",
    }
