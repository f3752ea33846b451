"""The Markdown pages of this project, and the blocks in them that a reader may run.

Every block of Python or of commands is run by a test. Which one, the page says once for all of its
blocks; where it does not, it is ``test_docs.py``::

    <!-- blocks run by: tests/ssh/test_docs.py -->

A block that cannot be run carries the reason in the line above it::

    <!-- not run: it needs a release -->
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
RUNNABLE = ("console", "python", "sh")
SHOWN = ("json", "text", "toml")
SITE = ("{toctree}",)
"""What stands for something else on the site, and so is no block."""

DEFAULT = "tests/e2e/test_docs.py"

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>.*?) -->\n)?```(?P<language>\S*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN_BY = re.compile(r"^<!-- blocks run by: (\S+) -->$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: where it stands, what it is, and who runs it, or why nobody does."""

    page: str
    line: int
    language: str
    text: str
    runner: str
    reason: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> str:
        """A console block's commands, as one script."""
        lines = self.text.splitlines()
        return "\n".join(line[2:] for line in lines if line.startswith("$ "))

    @property
    def output(self) -> list[str]:
        """What a console block shows below its commands."""
        return [line for line in self.text.splitlines() if not line.startswith("$ ")]


def read(page: Path) -> list[Block]:
    """All the blocks of one page."""
    text = page.read_text()
    runner = RUN_BY.findall(text)
    assert len(runner) <= 1, f"{page}: who runs its blocks?"
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["text"],
            runner[0] if runner else DEFAULT,
            match["reason"],
        )
        for match in FENCE.finditer(text)
        if match["language"] not in SITE
    ]


def run_by(test: str, *languages: str) -> list[Block]:
    """The blocks of all pages that one test file runs, in these languages."""
    return [
        block
        for page in PAGES
        for block in read(page)
        if block.runner == test and block.reason is None and block.language in languages
    ]


def environment() -> dict[str, str]:
    """Ours, with the interpreter's own scripts first; what is printed is seen at once."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


def shell(commands: str, folder: Path) -> list[str]:
    """What commands print, in one shell, on either of its outputs."""
    done = subprocess.run(
        ["sh", "-c", commands],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    return done.stdout.splitlines()
