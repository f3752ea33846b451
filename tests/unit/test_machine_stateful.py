"""The machine under every interleaving of what a program, a worker and its end can do.

The rules below do to a :class:`Machine` what a session does, in any order, and what a former
worker may still do at any time. What must hold is judged from the events alone, as a reader of the
journal sees them.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast import (
    Cause,
    Delivery,
    Event,
    Exit,
    Fate,
    InvalidMessage,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    Origin,
    Reason,
    RequestId,
    State,
    StatusChanged,
)
from holdfast._dialect import BUILT_IN, TOO_LONG_CODE, Message
from holdfast._evidence import Loss
from holdfast._framing import Cut, Frame, TooLong, Unframed
from holdfast._journal import Journal
from holdfast._machine import Machine, Phase, Verdict

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
TERMINAL = (State.STOPPED, State.ERROR)
IDS: list[RequestId] = [1, 2, "1", "x", 2.5, 2**70, "\ud800"]
METHODS = ["prompt", "session/prompt", "cancel", "list"]

EXITS = [Exit(), Exit(0), Exit(3), Exit(signal="SIGKILL")]
PIPE = "BrokenPipeError: [Errno 32] Broken pipe"
LOSSES = [
    Loss(Reason.PROCESS_EXIT, "worker exited", Cause.WORKER_EXITED, Fate.GONE, Exit(0)),
    Loss(Reason.PROCESS_EXIT, "worker exited", Cause.WORKER_EXITED, Fate.GONE, Exit(3)),
    Loss(Reason.PROCESS_EXIT, "worker closed its stdout", Cause.UNKNOWN, Fate.ALIVE, None),
    Loss(Reason.PROCESS_EXIT, "worker is over", Cause.UNKNOWN, Fate.UNKNOWN, Exit()),
    Loss(Reason.STDIN_BROKEN, PIPE, Cause.WORKER_EXITED, Fate.GONE, Exit(signal="SIGKILL")),
    Loss(Reason.STDIN_BROKEN, PIPE, Cause.LINK_LOST, Fate.MAYBE_ALIVE, None),
    Loss(Reason.STDIN_BROKEN, "the worker took no input", Cause.STUCK, Fate.ALIVE, None),
    Loss(Reason.READ_LOOP_ERROR, "ValueError: oops", None, Fate.UNKNOWN, None),
]


def encode(**fields: object) -> bytes:
    return json.dumps(fields).encode()


ANSWERS = [encode(jsonrpc="2.0", id=id, result={}) for id in IDS]
ANSWERS += [encode(id=id, error={"code": -1, "message": "no"}) for id in IDS]
OTHERS = [b'{"method":"event"}', encode(id=99, result=1), encode(id=None, error={})]
OTHERS += [encode(id=id, method="permission") for id in IDS[:3]]
ODD = [b"", b"42", b"null", b"\xff\xfe", b'{"id":1', b'{"id":NaN,"result":1}']
FRAMES: list[Frame] = [
    *ANSWERS,
    *OTHERS,
    *ODD,
    *(Cut(data) for data in [*ANSWERS[:3], *ODD]),
    *(Unframed(data) for data in [*ANSWERS[:3], *ODD]),
    *(TooLong(10**8, encode(id=id, result="a" * 99)[:80]) for id in IDS),
    TooLong(10**8, b"[" * 1024),
]
MESSAGES = [
    encode(id=id, method=method, params={"sessionId": "a" if id in (1, 2) else "b"})
    for id in IDS
    for method in METHODS
]
MESSAGES += [*ANSWERS[:2], *OTHERS[:3]]

exits, losses = st.sampled_from(EXITS), st.sampled_from(LOSSES)
frames, messages = st.sampled_from(FRAMES), st.sampled_from(MESSAGES)


class Accepted:
    """A request that was accepted and is not answered yet."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.delivery = Delivery.REFUSED


