"""What docs/ssh.md shows is what happens, on a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.pages import ROOT, run_by, shell
from tests.ssh.sshd import Sshd

from holdfast_transports.ssh._settings import OPTIONS

RUNNER = "tests/ssh/test_docs.py"


@pytest.fixture(params=["paramiko", "openssh"])
def target(request: pytest.FixtureRequest, sshd: Sshd) -> str:
    """A server of the tests, in the place of build7."""
    return sshd.target(client=request.param)


def test_the_commands_print_what_they_show(target: str, tmp_path: Path) -> None:
    """The console block."""
    (block,) = run_by(RUNNER, "console")
    commands = block.commands.replace("ssh://build7", f"'{target}'")
    assert shell(commands, tmp_path) == block.output


def test_the_program_runs(target: str) -> None:
    """The Python block ends well."""
    (block,) = run_by(RUNNER, "python")
    program = block.text.replace("ssh://build7", target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_option_is_explained() -> None:
    """The table of options has each option, and no other."""
    page = (ROOT / "docs" / "ssh.md").read_text()
    table = page.partition("## Targets and options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == OPTIONS.keys()
