"""``holdfast run`` with whatever stands behind its standard streams, wherever it is started."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from .servers.driving import (
    DEADLINE,
    HOLDFAST,
    Running,
    environment,
    eventually,
    finished,
    gone,
    python,
    request,
    run,
    sh,
    started,
    worker_of,
)

MIB = 1024 * 1024
WORKER = sh("echo out; echo err >&2; cat; exit 5")


def redirected(redirections: str, command: list[str]) -> list[str]:
    """The command, started by a shell with these redirections."""
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *command]


@pytest.mark.parametrize(
    ("closed", "out", "err"),
    [
        ("<&-", b"out\n", b"err\n"),
        ("2>&-", b"out\nin\n", b""),
        ("<&- 2>&-", b"out\n", b""),
    ],
)
def test_a_stream_that_is_closed_at_the_start(closed: str, out: bytes, err: bytes) -> None:
    """A closed stdin is an empty one, a closed stderr one that nobody reads."""
    assert finished(redirected(closed, run(*WORKER)), b"in\n") == (5, out, err)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_stdout_that_is_closed_at_the_start(closed: str) -> None:
    """It ends, prints no traceback, and nothing of ours lands in a stranger's file."""
    code, out, err = finished(redirected(closed, run(*WORKER)), b"in\n")
    assert out == b""
    assert err in (b"err\n", b"")
    assert code in (5, 128 + 13, 128 + 15)


def test_no_descriptor_of_ours_takes_a_closed_streams_place(tmp_path: Path) -> None:
    """What the worker writes to its stdout never lands in something else that we opened."""
    code = "os.write(1, b'out'); os.write(2, b'err'); sys.exit(len(sys.stdin.read()))"
    for closed in ("<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-"):
        status, _, err = finished(redirected(closed, run(*python(code))))
        assert status == 0, closed
        assert err in (b"err", b""), closed


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
def test_files(tmp_path: Path, size: int) -> None:
    """stdin, stdout and stderr may be regular files; epoll refuses those."""
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    with (
        (tmp_path / "in").open("rb") as stdin,
        (tmp_path / "out").open("wb") as stdout,
        (tmp_path / "err").open("wb") as stderr,
        started(
            run(*sh("tee /dev/stderr; exit 3")), stdin=stdin, stdout=stdout, stderr=stderr
        ) as running,
    ):
        assert running.wait() == 3
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "err").read_bytes() == data


def test_a_file_that_is_appended_to(tmp_path: Path) -> None:
    """``>>``: what stood there stays, and two writers do not overwrite each other."""
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    with log.open("ab") as both, started(run(*WORKER), stdout=both, stderr=both) as running:
        running.end_input()
        assert running.wait() == 5
    assert sorted(log.read_bytes().splitlines()) == [b"before", b"err", b"out"]


def test_dev_null() -> None:
    """As cron and systemd start programs."""
    with open(os.devnull, "r+b") as null:
        for streams in ({"stdin": null}, {"stdin": null, "stdout": null, "stderr": null}):
            with started(run(*WORKER), **streams) as running:
                assert running.wait() == 5


def test_sockets_as_node_gives_them() -> None:
    """Node's child_process makes socket pairs, not pipes: bytes, EOF and answers as ever."""
    data = os.urandom(2 * MIB)
    ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    streams = dict(zip(("stdin", "stdout", "stderr"), theirs, strict=True))
    with started(run(*sh("tee /dev/stderr; exit 3")), **streams) as running:
        for each in theirs:
            each.close()
        received = [bytearray(), bytearray()]
        view, open_streams = memoryview(data), {ours[1]: received[0], ours[2]: received[1]}
        for each in ours:
            each.setblocking(False)
        while open_streams:
            writers = [ours[0]] if view else []
            readable, writable, _ = select.select([*open_streams], writers, [], DEADLINE)
            assert readable or writable
            if writable:
                view = view[ours[0].send(view[:65536]) :]
                if not view:
                    ours[0].shutdown(socket.SHUT_WR)
            for each in readable:
                piece = each.recv(65536)
                open_streams[each].extend(piece)
                if not piece:
                    del open_streams[each]
        assert running.wait() == 3
        assert received == [data, data]
    for each in ours:
        each.close()


