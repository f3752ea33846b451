"""What users install: wheels and sdists, what is in them, and each extra by itself."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from .installing import run
from .pages import ROOT

PROJECTS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for path in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml"))
}
EXTRAS: dict[str, tuple[str, ...]] = {
    "": ("anyio", "click", "msgspec", "pluggy", "rich"),
    "ssh": ("paramiko", "holdfast_transports.ssh"),
    "container": ("h11",),
    "gateway": ("holdfast_gateway", "fastapi"),
    "testing": ("pytest", "trio", "holdfast.testing"),
    "all": ("paramiko", "h11", "holdfast_gateway", "pytest"),
}
"""What each extra makes importable."""

TOO_MUCH = ("fastapi", "h11", "paramiko", "pytest", "trio")
"""What comes with no extra but those that name it."""


class Built(NamedTuple):
    """What was built, and the environment's pins, in the folder of this test run."""

    uv: str
    folder: Path

    def wheel(self, name: str) -> Path:
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-*.whl")
        return found

    def sdist(self, name: str) -> Path:
        (found,) = self.folder.glob(f"{name.replace('-', '_')}-*.tar.gz")
        return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """Everything is built once, by the first xdist worker that needs it; the others wait."""
    uv = shutil.which("uv", path=f"{os.environ['PATH']}:{ROOT / '.venv-tools' / 'bin'}")
    assert uv is not None, "no uv: tests/run brings one"
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "packages"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "pins.txt").exists():
            # An sdist, and the wheel from it: what is missing in the one fails the other.
            ours = ("--python", sys.executable)
            run(uv, "build", *ours, "--all-packages", "--out-dir", folder, cwd=ROOT)
            pins = run(
                *(uv, "export", *ours, "--frozen", "--all-packages", "--all-extras"),
                *("--no-hashes", "--no-emit-workspace", "--no-header"),
                cwd=ROOT,
            )
            (folder / "pins.txt").write_text(pins)
    return Built(uv, folder)


def files_of(wheel: Path) -> dict[str, int]:
    with ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROJECTS)
def test_a_wheel_holds_the_package_and_its_types(built: Built, name: str) -> None:
    """Every module of the sources, ``py.typed`` for each package, the licence; and no tests."""
    files = files_of(built.wheel(name))
    project = PROJECTS[name]
    sources = [project / "core", project / "transports"] if project == ROOT else [project / "src"]
    wanted = {
        str(path.relative_to(source))
        for source in sources
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = {path for path in files if ".dist-info/" in path}
    assert files.keys() - info == wanted
    packages = {path.partition("/")[0] for path in wanted if "/" in path}
    assert {f"{package}/py.typed" for package in packages} <= wanted
    assert any(path.endswith("/LICENSE") for path in info)
    assert any(path.endswith("/entry_points.txt") for path in info)


@pytest.mark.timeout(300)
def test_the_sdist_holds_what_a_packager_needs(built: Built) -> None:
    """The sources, the documentation, and the tests with what they are configured by."""
    with tarfile.open(built.sdist("holdfast")) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        assert path in files
    for folder in ("core", "transports", "docs", "tests"):
        tracked = run("git", "ls-files", "-z", folder, cwd=ROOT).split("\0")
        assert {path for path in tracked if path} <= files
    assert "conftest.py" in files
    assert not any(path.startswith((".venv", "plugins/")) for path in files)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_into_an_empty_environment(
    built: Built, tmp_path: Path, extra: str
) -> None:
    """With each extra ``import``, ``holdfast transports`` and ``holdfast demo`` work."""
    environment = tmp_path / "venv"
    run(built.uv, "venv", "--python", sys.executable, environment, cwd=tmp_path)
    python, holdfast = environment / "bin" / "python", environment / "bin" / "holdfast"
    wheel = built.wheel("holdfast")
    wanted = [f"holdfast[{extra}] @ file://{wheel}" if extra else str(wheel)]
    if extra in ("gateway", "all"):  # it is on no index yet
        wanted.append(str(built.wheel("holdfast-gateway")))
    pins = built.folder / "pins.txt"
    run(
        *(built.uv, "pip", "install", "--python", python, "--constraints", pins, *wanted),
        cwd=tmp_path,
    )

    names = {*EXTRAS[""], *EXTRAS[extra]}
    lacking = {name for name in TOO_MUCH if extra == ""}
    code = "import sys; from importlib.util import find_spec as f; print(*filter(f, sys.argv[1:]))"
    found = run(python, "-c", code, *names, *lacking, cwd=tmp_path).split()
    assert set(found) == names
    run(python, "-c", "".join(f"import {name}\n" for name in sorted(names)), cwd=tmp_path)

    listed = run(holdfast, "transports", cwd=tmp_path)
    assert re.search(r"^local  .* \(holdfast [\d.]+\)$", listed, re.MULTILINE)
    told = run(holdfast, "demo", cwd=tmp_path)
    assert "ok      the next prompt, p-3, starts a new worker and is answered by it" in told


def test_every_dependency_is_explained() -> None:
    """The page on packages has each required dependency and each extra, and so has this module."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "packages.md").read_text()
    required = {Requirement(line).name for line in project["dependencies"]}
    table = page.partition("| dependency |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) == required
    extras = project["optional-dependencies"].keys()
    assert set(re.findall(r"`holdfast\[(\w+)\]`", page)) == extras
    assert EXTRAS.keys() - {""} == extras
