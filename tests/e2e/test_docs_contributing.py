"""What CONTRIBUTING.md tells people to type can be typed, and the files that it names are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .pages import ROOT, environment, run_by

PAGE = ROOT / "CONTRIBUTING.md"
COMMANDS = [
    shlex.split(line, comments=True)
    for block in run_by("tests/e2e/test_docs_contributing.py", "console")
    for line in block.commands.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_there(command: list[str]) -> None:
    """Each program is one that can be run from the checkout's root."""
    assert os.access(ROOT / command[0], os.X_OK)


@pytest.mark.parametrize(
    "command",
    [each for each in COMMANDS if each[0] == "tests/run" and len(each) > 1],
    ids=" ".join,
)
def test_the_test_command_takes_these_arguments(command: list[str]) -> None:
    """Its own options are known to it; with others it finds tests, as far as collecting goes."""
    if command[1] in ("--prepare", "--lowest"):
        assert f"{command[1]} " in (ROOT / "tests" / "run").read_text()
        return
    done = subprocess.run(
        [*command, "--collect-only", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_somebodys_environment_is_left_alone(tmp_path: Path) -> None:
    """A folder that the test command did not make is never replaced; it says what to do next."""
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    done = subprocess.run(
        ["tests/run", "--prepare"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env={**environment(), "HOLDFAST_VENV": str(tmp_path)},
        check=False,
    )
    text = f"tests/run: {tmp_path} was not made by tests/run; move it away, or name another folder"
    assert (done.returncode, done.stderr) == (69, f"{text} in HOLDFAST_VENV\n")
    assert [each.name for each in tmp_path.iterdir()] == ["pyvenv.cfg"]


def test_the_files_it_names_are_there() -> None:
    """Each `path/like/this` leads somewhere."""
    paths = re.findall(r"`([\w.*-]+/[\w.*/-]*)`", PAGE.read_text())
    assert len(paths) > 15
    assert [path for path in paths if not any(Path(ROOT).glob(path))] == []


def test_every_folder_of_tests_is_told_of() -> None:
    """The table has a row for each folder."""
    rows = set(re.findall(r"^\| `tests/(\w+)/` \|", PAGE.read_text(), re.MULTILINE))
    folders = {each.name for each in (ROOT / "tests").iterdir() if each.is_dir()}
    assert rows == folders - {"__pycache__"}
