"""The demo's worker, and that the demo believes nothing that did not come true."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest

from holdfast import Line, Origin, State, StatusChanged
from holdfast._cli import _demo_acts, demo, main
from holdfast._cli._demo_acts import Entry, Killed, Logged, Seen, Story, Unguarded
from holdfast._cli._demo_claims import judge_pipe, judge_session


@pytest.fixture(scope="module")
def story() -> Story:
    """The session's act, played once."""
    return anyio.run(_demo_acts.guarded, lambda entry: None)


def failed(story: Story) -> list[str]:
    return [claim.text for claim in judge_session(story) if not claim.held]


def changed(entry: Seen, **fields: object) -> Seen:
    """An entry whose event, or whose event's status, has other fields."""
    event = entry.event
    if isinstance(event, StatusChanged) and "seq" not in fields:
        return msgspec.structs.replace(
            entry, event=StatusChanged(event.seq, msgspec.structs.replace(event.status, **fields))
        )
    return msgspec.structs.replace(entry, event=msgspec.structs.replace(event, **fields))


def is_answer(entry: Entry, id: str) -> bool:
    return isinstance(entry, Seen) and isinstance(entry.event, Line) and entry.event.id == id


def is_lost(entry: Entry) -> bool:
    event = entry.event if isinstance(entry, Seen) else None
    return isinstance(event, StatusChanged) and event.status.state is State.ERROR


# -- the claims ----------------------------------------------------------------------------------


def test_the_story_comes_true(story: Story) -> None:
    """Played for real, everything that is claimed holds."""
    assert failed(story) == []
    assert any(isinstance(entry, Killed) for entry in story.entries)


def without(match: Callable[[Entry], bool]) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: [entry for entry in entries if not match(entry)]


def with_each(
    match: Callable[[Entry], bool], change: Callable[[Seen], Seen]
) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: [change(entry) if match(entry) else entry for entry in entries]


def after_status(entries: list[Entry]) -> list[Entry]:
    """The answer in the worker's place comes behind the status."""
    last = max(entry.event.seq for entry in entries if isinstance(entry, Seen))
    return with_each(lambda e: is_answer(e, "p-2"), lambda e: changed(e, seq=last + 1))(entries)


def twice(entries: list[Entry]) -> list[Entry]:
    return [*entries, *(entry for entry in entries if is_answer(entry, "p-2"))]


@pytest.mark.parametrize(
    ("lie", "claim"),
    [
        (without(lambda e: is_answer(e, "p-1")), "in the session, p-1 is answered"),
        (without(lambda e: isinstance(e, Killed)), "the worker is killed in the middle"),
        (without(lambda e: is_answer(e, "p-2")), "p-2 is answered all the same"),
        (twice, "p-2 is answered all the same: once"),
        (
            with_each(lambda e: is_answer(e, "p-2"), lambda e: changed(e, origin=Origin.WORKER)),
            "p-2 is answered all the same: once, with an error, in the worker's place",
        ),
        (without(is_lost), "the status says what happened"),
        (with_each(is_lost, lambda e: changed(e, exit=None)), "the status says what happened"),
        (after_status, "the answer comes before the status"),
        (
            with_each(is_lost, lambda e: msgspec.structs.replace(e, in_flight=frozenset({"p-2"}))),
            "the answer comes before the status, and at the status nothing is in flight",
        ),
        (
            with_each(is_lost, lambda e: msgspec.structs.replace(e, busy=True)),
            "the answer comes before the status, and at the status nothing is in flight",
        ),
        (without(lambda e: isinstance(e, Logged)), "one warning goes to the log"),
        (without(lambda e: is_answer(e, "p-3")), "the next prompt, p-3, starts a new worker"),
        (lambda entries: entries[1:], "the log has no gap"),
        (lambda entries: [], "the log has no gap"),
    ],
)
def test_each_claim_can_fail(
    story: Story, lie: Callable[[list[Entry]], list[Entry]], claim: str
) -> None:
    """A story that differs in one thing fails by the claim about that thing."""
    told = Story(lie(story.entries), story.deliveries)
    assert any(text.startswith(claim) for text in failed(told)), failed(told)


