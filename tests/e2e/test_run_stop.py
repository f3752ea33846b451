"""``holdfast run`` is told to stop, loses its reader, or is killed: nothing is left running."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from pathlib import Path

import pytest

from .servers.driving import (
    Running,
    descendants,
    eventually,
    gone,
    python,
    request,
    run,
    sh,
    started,
    worker_of,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
FLOOD = "while True: os.write(1, b'flood\\n' * 1000)"
DEAF = (
    "for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
    "    signal.signal(each, signal.SIG_IGN)\n"
    "os.write(1, b'%d\\n' % os.getpid())\n"
    "while True: signal.pause()"
)
"""Ignores EOF and every polite signal."""


def stop(running: Running, number: int = signal.SIGTERM) -> float:
    """Send the signal, and give the time."""
    running.process.send_signal(number)
    return time.monotonic()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_worker_that_reads_its_input_ends_by_eof(number: signal.Signals) -> None:
    """The ladder's first step is enough for it, and its own exit code is ours."""
    code = "os.write(1, b'ready\\n'); sys.stdin.read(); os.write(1, b'bye'); sys.exit(4)"
    with started(run(*python(code))) as running:
        assert running.line() == b"ready\n"
        began = stop(running, number)
        assert running.rest() == b"bye"
        assert running.wait() == 4
        assert time.monotonic() - began < 1.5
        assert running.rest("stderr") == b""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_worker_that_ignores_eof_ends_by_term(number: signal.Signals) -> None:
    """Then SIGTERM, whose handler may still write what must not be lost."""
    code = (
        "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'saved'), os._exit(8)))\n"
        "os.write(1, b'ready\\n')\n"
        "while True: signal.pause()"
    )
    with started(run(*python(code))) as running:
        assert running.line() == b"ready\n"
        stop(running, number)
        assert running.rest() == b"saved"
        assert running.wait() == 8


def test_a_worker_that_ignores_everything_is_killed_with_its_group() -> None:
    """EOF, TERM, then KILL, each after its grace; grandchildren too."""
    code = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-ISc', sys.argv[1]])\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.write(1, b'%d\\n' % os.getpid())\n"
        "while True: signal.pause()"
    )
    child = "import os, signal\n" + DEAF
    with started(run(*python(code, child))) as running:
        pids = [int(running.line()), int(running.line())]
        began = stop(running)
        assert running.wait() == 128 + 9
        took = time.monotonic() - began
        assert 2 < took < 10, took
        assert all(gone(pid) for pid in pids)


def test_a_second_signal_hurries() -> None:
    """Whoever insists does not wait for the graces."""
    with started(run(*python(DEAF))) as running:
        pid = int(running.line())
        began = stop(running, signal.SIGINT)
        # The second must not be merged with the first, which is noticed by the worker's EOF.
        assert eventually(lambda: _stdin_closed(pid))
        stop(running, signal.SIGINT)
        assert running.wait() == 137
        assert time.monotonic() - began < 1.9, "as long as the first grace"
        assert gone(pid)


def _stdin_closed(pid: int) -> bool:
    """Whether nobody is left who could write to its stdin."""
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    try:
        poll = select.poll()
        poll.register(fd, 0)
        return bool(poll.poll(0))
    finally:
        os.close(fd)


def test_pending_requests_are_answered_at_a_stop() -> None:
    """A stop is no excuse for silence; a real answer given meanwhile wins."""
    code = (
        "sys.stdin.readline(); sys.stdin.readline(); os.write(1, b'ready\\n'); sys.stdin.read()\n"
        'os.write(1, b\'{"jsonrpc":"2.0","id":1,"result":"in time"}\\n\')'
    )
    with started(run(*python(code))) as running:
        running.write(request(1) + request(2))
        assert running.line() == b"ready\n"
        stop(running)
        first, second = map(json.loads, running.rest().splitlines())
        assert (first["id"], first["result"]) == (1, "in time")
        assert (second["id"], second["error"]["code"]) == (2, -32000)
        assert running.wait() == 0


def test_a_signal_while_the_worker_floods_its_reader() -> None:
    """A reader that is asleep does not keep a stop from ending, and nobody floods on."""
    with started(run(*python(FLOOD))) as running:
        assert running.line() == b"flood\n"
        worker = worker_of(running)
        stop(running)
        assert running.wait(15) in (143, 137)
        assert gone(worker)


