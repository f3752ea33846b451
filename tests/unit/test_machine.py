"""The machine as a table: every transition, every refusal, and the order of events at a loss."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence

import pytest

from holdfast import (
    Cause,
    Delivery,
    Event,
    Exit,
    Fate,
    InvalidMessage,
    Kind,
    Line,
    LineTooLong,
    Origin,
    Reason,
    RequestId,
    Sent,
    State,
    StatusChanged,
    Stderr,
)
from holdfast._dialect import BUILT_IN, LOST_CODE, REFUSED_CODE, TOO_LONG_CODE, Message
from holdfast._evidence import Loss
from holdfast._framing import Cut, Frame, TooLong, Unframed
from holdfast._machine import TRANSITIONS, Machine, Move, Phase, Verdict

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
PIPE = "BrokenPipeError: [Errno 32] Broken pipe"
BROKEN = Loss(Reason.STDIN_BROKEN, PIPE, Cause.WORKER_EXITED, Fate.GONE, Exit(signal="SIGKILL"))
UNSURE = Loss(Reason.STDIN_BROKEN, PIPE, Cause.LINK_LOST, Fate.MAYBE_ALIVE, None)
CRASHED = Loss(
    Reason.PROCESS_EXIT, "worker exited with code 3", Cause.WORKER_EXITED, Fate.GONE, Exit(3)
)
CLEAN = Loss(
    Reason.PROCESS_EXIT, "worker exited with code 0", Cause.WORKER_EXITED, Fate.GONE, Exit(0)
)
UNREPORTED = Loss(Reason.PROCESS_EXIT, "worker closed its stdout", None, Fate.UNKNOWN, None)


class Rig:
    """A machine with a dialect, and all the events that it gave."""

    def __init__(self, dialect: str = "jsonrpc") -> None:
        self.dialect = BUILT_IN[dialect]
        self.machine = Machine("s", self.dialect, lambda: NOW)
        self.events: list[Event] = []

    def keep(self, events: Sequence[Event]) -> list[Event]:
        self.events += events
        return list(events)

    @property
    def state(self) -> State:
        return self.machine.status.state

    def start(self) -> list[Event]:
        return self.keep(self.machine.started(self.machine.starting()))

    def message(self, content: dict[str, object] | bytes) -> Message:
        return self.dialect.message(content)

    def admit(self, content: dict[str, object] | bytes) -> tuple[Verdict, list[Event]]:
        verdict, events = self.machine.admit(self.message(content))
        return verdict, self.keep(events)

    def send(self, content: dict[str, object] | bytes) -> list[Event]:
        """Accepted, handed over and written."""
        verdict, events = self.admit(content)
        assert verdict is Verdict.SEND
        message = self.message(content)
        events += self.keep(self.machine.sending(self.machine.generation, message))
        self.machine.written(self.machine.generation, message)
        return events

    def frames(self, *frames: Frame) -> list[Event]:
        return self.keep(self.machine.frames(self.machine.generation, frames))

    def ended(self, loss: Loss) -> list[Event]:
        return self.keep(self.machine.ended(self.machine.generation, loss))

    def stop(self, loss: Loss = CLEAN) -> list[Event]:
        if self.machine.phase is not Phase.RUNNING:
            return self.keep(self.machine.stopped())
        self.machine.stopping(self.machine.generation)
        return self.ended(loss)

    def restart(self) -> list[Event]:
        """Begin a restart, and end the old worker if there is one."""
        self.machine.stopping(self.machine.generation)
        events = self.keep(self.machine.restarting())
        return events + self.ended(CLEAN)


def running(dialect: str = "jsonrpc") -> Rig:
    rig = Rig(dialect)
    rig.start()
    return rig


def request(id: RequestId, method: str = "prompt", **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def answer(id: RequestId | None) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": {}}).encode()


def failure(id: RequestId | None) -> bytes:
    return json.dumps({"id": id, "error": {"code": -1, "message": "no"}}).encode()


def only_status(events: Sequence[Event]) -> StatusChanged:
    (event,) = [each for each in events if isinstance(each, StatusChanged)]
    return event


def given_answer(event: Event) -> tuple[RequestId | None, dict[str, object]]:
    """The id and the error or result of an answer given in the worker's place."""
    assert isinstance(event, Line)
    assert (event.kind, event.origin) == (Kind.ANSWER, Origin.HOLDFAST)
    content = json.loads(event.data)
    assert content.pop("jsonrpc") == "2.0"
    assert content.pop("id") == event.id
    return event.id, content


def error_of(event: Event, code: int) -> dict[str, object]:
    _, content = given_answer(event)
    error = content["error"]
    assert isinstance(error, dict)
    assert error["code"] == code
    assert error["message"]
    data: dict[str, object] = error["data"]
    assert data.keys() == {"reason", "cause", "delivery", "detail"}
    return data


