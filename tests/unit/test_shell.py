"""The scripts of the far side, run here by every shell that may be there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from holdfast import Command
from holdfast_transports._shell import (
    FAILED,
    FOR_ANY_SHELL,
    GUARD,
    KILLED,
    READY,
    STARTED,
    not_started,
    start_line,
)

LOGIN_SHELLS = {
    "dash": ["dash", "-c"],
    "bash": ["bash", "-c"],
    "zsh": ["zsh", "-c"],
    "busybox": ["busybox", "sh", "-c"],
    "fish": ["fish", "-c"],
    "tcsh": ["tcsh", "-c"],
}
SH = ("dash", "bash", "busybox")
"""What may stand behind the name ``sh``."""


@pytest.fixture(params=SH)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH in which ``sh`` is a certain shell."""
    found = shutil.which(request.param)
    assert found is not None
    (tmp_path / "sh").symlink_to(found)
    return f"{tmp_path}:/usr/bin:/bin"


def environment(path: str) -> dict[str, str]:
    return {"PATH": path, "HOME": "/", "LANG": "C.UTF-8"}


def run(
    command: Command,
    path: str,
    *,
    shell: list[str] | None = None,
    data: bytes = b"",
    keep_shell: bool = False,
) -> tuple[int, bytes, bytes]:
    """Run a command as sshd would; gives its exit code, what follows STARTED, and its stderr."""
    done = subprocess.run(
        [*(shell or ["/bin/sh", "-c"]), FOR_ANY_SHELL],
        input=start_line(command, keep_shell=keep_shell) + data,
        capture_output=True,
        start_new_session=True,
        env=environment(path),
        timeout=20,
        check=False,
    )
    ready = READY.match(done.stdout)
    assert ready is not None, done
    assert ready[1] == ready[2], "not the leader of its group"
    rest = done.stdout[ready.end() :]
    return done.returncode, rest.removeprefix(STARTED), done.stderr


ODD = [
    *("two words", "it's", 'say "hi"', "a\nb\n", "\n", "", "grüße 日本", "$HOME", "`x`", "!x"),
    *("*", "\\n", "-n", "{a,b}", "~", "a" * 70_000),
]


@pytest.mark.parametrize("login", LOGIN_SHELLS)
def test_every_login_shell_starts_it(login: str) -> None:
    """Whatever the login shell, the worker gets its arguments, its variables and its stdin."""
    command = Command(
        ("sh", "-c", 'printf "%s\\0" "$@" "$HF_A"; cat; echo err >&2; exit 3', "sh", *ODD),
        env={"HF_A": "x\n'y' $z"},
    )
    code, out, err = run(
        command, os.environ["PATH"], shell=LOGIN_SHELLS[login], data=b"rest\nof it"
    )
    *words, rest = out.split(b"\0")
    assert words == [each.encode() for each in (*ODD, "x\n'y' $z")]
    assert (code, rest, err) == (3, b"rest\nof it", b"err\n")


@pytest.mark.parametrize("keep_shell", [False, True])
def test_every_sh_starts_it(path: str, keep_shell: bool) -> None:
    """Whatever sh is there, the worker gets what it shall get."""
    code, out, err = run(
        Command(("sh", "-c", 'printf "%s\\0" "$@"; cat; exit 7', "sh", *ODD)),
        path,
        data=b"in\n",
        keep_shell=keep_shell,
    )
    assert out == b"".join(each.encode() + b"\0" for each in ODD) + b"in\n"
    assert (code, err) == (7, b"")


def test_bytes_that_are_no_text(path: str) -> None:
    """Arguments and variables that are not UTF-8 arrive byte by byte."""
    odd = os.fsdecode(b"\xff\xfe caf\xe9")
    command = Command(("sh", "-c", 'printf %s "$1$HF_B"', "sh", odd), env={"HF_B": odd})
    assert run(command, path)[1] == os.fsencode(odd) * 2


def not_executable(folder: Path) -> str:
    (folder / "no-x").write_text("#!/bin/sh\n")
    return str(folder / "no-x")


