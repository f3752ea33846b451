"""What ``holdfast new-transport`` writes can be installed, keeps the contract, and runs workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .installing import run
from .pages import ROOT


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin, written and installed by holdfast's wheel in a clean environment ``venv``."""
    folder = tmp_path_factory.mktemp("author")
    python = folder / "venv" / "bin" / "python"
    uv = shutil.which("uv", path=f"{os.environ['PATH']}:{ROOT / '.venv-tools' / 'bin'}")
    if uv is not None:
        run(uv, "build", "--wheel", "--out-dir", folder / "dist", ROOT, cwd=folder)
        run(uv, "venv", "--python", sys.executable, folder / "venv", cwd=folder)
        install: list[object] = [uv, "pip", "install", "--python", python]
    else:
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        install = [python, "-m", "pip", "install"]
        run(python, "-m", "pip", "wheel", "--no-deps", "-w", folder / "dist", ROOT, cwd=folder)
    (wheel,) = (folder / "dist").glob("holdfast-*.whl")
    run(*install, f"{wheel}[testing]", cwd=folder)
    run(folder / "venv" / "bin" / "holdfast", "new-transport", "box+far", cwd=folder)
    run(*install, f"{folder}/holdfast-box-far[test]", cwd=folder)
    return folder / "holdfast-box-far"


def bin_of(project: Path) -> Path:
    return project.parent / "venv" / "bin"


@pytest.mark.timeout(300)
def test_it_passes_its_kit_at_once(project: Path) -> None:
    """All of its tests pass where nothing is installed but it and holdfast."""
    printed = run(bin_of(project) / "python", "-m", "pytest", "-q", cwd=project)
    assert " passed" in printed
    assert "failed" not in printed


@pytest.mark.timeout(300)
def test_it_runs_workers(project: Path, tmp_path: Path) -> None:
    """``holdfast transports`` lists it, and ``holdfast run`` runs a worker by it."""
    holdfast = bin_of(project) / "holdfast"
    listed = run(holdfast, "transports", cwd=tmp_path)
    assert re.search(r"^box\+far  a worker .*  \(holdfast-box-far 0\.1\.0\)$", listed, re.MULTILINE)
    program = [sys.executable, project / "tests" / "server.py", "socket", "sh", "-c", "wc -c"]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            target = f"box+far://{tmp_path}/socket"
            printed = run(holdfast, "run", target, "--", "w", cwd=tmp_path, input="12345\n")
        finally:
            server.kill()
    assert printed.strip() == "6"
