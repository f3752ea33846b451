"""What docs/containers.md shows is what happens, on a real engine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.containers.engine import BUSYBOX, Dockerd
from tests.e2e.pages import ROOT, run_by, shell

from holdfast_transports.container._settings import OPTIONS

RUNNER = "tests/containers/test_docs.py"
SHOWN = "docker://debian:12-slim"


@pytest.fixture(params=["docker", "docker+exec"])
def target(request: pytest.FixtureRequest, dockerd: Dockerd, container: str) -> str:
    """What stands here for the page's image: the tests' own, and their engine."""
    scheme: str = request.param
    return dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)


def test_the_commands_print_what_they_show(target: str, tmp_path: Path) -> None:
    """The console block."""
    (block,) = run_by(RUNNER, "console")
    assert shell(block.commands.replace(SHOWN, f"'{target}'"), tmp_path) == block.output


def test_the_program_runs(target: str) -> None:
    """The Python block ends well."""
    (block,) = run_by(RUNNER, "python")
    program = block.text.replace(SHOWN, target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_reaps(dockerd: Dockerd, tmp_path: Path) -> None:
    """The command that removes what was left says so."""
    (block,) = run_by(RUNNER, "sh")
    said = shell(f"set -e; export DOCKER_HOST={dockerd.host}\n{block.text}", tmp_path)
    assert re.search(r"leftovers of docker\S*: nothing to remove", "\n".join(said))


def test_every_option_is_explained() -> None:
    """The tables of options have each option, and no other."""
    page = (ROOT / "docs" / "containers.md").read_text()
    table = page.partition("## Targets and options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == OPTIONS.keys()
