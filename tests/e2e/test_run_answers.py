"""``holdfast run`` answers for a lost worker: every pending request, once, on its own line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from .servers.driving import (
    answer,
    eventually,
    finished,
    gone,
    is_alive,
    python,
    request,
    run,
    sh,
    started,
    worker_of,
)


def parsed(out: bytes) -> list[Any]:
    assert out.endswith(b"\n") or not out
    return [json.loads(line) for line in out.splitlines()]


def read(lines: int) -> str:
    """Python for a worker that takes this many lines first."""
    return f"for _ in range({lines}): sys.stdin.readline()\n"


KILLED = "os.kill(os.getpid(), 9)"


def test_each_pending_request_is_answered_once() -> None:
    """Whatever its id is; what was answered, notified or merely answered to is left alone."""
    ids = [1, "two", 3.5, "1", "", -7, 2**80, "\N{SNOWMAN}"]
    sent = [request(id) for id in ids] + [
        request("answered"),
        b'{"jsonrpc":"2.0","method":"notification"}\n',
        b'{"jsonrpc":"2.0","id":"a worker\'s","result":1}\n',
        b"no JSON\n",
    ]
    code = read(len(sent)) + f"os.write(1, {answer('answered', 'really')!r})\n" + KILLED
    status, out, err = finished(run(*python(code)), b"".join(sent))
    first, *lost = parsed(out)
    assert first == json.loads(answer("answered", "really"))
    assert [each["id"] for each in lost] == ids
    assert all(type(a["id"]) is type(b) for a, b in zip(lost, ids, strict=True))
    assert (status, err) == (137, b"")


def test_the_answer_says_what_is_known() -> None:
    """Code -32000; reason, cause, delivery and detail for programs, a sentence for people."""
    status, out, _ = finished(run(*python(read(1) + KILLED)), request(1))
    (lost,) = parsed(out)
    assert status == 137
    assert set(lost) == {"jsonrpc", "id", "error"}
    assert lost["jsonrpc"] == "2.0"
    error = lost["error"]
    assert error["code"] == -32000
    assert set(error["data"]) == {"reason", "cause", "delivery", "detail"}
    assert error["data"]["reason"] in ("process_exit", "stdin_broken")
    assert error["data"]["cause"] == "worker_exited"
    assert error["data"]["delivery"] == "written"
    assert "SIGKILL" in error["data"]["detail"]
    assert "SIGKILL" in error["message"]


def test_the_last_words_on_stderr_are_told() -> None:
    """A worker that crashed has said why: the client need not look for it elsewhere."""
    status, out, err = finished(
        run(*sh("read x; echo 'first' >&2; echo 'out of cheese' >&2; exit 3")), request(1)
    )
    assert status == 3
    assert err == b"first\nout of cheese\n"
    assert "out of cheese" in parsed(out)[0]["error"]["data"]["detail"]


def test_a_clean_exit_leaves_nobody_waiting() -> None:
    """Exit code 0 with a request pending: it is answered all the same."""
    status, out, err = finished(run(*sh("read x")), request(1))
    assert [each["id"] for each in parsed(out)] == [1]
    assert (status, err) == (0, b"")


def test_an_id_used_again_after_its_answer_counts_again() -> None:
    """Ids must differ only among the pending."""
    code = read(1) + f"os.write(1, {answer(1)!r})\n" + read(1) + KILLED
    with started(run(*python(code))) as running:
        running.write(request(1))
        assert running.line() == answer(1)
        running.write(request(1))
        lost = json.loads(running.line())
        assert (lost["id"], lost["error"]["code"]) == (1, -32000)
        assert running.rest() == b""


def test_an_answer_in_the_pipe_wins_over_ours() -> None:
    """A worker's last words come first: it answered, so we do not, however fast it died."""
    for number in range(5):
        code = read(2) + f"os.write(1, {answer(number)!r})\n" + KILLED
        _, out, _ = finished(run(*python(code)), request(number) + request("lost"))
        first, second = parsed(out)
        assert first == json.loads(answer(number))
        assert (second["id"], second["error"]["code"]) == ("lost", -32000)