class Session(RuleBasedStateMachine):
    """What a session does to its machine, and what its journal must say of that."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []
        self.journal = Journal(10**9)
        self.short_journal = Journal(3000)
        self.open: dict[RequestId, Accepted] = {}
        self.queued: list[tuple[int, Message]] = []
        self.ended_generations: set[int] = set()
        self.exits_added = 0  # since the last status that was no such addition

    @initialize(
        dialect=st.sampled_from(sorted(BUILT_IN)), runs=st.sampled_from([True, True, False])
    )
    def create(self, dialect: str, runs: bool) -> None:
        self.dialect = BUILT_IN[dialect]
        self.machine = Machine("s", self.dialect, lambda: NOW)
        self.announced = self.machine.status
        if runs:
            self.start()

    # -- what a reader of the journal sees ------------------------------------------------

    def take(self, events: Sequence[Event], refused: RequestId | None = None) -> list[Event]:
        """Read events as they enter the journal; ``refused`` is a request that is not accepted."""
        for event in events:
            self.events.append(event)
            assert event.seq == len(self.events), "seq counts from 1 without a gap"
            if isinstance(event, Line) and event.kind is Kind.ANSWER and event.id is not None:
                self._answered(event, refused)
            elif isinstance(event, StatusChanged):
                assert event.status.seq == event.seq
                self.announced = event.status
                if event.status.state in TERMINAL:
                    assert not self.open, "answers stand before the status"
        self.journal.append(events)
        self.short_journal.append(events)
        return list(events)

    def _answered(self, line: Line, refused: RequestId | None) -> None:
        assert line.id is not None
        accepted = self.open.get(line.id)
        if line.origin is Origin.WORKER:
            if accepted is not None and accepted.delivery is not Delivery.REFUSED:
                del self.open[line.id]
            return
        content = json.loads(line.data)
        assert content["id"] == line.id
        if accepted is None:
            assert line.id == refused, "answered, and nobody waits for it"
            return
        assert content["error"]["data"]["delivery"] == accepted.delivery
        if content["error"]["code"] == TOO_LONG_CODE:
            assert accepted.delivery is not Delivery.REFUSED, "what was not sent has no answer"
        del self.open[line.id]

    def generation_ended(self, generation: int, statuses: int, events: Sequence[Event]) -> None:
        """A generation is over once, and says so with so many terminal statuses, at the end."""
        assert generation not in self.ended_generations
        self.ended_generations.add(generation)
        terminal = [
            each
            for each in events
            if isinstance(each, StatusChanged) and each.status.state in TERMINAL
        ]
        assert len(terminal) == statuses
        assert terminal == list(events[len(events) - statuses :])
        assert not self.open
        self.exits_added = 0

    @property
    def generation(self) -> int:
        return self.machine.generation

    # -- a worker's life ------------------------------------------------------------------

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One of the things that can happen now; what is common in life is common here."""
        steps = {
            Phase.ABSENT: "start start start starting restart stop_without_worker admit output "
            "send withdraw",
            Phase.STARTING: "started started start_failed admit send",
            Phase.RUNNING: "admit admit admit admit send send send output output output "
            "withdraw ended ended restart stopping",
            Phase.ENDING: "admit send withdraw output output ended ended",
        }[self.machine.phase]
        step: Callable[[st.DataObject], None] = getattr(
            self, data.draw(st.sampled_from(steps.split()))
        )
        step(data)

    def start(self, _: object = None) -> None:
        self.starting()
        self.started()

    def starting(self, _: object = None) -> None:
        self.machine.starting()

    def started(self, _: object = None) -> None:
        (event,) = self.take(self.machine.started(self.generation))
        assert isinstance(event, StatusChanged)
        assert event.status.state is State.IDLE

    def start_failed(self, _: object) -> None:
        events = self.take(self.machine.start_failed(self.generation, "no such command"))
        self.generation_ended(self.generation, 1, events)

    def restart(self, _: object) -> None:
        self.machine.stopping(self.generation)
        (event,) = self.take(self.machine.restarting())
        assert isinstance(event, StatusChanged)
        assert event.status.state is State.RESTARTING

    def stopping(self, _: object) -> None:
        self.machine.stopping(self.generation)

    def ended(self, data: st.DataObject) -> None:
        loss = data.draw(losses, label="loss")
        restarting = self.machine.status.state is State.RESTARTING
        events = self.take(self.machine.ended(self.generation, loss))
        self.generation_ended(self.generation, 0 if restarting else 1, events)

    def stop_without_worker(self, _: object) -> None:
        events = self.take(self.machine.stopped())
        assert len(events) <= 1
        assert self.machine.status.state is State.STOPPED
        if events:
            self.exits_added = 0

    @precondition(lambda self: self.generation and self.machine.phase is Phase.ABSENT)
    @rule(exit=exits)
    def exit_known(self, exit: Exit) -> None:
        before = self.machine.status
        events = self.take(self.machine.exit_known(self.generation, exit))
        if not events:
            return
        (event,) = events
        assert isinstance(event, StatusChanged)
        assert (event.status.state, event.status.reason) == (before.state, before.reason)
        assert (event.status.exit, event.status.worker) == (exit, Fate.GONE)
        assert exit.reported
        self.exits_added += 1
        assert self.exits_added == 1

    # -- what goes to the worker ----------------------------------------------------------

    def admit(self, data: st.DataObject) -> None:
        message = self.dialect.message(data.draw(messages, label="message"))
        id = message.envelope.id
        is_request = message.envelope.kind is Kind.REQUEST
        generation, open = self.generation, set(self.open)
        is_idle = not any(each.message.busy for each in self.open.values())
        try:
            verdict, events = self.machine.admit(message)
        except InvalidMessage:
            assert is_request
            assert id in open
            return
        if is_request and is_idle and message.envelope.method in self.dialect.cancel:
            assert verdict is Verdict.REFUSED
            (line,) = events
            assert isinstance(line, Line)
            assert "result" in json.loads(line.data)
        if is_request and verdict is Verdict.SEND:
            assert id is not None
            self.open[id] = Accepted(message)
        if verdict is Verdict.SEND:
            assert self.machine.phase is Phase.RUNNING
            self.queued.append((generation, message))
            self.take(events)
        elif verdict is Verdict.START:
            assert is_request
            assert self.dialect.recovers
            assert events == []
        else:
            self.take(events, refused=id)
            answers = [each for each in events if isinstance(each, Line)]
            assert len(answers) == len(events) == (1 if is_request else 0)

    def send(self, data: st.DataObject) -> None:
        """Hand over a message, of this generation or of a former one, and perhaps all of it."""
        if not self.queued:
            return
        generation, message = self.queued.pop(
            data.draw(st.integers(0, len(self.queued) - 1), label="which")
        )
        whole = data.draw(st.booleans(), label="whole")
        mine = generation == self.generation and self.machine.phase is not Phase.ABSENT
        accepted = self.open.get(message.envelope.id) if message.envelope.id is not None else None
        if mine and accepted is not None and accepted.message is message:
            accepted.delivery = Delivery.WRITTEN if whole else Delivery.UNKNOWN
        events = self.take(self.machine.sending(generation, message))
        assert len(events) == mine
        if whole:
            self.machine.written(generation, message)

    def withdraw(self, data: st.DataObject) -> None:
        if not self.queued:
            return
        generation, message = self.queued.pop(
            data.draw(st.integers(0, len(self.queued) - 1), label="which")
        )
        mine = generation == self.generation and self.machine.phase is not Phase.ABSENT
        events = self.take(self.machine.withdraw(generation, message, "it was cancelled"))
        if mine and message.envelope.kind is Kind.REQUEST:
            assert isinstance(events[0], Line)
            assert events[0].id == message.envelope.id
        else:
            assert events == []

    # -- what comes from the worker -------------------------------------------------------

    def output(self, data: st.DataObject) -> None:
        batch = data.draw(st.lists(frames, min_size=1, max_size=4), label="frames")
        listening = self.machine.phase in (Phase.RUNNING, Phase.ENDING)
        events = self.take(self.machine.frames(self.generation, batch))
        seen = [
            each
            for each in events
            if isinstance(each, LineTooLong)
            or (isinstance(each, Line) and each.origin is Origin.WORKER)
        ]
        assert len(seen) == (len(batch) if listening else 0)
        assert len(self.take(self.machine.stderr(self.generation, b"oops"))) == listening

    @precondition(lambda self: self.generation > 1)
    @rule(back=st.integers(1, 3), frame=frames, loss=losses, exit=exits, data=messages)
    def late(self, back: int, frame: Frame, loss: Loss, exit: Exit, data: bytes) -> None:
        """All that a former worker can still do, and it changes nothing."""
        machine, message = self.machine, self.dialect.message(data)
        old = max(0, self.generation - back)

        def seen() -> object:
            return (machine.status, machine.in_flight, machine.last_seq, machine.phase)

        before = seen()
        assert machine.started(old) == []
        assert machine.start_failed(old, "late") == []
        machine.stopping(old)
        assert machine.frames(old, [frame]) == []
        assert machine.stderr(old, b"late") == []
        assert machine.sending(old, message) == []
        machine.written(old, message)
        assert machine.withdraw(old, message, "late") == []
        assert machine.ended(old, loss) == []
        assert machine.exit_known(old, exit) == []
        assert seen() == before

    # -- what holds all the time ----------------------------------------------------------

    @invariant()
    def in_flight_is_what_nobody_answered(self) -> None:
        """The machine and the reader of the journal agree on what is not answered."""
        assert self.machine.in_flight == set(self.open)
        assert self.machine.last_seq == len(self.events) == self.journal.last_seq

    @invariant()
    def busy_while_such_a_request_runs(self) -> None:
        """Busy if and only if a worker runs and a request that makes busy is not answered."""
        state, phase = self.machine.status.state, self.machine.phase
        busy = self.dialect.busy
        expected = any(
            busy is None or each.message.envelope.method in busy for each in self.open.values()
        )
        if phase in (Phase.RUNNING, Phase.ENDING) and state is not State.RESTARTING:
            assert state is (State.BUSY if expected else State.IDLE)
        else:
            assert state not in (State.IDLE, State.BUSY)
        if state in TERMINAL:
            assert not self.open

    @invariant()
    def one_prompt_at_a_time(self) -> None:
        """Where prompts exclude each other, two of one lane never run at once."""
        if self.dialect.exclusive:
            lanes = [each.message.lane for each in self.open.values() if each.message.busy]
            assert len(lanes) == len(set(lanes))

    @invariant()
    def the_status_is_the_latest_that_was_announced(self) -> None:
        """Nobody can see a status that the journal does not hold."""
        assert self.machine.status is self.announced

    def teardown(self) -> None:
        """Replay from any cursor gives the same suffix, or says from where it can."""
        for after in range(len(self.events) + 1):
            at_most = 1 + after % 7
            assert self._read(self.journal, after, at_most) == self.events[after:]
            first, cursor = self.short_journal.read(after, at_most), after
            if isinstance(first, Lagged):
                assert after < first.resume_from - 1 < len(self.events)
                cursor = first.resume_from - 1
            assert self._read(self.short_journal, cursor, at_most) == self.events[cursor:]

    def _read(self, journal: Journal, after: int, at_most: int) -> list[Event]:
        read: list[Event] = []
        while True:
            batch = journal.read(after, at_most)
            assert not isinstance(batch, Lagged)
            if not batch:
                return read
            assert len(batch) <= at_most
            read += batch
            after = batch[-1].seq


TestMachine = Session.TestCase
TestMachine.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
)
