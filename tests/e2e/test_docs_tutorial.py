"""The tutorial, from top to bottom in one folder: its programs are saved, its commands are run."""

from __future__ import annotations

from pathlib import Path

from .pages import run_by, shell

BLOCKS = run_by("tests/e2e/test_docs_tutorial.py", "python", "console")


def test_the_tutorial_does_what_it_shows(tmp_path: Path) -> None:
    """Each command prints what stands below it, by the programs above it."""
    assert {block.page for block in BLOCKS} == {"docs/tutorial.md"}
    for block in BLOCKS:
        if block.language == "python":
            name = block.text.partition("\n")[0].removeprefix("# ")
            (tmp_path / name).write_text(block.text)
        else:
            assert shell(block.commands, tmp_path) == block.output, block.where