def test_a_large_answer_in_the_pipe_wins_over_ours() -> None:
    """Also if it does not fit into the pipe, and its newline is the last thing that is written."""
    big = "x" * 5_000_000
    code = (
        read(2) + f"data = {answer(1, '@')!r}.replace(b'@', b'x' * 5_000_000)\n"
        "while data: data = data[os.write(1, data):]\n" + KILLED
    )
    _, out, _ = finished(run(*python(code)), request(1) + request(2))
    first, second = parsed(out)
    assert first["result"] == big
    assert (second["id"], second["error"]["code"]) == (2, -32000)


def test_a_suspended_proxy_loses_no_answer(tmp_path: Path) -> None:
    """A laptop that slept while the worker died: what lies in the pipe is read before we speak."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = (
        read(2)
        + "import fcntl; fcntl.fcntl(1, 1031, 1 << 20)  # F_SETPIPE_SZ: above one read\n"
        + "os.write(1, b'ready\\n'); open(sys.argv[1]).read()\n"
        + f"os.write(1, {answer(1)!r} + b'n\\n' * 400_000)\n"
        + KILLED
    )
    with started(run(*python(code, str(gate)))) as running:
        running.write(request(1) + request(2))
        assert running.line() == b"ready\n"
        worker = worker_of(running)
        os.kill(running.pid, signal.SIGSTOP)
        with gate.open("w"):
            pass
        assert eventually(lambda: not is_alive(worker))
        assert not gone(running.pid, 1.5)  # longer than any deadline that may have begun
        os.kill(running.pid, signal.SIGCONT)
        first, *rest, last = running.rest().splitlines(keepends=True)
        assert first == answer(1)
        assert rest == [b"n\n"] * 400_000
        assert json.loads(last)["id"] == 2


@pytest.mark.parametrize(
    "half", [b"half", b'{"jsonrpc":"2.0","id":1,"res', b"\xff", b"line\n\nhalf"], ids=repr
)
def test_our_answers_stand_on_lines_of_their_own(half: bytes) -> None:
    """After a line that was cut comes a newline first, so that the answer is one line."""
    code = read(2) + f"os.write(1, {half!r})\n" + KILLED
    _, out, _ = finished(run(*python(code)), request(1) + request(2))
    assert out.startswith(half + b"\n{")
    assert [each["id"] for each in parsed(out[len(half) + 1 :])] == [1, 2]


def test_nothing_is_added_where_nothing_is_pending() -> None:
    """A cut line stays as it is if there is nothing to say."""
    _, out, err = finished(run(*sh("printf half; kill -9 $$")))
    assert (out, err) == (b"half", b"")


def test_a_whole_answer_without_its_newline_counts() -> None:
    """A worker that dies before the newline has answered: one answer, not two."""
    code = read(1) + f"os.write(1, {answer(1).rstrip()!r})\n" + KILLED
    _, out, _ = finished(run(*python(code)), request(1))
    assert out == answer(1).rstrip()


def test_requests_above_max_line_are_not_watched() -> None:
    """Their bytes pass; nobody promised to answer what was not looked at."""
    small, large = request("small"), request("large", padding="x" * 5000)
    code = read(2) + KILLED
    options = ["--max-line", "1000"]
    _, out, _ = finished(run(*python(code), options=options), small + large)
    assert [each["id"] for each in parsed(out)] == ["small"]


def test_an_answer_above_max_line_counts() -> None:
    """It passed, so the client has it: ours would be a second one."""
    code = read(2) + f"os.write(1, {answer(1, 'x' * 5000)!r})\n" + KILLED
    options = ["--max-line", "1000"]
    _, out, _ = finished(run(*python(code), options=options), request(1) + request(2))
    first, second = parsed(out)
    assert first["result"] == "x" * 5000
    assert second["id"] == 2


def test_a_language_server_is_answered_for_in_frames() -> None:
    """Dialect ``lsp``: ours come with a header, like the worker's."""

    def frame(data: bytes) -> bytes:
        return b"Content-Length: %d\r\n\r\n%b" % (len(data), data)

    first, second = request(1).rstrip(), request("b").rstrip()
    sent = frame(first) + frame(second)
    real = frame(answer(1).rstrip())
    code = f"sys.stdin.buffer.read({len(sent)})\nos.write(1, {real!r})\n" + KILLED
    status, out, _ = finished(run(*python(code), options=["--dialect", "lsp"]), sent)
    assert status == 137
    assert out.startswith(real)
    header, _, body = out[len(real) :].partition(b"\r\n\r\n")
    assert header == b"Content-Length: %d" % len(body)
    assert json.loads(body)["id"] == "b"
    assert json.loads(body)["error"]["code"] == -32000