@pytest.mark.parametrize("fd", [1, 2], ids=["stdout", "stderr"])
def test_a_signal_while_a_dead_workers_output_waits_for_its_reader(fd: int) -> None:
    """We wait for a reader as long as it takes, and no longer than until we are told to stop."""
    code = f"for _ in range(120): os.write({fd}, b'x' * 1000)  # two pipes hold it\nsys.exit(3)"
    with started(run(*python(code))) as running:
        assert eventually(lambda: bool(descendants(running.pid)))
        assert gone(worker_of(running))
        assert not gone(running.pid, 1.5)
        stop(running)
        assert running.wait(8) == 3


def test_a_closed_stdout_stops_a_worker_that_writes() -> None:
    """Nobody reads what it says: it is stopped, as SIGPIPE would have stopped it."""
    with started(run(*python(FLOOD))) as running:
        assert running.line() == b"flood\n"
        worker = worker_of(running)
        assert running.process.stdout is not None
        running.process.stdout.close()
        running.wait(15)
        assert gone(worker)
        assert running.rest("stderr") == b""


def test_a_closed_stdout_stops_a_silent_worker() -> None:
    """It is noticed without a byte to write."""
    code = "os.write(1, b'ready\\n'); sys.stdin.read(); sys.exit(6)"
    with started(run(*python(code))) as running:
        assert running.line() == b"ready\n"
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.wait(3) == 6


def test_a_closed_stderr_stops_nothing() -> None:
    """Whoever does not want our stderr still wants the worker."""
    code = (
        "while line := sys.stdin.readline():\n"
        "    os.write(2, b'noise' * 30_000); os.write(1, line.encode())"
    )
    with started(run(*python(code))) as running:
        assert running.process.stderr is not None
        running.process.stderr.close()
        for number in range(5):
            running.write(b"%d\n" % number)
            assert running.line() == b"%d\n" % number
        running.end_input()
        assert running.wait() == 0


def test_a_full_disk_ends_it() -> None:
    """What cannot be written ends the worker; lost output is told, and never exit code 0."""
    for worker in (python(FLOOD), ("echo", "out")):
        with (
            open("/dev/full", "wb") as full,
            started(run(*worker), stdout=full) as running,
        ):
            assert running.wait(15) == 74
            assert running.rest("stderr") == (
                b"holdfast: stdout cannot be written: [Errno 28] No space left on device\n"
            )


def test_sigkill_leaves_no_orphan_that_reads_its_input() -> None:
    """We cannot act any more, and the worker sees the end of its input."""
    with started(run("cat")) as running:
        running.write(b"hi\n")
        assert running.line() == b"hi\n"
        worker = worker_of(running)
        running.process.kill()
        assert gone(worker, 5)


def test_a_signal_before_the_worker_runs_is_not_lost(tmp_path: Path) -> None:
    """Whenever it comes, the end is an end: no traceback, nothing left running."""
    marker = tmp_path / "pid"
    worker = sh(f"echo $$ >{marker}; exec cat")
    for _ in range(5):
        marker.unlink(missing_ok=True)
        with started(run(*worker)) as running:
            # As soon as our handlers may be there: at some point between start and worker.
            assert eventually(lambda: running.open_files() > 6 or bool(descendants(running.pid)))
            stop(running)
            running.wait(10)
            if marker.exists() and marker.read_text().strip():
                assert gone(int(marker.read_text()))
            assert running.rest("stderr") in (b"", b"holdfast: the start was cancelled\n")


def test_a_terminals_interrupt_reaches_the_worker_by_the_ladder_alone() -> None:
    """The worker has a process group of its own: Ctrl-C is ours, and we close its stdin."""
    code = (
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'interrupted\\n'))\n"
        "os.write(1, b'ready\\n'); sys.stdin.read(); os.write(1, b'ended\\n')"
    )
    with started(run(*python(code)), start_new_session=True) as running:
        assert running.line() == b"ready\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.rest() == b"ended\n"
        assert running.wait() == 0


def test_nohup_is_respected() -> None:
    """A signal that was ignored when we were started is none of ours: ``nohup`` works."""
    with started(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *run("cat")]) as running:
        running.write(b"one\n")
        assert running.line() == b"one\n"
        running.process.send_signal(signal.SIGHUP)
        running.write(b"two\n")
        assert running.line() == b"two\n"
        assert not gone(running.pid, 0.5)
        running.write(b"three\n")
        assert running.line() == b"three\n"
