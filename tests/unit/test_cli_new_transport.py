"""``holdfast new-transport`` and ``holdfast check``: what they refuse, and with which words."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from holdfast._cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code, *capsys.readouterr()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own to write into."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Box",
        "1box",
        "../box",
        "box/far",
        "a b",
        "box-",
        "box--far",
        ".box",
        "box\n",
        "ü",
        "b" * 41,
    ],
)
def test_a_name_that_is_no_scheme(
    capsys: pytest.CaptureFixture[str], here: Path, name: str
) -> None:
    """A name is a scheme in lower case; what is none is refused, and nothing is written."""
    code, out, err = run(capsys, "new-transport", name)
    assert (code, out) == (64, "")
    assert "not the name of a transport" in err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("local", "'local' is taken; installed are: "),
        ("tcp", "'tcp' is taken; installed are: "),
        ("transports", "there is a package holdfast_transports already"),
    ],
)
def test_a_name_that_is_taken(
    capsys: pytest.CaptureFixture[str], here: Path, name: str, why: str
) -> None:
    """A scheme or a package that is there already is refused."""
    code, _, err = run(capsys, "new-transport", name)
    assert code == 64
    assert why in err
    assert list(here.iterdir()) == []


def test_a_folder_that_is_there(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """Nothing is written into what is there, be it empty, a file or a broken link."""
    (here / "folder").mkdir()
    (here / "file").write_text("mine")
    (here / "link").symlink_to("nowhere")
    for name in ("folder", "file", "link"):
        code, out, err = run(capsys, "new-transport", "box", "--directory", name)
        assert (code, out) == (73, "")
        assert err == f"holdfast: {name} is there already; give another --directory\n"
    assert list((here / "folder").iterdir()) == []
    code, _, err = run(capsys, "new-transport", "box", "--directory", "no/such/place")
    assert (code, err) == (
        73, "holdfast: no/such/place cannot be made: No such file or directory\n",
    )  # fmt: skip


def test_what_is_written(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """A whole distribution under the names that follow from the scheme, and what to do next."""
    code, out, _ = run(capsys, "new-transport", "box+far", "--directory", "my plugin")
    assert code == 0
    files = {
        str(path.relative_to(here / "my plugin")) for path in here.rglob("*") if path.is_file()
    }
    assert files == {
        "README.md",
        "pyproject.toml",
        "src/holdfast_box_far/__init__.py",
        "src/holdfast_box_far/_transport.py",
        "src/holdfast_box_far/py.typed",
        "tests/conftest.py",
        "tests/server.py",
        "tests/test_contract.py",
    }
    for path in (here / "my plugin").rglob("*.py"):
        ast.parse(path.read_text())
        assert "$" not in path.read_text()
    assert '"box+far" = "holdfast_box_far"' in (here / "my plugin/pyproject.toml").read_text()
    assert (
        "class BoxFarTransport("
        in (here / "my plugin/src/holdfast_box_far/_transport.py").read_text()
    )
    assert "cd 'my plugin' && pip install -e '.[test]' && pytest" in out


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 64, "Missing argument 'TARGET'"),
        (["lcoal:"], 64, "no transport named 'lcoal' (did you mean 'local'?)"),
        (["nonsense"], 64, "not a target: 'nonsense'"),
        (["local:?speed=9"], 64, "local: has no option 'speed'"),
        (["tcp://host"], 64, "write tcp://host:port"),
        (["local:", "--patience", "0"], 64, "0.0 is not in the range x>0"),
        (["local:", "--backend", "curio"], 64, "'curio' is not one of 'asyncio', 'trio'"),
        (["local:", "--clause", "HF-0"], 64, "no clause matches 'HF-0'; there are: HF-START-*"),
        (["local:", "--no-such"], 64, "No such option"),
    ],
)  # fmt: skip
def test_what_check_refuses(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, why: str
) -> None:
    """A command line that makes no sense is 64, and the message names what would."""
    given, out, err = run(capsys, "check", *arguments)
    assert (given, out) == (code, "")
    assert why in " ".join(err.split())


def test_every_missing_capability_has_a_price() -> None:
    """``holdfast check`` can say of every capability what its absence costs."""
    from holdfast import Capability
    from holdfast._cli._check_report import COSTS

    assert list(COSTS) == list(Capability)
