"""What docs/containers.md shows is what happens, on a real engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.containers.engine import BUSYBOX, Dockerd

from holdfast_transports.container._settings import OPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = "docker://debian:12-slim"


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **more}


def block(language: str) -> str:
    (found,) = (each[2] for each in FENCE.finditer(PAGE.read_text()) if each[1] == language)
    return found


@pytest.fixture(params=["docker", "docker+exec"])
def target(request: pytest.FixtureRequest, dockerd: Dockerd, container: str) -> str:
    """What stands here for the page's image."""
    scheme: str = request.param
    return dockerd.target(BUSYBOX if scheme == "docker" else container, scheme)


def test_the_commands_print_what_they_show(target: str) -> None:
    """The console block, with the tests' own image and engine."""
    lines = block("console").replace(SHOWN, f"'{target}'").splitlines()
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


def test_the_program_runs(target: str) -> None:
    """The Python block ends well."""
    program = block("python").replace(SHOWN, target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_reaps(dockerd: Dockerd) -> None:
    """The command that removes what was left says so."""
    done = subprocess.run(
        ["sh", "-c", block("sh")],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(DOCKER_HOST=dockerd.host),
        check=True,
    )
    assert re.search(r"leftovers of docker\S*: nothing to remove", done.stdout)


def test_every_option_is_explained() -> None:
    """The tables of options have each option, and no other."""
    table = PAGE.read_text().partition("## Targets and options")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == OPTIONS.keys()