# -- the table --------------------------------------------------------------------------------


def _start(rig: Rig) -> list[Event]:
    return rig.start()


def _start_failed(rig: Rig) -> list[Event]:
    return rig.keep(rig.machine.start_failed(rig.machine.starting(), "no such command"))


def _prompt(rig: Rig) -> list[Event]:
    return rig.send(request(1))


def _answered(rig: Rig) -> list[Event]:
    return rig.frames(answer(1))


def _lose(rig: Rig) -> list[Event]:
    return rig.ended(BROKEN)


def _finish(rig: Rig) -> list[Event]:
    return rig.ended(CLEAN)


def _restart(rig: Rig) -> list[Event]:
    return rig.restart()


def _stop(rig: Rig) -> list[Event]:
    return rig.stop()


def _resume(rig: Rig) -> list[Event]:
    """Another program goes on from what this one's machine last said."""
    old, rig.machine = rig.machine, Machine("s", rig.dialect, lambda: NOW)
    return rig.keep(
        rig.machine.resume(old.status, old.last_seq, old.generation, sorted(old.in_flight, key=str))
    )


REACH: dict[State, list[Callable[[Rig], object]]] = {
    State.STOPPED: [],
    State.IDLE: [_start],
    State.BUSY: [_start, _prompt],
    State.RESTARTING: [_start, _restart],
    State.ERROR: [_start, _lose],
}
TABLE = [
    (State.STOPPED, Move.STARTED, _start, State.IDLE, Reason.START),
    (State.STOPPED, Move.START_FAILED, _start_failed, State.ERROR, Reason.INITIALIZATION_FAILED),
    (State.STOPPED, Move.RESTARTING, _restart, State.RESTARTING, Reason.RESTART),
    (State.IDLE, Move.OCCUPIED, _prompt, State.BUSY, Reason.PROMPT),
    (State.IDLE, Move.LOST, _lose, State.ERROR, Reason.STDIN_BROKEN),
    (State.IDLE, Move.ABANDONED, _resume, State.ERROR, Reason.STDIN_BROKEN),
    (State.IDLE, Move.FINISHED, _finish, State.STOPPED, Reason.PROCESS_EXIT),
    (State.IDLE, Move.RESTARTING, _restart, State.RESTARTING, Reason.RESTART),
    (State.IDLE, Move.STOPPED, _stop, State.STOPPED, Reason.STOP),
    (State.BUSY, Move.RELEASED, _answered, State.IDLE, Reason.PROMPT_COMPLETE),
    (State.BUSY, Move.LOST, _lose, State.ERROR, Reason.STDIN_BROKEN),
    (State.BUSY, Move.ABANDONED, _resume, State.ERROR, Reason.STDIN_BROKEN),
    (State.BUSY, Move.RESTARTING, _restart, State.RESTARTING, Reason.RESTART),
    (State.BUSY, Move.STOPPED, _stop, State.STOPPED, Reason.STOP),
    (State.RESTARTING, Move.STARTED, _start, State.IDLE, Reason.RESTART),
    (State.RESTARTING, Move.START_FAILED, _start_failed, State.ERROR, Reason.INITIALIZATION_FAILED),
    (State.RESTARTING, Move.ABANDONED, _resume, State.ERROR, Reason.STDIN_BROKEN),
    (State.RESTARTING, Move.RESTARTING, _restart, State.RESTARTING, Reason.RESTART),
    (State.RESTARTING, Move.STOPPED, _stop, State.STOPPED, Reason.STOP),
    (State.ERROR, Move.STARTED, _start, State.IDLE, Reason.START),
    (State.ERROR, Move.START_FAILED, _start_failed, State.ERROR, Reason.INITIALIZATION_FAILED),
    (State.ERROR, Move.RESTARTING, _restart, State.RESTARTING, Reason.RESTART),
    (State.ERROR, Move.STOPPED, _stop, State.STOPPED, Reason.STOP),
]


@pytest.mark.parametrize(
    ("before", "move", "act", "after", "reason"),
    TABLE,
    ids=[f"{before}-{move.name.lower()}" for before, move, *_ in TABLE],
)
def test_transition(
    before: State, move: Move, act: Callable[[Rig], list[Event]], after: State, reason: Reason
) -> None:
    """Each transition leads where the table says, and is announced by exactly one status."""
    rig = Rig()
    for step in REACH[before]:
        step(rig)
    assert rig.state is before
    changed = only_status(act(rig))
    assert TRANSITIONS[before][move] is after
    assert (changed.status.state, changed.status.reason) == (after, reason)
    assert changed.status == rig.machine.status
    assert changed.seq == changed.status.seq