def test_a_missing_receipt_is_noticed(story: Story) -> None:
    """A send that did not come back with ``written`` is told."""
    assert failed(Story(story.entries, story.deliveries[:2])) == [
        "no send raises: each gives a receipt"
    ]


def test_the_pipe_s_claims_can_fail() -> None:
    """An answer after death, or a write that succeeds, would not be what was claimed."""
    held = [claim.held for claim in judge_pipe(Unguarded(1, "I ", answered=True, error=None))]
    assert held == [False, False]


def test_a_demo_that_did_not_come_true_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker that ends at once leaves nothing to claim: exit code 1, at once, what differed."""
    began = time.monotonic()
    worker = tmp_path / "worker.py"
    worker.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(_demo_acts, "WORKER", (*_demo_acts.WORKER[:-1], str(worker)))
    with pytest.raises(SystemExit) as exit:
        main(["demo"])
    out, _ = capsys.readouterr()
    assert exit.value.code == 1
    assert "  NOT SO  the worker is killed in the middle of its answer to p-2; instead: 0" in out
    with pytest.raises(SystemExit) as exit:
        main(["demo", "--json"])
    out, err = capsys.readouterr()
    assert exit.value.code == 1
    assert "not so: in the session, p-1 is answered by its worker; instead: " in err
    assert [json.loads(line)["seq"] for line in out.splitlines()]
    assert time.monotonic() - began < 15  # an act that waits in vain takes 20 s


def test_a_worker_that_is_gone_before_its_first_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes the first prompt: the bare pipe's act tells it, and does not end by it."""
    start = subprocess.Popen.__init__

    def started_and_gone(self: subprocess.Popen[bytes], *args: object, **options: object) -> None:
        start(self, *args, **options)  # type: ignore[call-overload]
        self.wait()

    monkeypatch.setattr(subprocess.Popen, "__init__", started_and_gone)
    monkeypatch.setattr(_demo_acts, "WORKER", ("true",))
    seen = _demo_acts.unguarded()
    assert (seen.words, seen.answered) == ("", False)
    assert "BrokenPipeError" in (seen.error or "")


def test_odd_output_of_the_worker_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that is no message, and stderr, are rows like any other: the demo does not fail."""
    rows = demo._Rows(demo._plain)
    for event in (
        Line(1, b"\xff?"),
        Line(2, b"42"),
        demo.Stderr(3, b"Traceback\n"),
        Line(4, b'{"a": 1}'),
    ):
        rows.tell(Seen(0.0, event, _demo_acts._decoded(event.data)))
    out, _ = capsys.readouterr()
    assert [line.split(maxsplit=3)[2:] for line in out.splitlines()] == [
        ["1", "Line     \N{REPLACEMENT CHARACTER}?"],
        ["2", "Line     42"],
        ["3", "stderr   Traceback"],
        ["4", "Line     {'a': 1}"],
    ]


# -- the worker ----------------------------------------------------------------------------------


def test_the_worker_speaks_kimi_wire() -> None:
    """It tells its pid, streams, cancels, refuses a second prompt, and ends at the end of stdin."""
    with subprocess.Popen(
        _demo_acts.WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as worker:

        def send(id: str, method: str) -> None:
            params = {"user_input": "?"}
            worker.stdin.write(
                json.dumps({"id": id, "method": method, "params": params}).encode() + b"\n"
            )

        def read_until(id: str) -> dict:
            for line in worker.stdout:
                message = json.loads(line)
                if message.get("id") == id:
                    return message
            raise AssertionError(f"no answer to {id}")

        assert _demo_acts.pid_in(json.loads(worker.stdout.readline())) == worker.pid
        send("1", "prompt")
        send("2", "prompt")
        assert "another prompt" in read_until("2")["error"]["message"]
        send("3", "cancel")
        assert read_until("3")["result"] == {}
        assert read_until("1")["result"] == {"status": "cancelled"}
        send("4", "replay")
        assert read_until("4")["error"]["code"] == -32601
        worker.stdin.close()
        assert worker.stdout.read() == b""
    assert worker.returncode == 0
