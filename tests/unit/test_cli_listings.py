"""The commands that tell what there is: ``--help``, ``transports`` and ``doctor``."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.terminal import on_terminal, plain

from holdfast._cli import cli, doctor, main
from holdfast._cli._checks import CHECKS, Finding, State
from holdfast._registry import Registry

ESCAPE = "\x1b["
HOLDFAST = (sys.executable, "-m", "holdfast")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code, *capsys.readouterr()


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution whose plugin fails when it is imported."""
    meta = tmp_path / "holdfast_wrong-3.2.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-wrong\nVersion: 3.2\n")
    (meta / "entry_points.txt").write_text("[holdfast]\nwrong = holdfast_wrong\n")
    (tmp_path / "holdfast_wrong.py").write_text("raise RuntimeError('out of order')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "holdfast-wrong"


@pytest.fixture
def whole_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution that brings a transport with an option, and with capabilities unknown."""
    meta = tmp_path / "holdfast_far-1.5.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-far\nVersion: 1.5\n")
    (meta / "entry_points.txt").write_text("[holdfast]\nfar = holdfast_far\n")
    (tmp_path / "holdfast_far.py").write_text(
        "import holdfast\n"
        "@holdfast.hookimpl\n"
        "def holdfast_transports():\n"
        "    return [holdfast.TransportSpec('far', None, 'a far place', 'far://away',\n"
        "                                   {'speed': 'km/h (int)'})]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "far"


# -- holdfast itself -----------------------------------------------------------------------------


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be done is seen by asking for help, with a line for each command."""
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name in ("run", "wrap", "demo", "transports", "doctor"):
        assert re.search(rf"^  {name} +[A-Z]\w+ ", out, re.MULTILINE), name


@pytest.mark.parametrize("name", ["run", "wrap", "demo", "transports", "doctor"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Each command explains itself, and asking for that is no error."""
    code, out, err = run(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that cannot be understood has exit code 64."""
    assert run(capsys, "runn")[0] == 64
    assert run(capsys, "transports", "--jsn")[0] == 64


def test_an_unknown_command_says_what_to_do_next(
    capsys: pytest.CaptureFixture[str],
    broken_plugin: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nearest name, or what brings it; a broken plugin may have brought it, and is named."""
    _, _, err = run(capsys, "rnu")
    assert "no such command: 'rnu' (did you mean 'run'?); see: holdfast --help\n" in err
    assert f"plugin 'wrong' of {broken_plugin} cannot be loaded" in err
    monkeypatch.setattr(Registry, "load_all", lambda self: [])  # without the gateway
    monkeypatch.setattr(cli, "commands", {})
    _, _, err = run(capsys, "serve")
    assert "'serve' comes with holdfast-gateway, which is not installed: pip install it\n" in err


@pytest.mark.parametrize("command", ["transports", "doctor"])
def test_a_narrow_terminal_gets_lines(command: str) -> None:
    """No room for a table: what a pipe gets, in which no word is cut."""
    shown = on_terminal(*HOLDFAST, command, columns=40)
    assert ESCAPE not in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert "docker+exec" in shown


@pytest.mark.parametrize("command", ["transports", "doctor"])
def test_a_terminal_that_says_little_is_printed_to(command: str) -> None:
    """``COLUMNS=0`` is no width, and a dumb terminal gets no colours."""
    assert "docker+exec" in plain(on_terminal(*HOLDFAST, command, columns=0))
    assert ESCAPE not in on_terminal(*HOLDFAST, command, TERM="dumb")


@pytest.mark.parametrize("command", ["transports", "doctor", "demo", "--help"])
def test_output_that_cannot_be_written_is_told(command: str) -> None:
    """On a full disk: one line on stderr, and 74. No traceback, no code of the command's own."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    text = "holdfast: the output cannot be written: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr) == (74, text)


@pytest.mark.parametrize("command", ["transports", "doctor", "demo"])
def test_a_reader_that_has_left_is_no_failure(command: str) -> None:
    """The code is that of SIGPIPE: 1 would say that no worker runs, or that a claim was not so."""
    theirs, ours = os.pipe()
    os.close(theirs)
    with open(ours, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", command],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (128 + 13, "")


@pytest.mark.parametrize("command", ["transports", "doctor", "demo"])
def test_a_stdout_that_is_closed_at_the_start(command: str) -> None:
    """There is nobody to print for; the work is done all the same."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m holdfast {command} >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [[], ["transports"], ["doctor", "--json"], ["demo"]])
def test_rich_is_imported_only_where_a_person_looks(arguments: list[str]) -> None:
    """Importing the command line, and what it prints into a pipe, does without rich."""
    code = (
        "import sys\n"
        "from holdfast._cli import main\n"
        "try:\n"
        "    if sys.argv[1:]: main(sys.argv[1:])\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'rich'], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


# -- transports ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole_plugin")
def test_transports_tells_what_each_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON: scheme, example, capabilities, options, and who brings it in which version."""
    code, out, err = run(capsys, "transports", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    offers = {each["scheme"]: each for each in listed["transports"]}
    assert listed["broken"] == []
    assert offers["local"]["distribution"] == "holdfast"
    assert {"any_command", "stderr", "exit_status"} <= set(offers["local"]["capabilities"])
    assert offers["far"] == {
        "scheme": "far",
        "summary": "a far place",
        "example": "far://away",
        "capabilities": None,
        "options": {"speed": "km/h (int)"},
        "plugin": "far",
        "distribution": "holdfast-far",
        "version": "1.5",
    }


@pytest.mark.usefixtures("whole_plugin")
def test_transports_is_readable_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The same as plain text: no colours, no box of characters, no line cut at 80 columns."""
    code, out, err = run(capsys, "transports")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert ESCAPE not in out
    assert "far  a far place  (holdfast-far 1.5)\n" in out
    assert "    example: far://away\n    can: depends on the target\n" in out
    assert "    ?speed=km/h (int)\n" in out
    assert re.search(r"^    can: any command, .*half close", out, re.MULTILINE)


@pytest.mark.usefixtures("whole_plugin")
def test_transports_is_a_table_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person gets a table, and the options in one of their own."""
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    shown = on_terminal(*HOLDFAST, "transports")
    assert ESCAPE in shown
    assert re.search(r"Scheme +Summary +Example +Can +From", plain(shown))
    assert re.search(r"far +a far place +far://away +depends on", plain(shown))
    assert re.search(r"far +speed +km/h \(int\)", plain(shown))


def test_transports_goes_on_beside_a_broken_plugin(
    capsys: pytest.CaptureFixture[str], broken_plugin: str
) -> None:
    """Exit code 0; the plugin is named with the reason, on stderr and in the JSON."""
    code, out, err = run(capsys, "transports", "--json")
    listed = json.loads(out)
    assert code == 0
    assert "local" in [each["scheme"] for each in listed["transports"]]
    (failure,) = listed["broken"]
    assert (failure["plugin"], failure["distribution"]) == ("wrong", broken_plugin)
    assert "RuntimeError: out of order" in failure["reason"]
    assert err == f"holdfast: {failure['reason']}\n"


# -- doctor --------------------------------------------------------------------------------------


def findings(out: str) -> dict[str, dict]:
    return {each["name"]: each for each in json.loads(out)["checks"]}


def test_doctor_runs_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine where tests run, all that is essential is ok; exit code 0."""
    code, out, err = run(capsys, "doctor", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["ok"] is True
    checks = findings(out)
    assert {each["state"] for each in checks.values() if each["essential"]} == {"ok"}
    assert "back in" in checks["local worker"]["found"]
    assert "exited with code 0" in checks["local worker"]["found"]
    assert checks["plugin local"]["state"] == "ok"
    assert {"plugin docker+exec", "plugin podman"} <= checks.keys()  # of one module, each by name


def test_doctor_tells_what_to_do_about_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ``cat``: no worker, exit code 1. No ``ssh``: a hint for those who want it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (1, "")
    assert "broken     local worker: no such command: 'cat'" in out
    assert "missing    OpenSSH client: no ssh command in PATH\n" in out
    assert "and client=openssh: install openssh-client (Debian: apt-get" in out


def test_doctor_names_a_broken_plugin(
    capsys: pytest.CaptureFixture[str], broken_plugin: str
) -> None:
    """It is broken, and what works without it works: exit code 0."""
    code, out, _ = run(capsys, "doctor", "--json")
    found = findings(out)["plugin wrong"]
    assert (code, found["state"]) == (0, "broken")
    assert "out of order" in found["found"]
    assert found["next_step"] == f"update or uninstall {broken_plugin}"


@pytest.mark.parametrize(
    ("essential", "state", "code"),
    [
        (True, State.OK, 0),
        (True, State.MISSING, 1),
        (True, State.BROKEN, 1),
        (False, State.BROKEN, 0),
        (False, State.MISSING, 0),
        (False, State.UNCHECKED, 0),
    ],
)
def test_doctor_fails_only_for_what_is_essential(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    essential: bool,
    state: State,
    code: int,
) -> None:
    """What one kind of target needs is told, and changes nothing in the exit code."""
    finding = Finding("it", state, "seen", "some", "do", essential)
    monkeypatch.setattr(doctor, "CHECKS", [lambda: [finding]])
    assert run(capsys, "doctor")[:2] == (
        code,
        f"{state:<10} it: seen\n           needed for some: do\n",
    )


def test_doctor_survives_a_check_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in one check is a finding, and the others are told."""

    def first_check() -> Iterator[Finding]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(doctor, "CHECKS", [first_check, *CHECKS[:1]])
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    assert findings(out)["first check"]["found"] == "could not be checked: ZeroDivisionError: oops"
    assert findings(out)["Python"]["state"] == "ok"


def test_doctor_is_a_table_on_a_terminal() -> None:
    """A person gets a table, with the states in colour."""
    shown = on_terminal(*HOLDFAST, "doctor")
    assert "\x1b[32mok" in shown
    assert re.search(r"ok +local worker +a line went through `cat` and back", plain(shown))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """A socket that answers one connection as it is told; gives its address."""
    with socket.socket(socket.AF_UNIX) as listener:

        def answer(response: bytes) -> None:
            connection = listener.accept()[0]
            with connection:
                assert connection.recv(1024).startswith(b"GET /_ping HTTP/1.0\r\n")
                connection.sendall(response)

        def start(response: bytes) -> str:
            path = tmp_path / "engine.sock"
            listener.bind(str(path))
            listener.listen()
            threads.append(threading.Thread(target=answer, args=(response,)))
            threads[0].start()
            return f"unix://{path}"

        threads: list[threading.Thread] = []
        yield start
        for thread in threads:
            thread.join(10)


@pytest.mark.parametrize(
    ("name", "variable"), [("Docker", "DOCKER_HOST"), ("Podman", "CONTAINER_HOST")]
)
def test_doctor_asks_the_container_engine(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: Callable[[bytes], str],
    name: str,
    variable: str,
) -> None:
    """An engine that answers the ping is ok; where the environment says it is, it is asked."""
    monkeypatch.setenv(variable, engine(b"HTTP/1.0 200 OK\r\n\r\nOK"))
    found = findings(run(capsys, "doctor", "--json")[1])[name]
    assert found["state"] == "ok"
    assert found["found"].endswith("engine.sock")


def test_doctor_does_not_take_any_answer_for_an_engine(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    engine: Callable[[bytes], str],
) -> None:
    """A server that is something else is told as what it answers."""
    monkeypatch.setenv("DOCKER_HOST", engine(b"HTTP/1.0 404 Not Found\r\n\r\n"))
    found = findings(run(capsys, "doctor", "--json")[1])["Docker"]
    assert found["state"] == "broken"
    assert "404 Not Found" in found["found"]


@pytest.mark.parametrize(
    ("address", "state", "says"),
    [
        ("unix:///nowhere/docker.sock", "missing", "no socket at /nowhere/docker.sock"),
        ("tcp://127.0.0.1:1", "broken", "nobody listens at tcp://127.0.0.1:1"),
        ("tcp://127.0.0.1:port", "broken", "DOCKER_HOST=tcp://127.0.0.1:port is no address"),
        ("ssh://far.example", "unchecked", "DOCKER_HOST=ssh://far.example"),
    ],
)
def test_doctor_claims_no_more_of_an_engine_than_it_saw(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    state: str,
    says: str,
) -> None:
    """Nobody there, an address that is none, and an engine that is not asked are three things."""
    monkeypatch.setenv("DOCKER_HOST", address)
    code, out, _ = run(capsys, "doctor", "--json")
    found = findings(out)["Docker"]
    assert (code, found["state"]) == (0, state)
    assert found["found"].startswith(says)
    assert found["next_step"]
