"""Every command and every Python snippet in the README and in docs/ does what is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PART = ("# src/", "# tests/")
"""How a block begins that is a file, or a part of one, of the tutorial's transport."""


def blocks(language: str) -> list[object]:
    """The fenced blocks of one language, each named by its page and number."""
    found = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text())):
            if match[1] == language and "ssh://" not in match[2]:  # those: tests/ssh/test_docs.py
                found.append(pytest.param(match[2], id=f"{page.stem}-{number}"))
    return found


def environment() -> dict[str, str]:
    """Ours, with the interpreter's own scripts first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    """A Python block is a whole program, and it ends well."""
    if block.startswith(PART):
        pytest.skip("capability: a part of the tutorial, run whole by test_docs_transport.py")
    script = tmp_path / "snippet.py"
    script.write_text(block)
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_only_the_tutorial_is_in_parts() -> None:
    """No other page has blocks that no test runs."""
    part = re.compile(r"^```\w+\n# (src|tests)/", re.MULTILINE)
    pages = [page.stem for page in PAGES if part.search(page.read_text())]
    assert pages == ["writing-a-transport"]


@pytest.mark.parametrize("block", blocks("console"))
def test_console_blocks_print_what_they_show(block: str) -> None:
    """The commands of a console block, run in one shell, print what stands below them."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    expected = [line for line in block.splitlines() if not line.startswith("$ ")]
    done = subprocess.run(
        ["sh", "-c", "\n".join(commands)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of this project names one that exists."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_the_tables_name_every_state_and_reason() -> None:
    """The README's tables are complete: states, reasons, causes, fates and dialects."""
    import holdfast
    from holdfast import Cause, Fate, Reason, State

    text = (ROOT / "README.md").read_text()
    unused = {Reason.CONFIG_UPDATE}  # of the gateway's protocol; nothing in core gives it
    for name in [*State, *(set(Reason) - unused), *Cause, *Fate, *holdfast.Registry().dialects]:
        assert f"`{name}`" in text, name