def without_interpreter(folder: Path) -> str:
    (folder / "no-i").write_text("#!/no/such/interpreter -x\n")
    (folder / "no-i").chmod(0o755)
    return str(folder / "no-i")


@pytest.mark.parametrize(
    ("program", "why", "words"),
    [
        (lambda folder: "no-such-program", b"missing", "no such command: 'no-such-program'"),
        (lambda folder: "", b"missing", "no such command: ''"),
        (lambda folder: "-x", b"missing", "no such command: '-x'"),
        (lambda folder: "/no/such", b"missing", "no such command: '/no/such'"),
        (lambda folder: "/dev/null", b"file", "'/dev/null' is no file that can be run"),
        (str, b"file", "is no file that can be run"),
        (not_executable, b"mode", "may not be run; check its mode"),
        (without_interpreter, b"interpreter", "names an interpreter that is not there"),
    ],
)
def test_what_cannot_be_run(path: str, tmp_path: Path, program, why, words) -> None:
    """A program that cannot be run is told before anything is said to run, with the reason."""
    command = Command((program(tmp_path),))
    _, out, _ = run(command, path)
    failed = FAILED.fullmatch(out)
    assert failed is not None, out
    assert failed[1] == why
    assert words in str(not_started(command, failed[1]))


def test_no_such_directory(path: str) -> None:
    """A directory that is not there is told, and nothing runs."""
    command = Command(("true",), cwd="/no/such")
    _, out, _ = run(command, path)
    assert out == b"holdfast-failed cwd\n"
    assert "'/no/such'" in str(not_started(command, b"cwd"))


def test_difficult_directories(path: str, tmp_path: Path) -> None:
    """Directories with odd names are entered; relative ones begin at home."""
    for name in ("-", "it's $HOME", "a\nb"):
        (tmp_path / name).mkdir()
        for cwd in (f"{tmp_path}/{name}", os.path.relpath(tmp_path / name)):
            code, out, _ = run(Command(("pwd", "-P"), cwd=cwd), path)
            assert (code, out) == (0, f"{(tmp_path / name).resolve()}\n".encode())


@pytest.mark.parametrize("inherit", [True, False])
def test_variables(path: str, inherit: bool) -> None:
    """Variables are added or stand alone, those with names that no shell takes among them."""
    env = {"A.B-c": "1", "UID": "x", "IFS": ":", "a": "2", "PATH": path, "hf_l": "3"}
    code, out, _ = run(Command(("env", "-0"), env=env, inherit_env=inherit), path)
    got = dict(each.split("=", 1) for each in out.decode().split("\0") if each)
    assert code == 0
    assert {name: got.get(name) for name in env} == env
    assert ("HOME" in got) is inherit
    own = {"PWD", "OLDPWD", "SHLVL", "_"}  # what a shell sets by itself
    inherited = environment(path).keys() - {"PATH"} if inherit else set()
    assert got.keys() - env.keys() - own == inherited


def test_without_a_path(path: str) -> None:
    """Without inheritance and without PATH the program is found, and has none."""
    _, out, _ = run(Command(("env",), env={"X": "1"}, inherit_env=False), path)
    assert b"X=1" in out.splitlines()
    assert not any(line.startswith(b"PATH=") for line in out.splitlines())


def test_the_end_of_the_worker(path: str) -> None:
    """Its signal is the process's own; where the shell is kept, 128 and the signal's number."""
    command = Command(("sh", "-c", "kill -9 $$"))
    assert run(command, path)[0] == -signal.SIGKILL
    assert run(command, path, keep_shell=True)[0] == 128 + signal.SIGKILL


def test_a_kept_shell_outlives_polite_signals(path: str) -> None:
    """Signals to the group reach the worker as by default, and its shell tells of the end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        process = start(path)
        line = start_line(Command(("sh", "-c", "echo up; exec sleep 100")), keep_shell=True)
        write(process, line)
        assert read(process) == STARTED
        assert read(process) == b"up\n"
        os.killpg(process.pid, number)
        assert process.wait(10) == 128 + number
        close(process)


# -- the guard -----------------------------------------------------------------------------------


def start(path: str) -> subprocess.Popen[bytes]:
    """A bootstrap that waits for its line."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", FOR_ANY_SHELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=environment(path),
    )
    assert READY.fullmatch(read(process))
    return process