def test_the_table_is_all_there_is() -> None:
    """No transition exists beside those that the tests drive."""
    cells = {(state, move) for state, moves in TRANSITIONS.items() for move in moves}
    # A stop of what is stopped announces nothing, so that cell is never looked up.
    assert cells - {(State.STOPPED, Move.STOPPED)} == {(each[0], each[1]) for each in TABLE}
    assert set(TRANSITIONS) == set(State)


def test_a_new_session_is_stopped_without_a_reason() -> None:
    """Before the first event a session is stopped, with seq 0 and neither worker nor reason."""
    status = Rig().machine.status
    assert (status.session_id, status.state, status.seq) == ("s", State.STOPPED, 0)
    assert (status.worker_id, status.reason, status.detail) == (None, None, None)
    assert (status.cause, status.worker, status.exit) == (None, None, None)
    assert status.updated_at == NOW


def test_stopping_what_is_stopped_says_nothing() -> None:
    """A stop of a stopped session gives no event."""
    rig = Rig()
    assert rig.stop() == []
    assert rig.machine.last_seq == 0


def test_a_worker_is_named_after_its_generation() -> None:
    """Each started worker has an id of its own, which stays in the statuses after its end."""
    rig = running()
    first = rig.machine.status.worker_id
    rig.ended(BROKEN)
    assert rig.machine.status.worker_id == first
    rig.start()
    assert rig.machine.status.worker_id not in (None, first)
    assert rig.machine.generation == 2


def test_a_worker_can_only_be_started_where_none_is() -> None:
    """Starting a second worker beside the first is a mistake in core and says so."""
    rig = Rig()
    rig.machine.starting()
    with pytest.raises(AssertionError):
        rig.machine.starting()


def test_started_once() -> None:
    """A second report of the same start, or one after its failure, changes nothing."""
    rig = running()
    assert rig.machine.started(1) == []
    assert rig.machine.start_failed(1, "late") == []
    rig = Rig()
    generation = rig.machine.starting()
    assert len(rig.machine.start_failed(generation, "no such command")) == 1
    assert rig.machine.started(generation) == []
    assert rig.machine.start_failed(generation, "again") == []


def test_a_failed_start_says_why() -> None:
    """The status of a failed start carries its detail and its cause."""
    rig = Rig()
    rig.machine.start_failed(rig.machine.starting(), "no route", Cause.LINK_LOST)
    status = rig.machine.status
    assert (status.state, status.reason) == (State.ERROR, Reason.INITIALIZATION_FAILED)
    assert (status.detail, status.cause) == ("no route", Cause.LINK_LOST)
    assert rig.machine.phase is Phase.ABSENT


# -- the order at a loss ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [BROKEN, UNSURE, CRASHED, CLEAN, UNREPORTED], ids=lambda x: x.reason
)
def test_at_a_loss_ids_are_cleared_then_answered_then_the_status_is_announced(loss: Loss) -> None:
    """Each request in flight is answered once, in order, and the status comes last."""
    rig = running()
    for id in (1, "1", 2):
        rig.send(request(id))
    events = rig.ended(loss)
    assert [given_answer(each)[0] for each in events[:-1]] == [1, "1", 2]
    for each in events[:-1]:
        assert error_of(each, LOST_CODE) == {
            "reason": loss.reason,
            "cause": loss.cause,
            "delivery": "written",
            "detail": loss.detail,
        }
    changed = only_status(events)
    assert events[-1] is changed
    status = changed.status
    assert (status.state, status.reason, status.detail) == (State.ERROR, loss.reason, loss.detail)
    assert (status.cause, status.worker, status.exit) == (loss.cause, loss.worker, loss.exit)
    assert rig.machine.in_flight == frozenset()
    assert rig.machine.phase is Phase.ABSENT


def test_an_answer_in_the_workers_place_says_how_far_the_request_came() -> None:
    """Not handed over is refused, being handed over is unknown, taken whole is written."""
    rig = running()
    rig.admit(request("refused"))
    rig.admit(request("unknown"))
    rig.machine.sending(1, rig.message(request("unknown")))
    rig.send(request("written"))
    events = rig.ended(BROKEN)
    assert {
        given_answer(each)[0]: error_of(each, LOST_CODE)["delivery"] for each in events[:-1]
    } == {each: each for each in ("refused", "unknown", "written")}


@pytest.mark.parametrize(
    ("loss", "prompt", "state"),
    [
        (CLEAN, False, State.STOPPED),
        (CLEAN, True, State.ERROR),
        (CRASHED, False, State.ERROR),
        (BROKEN, False, State.ERROR),
        (UNREPORTED, False, State.ERROR),
        (Loss(Reason.STDIN_BROKEN, PIPE, None, Fate.GONE, Exit(0)), False, State.ERROR),
        (Loss(Reason.READ_LOOP_ERROR, "bug", None, Fate.GONE, Exit(0)), False, State.ERROR),
    ],
    ids=["clean", "clean but asked", "crash", "broken", "unreported", "broken, code 0", "bug"],
)
def test_only_a_clean_end_with_nothing_in_flight_is_no_error(
    loss: Loss, prompt: bool, state: State
) -> None:
    """Exit code 0 with nothing in flight is ``stopped``; everything else is ``error``."""
    rig = running()
    if prompt:
        rig.send(request(1))
    assert only_status(rig.ended(loss)).status.state is state
    assert rig.machine.status.reason is loss.reason


