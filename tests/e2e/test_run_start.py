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
    *("rich", "pytest", "_pytest", "trio", "uvloop", "paramiko", "asyncssh", "cryptography"),
    *("docker", "requests", "urllib3", "httpx", "http.server", "aiohttp", "starlette", "uvicorn"),
    *("mcp", "acp", "pydantic", "multiprocessing", "concurrent.futures.process", "unittest"),
    *("holdfast.testing", "holdfast_tcp"),
)

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


@pytest.mark.serial
def test_it_costs_at_most_150_ms_more_than_the_worker(
    record_property: Callable[[str, object], None],
) -> None:
    """Processor time, since the clock on the wall counts what else runs on this machine."""
    cpu(run("true"))
    rounds = [(cpu(run("true")), cpu(("true",)), cpu((sys.executable, "-c", ""))) for _ in range(9)]
    ours, bare, interpreter = map(statistics.median, zip(*rounds, strict=True))
    best = min(each[0] - each[1] for each in rounds)
    print(
        f"holdfast run: {ours * 1000:.0f} ms of CPU, the worker alone {bare * 1000:.0f} ms, "
        f"an empty Python {interpreter * 1000:.0f} ms; best difference {best * 1000:.0f} ms"
    )
    record_property("run ms", ours * 1000)
    record_property("python ms", interpreter * 1000)
    assert ours - bare < 0.150


def test_it_is_a_command_and_a_module() -> None:
    """``holdfast`` and ``python -m holdfast`` are the same."""
    script = Path(sys.executable).with_name("holdfast")
    for program in ((str(script),), HOLDFAST):
        assert finished([*program, "run", "local:", "--", "echo", "hi"]) == (0, b"hi\n", b"")