def write(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def read(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


@pytest.fixture
def guard(path: str) -> Iterator[subprocess.Popen[bytes]]:
    process = start(path)
    write(process, GUARD)
    assert read(process) == STARTED
    yield process
    process.kill()
    process.wait()
    close(process)


def group(script: str, env: Mapping[str, str] = os.environ) -> subprocess.Popen[bytes]:
    """A worker in a process group of its own, which is ready when this returns."""
    worker = subprocess.Popen(
        ["sh", "-c", f"{script}"], start_new_session=True, stdout=subprocess.PIPE, env=env
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"up\n"
    worker.stdout.close()
    return worker


def members(pgid: int) -> list[str]:
    """The living processes of a group."""
    listed = subprocess.run(
        ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [args for group, stat, *args in rows if int(group) == pgid and stat[0] != "Z"]


def asked(guard: subprocess.Popen[bytes], line: bytes) -> tuple[int, int, bytes]:
    write(guard, line)
    answer = KILLED.fullmatch(read(guard))
    assert answer is not None
    return int(answer[1]), int(answer[2]), answer[3]


def test_the_guard_kills_a_group(guard: subprocess.Popen[bytes]) -> None:
    """A signal reaches the whole group, and the answer says that it did, or why not."""
    worker = group("sleep 100 & echo up; wait")
    assert asked(guard, b"TERM %d 7\n" % worker.pid) == (7, 0, b"")
    assert worker.wait(10) == -signal.SIGTERM
    number, code, said = asked(guard, b"TERM 999999 8\n")
    assert (number, code) == (8, 1)
    assert b"o such process" in said


def test_the_guard_ends_what_it_watches(guard: subprocess.Popen[bytes]) -> None:
    """At the end of its input it ends the groups it was given: politely first, then not."""
    polite = group("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    stubborn = group("trap '' TERM; echo up; while :; do sleep 0.05; done")
    forgotten = group("echo up; exec sleep 100")
    for worker in (polite, stubborn, forgotten):
        write(guard, b"+ %d\n" % worker.pid)
    write(guard, b".\n- %d\n" % forgotten.pid)
    assert guard.stdin is not None
    guard.stdin.close()
    assert polite.wait(10) == 5
    assert stubborn.wait(10) == -signal.SIGKILL
    assert guard.wait(10) == 0
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_the_guard_ends_them_too_where_nobody_reads_it(guard: subprocess.Popen[bytes]) -> None:
    """A connection that is gone takes its output with it: the guard does its work all the same."""
    worker = group("echo up; exec sleep 100")
    write(guard, b"+ %d\n" % worker.pid)
    assert guard.stdout is not None
    guard.stdout.close()
    write(guard, b"TERM 999999 1\n")
    assert guard.stdin is not None
    guard.stdin.close()
    assert worker.wait(10) == -signal.SIGTERM
    assert guard.wait(10) == 0


def test_the_guard_hears_silence(path: str) -> None:
    """Where nothing is heard for its time, it ends what it watches; a ping puts that off."""
    process = start(path)
    write(process, GUARD.replace(b"sleep 60", b"sleep 2"))
    assert read(process) == STARTED
    worker = group("echo up; exec sleep 100")
    write(process, b"+ %d\n" % worker.pid)
    for _ in range(6):
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        write(process, b".\n")
    assert worker.wait(10) == -signal.SIGTERM
    assert process.wait(10) == 0
    close(process)


def test_the_guard_leaves_nothing(guard: subprocess.Popen[bytes]) -> None:
    """After its end no process of its session is left."""
    write(guard, b".\n.\n")
    asked(guard, b"TERM 999999 1\n")  # the pings are done
    assert guard.stdin is not None
    guard.stdin.close()
    assert guard.wait(10) == 0
    deadline = time.monotonic() + 10
    while members(guard.pid):
        assert time.monotonic() < deadline, members(guard.pid)
        time.sleep(0.02)  # nobody tells of a stranger's end