def test_a_request_that_does_not_make_busy_is_in_flight_too() -> None:
    """Where only prompts make busy, other requests are still answered at a loss."""
    rig = running("kimi-wire")
    rig.send(request(7, "list"))
    assert rig.state is State.IDLE
    assert rig.machine.in_flight == {7}
    events = rig.ended(CLEAN)
    assert error_of(events[0], LOST_CODE)["reason"] == "process_exit"
    assert only_status(events).status.state is State.ERROR


def test_after_a_loss_the_next_worker_begins_idle() -> None:
    """What made the lost worker busy does not make the next one so."""
    rig = running()
    rig.send(request(1))
    rig.ended(BROKEN)
    rig.start()
    assert rig.state is State.IDLE
    assert only_status(rig.send(request(1))).status.state is State.BUSY
    assert only_status(rig.frames(answer(1))).status.state is State.IDLE


def test_a_worker_ends_once() -> None:
    """One terminal status per generation, whoever else notices the end."""
    rig = running()
    assert rig.ended(BROKEN)
    assert rig.ended(CRASHED) == []
    assert rig.stop(), "stopping a session in error says that it is stopped"
    assert rig.ended(CLEAN) == []


# -- asked for --------------------------------------------------------------------------------


def test_a_stop_answers_what_is_in_flight() -> None:
    """A stop answers each request, keeps what the worker still says, and tells its exit."""
    rig = running()
    rig.send(request(1))
    rig.send(request(2))
    rig.machine.stopping(1)
    assert [type(each) for each in rig.frames(answer(2))] == [Line]
    events = rig.ended(CRASHED)
    data = error_of(events[0], LOST_CODE)
    assert (data["reason"], data["cause"], data["delivery"]) == ("stop", None, "written")
    status = only_status(events).status
    assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
    assert (status.detail, status.cause) == (None, None)
    assert (status.worker, status.exit) == (Fate.GONE, Exit(3))


def test_a_stop_over_a_lost_link_does_not_claim_that_the_worker_is_gone() -> None:
    """Where the link broke during the stop, the status says what is not known."""
    status = only_status(running().stop(UNSURE)).status
    assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
    assert (status.detail, status.cause) == (PIPE, Cause.LINK_LOST)
    assert (status.worker, status.exit) == (Fate.MAYBE_ALIVE, None)


def test_a_restart_answers_what_is_in_flight_and_is_no_error() -> None:
    """The old worker's end during a restart gives answers, and no status of its own."""
    rig = running()
    rig.send(request(1))
    rig.machine.stopping(1)
    assert only_status(rig.keep(rig.machine.restarting())).status.state is State.RESTARTING
    (event,) = rig.ended(BROKEN)
    assert error_of(event, LOST_CODE)["reason"] == "restart"
    assert rig.state is State.RESTARTING
    assert only_status(rig.start()).status.reason is Reason.RESTART


def test_an_answer_during_a_restart_still_counts() -> None:
    """What the old worker answers while it is being ended is an answer, and changes no state."""
    rig = running()
    rig.send(request(1))
    rig.machine.stopping(1)
    rig.machine.restarting()
    (line,) = rig.frames(answer(1))
    assert isinstance(line, Line)
    assert rig.machine.in_flight == frozenset()
    assert rig.ended(CLEAN) == []
    assert rig.state is State.RESTARTING


def test_a_stop_after_a_restart_that_could_not_go_on() -> None:
    """A session between two workers can be stopped."""
    rig = running()
    rig.restart()
    status = only_status(rig.stop()).status
    assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)


# -- the exit, when it becomes known later ----------------------------------------------------


def test_an_exit_that_becomes_known_later_is_added_once() -> None:
    """One more status with the same state and reason adds the exit; a second one does not come."""
    rig = running()
    lost = only_status(rig.ended(UNSURE)).status
    added = only_status(rig.machine.exit_known(1, Exit(signal="SIGKILL"))).status
    assert (added.state, added.reason, added.detail) == (lost.state, lost.reason, lost.detail)
    assert (added.cause, added.worker, added.exit) == (
        lost.cause,
        Fate.GONE,
        Exit(signal="SIGKILL"),
    )
    assert added.seq == lost.seq + 1
    assert rig.machine.exit_known(1, Exit(signal="SIGKILL")) == []


def test_an_unreported_exit_adds_nothing() -> None:
    """``Exit()`` says nothing, so no status tells of it."""
    rig = running()
    rig.ended(UNSURE)
    assert rig.machine.exit_known(1, Exit()) == []


