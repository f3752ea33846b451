"""``holdfast demo`` as a stranger runs it: a process of its own, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.terminal import on_terminal, plain

DEMO = [sys.executable, "-m", "holdfast", "demo"]


def test_the_demo_tells_its_story_in_a_pipe() -> None:
    """Without set-up, within half a minute, as plain text: both acts, and every claim is ok."""
    began = time.monotonic()
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 30
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "NOT SO" not in done.stdout
    in_order = [
        "1. A bare pipe",
        "kill -9  pid ",
        "p-1 has no answer",
        "Traceback (most recent call last):",
        "BrokenPipeError: [Errno 32] Broken pipe",
        "2. The same in a holdfast session",
        "busy (prompt); in flight: p-2",
        "kill -9  pid ",
        "answer   to p-2, in the worker's place: error -32000",
        "status   error (process_exit): worker killed by SIGKILL; worker gone; in flight: nothing",
        "status   busy (prompt); in flight: p-3",
        'answer   to p-3: {"status": "finished"}',
        "3. What was claimed",
        "  ok  ",
    ]
    rest = done.stdout
    for text in in_order:
        assert text in rest, f"{text!r} is missing, or not in its order:\n{done.stdout}"
        rest = rest.partition(text)[2]


def test_the_demo_gives_its_events_as_json() -> None:
    """One event a line; the answer in the worker's place comes before the status of the loss."""
    done = subprocess.run(
        [*DEMO, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["seq"] for each in events] == list(range(1, len(events) + 1))
    (answer,) = [each for each in events if each.get("origin") == "holdfast"]
    assert answer["data"]["id"] == "p-2"
    assert answer["data"]["error"]["data"]["cause"] == "worker_exited"
    (lost,) = [each for each in events if each.get("status", {}).get("state") == "error"]
    assert answer["seq"] < lost["seq"]
    assert lost["status"]["exit"]["signal"] == "SIGKILL"
    assert events[-1]["status"]["reason"] == "prompt_complete"


def test_the_demo_is_coloured_on_a_terminal() -> None:
    """A person sees colours, and the words of an answer in one row."""
    shown = on_terminal(*DEMO, columns=120)
    assert "\x1b[1;32m  ok " in shown
    assert "worker   I say one word at a time until I stop or am stopped. \n" in plain(shown)


@pytest.mark.parametrize(
    ("text", "times"), [("1. A bare pipe", 1), ("has started", 1), ("kill -9", 2)]
)
def test_an_interrupted_demo_ends_in_peace(text: str, times: int) -> None:
    """A terminal's Ctrl-C reaches all of its processes: no traceback, whatever it is at."""
    with subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        output = b""
        while output.count(text.encode()) < times:
            line = process.stdout.readline()
            assert line, output
            output += line
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr.read() == b"\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("text", "times"), [("1. A bare pipe", 0), ("has started", 1), ("kill -9", 2)]
)
def test_a_demo_whose_reader_leaves_ends_in_peace(text: str, times: int) -> None:
    """``holdfast demo | head``: no traceback, and no worker is left, whatever it is at."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output = b""
        while output.count(text.encode()) < times:
            line = process.stdout.readline()
            assert line, output
            output += line
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + 13  # as if SIGPIPE had ended it; 1 is for a broken claim
    for pid in re.findall(rb"pid (\d+)", output):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
