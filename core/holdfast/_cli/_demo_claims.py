"""What must be true of the story that ``holdfast demo`` tells, or its exit code is 1."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from holdfast._events import Kind, Line, Origin, Sent, StatusChanged
from holdfast._status import Delivery, Fate, Reason, State

from ._demo_acts import (
    WORDS_BEFORE_KILL,
    Killed,
    Logged,
    Seen,
    Story,
    Unguarded,
    pid_in,
    word_in,
)


class Claim(msgspec.Struct, frozen=True):
    """One thing that must be true.

    Attributes:
        text: What is claimed.
        held: Whether it came true.
        got: What was seen.
    """

    text: str
    held: bool
    got: str


def judge_pipe(seen: Unguarded) -> Iterator[Claim]:
    """What a bare pipe leaves its program with."""
    yield Claim(
        "on the bare pipe, p-1 gets no answer", not seen.answered, f"answered: {seen.answered}"
    )
    last = seen.error.splitlines()[-1] if seen.error else "nothing was raised"
    yield Claim("on the bare pipe, p-2 raises BrokenPipeError", "BrokenPipeError" in last, last)


def judge_session(story: Story) -> Iterator[Claim]:
    """What holdfast promises."""
    log = _Log(story)
    first, second, third = (log.answers(f"p-{number}") for number in (1, 2, 3))
    yield Claim("in the session, p-1 is answered by its worker", _by_worker(first), _told(first))

    streamed = log.words_until_kill("p-2")
    yield Claim(
        "the worker is killed in the middle of its answer to p-2",
        streamed == WORDS_BEFORE_KILL and log.killed is not None,
        f"{streamed} words, then SIGKILL to {log.killed.pid if log.killed else 'nobody'}",
    )
    yield Claim(
        "p-2 is answered all the same: once, with an error, in the worker's place",
        len(second) == 1
        and second[0].event.origin is Origin.HOLDFAST
        and "error" in second[0].message,
        _told(second),
    )
    lost = log.lost
    status = lost.event.status if lost is not None else None
    yield Claim(
        "the status says what happened: error, process_exit, worker gone, SIGKILL",
        status is not None
        and status.reason is Reason.PROCESS_EXIT
        and status.worker is Fate.GONE
        and status.exit is not None
        and status.exit.signal == "SIGKILL",
        f"{status.state}, {status.reason}, worker {status.worker}, {status.exit}"
        if status is not None
        else "no status of a loss",
    )
    yield Claim(
        "the answer comes before the status, and at the status nothing is in flight",
        lost is not None
        and all(each.event.seq < lost.event.seq for each in second)
        and lost.in_flight == frozenset()
        and lost.busy is False,
        f"in flight: {sorted(map(str, lost.in_flight or ()))}, busy: {lost.busy}"
        if lost is not None
        else "no status of a loss",
    )
    yield Claim(
        "one warning goes to the log", len(log.warnings) == 1, f"{len(log.warnings)} warnings"
    )
    yield Claim(
        "the next prompt, p-3, starts a new worker and is answered by it",
        _by_worker(third) and len(set(log.pids)) == 2,
        f"{_told(third)}; workers: {log.pids}",
    )
    wanted = [Delivery.WRITTEN] * 3
    yield Claim(
        "no send raises: each gives a receipt",
        story.deliveries == wanted,
        ", ".join(story.deliveries) or "none",
    )
    seqs = [each.event.seq for each in log.events]
    yield Claim(
        "the log has no gap and no duplicate",
        seqs == list(range(1, len(seqs) + 1)) and bool(seqs),
        f"{len(seqs)} events, the last is number {seqs[-1] if seqs else 0}",
    )


class _Answer(msgspec.Struct):
    """A journal's line that answers a request."""

    event: Line
    message: dict[str, object]


class _Lost(msgspec.Struct):
    """The status that announced the loss, and what an observer saw at it."""

    event: StatusChanged
    in_flight: frozenset[object] | None
    busy: bool | None


class _Log:
    """The story, by what is asked of it."""

    def __init__(self, story: Story) -> None:
        self.entries = story.entries
        self.events = [entry for entry in story.entries if isinstance(entry, Seen)]
        self.warnings = [entry for entry in story.entries if isinstance(entry, Logged)]
        self.killed = next((e for e in story.entries if isinstance(e, Killed)), None)
        self.pids = [pid for entry in self.events if (pid := pid_in(entry.message)) is not None]

    def answers(self, id: str) -> list[_Answer]:
        return [
            _Answer(entry.event, entry.message)
            for entry in self.events
            if isinstance(entry.event, Line)
            and entry.event.kind is Kind.ANSWER
            and entry.event.id == id
        ]

    @property
    def lost(self) -> _Lost | None:
        for entry in self.events:
            event = entry.event
            if isinstance(event, StatusChanged) and event.status.state is State.ERROR:
                return _Lost(event, entry.in_flight, entry.busy)
        return None

    def words_until_kill(self, id: str) -> int:
        words = 0
        for entry in self.entries:
            if isinstance(entry, Killed):
                break
            if isinstance(entry, Seen):
                if isinstance(entry.event, Sent) and entry.event.id == id:
                    words = 0
                words += word_in(entry.message) is not None
        return words


def _by_worker(answers: list[_Answer]) -> bool:
    return len(answers) == 1 and (
        answers[0].event.origin is Origin.WORKER
        and answers[0].message.get("result") == {"status": "finished"}
    )


def _told(answers: list[_Answer]) -> str:
    if not answers:
        return "no answer"
    return " and ".join(
        f"{each.event.origin} answered {each.message.get('result', each.message.get('error'))}"
        for each in answers
    )
