"""The checkout's shape: which folders there are, who may import whom, and what the lock holds."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "holdfast"
TRANSPORTS = ROOT / "transports" / "holdfast_transports"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))

FOLDERS = {".ci", "core", "docs", "plugins", "tests", "transports"}
TEST_FOLDERS = {"bench", "containers", "contract", "e2e", "faults", "ssh", "unit"}

SANS_IO = {
    "_dialect",
    "_envelope",
    "_errors",
    "_events",
    "_framing",
    "_hookspecs",
    "_journal",
    "_machine",
    "_registry",
    "_status",
    "_target",
}
EVENT_LOOPS = {"anyio", "asyncio", "sniffio", "trio", "uvloop"}


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules and names that a file imports when it runs, as absolute dotted names."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent)
    found = set()
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            prefix = ".".join([*parts, node.module or ""] if node.level else [node.module or ""])
            found |= {f"{prefix.rstrip('.')}.{alias.name}" for alias in node.names}
    return frozenset(found)


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below this one, but not what stands under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield other
                yield from running_nodes(other)
        else:
            yield child
            yield from running_nodes(child)


def module_name(path: Path) -> str:
    """The dotted name of a module's file, or of a package's folder."""
    for base in (CORE.parent, TRANSPORTS.parent, *(plugin / "src" for plugin in PLUGINS)):
        if path.is_relative_to(base):
            parts = path.relative_to(base).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1:] == ("__init__",) else parts)
    raise AssertionError(f"not a module of this project: {path}")


def top_level(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_top_level_folders_are_these() -> None:
    """A new top-level folder is a decision, not an accident."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        ).stdout.decode()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this is no git checkout: {error}")
    files = [name for name in listed.split("\0") if name]
    assert {name.partition("/")[0] for name in files if "/" in name} <= FOLDERS
    in_tests = [name.removeprefix("tests/") for name in files if name.startswith("tests/")]
    assert {name.partition("/")[0] for name in in_tests if "/" in name} <= TEST_FOLDERS


@pytest.mark.parametrize("path", python_files(CORE), ids=relative)
def test_core_never_names_a_transport(path: Path) -> None:
    """``holdfast`` imports neither its built-in transports nor a plugin."""
    plugins = {module.name for plugin in PLUGINS for module in (plugin / "src").iterdir()}
    assert not top_level(imports(path)) & {TRANSPORTS.name, *plugins}


@pytest.mark.parametrize(
    "path",
    [*python_files(TRANSPORTS), *(file for p in PLUGINS for file in python_files(p / "src"))],
    ids=relative,
)
def test_transports_and_plugins_use_public_names_only(path: Path) -> None:
    """What an outsider cannot rely on, a built-in does not either: no part begins with ``_``."""
    private = [
        name
        for name in imports(path)
        if name.startswith("holdfast.") and any(part[:1] == "_" for part in name.split("."))
    ]
    assert private == []
    assert path.is_relative_to(TRANSPORTS) or TRANSPORTS.name not in top_level(imports(path))


@pytest.mark.parametrize("name", sorted(SANS_IO))
def test_what_decides_does_no_io(name: str) -> None:
    """A sans-I/O module imports no event loop, and of core only modules that import none either."""
    path = CORE / f"{name}.py"
    seen = set()
    todo = [path]
    while todo:
        current = todo.pop()
        seen.add(current)
        found = imports(current)
        assert not top_level(found) & EVENT_LOOPS, f"{current.name} imports an event loop"
        for imported in found:
            if top_level(frozenset({imported})) != {"holdfast"}:
                continue
            module = imported.split(".")[1] if "." in imported else "__init__"
            used = CORE / f"{module}.py"
            assert used.exists(), f"{current.name} imports {imported}: import the module itself"
            if used not in seen:
                todo.append(used)


def test_every_plugin_is_checked() -> None:
    """mypy, pyright and import-linter know each plugin by the lists in pyproject.toml."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    bases = [CORE.parent, TRANSPORTS.parent, *(plugin / "src" for plugin in PLUGINS)]
    assert set(tools["mypy"]["mypy_path"]) == {relative(base) for base in bases}
    assert set(tools["pyright"]["extraPaths"]) == {relative(base) for base in bases}
    packages = {path.name for base in bases for path in base.iterdir() if path.is_dir()}
    assert set(tools["importlinter"]["root_packages"]) == packages - {"__pycache__"}


def test_every_package_is_typed() -> None:
    """Each package has the marker by which type checkers trust its annotations."""
    packages = [CORE, TRANSPORTS, *(path for p in PLUGINS for path in (p / "src").iterdir())]
    assert [path for path in packages if path.is_dir() and not (path / "py.typed").is_file()] == []


def test_the_lock_is_portable() -> None:
    """``uv.lock`` names the public index only: no mirror's host and no path of some machine."""
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^/\"]+", text)) == {
        "https://files.pythonhosted.org",
        "https://pypi.org",
    }
    assert re.findall(r"file:|\"/", text) == []


@pytest.mark.parametrize("project", [ROOT, *PLUGINS], ids=relative)
def test_the_lock_is_up_to_date(project: Path) -> None:
    """``uv.lock`` was made from what pyproject.toml requires; where not, run ``uv lock``."""
    wanted = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    name = wanted["project"]["name"]
    (locked,) = [package for package in lock["package"] if package["name"] == name]

    assert locked["version"] == wanted["project"]["version"]
    assert lock["requires-python"] == wanted["project"]["requires-python"]
    metadata = locked["metadata"]
    plain = [entry for entry in metadata["requires-dist"] if "extra ==" not in marker_of(entry)]
    assert as_locked(plain) == as_written(wanted["project"].get("dependencies", []))
    for group, entries in wanted.get("dependency-groups", {}).items():
        assert as_locked(metadata["requires-dev"][group]) == as_written(entries)


def marker_of(entry: dict[str, str]) -> str:
    return entry.get("marker", "")


def as_locked(entries: list[dict]) -> set[tuple[str, str, frozenset[str]]]:
    """Requirements as the lock has them; a workspace's own members stand there without version."""
    return {
        (
            entry["name"],
            "" if "editable" in entry else canonical(entry.get("specifier", "")),
            frozenset(entry.get("extras", ())),
        )
        for entry in entries
    }


def as_written(lines: list[str]) -> set[tuple[str, str, frozenset[str]]]:
    """Requirements as pyproject.toml has them, in the same form."""
    members = {path.name for path in PLUGINS} | {"holdfast"}
    found = set()
    for line in lines:
        requirement = Requirement(line)
        specifier = "" if requirement.name in members else canonical(str(requirement.specifier))
        found.add((requirement.name, specifier, frozenset(requirement.extras)))
    return found


def canonical(specifier: str) -> str:
    return ",".join(sorted(part.strip() for part in specifier.split(",")))
