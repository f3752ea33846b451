"""The tutorial's blocks, put together, are a transport that keeps the contract.

Run as a program, this module writes the list of clauses into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-transport.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"# (?P<path>[\w/.]+)(?:, in (?P<name>\w+))?\n")
LIST = re.compile(r"(<!-- written by: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
MODULE = "src/holdfast_unix/transport.py"


def assemble(*, whole: bool) -> dict[str, str]:
    """The tutorial's files by path; ``whole`` with what is added to a class later on."""
    files: dict[str, str] = {}
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "text":
            continue
        place = PLACE.match(text)
        assert place, f"a block that names no file: {text!r}"
        body = text[place.end() :]
        if place["name"] is None:
            gap = "\n" if body.startswith(" ") else "\n\n"
            files[place["path"]] = files.get(place["path"], "").rstrip("\n") + gap + body
        elif whole:
            head = re.compile(rf"^class {place['name']}\(.*\):\n", re.MULTILINE)
            before = files[place["path"]]
            files[place["path"]] = head.sub(lambda match: match[0] + body + "\n", before)  # noqa: B023
            assert files[place["path"]] != before
    return {path: text.strip("\n") + "\n" for path, text in files.items()}


def write(folder: Path, files: dict[str, str]) -> None:
    """The files, and what an installer would make of the entry point in ``pyproject.toml``."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = folder / "src" / "holdfast_unix-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {value}\n" for name, value in project["entry-points"]["holdfast"].items()]
    (info / "entry_points.txt").write_text("[holdfast]\n" + "".join(lines))


def run(
    folder: Path, *command: str, seconds: float = 100, **options
) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=seconds,
        **options,
    )


def contract(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return run(folder, "pytest", "-p", "no:cacheprovider", "-q", *options)


@pytest.mark.parametrize("whole", [False, True], ids=["short", "whole"])
def test_the_tutorials_transport_keeps_the_contract(tmp_path: Path, whole: bool) -> None:
    """As it stands at first, and with half close and the speed-ups: no clause is broken."""
    write(tmp_path, assemble(whole=whole))
    done = contract(tmp_path, "-rs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("capability: HALF_CLOSE" in done.stdout) == (not whole)


def test_it_takes_forty_lines(tmp_path: Path) -> None:
    """Below its imports, blank lines aside; its test takes five."""
    files = assemble(whole=False)
    assert lines(files[MODULE]) <= 40
    assert lines(files["tests/test_contract.py"]) <= 5


def lines(text: str) -> int:
    return len([line for line in text.splitlines() if line and not re.match("import|from", line)])


@contextmanager
def worker(folder: Path) -> Iterator[str]:
    """A target behind which each connection gets a worker that answers one line."""
    program = [sys.executable, "tests/server.py", "socket", "sh", "-c", "read line; echo got $line"]
    with subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            yield f"unix://{folder}/socket"
        finally:
            server.kill()


@pytest.mark.parametrize("whole", [False, True], ids=["short", "whole"])
def test_it_is_a_plugin(tmp_path: Path, whole: bool) -> None:
    """``holdfast transports`` lists it, and ``holdfast run`` runs a worker by it."""
    write(tmp_path, assemble(whole=whole))
    listed = run(tmp_path, "holdfast", "transports")
    assert "unix  a worker that listens on a Unix socket  (holdfast-unix 0.1.0)" in listed.stdout
    with worker(tmp_path) as target:
        done = run(tmp_path, "holdfast", "run", target, "--", "w", input="it\n")
    assert (done.stdout, done.stderr, done.returncode) == ("got it\n", "", 0)


FORWARD = """
import sys, anyio, holdfast

async def main():
    transport = holdfast.Registry().transport(sys.argv[1])
    async with transport.open(holdfast.Command(("w",))) as channel:
        assert channel.send_nowait(b"it\\n") == 3
        with anyio.fail_after(10):
            await channel.forward(lambda data: sys.stdout.buffer.write(data) and None)
            assert await channel.wait() == holdfast.Exit()

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_speed_ups_work(tmp_path: Path, backend: str) -> None:
    """``send_nowait`` takes a message, ``forward`` reads to the end, and then ``wait`` returns."""
    write(tmp_path, assemble(whole=True) | {"src/program.py": FORWARD})
    with worker(tmp_path) as target:
        done = run(tmp_path, "program", target, backend)
    assert (done.stdout, done.stderr) == ("got it\n", "")


def test_a_failed_clause_reads_as_shown(tmp_path: Path) -> None:
    """With the mistake that the page describes, pytest prints what the page shows."""
    files = assemble(whole=False)
    head, last, tail = files[MODULE].rpartition("        self._over.set()\n")
    assert last
    files[MODULE] = head + tail
    write(tmp_path, files)
    done = contract(tmp_path, "--holdfast-clause=HF-WAIT-2", "--holdfast-patience=0.1", "-ktrio")
    assert done.returncode == 1
    (shown,) = [text for language, text in BLOCK.findall(PAGE.read_text()) if language == "text"]
    printed = [line.removeprefix("E").strip() for line in done.stdout.splitlines()]
    for line in shown.replace("waited 10 s", "waited 1 s").splitlines():
        assert line.strip() in printed, done.stdout
    assert re.search(r"B\.wait\(\)  ->  cancelled", done.stdout)


def clause_list() -> str:
    """Every clause as a row of a table, in the order of the contract."""
    from holdfast.testing._live import in_order

    rows = ["| clause | the rule | needs |", "|---|---|---|"]
    for clause in in_order():
        needs = [f"`{each.name}`" for each in clause.needs]
        needs += [f"`{clause.fixture}`"] if clause.fixture else []
        rule = clause.rule.replace("|", "\\|")
        rows.append(
            f'| <a id="{clause.id.lower()}"></a>{clause.id} | {rule} | {", ".join(needs)} |'
        )
    return "\n".join(rows) + "\n"


def test_the_page_lists_every_clause() -> None:
    """Where not: python tests/e2e/test_docs_transport.py."""
    assert with_list(PAGE.read_text()) == PAGE.read_text()


def with_list(text: str) -> str:
    return LIST.sub(lambda match: match[1] + clause_list() + match[2], text)


if __name__ == "__main__":
    PAGE.write_text(with_list(PAGE.read_text()))