def test_dialect_lines_answers_nothing() -> None:
    """Where messages have no meaning, nothing is pending."""
    code = read(1) + KILLED
    assert finished(run(*python(code), options=["--dialect", "lines"]), request(1))[1] == b""


@pytest.mark.parametrize("dialect", ["kimi-wire", "acp"])
def test_a_proxy_refuses_nothing(dialect: str) -> None:
    """A second prompt and an idle cancel are for the worker to judge: both reach it."""
    method = {"kimi-wire": "prompt", "acp": "session/prompt"}[dialect]
    sent = request(1, method) + request(2, method) + request(3, "cancel")
    assert finished(run("cat", options=["--dialect", dialect]), sent)[1].startswith(sent)


def test_a_request_after_the_loss_is_answered() -> None:
    """The worker shut its stdin and lives on: a late request hears of it, and so do early ones."""
    code = """
os.write(1, b"ready\\n")
sys.stdin.readline()
os.close(0)
os.write(1, b"closed\\n")
fd = os.open(sys.argv[1], os.O_RDONLY)
os.write(1, os.read(fd, 100))
sys.exit(5)
"""
    fifo = f"/tmp/holdfast-answers-{os.getpid()}"
    os.mkfifo(fifo)
    try:
        with started(run(*python(code, fifo))) as running:
            assert running.line() == b"ready\n"
            running.write(request("early"))
            assert running.line() == b"closed\n"
            running.write(request("late"))
            lost = [json.loads(running.line()), json.loads(running.line())]
            assert [each["id"] for each in lost] == ["early", "late"]
            assert {each["error"]["data"]["cause"] for each in lost} == {"stdin_closed"}
            running.write(request("later"))
            assert json.loads(running.line())["id"] == "later"
            gate = os.open(fifo, os.O_WRONLY)
            os.write(gate, b"output after all\n")
            os.close(gate)
            assert running.rest() == b"output after all\n"
            assert running.wait() == 5
    finally:
        os.unlink(fifo)


def test_a_pipeline_ends_with_its_worker() -> None:
    """A worker that closes its stdin early is no error: ``head`` does so, and its code is ours."""
    data = b"first line\n" + b"x" * 1_000_000
    assert finished(run("head", "-n1"), data) == (0, b"first line\n", b"")
    code = "exec 0<&-; i=0; while [ $i -lt 3 ]; do echo $i; i=$((i+1)); done; exit 7"
    assert finished(run(*sh(code)), data) == (7, b"0\n1\n2\n", b"")


def test_answers_come_within_a_second_although_a_grandchild_holds_the_pipes() -> None:
    """The exit is the truth, not the end of a stream that somebody else keeps open."""
    code = (
        "import subprocess; grandchild = subprocess.Popen(['sleep', '600']).pid\n"
        "os.write(1, b'%d\\n' % grandchild)\n" + read(1) + KILLED
    )
    with started(run(*python(code))) as running:
        grandchild = int(running.line())
        running.write(request(1))
        assert json.loads(running.line(seconds=1))["id"] == 1
        assert gone(grandchild), "it belongs to the worker's group, and ends with it"
        assert running.wait(3) == 137
        assert running.rest() == b""


def test_a_grandchild_that_floods_its_output_does_not_hold_us_up() -> None:
    """What it writes passes for a bounded time; then it ends with its group."""
    code = (
        "os.write(1, b'ready\\n')\n"
        + read(1)
        + "if os.fork() == 0:\n    while True: os.write(1, b'flood\\n' * 10_000)\n"
        + KILLED
    )
    with started(run(*python(code))) as running:
        assert running.line() == b"ready\n"
        running.write(request(1))
        out = running.rest(seconds=5)
        assert running.wait() == 137
        lost = [line for line in out.splitlines() if line.startswith(b"{")]
        assert [json.loads(line)["id"] for line in lost] == [1]