def test_an_exit_adds_to_what_was_not_reported() -> None:
    """A loss with ``Exit()`` is completed by a reported exit."""
    rig = running()
    rig.ended(Loss(Reason.PROCESS_EXIT, "over", Cause.UNKNOWN, Fate.UNKNOWN, Exit()))
    assert only_status(rig.machine.exit_known(1, Exit(0))).status.exit == Exit(0)


@pytest.mark.parametrize(
    "steps",
    [
        [_start],
        [_start, _prompt],
        [_start, _lose],
        [_start, _restart],
        [_start_failed],
        [_start, _restart, _start_failed],
    ],
    ids=["idle", "busy", "exit known", "restarting", "not started", "not restarted"],
)
def test_an_exit_is_added_only_to_a_loss_without_one(steps: list[Callable[[Rig], object]]) -> None:
    """An exit changes nothing while a worker runs, and nothing where the loss had told it."""
    rig = Rig()
    for step in steps:
        step(rig)
    before = rig.machine.status
    assert rig.machine.exit_known(rig.machine.generation, Exit(9)) == []
    assert rig.machine.status is before


# -- what is sent -----------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", BUILT_IN)
def test_what_is_no_request_is_sent_and_leaves_no_trace(dialect: str) -> None:
    """Notifications and answers of the client go to a running worker, and wait for nothing."""
    rig = running(dialect)
    for content in (b'{"method":"event"}', answer(5), failure(None), b'{"x":1}'):
        assert rig.admit(content) == (Verdict.SEND, [])
    assert rig.machine.in_flight == frozenset()
    assert rig.state is State.IDLE


def test_lines_have_no_meaning() -> None:
    """In the dialect without a meaning, a request is a line like any other."""
    rig = running("lines")
    rig.send(request(1))
    assert rig.machine.in_flight == frozenset()
    (line,) = rig.frames(answer(1))
    assert line == Line(line.seq, answer(1), Kind.OPAQUE, None)
    assert [type(each) for each in rig.ended(BROKEN)] == [StatusChanged]


@pytest.mark.parametrize("dialect", ["jsonrpc", "mcp", "lsp"])
def test_any_number_of_requests_may_run_at_once(dialect: str) -> None:
    """Every request makes such a session busy; it is idle again after the last answer."""
    rig = running(dialect)
    assert only_status(rig.send(request(1, "a"))).status.reason is Reason.PROMPT
    assert [type(each) for each in rig.send(request(2, "b"))] == [Sent]
    assert [type(each) for each in rig.frames(answer(1))] == [Line]
    assert rig.state is State.BUSY
    status = only_status(rig.frames(failure(2))).status
    assert (status.state, status.reason) == (State.IDLE, Reason.PROMPT_ERROR)


def test_an_id_is_used_once_at_a_time() -> None:
    """A second request with an id in flight is refused at the edge; afterwards the id is free."""
    rig = running()
    rig.send(request(1))
    seq = rig.machine.last_seq
    with pytest.raises(InvalidMessage, match="in flight already"):
        rig.admit(request(1, "other"))
    assert rig.machine.last_seq == seq
    assert rig.machine.in_flight == {1}
    rig.frames(answer(1))
    rig.send(request(1))


def test_a_number_and_a_text_are_two_ids() -> None:
    """``1`` and ``"1"`` are two requests, and each answer finds its own."""
    rig = running()
    rig.send(request(1))
    rig.send(request("1"))
    rig.frames(answer("1"))
    assert rig.machine.in_flight == {1}


def test_a_second_prompt_is_refused() -> None:
    """Where one prompt runs at a time, a second is answered with an error and never sent."""
    rig = running("kimi-wire")
    rig.send(request(1))
    verdict, (event,) = rig.admit(request(2))
    assert verdict is Verdict.REFUSED
    data = error_of(event, REFUSED_CODE)
    assert (data["reason"], data["delivery"]) == ("busy", "refused")
    assert rig.machine.in_flight == {1}
    rig.send(request(3, "list"))
    rig.frames(answer(1))
    rig.send(request(2))


def test_acp_refuses_per_session() -> None:
    """Each ACP session has one prompt at a time, beside those of other sessions."""
    rig = running("acp")
    rig.send(request(1, "session/prompt", sessionId="a"))
    rig.send(request(2, "session/prompt", sessionId="b"))
    assert rig.admit(request(3, "session/prompt", sessionId="a"))[0] is Verdict.REFUSED
    rig.frames(answer(1))
    assert rig.state is State.BUSY
    rig.send(request(3, "session/prompt", sessionId="a"))
    assert rig.machine.in_flight == {2, 3}


