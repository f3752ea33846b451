"""``holdfast run`` moves bytes: exactly, both ways, in bounded memory, to the last one."""

from __future__ import annotations

import hashlib
import os
import random
import select
import sys
import threading
import time

import pytest

from .servers.driving import (
    DEADLINE,
    Running,
    descendants,
    eventually,
    finished,
    is_alive,
    python,
    run,
    sh,
    started,
    worker_of,
)

MIB = 1024 * 1024
RANDOM = random.Random(20260101).randbytes(20 * MIB)

BYTES = {
    "nothing": b"",
    "random": RANDOM,
    "no newline": b"x" * (3 * MIB),
    "one byte": b"\n",
    "every byte": bytes(range(256)) * 512,
    "no JSON": b'42\nnull\n\n\r\n[1]\n{"id":\n\xff\xfe\n{"jsonrpc":"2.0","id":1}\n',
    "a message cut short": b'{"jsonrpc":"2.0","id":1,"result":',
    "notifications": b'{"jsonrpc":"2.0","method":"n"}\n' * 20_000,
    "deep": b'{"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "headers": b"Content-Length: 10\r\n\r\n" * 1000 + b"Content-Length: 99999999999\r\n\r\n",
}

EXCHANGED = {name: data for name, data in BYTES.items() if name not in ("nothing", "random")}


def through(command: list[str], data: bytes) -> tuple[int, bytes, bytes]:
    return finished(command, data, 2 * DEADLINE)


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_what_goes_in_comes_out(data: bytes) -> None:
    """Both ways byte for byte, whatever it is, and nothing on stderr."""
    code, out, err = through(run("cat"), data)
    assert out == data
    assert (code, err) == (0, b"")


@pytest.mark.parametrize("dialect", ["lsp", "lines", "kimi-wire", "acp", "mcp"])
def test_no_dialect_changes_a_byte(dialect: str) -> None:
    """A dialect says how to watch; what is watched passes as it is."""
    data = b"".join(EXCHANGED.values())
    assert through(run("cat", options=["--dialect", dialect]), data) == (0, data, b"")


def test_lines_above_max_line_pass_whole() -> None:
    """``--max-line`` bounds what is watched, not what passes."""
    data = b"a" * 1023 + b"\n" + b"b" * 1025 + b"\n" + b"c" * MIB + b"\nshort\n" + b"d" * 5000
    assert through(run("cat", options=["--max-line", "1024"]), data) == (0, data, b"")


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_stderr_is_the_workers_own(data: bytes) -> None:
    """The worker's stderr byte for byte, and nothing of ours on it."""
    code, out, err = through(run(*sh("cat >&2; exit 4")), data)
    assert err == data
    assert (code, out) == (4, b"")


def test_both_outputs_flow_beside_each_other() -> None:
    """A flood on one stream does not hold up or change the other."""
    code = """
import threading
data = sys.stdin.buffer.read()
def copy(fd):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:100_000]):]
other = threading.Thread(target=copy, args=(2,))
other.start()
copy(1)
other.join()
"""
    assert through(run(*python(code)), RANDOM) == (0, RANDOM, RANDOM)


def test_output_after_our_eof_arrives() -> None:
    """EOF is forwarded, then the worker is waited for: what it says last is not lost."""
    code = """
size = len(sys.stdin.buffer.read())
os.write(1, b"%d bytes\\n" % size)
for number in range(1000):
    os.write(1, b"x" * 1000)
sys.stderr.write("done")
sys.exit(9)
"""
    status, out, err = through(run(*python(code)), b"y" * 300_000)
    assert out == b"300000 bytes\n" + b"x" * 1_000_000
    assert (status, err) == (9, b"done")


def test_a_worker_that_outlives_our_eof_is_waited_for() -> None:
    """Nobody is in a hurry: a worker may take its time after the end of its input."""
    code = "sys.stdin.read(); os.write(1, b'go'); open(sys.argv[1]).read(); os.write(1, b'on')"
    fifo = f"/tmp/holdfast-{os.getpid()}-{time.monotonic_ns()}"
    os.mkfifo(fifo)
    try:
        with started(run(*python(code, fifo))) as running:
            running.end_input()
            running.until(b"go")
            # Longer than any grace of the stop ladder, which must not have begun.
            with pytest.raises(AssertionError, match="nothing on stdout"):
                running.line(seconds=2.5)
            with open(fifo, "w"):
                pass
            assert running.rest() == b"on"
            assert running.wait() == 0
    finally:
        os.unlink(fifo)


@pytest.mark.parametrize("fd", [1, 2], ids=["stdout", "stderr"])
def test_a_consumer_that_reads_after_the_worker_is_over_gets_everything(fd: int) -> None:
    """The worker is dead and its reader asleep: the bytes wait for as long as that takes."""
    name, data = ("stdout", "stderr")[fd - 1], RANDOM[:700_000]
    code = f"""
import fcntl
fcntl.fcntl({fd}, 1031, 1 << 20)  # F_SETPIPE_SZ: it all fits, so the worker need not wait
data = sys.stdin.buffer.read()
while data:
    data = data[os.write({fd}, data):]
sys.exit(6)
"""
    with started(run(*python(code))) as running:
        assert eventually(lambda: bool(descendants(running.pid)))
        worker = worker_of(running)
        running.write(data)
        running.end_input()
        assert eventually(lambda: not is_alive(worker))
        # No deadline of holdfast's may cut this short; the longest that could is 1 s.
        select.select([], [], [], 1.5)
        assert running.process.poll() is None, "it ended although its reader has not read"
        rest = running.rest(name)
        assert (len(rest), rest == data) == (len(data), True)
        assert running.wait() == 6


