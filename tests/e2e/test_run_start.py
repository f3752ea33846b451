"""``holdfast run`` starts fast: it imports what it needs, and that is little."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .servers.driving import HOLDFAST, environment, finished, run

HEAVY = (
    *("rich", "pygments", "pytest", "_pytest", "trio", "uvloop"),
    *("paramiko", "asyncssh", "cryptography", "h11", "docker", "aiodocker"),
    *("requests", "urllib3", "httpx", "http.server", "http.client", "aiohttp", "websockets"),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "platformdirs", "sqlite3"),
    *("mcp", "acp", "pydantic", "multiprocessing", "concurrent.futures.process", "unittest"),
    *("holdfast.testing", "holdfast_transports.ssh", "holdfast_gateway", "holdfast_tcp"),
)
"""What ``run local:`` does not need: what people look at, other transports, the web, tests."""

IMPORTED = """
import atexit, json, os, sys
def tell():
    with open(os.environ["HOLDFAST_TEST_MODULES"], "w") as file:
        json.dump(sorted(sys.modules), file)
atexit.register(tell)
"""


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    """Neither what only people need (rich), nor what only other transports and tests need."""
    (tmp_path / "sitecustomize.py").write_text(IMPORTED)
    modules = tmp_path / "modules"
    path = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "HOLDFAST_TEST_MODULES": str(modules),
    }
    assert finished(run("true"), env=env) == (0, b"", b"")
    imported = set(json.loads(modules.read_text()))
    assert "holdfast._proxy" in imported
    assert imported & set(HEAVY) == set()


def test_importing_holdfast_imports_less_still() -> None:
    """A program that imports ``holdfast`` gets none of these, no command line and no plugin."""
    code = "import sys, holdfast; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "holdfast._session" in imported
    assert imported & {*HEAVY, "click", "holdfast._cli", "holdfast_transports"} == set()


def test_it_imports_only_the_targets_plugin(tmp_path: Path) -> None:
    """A plugin that cannot be imported at all is none of ``local:``'s business."""
    info = tmp_path / "holdfast_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast]\nbroken = holdfast_broken\n")
    (tmp_path / "holdfast_broken.py").write_text("raise RuntimeError('imported')\n")
    path = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    assert finished(run("echo", "hi"), env=env) == (0, b"hi\n", b"")
    code, out, err = finished(run("true", target="broken:"), env=env)
    assert (code, out) == (69, b"")
    assert b"holdfast-broken" in err
    assert b"imported" in err
    assert b"Traceback" not in err


def cpu(command: Sequence[str]) -> float:
    """The seconds of processor time that a command and what it started took."""
    null = subprocess.DEVNULL
    env = environment(PYTHONDONTWRITEBYTECODE=None)  # compiling is no part of a usual start
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


LIBRARIES = "import asyncio, anyio._backends._asyncio, click, msgspec, pluggy"


@pytest.mark.serial
def test_starting_costs_little_more_than_the_libraries_it_stands_on(
    record_property: Callable[[str, object], None],
) -> None:
    """Processor time, in turns with a Python that imports these libraries and does nothing.

    That was 95 ms of 125 on a quiet machine, where the bound for ours is 150 ms beyond the
    worker's own; importing importlib.metadata, rich or the testing kit would break the ratio.
    """
    libraries = (sys.executable, "-c", LIBRARIES)
    cpu(run("true"))
    cpu(libraries)
    rounds = [(cpu(run("true")), cpu(("true",)), cpu(libraries)) for _ in range(9)]
    ours, bare, base = map(statistics.median, zip(*rounds, strict=True))
    figures = f"holdfast run {ours * 1e3:.0f} ms, true {bare * 1e3:.0f}, imports {base * 1e3:.0f}"
    print(figures)
    record_property("cpu", figures)
    assert (ours - bare) / base < 1.7, figures


def test_it_is_a_command_and_a_module() -> None:
    """``holdfast`` and ``python -m holdfast`` are the same."""
    script = Path(sys.executable).with_name("holdfast")
    for program in ((str(script),), HOLDFAST):
        assert finished([*program, "run", "local:", "--", "echo", "hi"]) == (0, b"hi\n", b"")