def test_a_cancel_without_a_prompt_succeeds() -> None:
    """A cancel when nothing runs is answered with success, whether a worker runs or not."""
    for rig in (Rig("kimi-wire"), running("kimi-wire")):
        state = rig.state
        verdict, (event,) = rig.admit(request(1, "cancel"))
        assert verdict is Verdict.REFUSED
        assert given_answer(event) == (1, {"result": {}})
        assert (rig.state, rig.machine.in_flight) == (state, frozenset())


def test_a_cancel_of_a_prompt_is_the_workers() -> None:
    """While a prompt runs, a cancel is a request like others."""
    rig = running("kimi-wire")
    rig.send(request(1))
    rig.send(request(2, "cancel"))
    assert rig.machine.in_flight == {1, 2}
    assert only_status(rig.frames(answer(2), failure(1))).status.reason is Reason.PROMPT_ERROR


@pytest.mark.parametrize("dialect", ["jsonrpc", "kimi-wire"])
@pytest.mark.parametrize(
    "steps",
    [[_start, _lose], [_start, _finish], [_start, _restart], [_start_failed]],
    ids=["lost", "finished", "restarting", "not started"],
)
def test_a_request_recovers_a_session(dialect: str, steps: list[Callable[[Rig], object]]) -> None:
    """Where the dialect allows it, the next request asks for a new worker."""
    rig = Rig(dialect)
    for step in steps:
        step(rig)
    assert rig.admit(request(1)) == (Verdict.START, [])
    assert rig.machine.in_flight == frozenset()


def test_a_request_waits_for_a_worker_that_is_being_started() -> None:
    """A request during a start asks for what is already on its way."""
    rig = Rig()
    rig.machine.starting()
    assert rig.admit(request(1)) == (Verdict.START, [])


@pytest.mark.parametrize("dialect", ["mcp", "acp", "lsp", "lines"])
@pytest.mark.parametrize("state", [State.STOPPED, State.RESTARTING, State.ERROR])
def test_a_request_does_not_recover_what_needs_a_handshake(dialect: str, state: State) -> None:
    """Where the client must shake hands first, a request without a worker gets an error."""
    rig = Rig(dialect)
    for step in REACH[state]:
        step(rig)
    verdict, events = rig.admit(request(1))
    assert verdict is Verdict.REFUSED
    if dialect == "lines":
        assert events == []
    else:
        status = rig.machine.status
        assert error_of(events[0], LOST_CODE) == {
            "reason": status.reason,
            "cause": status.cause,
            "delivery": "refused",
            "detail": status.detail,
        }


@pytest.mark.parametrize("dialect", BUILT_IN)
@pytest.mark.parametrize("state", [State.STOPPED, State.RESTARTING, State.ERROR])
def test_what_is_no_request_is_refused_without_a_worker(dialect: str, state: State) -> None:
    """A notification starts no worker; it is refused, and nobody waits for an answer."""
    rig = Rig(dialect)
    for step in REACH[state]:
        step(rig)
    assert rig.admit(b'{"method":"event"}') == (Verdict.REFUSED, [])


@pytest.mark.parametrize("steps", [[], [_start, _stop]], ids=["never started", "stopped"])
def test_a_request_does_not_start_what_somebody_stopped(
    steps: list[Callable[[Rig], object]],
) -> None:
    """A session that was not started, or was stopped on purpose, stays so."""
    rig = Rig()
    for step in steps:
        step(rig)
    verdict, (event,) = rig.admit(request(1))
    assert verdict is Verdict.REFUSED
    assert error_of(event, LOST_CODE)["delivery"] == "refused"


def test_a_request_during_a_stop_is_refused() -> None:
    """From the moment of a stop nothing more is accepted."""
    rig = running()
    rig.machine.stopping(1)
    verdict, (event,) = rig.admit(request(1))
    assert verdict is Verdict.REFUSED
    error_of(event, LOST_CODE)
    assert "being stopped" in str(given_answer(event)[1])


def test_sent_lines_stand_in_the_order_of_the_wire() -> None:
    """``Sent`` comes when a message is handed over, with its kind and id."""
    rig = running()
    one, two = rig.message(request(1)), rig.message(b'{"method":"event"}')
    rig.machine.admit(one)
    assert rig.machine.sending(1, two) == [Sent(3, two.data, Kind.NOTIFICATION, None)]
    assert rig.machine.sending(1, one) == [Sent(4, one.data, Kind.REQUEST, 1)]


def test_nothing_is_sent_without_a_worker() -> None:
    """After the end of its worker a message leaves no trace."""
    rig = running()
    message = rig.message(request(1))
    rig.machine.admit(message)
    rig.ended(BROKEN)
    seq = rig.machine.last_seq
    assert rig.machine.sending(1, message) == []
    rig.machine.written(1, message)
    assert rig.machine.withdraw(1, message, "late") == []
    assert rig.machine.last_seq == seq