def test_pending_answers_wait_for_a_slow_consumer_of_stdout_only() -> None:
    """A client that does not read our stderr hears of a loss on stdout all the same."""
    code = (
        "import fcntl; fcntl.fcntl(2, 1031, 1 << 20)  # F_SETPIPE_SZ\n"
        "os.read(0, 100)\nos.write(2, b'e' * 700_000)\nos.kill(os.getpid(), 9)"
    )
    with started(run(*python(code))) as running:
        running.write(b'{"jsonrpc":"2.0","id":5,"method":"m"}\n')
        assert b'"id":5,"error"' in running.line()
        assert running.rest("stderr") == b"e" * 700_000
        assert running.wait() == 137


OFFERS = """
import select
offered = 0
os.set_blocking(1, False)
piece = bytes(65536)
while offered < {size}:
    if not select.select([], [1], [], 1.0)[1]:
        os.write(2, b"%d\\n" % offered)
        select.select([], [1], [])
        continue
    try:
        offered += os.write(1, piece[:{size} - offered])
    except BlockingIOError:
        pass
os.write(2, b"done\\n")
sys.stdin.read()
"""


def test_a_stalled_consumer_holds_the_worker_up() -> None:
    """What nobody reads stays where it is: the worker feels it, and our memory does not grow."""
    size = 200 * MIB
    with started(run(*python(OFFERS.format(size=size)))) as running:
        assert int(running.line("stderr")) < 4 * MIB
        assert running.rss() < 80 * MIB
        received = 0
        while received < size:
            received += len(running._more("stdout", time.monotonic() + DEADLINE, at_most=MIB))
        assert received == size
        while running.line("stderr") != b"done\n":
            pass
        # A line of 200 MiB: as much of it is held as `max_line` says, 64 MiB.
        assert running.peak_rss() < 250 * MIB
        running.end_input()
        assert running.wait() == 0


def test_memory_is_bounded_by_max_line() -> None:
    """200 MiB without a newline pass through a few MiB."""
    size = 200 * MIB
    options = ["--max-line", str(MIB)]
    with started(run(*python(OFFERS.format(size=size)), options=options)) as running:
        received = 0
        while received < size:
            received += len(running._more("stdout", time.monotonic() + DEADLINE, at_most=MIB))
        assert running.peak_rss() < 80 * MIB


def test_a_stalled_worker_holds_the_client_up() -> None:
    """What the worker does not read is not taken from the client: our memory does not grow."""
    code = """
os.write(1, b"ready\\n")
os.read(3, 1)
import hashlib
seen = hashlib.sha256()
while data := os.read(0, 1 << 20):
    seen.update(data)
os.write(1, seen.hexdigest().encode())
"""
    # Descriptor 3 is not passed on by holdfast: the worker opens its own end of a named pipe.
    fifo = f"/tmp/holdfast-{os.getpid()}-{time.monotonic_ns()}"
    os.mkfifo(fifo)
    opening = f"assert os.open({fifo!r}, os.O_RDWR) == 3\n"
    size = 200 * MIB
    try:
        with started(run(*python(opening + code))) as running:
            running.until(b"ready\n")
            assert running.process.stdin is not None
            fd = running.process.stdin.fileno()
            os.set_blocking(fd, False)
            offered, piece = 0, bytes(65536)
            while select.select([], [fd], [], 1.0)[1]:
                offered += os.write(fd, piece)
            assert offered < 4 * MIB
            assert running.rss() < 80 * MIB

            gate = os.open(fifo, os.O_WRONLY)
            os.write(gate, b"!")
            os.close(gate)
            rest = threading.Thread(target=_feed, args=(running, bytes(size - offered)))
            rest.start()
            assert running.rest(seconds=2 * DEADLINE).decode() == _sha_of_zeros(size)
            rest.join(DEADLINE)
            assert running.wait() == 0
    finally:
        os.unlink(fifo)


def _feed(running: Running, data: bytes) -> None:
    running.write(data)
    running.end_input()


def _sha_of_zeros(size: int) -> str:
    digest = hashlib.sha256()
    for _ in range(size // MIB):
        digest.update(bytes(MIB))
    return digest.hexdigest()


def test_a_line_is_passed_on_before_its_end() -> None:
    """Nothing waits for a newline: a prompt without one is seen at once, and so is its answer."""
    code = "os.write(1, b'name? '); os.write(1, b'hello ' + os.read(0, 10)); sys.stdin.read()"
    with started(run(*python(code))) as running:
        assert running.until(b"? ") == b"name? "
        running.write(b"you")
        assert running.until(b"you") == b"hello you"
        running.end_input()
        assert running.wait() == 0


def test_trio_is_never_needed() -> None:
    """``run`` picks its event loop itself: no setting of the client's reaches it."""
    assert sys.executable
    code, out, err = finished(run(*sh("cat")), b"x", env={**os.environ, "ANYIO_BACKEND": "trio"})
    assert (code, out, err) == (0, b"x", b"")
