"""Every command and every Python snippet in the project's pages does what is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import PAGES, ROOT, RUNNABLE, SHOWN, Block, environment, read, run_by, shell

BLOCKS = [block for page in PAGES for block in read(page)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    """What can be run is run by a test that names the page, or the line above gives the reason."""
    if block.language not in RUNNABLE:
        assert block.language in SHOWN, f"{block.where}: is this to be run?"
        assert block.reason is None
    elif block.reason is None:
        test = ROOT / block.runner
        named = test == Path(__file__) or Path(block.page).name in test.read_text()
        assert named, f"{block.where}: {block.runner} does not run this page"
        shown = block.language != "sh" or test != Path(__file__)
        assert shown, f"{block.where}: run here is what a console block shows, with its output"
    else:
        assert len(block.reason.split()) >= 3, f"{block.where}: no reason: {block.reason}"


@pytest.mark.parametrize(
    "block", run_by("tests/e2e/test_docs.py", "python"), ids=lambda block: block.where
)
def test_python_blocks_run(block: Block, tmp_path: Path) -> None:
    """A Python block is a whole program, and it ends well."""
    script = tmp_path / "snippet.py"
    script.write_text(block.text)
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


@pytest.mark.parametrize(
    "block", run_by("tests/e2e/test_docs.py", "console"), ids=lambda block: block.where
)
def test_console_blocks_print_what_they_show(block: Block) -> None:
    """The commands of a console block, run in one shell in the checkout, print what is below."""
    assert shell(block.commands, ROOT) == block.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of this project names one that exists."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_reached() -> None:
    """Some other page of the documentation links to each one."""
    pages = set(ROOT.glob("docs/*.md")) - {ROOT / "docs" / "index.md"}
    linked = {
        (page.parent / link).resolve()
        for page in ROOT.glob("docs/*.md")
        for link in re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
        if link != page.name
    }
    assert sorted(page.name for page in pages - linked) == []


def test_the_reference_has_every_public_name() -> None:
    """What ``holdfast`` and ``holdfast.testing`` bring stands in the API reference."""
    import holdfast
    import holdfast.testing

    text = (ROOT / "docs" / "api.rst").read_text()
    shown = set(re.findall(r"^\.\. (?:auto|py:)\w+:: (\w+)(?:\(\))?$", text, re.MULTILINE))
    hooks = {"holdfast_transports", "holdfast_dialects", "holdfast_status_changed"}
    assert {*holdfast.__all__, *holdfast.testing.__all__, *hooks} - shown == set()
    for module in ("holdfast.pipes", "holdfast.wakeup"):
        assert f".. automodule:: {module}\n" in text


def test_the_map_has_every_module_of_core() -> None:
    """The architecture page's table names each module and package, and none that is not there."""
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## The modules of core")[2]
    core = ROOT / "core" / "holdfast"
    there = {path.name for path in core.glob("*.py")} - {"__init__.py", "__main__.py"}
    there |= {f"{path.parent.name}/" for path in core.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)) == there


def test_the_overview_says_what_each_transport_can_do() -> None:
    """The table of capabilities is what the transports say of themselves."""
    import holdfast

    text = (ROOT / "docs" / "transports.md").read_text()
    head, *rows = re.findall(r"^\| (?:capability|`[A-Z_]+`) \|.*$", text, re.MULTILINE)
    schemes = re.findall(r"`([\w+]+):`", head)
    told = {row.split("|")[1].strip(" `"): row.split("|")[2 : 2 + len(schemes)] for row in rows}
    registry = holdfast.Registry()
    assert told.keys() == holdfast.Capability.__members__.keys()
    for column, scheme in enumerate(schemes):
        can = registry.spec(scheme).capabilities
        assert can is not None
        for name, cells in told.items():
            expected = "yes" if holdfast.Capability[name] in can else "no"
            assert cells[column].strip() == expected, (scheme, name)


def test_the_tables_name_every_state_and_reason() -> None:
    """The README's tables are complete: states, reasons, causes, fates and dialects."""
    import holdfast
    from holdfast import Cause, Fate, Reason, State

    text = (ROOT / "README.md").read_text()
    unused = {Reason.CONFIG_UPDATE}  # of the gateway's protocol; nothing in core gives it
    for name in [*State, *(set(Reason) - unused), *Cause, *Fate, *holdfast.Registry().dialects]:
        assert f"`{name}`" in text, name