def test_a_withdrawn_request_is_answered() -> None:
    """A request that will not be sent gets its one error answer, and the session is idle again."""
    rig = running()
    message = rig.message(request(1))
    rig.machine.admit(message)
    answered, changed = rig.machine.withdraw(1, message, "it was cancelled before it was sent")
    data = error_of(answered, LOST_CODE)
    assert (data["delivery"], data["cause"]) == ("refused", None)
    assert only_status([changed]).status.reason is Reason.PROMPT_ERROR
    assert rig.machine.in_flight == frozenset()
    assert rig.machine.withdraw(1, message, "again") == []


def test_a_withdrawn_notification_leaves_no_trace() -> None:
    """Nobody waits for a notification, so nobody is told that it was not sent."""
    rig = running()
    message = rig.message(b'{"method":"event"}')
    rig.machine.admit(message)
    assert rig.machine.withdraw(1, message, "cancelled") == []


# -- what comes -------------------------------------------------------------------------------


def test_every_frame_is_one_event_byte_for_byte() -> None:
    """Whatever the worker writes stands in the journal as it came, in its order."""
    rig = running()
    frames: list[Frame] = [
        b"",
        b"42",
        b"null",
        b"\xff\xfe",
        b"plain\r",
        b'{"method":"event"}',
        b'{"id":9,"method":"ask"}',
        answer(8),
        Unframed(b"noise"),
        TooLong(100, b'{"id":'),
        Cut(b'{"id":3'),
    ]
    events = rig.frames(*frames)
    assert [each.seq for each in events] == list(range(2, 13))
    assert events[9] == LineTooLong(11, 100, b'{"id":')
    lines = [each for each in events if isinstance(each, Line)]
    assert [each.data for each in lines] == [
        frame if isinstance(frame, bytes) else frame.data
        for frame in frames
        if not isinstance(frame, TooLong)
    ]
    assert [(each.kind, each.id) for each in lines[5:8]] == [
        (Kind.NOTIFICATION, None),
        (Kind.REQUEST, 9),
        (Kind.ANSWER, 8),
    ]
    assert {each.kind for each in lines[:5] + lines[8:]} == {Kind.OPAQUE}
    assert [each.terminated for each in lines] == [True] * 9 + [False]
    assert {each.origin for each in lines} == {Origin.WORKER}


def test_an_answer_to_nobody_changes_nothing() -> None:
    """Answers with unknown ids, or none, are lines and no more."""
    rig = running()
    rig.send(request(1))
    events = rig.frames(answer(2), answer("1"), answer(None), failure(None))
    assert [type(each) for each in events] == [Line] * 4
    assert rig.machine.in_flight == {1}
    assert rig.state is State.BUSY


def test_a_workers_own_request_is_not_an_answer() -> None:
    """A request from the worker with an id in flight answers nothing."""
    rig = running()
    rig.send(request(1))
    rig.frames(b'{"id":1,"method":"permission"}')
    assert rig.machine.in_flight == {1}


def test_an_answer_before_the_request_was_sent_is_not_its_answer() -> None:
    """What was not handed over yet cannot be answered, neither by a line nor by a dropped one."""
    rig = running()
    rig.admit(request(1))
    rig.frames(answer(1))
    events = rig.frames(TooLong(10**9, b'{"id":1,"result":"'))
    assert [type(each) for each in events] == [LineTooLong]
    assert rig.machine.in_flight == {1}
    rig.machine.sending(1, rig.message(request(1)))
    rig.frames(answer(1))
    assert rig.machine.in_flight == frozenset()


def test_an_answer_cut_by_the_end_of_the_stream_counts() -> None:
    """A whole answer without its newline is an answer; a broken one is not."""
    rig = running()
    rig.send(request(1))
    rig.send(request(2))
    rig.frames(Cut(answer(1)))
    rig.frames(Cut(answer(2)[:-1]))
    assert rig.machine.in_flight == {2}


def test_a_request_whose_answer_is_too_long_is_answered_by_us() -> None:
    """A dropped answer is answered with an error that says what to raise."""
    rig = running()
    rig.send(request(1))
    dropped, given, changed = rig.frames(TooLong(10**9, b'{"jsonrpc":"2.0","id":1,"result":"aa'))
    assert isinstance(dropped, LineTooLong)
    data = error_of(given, TOO_LONG_CODE)
    assert (data["reason"], data["delivery"]) == ("line_too_long", "written")
    assert str(10**9) in str(data["detail"])
    assert only_status([changed]).status.reason is Reason.PROMPT_ERROR
    assert rig.machine.in_flight == frozenset()


