"""What docs/ssh.md shows is what happens, on a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ssh.sshd import Sshd

from holdfast_transports.ssh._settings import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "ssh.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def block(language: str) -> str:
    (found,) = (each[2] for each in FENCE.finditer(PAGE.read_text()) if each[1] == language)
    return found


@pytest.mark.parametrize("client", ["paramiko", "openssh"])
def test_the_commands_print_what_they_show(sshd: Sshd, client: str) -> None:
    """The console block, with a server of the tests in the place of build7."""
    lines = block("console").replace("ssh://build7", f"'{sshd.target(client=client)}'").splitlines()
    done = subprocess.run(
        ["sh", "-c", "\n".join(line[2:] for line in lines if line.startswith("$ "))],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.stdout.splitlines() == [line for line in lines if not line.startswith("$ ")]
    assert done.stderr == ""


@pytest.mark.parametrize("client", ["paramiko", "openssh"])
def test_the_program_runs(sshd: Sshd, client: str) -> None:
    """The Python block ends well."""
    program = block("python").replace("ssh://build7", sshd.target(client=client))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_option_is_explained() -> None:
    """The table of options has each option, and no other."""
    table = PAGE.read_text().partition("## Targets and options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == OPTIONS.keys()