def test_a_closed_socket_stdout_stops_a_silent_worker() -> None:
    """The client went away without a word: the worker is not left behind."""
    ours, theirs = socket.socketpair()
    code = "os.write(1, b'ready\\n'); sys.stdin.read(); sys.exit(6)"
    with started(run(*python(code)), stdout=theirs) as running:
        theirs.close()
        assert ours.recv(100) == b"ready\n"
        ours.close()
        assert running.wait(3) == 6


def test_one_socket_for_stdin_and_stdout() -> None:
    """As inetd and some launchers do it: what comes in is no sign that the reader is gone."""
    ours, theirs = socket.socketpair()
    with started(run("cat"), stdin=theirs, stdout=theirs) as running:
        theirs.close()
        ours.settimeout(DEADLINE)
        for number in range(20):
            ours.sendall(b"%d\n" % number)
            assert ours.recv(100) == b"%d\n" % number
        ours.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == b""
        assert running.wait() == 0
        ours.close()


def test_standard_streams_keep_their_mode() -> None:
    """They are shared with whoever started us: non-blocking mode would break their programs."""
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    with started(run("cat"), stdin=reading, stdout=theirs) as running:
        os.write(writing, b"hi\n")
        assert ours.recv(100) == b"hi\n"
        assert os.get_blocking(reading)
        assert theirs.getblocking()
        os.close(writing)
        assert running.wait() == 0
    os.close(reading)
    for each in (ours, theirs):
        each.close()


def test_non_blocking_standard_streams() -> None:
    """Nor may they have been blocking: some launchers leave them otherwise."""
    data = os.urandom(MIB)
    for name in ("stdin", "stdout", "stderr"):
        reading, writing = os.pipe()
        os.set_blocking(reading if name == "stdin" else writing, False)
        with started(
            run(*sh("tee /dev/stderr; exit 3")), **{name: reading if name == "stdin" else writing}
        ) as running:
            os.close(reading if name == "stdin" else writing)
            if name == "stdin":
                source: Any = os.fdopen(writing, "wb", 0)
            else:
                source = running.process.stdin
            other = "stdout" if name == "stderr" else "stderr"
            received = _pump(source, data, running, other, reading if name != "stdin" else None)
            assert running.wait() == 3
            assert received == [data, data], name
        if name != "stdin":
            os.close(reading)


def _pump(source: Any, data: bytes, running: Running, other: str, extra: int | None) -> list[bytes]:
    """Feed and read three streams at once."""
    streams: Any = running.process
    first = extra if extra is not None else streams.stdout.fileno()
    second = getattr(streams, other).fileno()
    received = {first: bytearray(), second: bytearray()}
    view, reading = memoryview(data), {first, second}
    os.set_blocking(source.fileno(), False)
    while reading:
        writers = [source.fileno()] if view else []
        readable, writable, _ = select.select(list(reading), writers, [], DEADLINE)
        assert readable or writable, "nothing moves any more"
        if writable:
            view = view[os.write(source.fileno(), view[:65536]) :]
            if not view:
                source.close()
        for fd in readable:
            piece = os.read(fd, 65536)
            received[fd] += piece
            if not piece:
                reading.discard(fd)
    return [bytes(received[first]), bytes(received[second])]


def test_a_terminal_that_dies_ends_it() -> None:
    """The window was closed: its worker is stopped, nothing spins, nothing is left."""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    with started(
        run("cat"), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    ) as running:
        os.close(slave)
        os.write(master, b"hello\n")
        seen = b""
        while b"hello" not in seen:
            assert select.select([master], [], [], DEADLINE)[0]
            seen += os.read(master, 1000)
        worker = worker_of(running)
        os.close(master)
        running.wait(5)
        assert gone(worker)


def test_a_terminals_end_of_file() -> None:
    """Ctrl-D ends the input, and what the worker says then is still shown."""
    master, slave = pty.openpty()
    with started(run("wc", "-c"), stdin=slave, stdout=slave, stderr=slave) as running:
        os.close(slave)
        os.write(master, b"12345\n")
        os.write(master, b"\x04")
        assert running.wait() == 0
        assert b"6" in os.read(master, 1000).replace(b"12345", b"")
        os.close(master)