def test_seq_goes_on_through_a_batch_of_frames() -> None:
    """Answers and statuses that stand between lines of one batch take their seq in order."""
    rig = running()
    rig.send(request(1))
    rig.send(request(2))
    rig.frames(
        b"a", answer(1), TooLong(9, b'{"id":2,"error":{'), Unframed(b"b"), answer(2), Cut(b"c")
    )
    assert [each.seq for each in rig.events] == list(range(1, len(rig.events) + 1))
    assert [type(each).__name__ for each in rig.events[4:]] == [
        "Line",
        "Line",
        "LineTooLong",
        "Line",
        "StatusChanged",
        "Line",
        "Line",
        "Line",
    ]


def test_seq_goes_on_behind_an_answer_that_changes_the_state() -> None:
    """A line behind the answer that makes the session idle comes after that status."""
    rig = running()
    rig.send(request(1))
    events = rig.frames(answer(1), b"behind")
    assert [type(each) for each in events] == [Line, StatusChanged, Line]
    assert [each.seq for each in events] == [4, 5, 6]


def test_stderr_is_kept() -> None:
    """What the worker writes to its stderr is an event, also while it is being stopped."""
    rig = running()
    assert rig.machine.stderr(1, b"oops") == [Stderr(2, b"oops")]
    rig.machine.stopping(1)
    assert rig.machine.stderr(1, b"bye") == [Stderr(3, b"bye")]
    rig.ended(BROKEN)
    assert rig.machine.stderr(1, b"late") == []


# -- generations ------------------------------------------------------------------------------

LATE: dict[str, Callable[[Machine, Message], object]] = {
    "started": lambda machine, _: machine.started(1),
    "start_failed": lambda machine, _: machine.start_failed(1, "late"),
    "stopping": lambda machine, _: machine.stopping(1),
    "ended": lambda machine, _: machine.ended(1, BROKEN),
    "exit_known": lambda machine, _: machine.exit_known(1, Exit(9)),
    "sending": lambda machine, message: machine.sending(1, message),
    "written": lambda machine, message: machine.written(1, message),
    "withdraw": lambda machine, message: machine.withdraw(1, message, "late"),
    "frames": lambda machine, _: machine.frames(1, [answer(1), Cut(answer(1))]),
    "stderr": lambda machine, _: machine.stderr(1, b"late"),
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("phase", ["absent", "starting", "running", "ending", "lost"])
def test_an_older_generation_changes_nothing(late: str, phase: str) -> None:
    """Whatever a former worker still does leaves the state, the requests and seq as they are."""
    rig = running()
    rig.ended(UNSURE)
    if phase == "starting":
        rig.machine.starting()
    elif phase != "absent":
        rig.start()
        rig.admit(request(1))
        if phase == "ending":
            rig.machine.stopping(2)
        elif phase == "lost":
            rig.ended(UNSURE)
    if phase == "absent":
        rig.machine.starting()
        rig.machine.start_failed(2, "no")
    machine = rig.machine
    before = (machine.status, machine.in_flight, machine.last_seq, machine.phase)
    result = LATE[late](machine, rig.message(request(1)))
    assert result in ([], None)
    assert (machine.status, machine.in_flight, machine.last_seq, machine.phase) == before
    if machine.in_flight:
        given = machine.ended(2, BROKEN)[0]
        assert error_of(given, LOST_CODE)["delivery"] == Delivery.REFUSED


# -- going on where another program was ------------------------------------------------------


def test_an_abandoned_session_is_told_as_a_loss() -> None:
    """What was in flight is answered, then the loss is announced; seq and generation go on."""
    rig = running()
    rig.send(request(1))
    rig.send(request("two"))
    seq = rig.machine.last_seq
    first, second, status = _resume(rig)
    assert [given_answer(each)[0] for each in (first, second)] == [1, "two"]
    data = error_of(first, LOST_CODE)
    assert (data["cause"], data["delivery"]) == (Cause.LINK_LOST, Delivery.UNKNOWN)
    assert [each.seq for each in (first, second, status)] == [seq + 1, seq + 2, seq + 3]
    assert rig.machine.status.cause is Cause.LINK_LOST
    assert rig.machine.status.worker is Fate.MAYBE_ALIVE
    assert rig.machine.status.worker_id == "s/1"
    assert rig.machine.in_flight == frozenset()
    (started,) = rig.start()
    assert isinstance(started, StatusChanged)
    assert started.status.worker_id == "s/2"


@pytest.mark.parametrize("before", [State.STOPPED, State.ERROR])
def test_a_session_without_a_worker_is_resumed_as_it_was(before: State) -> None:
    """Where no worker ran, going on says nothing new."""
    rig = Rig()
    for step in REACH[before]:
        step(rig)
    status, seq = rig.machine.status, rig.machine.last_seq
    assert _resume(rig) == []
    assert (rig.machine.status, rig.machine.last_seq) == (status, seq)


def test_a_resumed_session_recovers_by_a_request() -> None:
    """A dialect that may start a new worker for a request does so after a resume, too."""
    rig = running()
    _resume(rig)
    verdict, events = rig.admit(request(9))
    assert (verdict, events) == (Verdict.START, [])
