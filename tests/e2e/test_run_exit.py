"""``holdfast run`` ends as its worker ended, and says no more than was asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from .servers.bare_transport import install
from .servers.driving import HOLDFAST, environment, finished, python, request, run, sh, started


@pytest.mark.parametrize("code", [0, 1, 3, 64, 69, 74, 127, 128, 255])
def test_the_exit_code_is_the_workers(code: int) -> None:
    """All of them, ours among them: an exit code is passed on, never interpreted."""
    assert finished(run(*sh(f"exit {code}"))) == (code, b"", b"")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGSEGV", "SIGPIPE"])
def test_a_signal_death_is_128_and_its_number(name: str) -> None:
    """As a shell says it; nothing is printed about it."""
    number = int(signal.Signals[name])
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"if {number} != 9: signal.signal({number}, signal.SIG_DFL)\n"
        f"os.kill(os.getpid(), {number})"
    )
    assert finished(run(*python(code))) == (128 + number, b"", b"")


def test_a_real_time_signal_is_128_and_its_number() -> None:
    """Those that have a number and no name of their own."""
    number = signal.SIGRTMIN + 3
    assert finished(run(*python(f"os.kill(os.getpid(), {number})"))) == (128 + number, b"", b"")


@pytest.mark.parametrize(
    ("worker", "options", "hint"),
    [
        (("no-such-command-here",), [], b"no-such-command-here"),
        (("/etc/hostname",), [], b"/etc/hostname"),
        (("true",), ["--cwd", "/no/such/directory"], b"/no/such/directory"),
        (("/",), [], b"'/'"),
    ],
    ids=["no such command", "not executable", "no such directory", "a directory"],
)
def test_69_and_one_line_when_it_cannot_be_started(
    worker: tuple[str, ...], options: list[str], hint: bytes
) -> None:
    """One line on stderr that names what is wrong; nothing on stdout."""
    code, out, err = finished(run(*worker, options=options))
    assert (code, out) == (69, b"")
    assert err.startswith(b"holdfast: ")
    assert err.count(b"\n") == 1
    assert err.endswith(b"\n")
    assert hint in err


def test_69_also_with_a_client_that_keeps_our_stdin_open() -> None:
    """A worker that never was does not leave us waiting for input."""
    with started(run("no-such-command-here")) as running:
        assert running.wait() == 69


def test_what_was_sent_to_a_worker_that_could_not_be_started_is_answered() -> None:
    """Also this is a loss: a request that came meanwhile does not wait for ever."""
    code, out, _ = finished(run("no-such-command-here"), request(1))
    assert code == 69
    assert out == b"" or json.loads(out)["id"] == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run"], b"TARGET"),
        (["run", "local:"], b"no command"),
        (["run", "local:", "--"], b"no command"),
        (["run", "--no-such-option", "local:", "--", "true"], b"--no-such-option"),
        (["run", "--max-line", "0", "local:", "--", "true"], b"max-line"),
        (["run", "--max-line", "many", "local:", "--", "true"], b"max-line"),
        (["run", "--status=xml", "local:", "--", "true"], b"xml"),
        (["run", "--dialect", "jsonrcp", "local:", "--", "true"], b"jsonrpc"),
        (["run", "--env", "NOT_SET_ANYWHERE", "local:", "--", "true"], b"NOT_SET_ANYWHERE"),
        (["run", "--env", "=x", "local:", "--", "true"], b"environment variable"),
        (["run", "locl:", "--", "true"], b"did you mean 'local'"),
        (["run", "no-colon", "--", "true"], b"no-colon"),
        (["run", "local:?colour=red", "--", "true"], b"colour"),
        (["run", "--server", "x", "local:"], b"--from"),
        (["run", "--from", "x", "local:"], b"--server"),
        (["rnu", "local:", "--", "true"], b"rnu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_64_for_a_command_line_that_makes_no_sense(arguments: list[str], hint: bytes) -> None:
    """A usage error says what is wrong with it, on stderr alone; nothing is started."""
    code, out, err = finished([*HOLDFAST, *arguments])
    assert (code, out) == (64, b"")
    assert hint in err
    assert b"Traceback" not in err


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    """The names that would have worked, and the nearest of them."""
    _, _, err = finished(run("true", target="loacl:"))
    assert b"did you mean 'local'" in err
    known = err.decode().partition("known: ")[2].partition(" (")[0].split(", ")
    assert {"local", "ssh", "docker"} <= set(known)
    assert "gateway" not in known  # a plugin, and no transport


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which a third party's transport is installed."""
    path = [str(install(tmp_path / "plugins")), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def test_0_after_our_eof_where_no_exit_is_reported(bare: dict[str, str]) -> None:
    """The client ended it, it ended its output: all is well, as far as anybody knows."""
    assert finished(run("cat", target="bare:"), b"hi\n", env=bare) == (0, b"hi\n", b"")


def test_74_before_our_eof_where_no_exit_is_reported(bare: dict[str, str]) -> None:
    """It ended by itself and nobody said how: never code 0. What is pending is answered."""
    with started(run(*sh("read x; echo bye"), target="bare:"), env=bare) as running:
        running.write(request(1))
        assert running.line() == b"bye\n"
        lost = json.loads(running.line())
        assert lost["id"] == 1
        assert lost["error"]["data"]["cause"] == "unknown"
        assert running.wait() == 74
        err = running.rest("stderr")
        assert err.startswith(b"holdfast: worker closed its stdout; ")
        assert err.endswith(b"exit not reported\n")


def test_74_when_the_link_broke(bare: dict[str, str]) -> None:
    """A lost link is no end of the worker; it is told, in what is pending and in one line."""
    worker = sh("read x; echo first; cat")
    with started(run(*worker, target="bare:?breaks=1"), env=bare) as running:
        running.write(request(1))
        assert running.line() == b"first\n"
        lost = json.loads(running.line())
        assert lost["error"]["data"]["cause"] == "link_lost"
        assert lost["error"]["data"]["reason"] == "stdin_broken"
        assert running.wait() == 74
        err = running.rest("stderr")
        assert err.startswith(b"holdfast: ConnectionResetError: ")
        assert err.endswith(b"; worker maybe_alive; exit not reported\n")
        assert err.count(b"\n") == 1


def test_74_when_the_link_broke_after_our_eof(bare: dict[str, str]) -> None:
    """An end of our input does not make a lost link a clean end."""
    worker = sh("read x; echo first; read y; sleep 600")
    code, out, _ = finished(run(*worker, target="bare:?breaks=1"), request(1), env=bare)
    assert code == 74
    assert out.startswith(b"first\n")
    assert json.loads(out.splitlines()[1])["id"] == 1


def test_a_worker_behind_tcp() -> None:
    """The plugin ``holdfast-tcp``: 0 after our EOF, 74 when the other side ends it first."""
    pytest.importorskip("holdfast_tcp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with started(run("worker", target=target)) as running:
            running.write(b"to the worker\n")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"to the worker\n"
                connection.sendall(b"from the worker\n")
                assert running.line() == b"from the worker\n"
                running.end_input()
                assert connection.recv(100) == b""
                connection.sendall(b"last words\n")
            assert running.rest() == b"last words\n"
            assert (running.wait(), running.rest("stderr")) == (0, b"")
        with started(run("worker", target=target)) as running:
            connection, _ = server.accept()
            running.write(request(1))
            with connection:
                assert connection.recv(100)
            assert json.loads(running.line())["id"] == 1
            assert running.wait() == 74


def test_69_when_nobody_listens_behind_tcp() -> None:
    """A target that cannot be reached is not a broken link."""
    pytest.importorskip("holdfast_tcp")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, out, err = finished(run("worker", target=f"tcp://127.0.0.1:{port}"))
    assert (code, out) == (69, b"")
    assert err.startswith(b"holdfast: ")
    assert err.count(b"\n") == 1


def test_statuses_for_people_stand_on_stderr() -> None:
    """One line each, among the worker's own stderr; stdout stays the worker's."""
    worker = sh("echo out; echo err >&2; exit 3")
    code, out, err = finished(run(*worker, options=["--status"]))
    assert (code, out) == (3, b"out\n")
    lines = err.splitlines()
    assert lines[0].startswith(b"holdfast: idle")
    assert b"err" in lines
    assert lines[-1].startswith(b"holdfast: error (process_exit)")
    assert b"3" in lines[-1]


def test_statuses_for_programs_are_json_lines() -> None:
    """The fields of ``Status`` under their own names, in order, each line by itself."""
    worker = python("sys.stdin.readline(); os.write(2, b'no newline'); os.kill(os.getpid(), 9)")
    code, out, err = finished(run(*worker, options=["--status=json"]), request(1))
    assert code == 137
    assert len(out.splitlines()) == 1
    statuses = [json.loads(line) for line in err.splitlines() if line.startswith(b"{")]
    assert b"no newline" in err.splitlines()
    assert [each["state"] for each in statuses][:2] == ["idle", "busy"]
    assert statuses[-1]["state"] == "error"
    assert statuses[-1]["reason"] in ("process_exit", "stdin_broken")
    assert statuses[-1]["cause"] == "worker_exited"
    assert statuses[-1]["exit"]["signal"] == "SIGKILL"
    assert set(statuses[0]) >= {
        *("session_id", "state", "seq", "worker_id", "reason", "detail", "updated_at"),
        *("exit", "cause", "worker"),
    }
    seqs = [each["seq"] for each in statuses]
    assert seqs == sorted(set(seqs))


@pytest.mark.parametrize(
    "options",
    [["--status"], ["--status=text"], ["--cwd", "/", "--status"], ["--status", "--env", "A=B"]],
    ids=" ".join,
)
def test_status_does_not_take_the_next_word(options: list[str]) -> None:
    """``--status TARGET``: the target is the target."""
    code, out, err = finished(run("echo", "hi", options=options))
    assert (code, out) == (0, b"hi\n")
    assert b"holdfast: idle" in err


def test_an_options_value_may_be_called_status() -> None:
    """Only an option is an option: a directory of that name is a directory."""
    code, _, err = finished(run("true", options=["--cwd", "--status"]))
    assert code == 69
    assert b"'--status'" in err


def test_options_stand_before_the_target() -> None:
    """What comes behind it belongs to the command, ``--`` or not."""
    for argv in (["echo", "--status", "--", "--cwd"], ["--", "echo", "--status", "--", "--cwd"]):
        assert finished([*HOLDFAST, "run", "local:", *argv]) == (0, b"--status -- --cwd\n", b"")


def test_an_option_behind_the_target_is_no_command() -> None:
    """It is a slip, and said to be one; behind ``--`` a command may have any name."""
    for argv in (["--env", "A=1", "--", "cat"], ["--status", "cat"]):
        code, _, err = finished([*HOLDFAST, "run", "local:", *argv])
        assert code == 64
        assert f"options stand before TARGET, and {argv[0]!r} stands behind it" in err.decode()
    code, _, err = finished(run("--env"))
    assert (code, b"no such command: '--env'" in err) == (69, True)


def test_hostile_arguments_arrive_as_they_are() -> None:
    """No shell in between: every argument is one argument."""
    argv = ["", " ", "a b", "$HOME", "`id`", "'", '"', "\\", "*", "-x", "--", "\n", "\u00e9", "%s"]
    code = "os.write(1, json.dumps(sys.argv[1:]).encode())"
    status, out, _ = finished(run(*python(code, *argv)))
    assert (status, json.loads(out)) == (0, argv)


def test_an_argument_that_is_no_utf_8_arrives_as_it_is() -> None:
    """A file may have any name."""
    worker = python("os.write(1, os.fsencode(sys.argv[1]))", os.fsdecode(b"\xff\xfe"))
    assert finished(run(*worker)) == (0, b"\xff\xfe", b"")


def test_environment_and_directory(tmp_path: Path) -> None:
    """``--env A=B`` sets, ``--env NAME`` passes on, ``--cwd`` is where; the rest is ours."""
    code = "os.write(1, json.dumps([dict(os.environ), os.getcwd()]).encode())"
    options = ["--env", "A=B=C", "--env", "EMPTY=", "--env", "OURS", "--cwd", str(tmp_path)]
    env = environment(OURS="ours", OTHER="other", A="old")
    status, out, _ = finished(run(*python(code), options=options), env=env)
    found, cwd = json.loads(out)
    assert status == 0
    assert cwd == str(tmp_path.resolve())
    expected = {"A": "B=C", "EMPTY": "", "OURS": "ours", "OTHER": "other"}
    assert {name: found.get(name) for name in expected} == expected


def test_the_worker_sees_what_it_would_see_without_us(tmp_path: Path) -> None:
    """The same environment, directory, limits, mask and signals; no descriptor of ours."""
    code = """
import resource
status = open('/proc/self/status').read().splitlines()
os.write(1, json.dumps({
    'environment': dict(os.environ),
    'directory': os.getcwd(),
    'umask': os.umask(0),
    'nice': os.nice(0),
    'descriptors': sorted(os.listdir('/proc/self/fd'))[:-1],
    'limits': [resource.getrlimit(each) for each in range(16)],
    'signals': [each for each in status if each.startswith('Sig') and 'SigQ' not in each],
}).encode())
"""
    worker = python(code)
    bare = json.loads(finished(worker, cwd=tmp_path)[1])
    ours = json.loads(finished(run(*worker), cwd=tmp_path)[1])
    for each in (bare, ours):
        each["environment"].pop("_", None)
    assert ours == bare


def test_a_server_from_a_clients_configuration(tmp_path: Path) -> None:
    """``--from FILE --server NAME``: the command, its arguments and environment stand there."""
    pytest.importorskip("holdfast._cli._clients")
    code = "os.write(1, os.environ['TOKEN'].encode() + sys.argv[1].encode())"
    program, *arguments = python(code, "argument")
    servers = {"here": {"command": program, "args": arguments, "env": {"TOKEN": "secret "}}}
    file = tmp_path / "claude_desktop_config.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    command = [*HOLDFAST, "run", "--from", str(file), "--server", "here"]
    assert finished([*command, "local:"]) == (0, b"secret argument", b"")
    assert finished([*command, "--env", "TOKEN=own ", "local:"]) == (0, b"own argument", b"")
    code_both, _, err = finished([*command, "local:", "--", "true"])
    assert code_both == 64
    assert b"not both" in err
    unknown = finished([*HOLDFAST, "run", "--from", str(file), "--server", "heer", "local:"])
    assert unknown[0] == 64
    assert b"here" in unknown[2]