def test_a_stdin_that_is_for_writing(tmp_path: Path) -> None:
    """A mistake of the caller's: the worker sees an empty input, nobody a traceback."""
    with (tmp_path / "file").open("wb") as file, started(run(*WORKER), stdin=file) as running:
        assert running.rest() == b"out\n"
        assert running.wait() == 5
        assert running.rest("stderr") == b"err\n"


def test_nothing_needs_a_writable_place(tmp_path: Path) -> None:
    """Lesson 18: a read-only home, no home, no TMPDIR, no writable directory at all."""
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    places = {"HOME": str(home), "TMPDIR": "/proc/nowhere", "XDG_STATE_HOME": "/proc/nowhere"}
    for env in (places, dict.fromkeys(places), {"HOME": "/proc/nowhere"}):
        code, out, err = finished(
            run(*WORKER), b"in\n", env=environment(**env, PYTHONDONTWRITEBYTECODE="1"), cwd=home
        )
        assert (code, out, err) == (5, b"out\nin\n", b"err\n")
    assert list(home.iterdir()) == []


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    """Our own working directory was deleted: the worker starts all the same, as it would alone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    script = f'cd {folder} && rmdir {folder} && exec "$@"'
    worker = python("os.write(1, b'out'); os.write(2, b'err'); sys.exit(5)")
    assert finished(["sh", "-c", script, "sh", *run(*worker)]) == (5, b"out", b"err")


@pytest.mark.skipif(os.geteuid() != 0, reason="capability: only root can become nobody")
def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    """Started by somebody who may do nothing where he stands."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    tmp_path.chmod(0o755)

    def drop() -> None:
        os.chdir(folder)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    try:
        subprocess.run([*HOLDFAST, "--version"], user=65534, cwd="/", check=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("capability: this environment's Python is not for everybody")
    assert finished(run(*WORKER), preexec_fn=drop) == (5, b"out\n", b"err\n")


def test_hardly_any_environment() -> None:
    """No PATH, no LANG: as some launchers start their servers."""
    code = "os.write(1, json.dumps(sorted(os.environ)).encode())"
    status, out, err = finished(run(*python(code)), env={})
    assert (status, err) == (0, b"")
    assert set(json.loads(out)) <= {"LC_CTYPE"}


def test_a_limit_on_descriptors_is_told(tmp_path: Path) -> None:
    """Nothing left to open: one line that says so, and code 69."""
    limited = ["sh", "-c", 'ulimit -n 9; exec "$@"', "sh", *run("true")]
    code, out, err = finished(limited)
    if code == 0:
        pytest.skip("capability: nine descriptors are enough here")
    assert out == b""
    assert b"Traceback" not in err
    assert code == 69


def test_a_request_on_a_socket_is_answered_when_the_worker_dies() -> None:
    """The whole story over sockets: request, death, our answer, end."""
    ours, theirs = socket.socketpair()
    worker = python("sys.stdin.readline(); os.kill(os.getpid(), 9)")
    with started(run(*worker), stdin=theirs, stdout=theirs) as running:
        theirs.close()
        ours.settimeout(DEADLINE)
        ours.sendall(request(1))
        assert json.loads(ours.makefile("rb").readline())["id"] == 1
        assert running.wait() == 137
        ours.close()


def test_nothing_spins_while_nothing_happens() -> None:
    """An idle proxy costs nothing: neither at its start nor after its worker closed its stdin."""
    code = "os.close(0); os.write(1, b'ready\\n'); signal.pause()"
    for worker in (python("os.write(1, b'ready\\n'); sys.stdin.read()"), python(code)):
        with started(run(*worker)) as running:
            assert running.line() == b"ready\n"
            running.write(b"wake up\n")
            assert eventually(lambda: _cpu(running.pid) == _cpu_after(running.pid, 0.5), 15)


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _cpu_after(pid: int, seconds: float) -> int:
    assert not gone(pid, seconds)
    return _cpu(pid)
