"""Each rule finds its breach in the history of a real worker, whoever would have caused it.

A small true history, of two workers on one session, breaks no rule. Each forgery changes one thing
in it, as a session that erred would have written it, and the rule that stands against it says so.
``test_rules.py`` does the same with mistakes planted in core.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from holdfast import (
    Cause,
    Delivery,
    Event,
    Exit,
    Fate,
    Kind,
    Line,
    Origin,
    Reason,
    Receipt,
    Sent,
    State,
    Status,
    StatusChanged,
    Stderr,
)

from .belongings import belongings, left_over
from .history import Accepted, Account, Asked, Deed, History, Reader, of_events, read_account
from .rules import broken_rules

KILLED = Exit(signal="SIGKILL")


class Story:
    """Writes a history as a session would."""

    def __init__(self) -> None:
        self.history = History(log=[], deeds=[], framed=lambda data: data + b"\n")
        self.generation = 0
        self.seq = 0

    def event(self, make: Callable[[int], Event]) -> None:
        self.seq += 1
        self.history.log.append(make(self.seq))
        self.history.generations.append(self.generation)

    def status(self, state: State, reason: Reason, **known: object) -> Status:
        self.event(
            lambda seq: StatusChanged(
                seq,
                Status(  # type: ignore[arg-type]
                    "s",
                    state,
                    seq,
                    f"s/{self.generation}",
                    reason,
                    known.pop("detail", None),
                    dt.datetime.now(dt.UTC),
                    **known,
                ),
            )
        )
        event = self.history.log[-1]
        assert isinstance(event, StatusChanged)
        return event.status

    def start(self) -> None:
        self.generation += 1
        hello = b'{"method":"hello","params":{"log":"%d"}}' % self.generation
        account = Account(name=str(self.generation), took=bytearray(), wrote=[hello], whole=True)
        self.history.accounts[self.generation] = account
        self.status(State.IDLE, Reason.START)
        self.event(lambda seq: Line(seq, hello, Kind.NOTIFICATION))

    def ask(self, id: str, delivery: Delivery = Delivery.WRITTEN, *, read: bool = True) -> None:
        mark = f"<{id}>"
        data = json.dumps({"id": id, "method": "ask", "params": mark}).encode()
        self.history.accepted.append(Accepted(id, self.generation, len(self.history.log)))
        status = self.status(State.BUSY, Reason.PROMPT)
        self.event(lambda seq: Sent(seq, data, Kind.REQUEST, id))
        took = self.history.accounts[self.generation].took
        if read:
            assert isinstance(took, bytearray)
            took += data + b"\n"
        receipt = Receipt(delivery, status, id)
        asked = Asked(f"ask {id}", "send", id, True, data, mark.encode(), result=receipt)
        asked.ended, asked.answered = 0.1, 0
        self.history.asked.append(asked)

    def answer(self, id: str) -> None:
        data = b'{"id":"%b","result":"%b"}' % (id.encode(), b"." * 20)
        self.history.accounts[self.generation].wrote.append(data)
        self.event(lambda seq: Line(seq, data, Kind.ANSWER, id))
        self.status(State.IDLE, Reason.PROMPT_COMPLETE)

    def lose(self, id: str) -> None:
        data = {"reason": "process_exit", "delivery": "written"}
        line = json.dumps({"id": id, "error": {"code": -32000, "message": "", "data": data}})
        self.event(lambda seq: Line(seq, line.encode(), Kind.ANSWER, id, Origin.HOLDFAST))


def true_history() -> History:
    """Two requests, a kill in the second, a new worker that answers a third, and a stop."""
    story = Story()
    history = story.history
    story.start()
    story.ask("a")
    story.answer("a")
    story.ask("b", read=False)
    assert history.deeds is not None
    history.deeds.append(
        Deed("kill", 1, 1, True, frozenset({Cause.WORKER_EXITED}), frozenset({"SIGKILL"}))
    )
    story.lose("b")
    story.status(
        State.ERROR,
        Reason.PROCESS_EXIT,
        detail="worker killed by SIGKILL",
        cause=Cause.WORKER_EXITED,
        worker=Fate.GONE,
        exit=KILLED,
    )
    story.start()
    story.ask("c")
    story.event(lambda seq: Stderr(seq, b"thinking"))
    story.answer("c")
    story.status(State.STOPPED, Reason.STOP, worker=Fate.GONE, exit=Exit(code=0))
    history.accounts[2].over = True
    history.readers.append(Reader("all", 0, [*history.log], ended=True))
    return history


def test_a_true_history_breaks_no_rule() -> None:
    """What did not go wrong is not complained of."""
    assert broken_rules(true_history()) == []


def test_its_events_alone_break_no_rule() -> None:
    """Where only a journal is known, it is held against itself."""
    assert broken_rules(of_events(true_history().log)) == []


# -- forgeries -------------------------------------------------------------------------------------


def renumbered(history: History, log: list[Event]) -> None:
    """Put another log in the place of the true one, numbered as it must be."""
    history.log = []
    for seq, event in enumerate(log, 1):
        event = msgspec.structs.replace(event, seq=seq)
        if isinstance(event, StatusChanged):
            status = msgspec.structs.replace(event.status, seq=seq)
            event = msgspec.structs.replace(event, status=status)
        history.log.append(event)
    for asked in history.asked:
        [status] = [
            event.status
            for event in history.log
            if isinstance(event, StatusChanged)
            and event.status.updated_at == asked.result.status.updated_at
        ]
        asked.result = msgspec.structs.replace(asked.result, status=status)
    history.readers = []


def place_of(history: History, match: Callable[[Event], bool]) -> int:
    return next(place for place, event in enumerate(history.log) if match(event))


def is_line(event: Event) -> bool:
    return isinstance(event, Line) and event.origin is Origin.WORKER


def answers(id: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Line) and event.kind is Kind.ANSWER and event.id == id


def says(state: State) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StatusChanged) and event.status.state is state


def without(history: History, match: Callable[[Event], bool]) -> None:
    place = place_of(history, match)
    log = [*history.log]
    del log[place], history.generations[place]
    renumbered(history, log)


def moved(history: History, match: Callable[[Event], bool], by: int) -> None:
    place = place_of(history, match)
    log = [*history.log]
    log.insert(place + by, log.pop(place))
    history.generations.insert(place + by, history.generations.pop(place))
    renumbered(history, log)


def doubled(history: History, match: Callable[[Event], bool]) -> None:
    place = place_of(history, match)
    log = [*history.log]
    log.insert(place, log[place])
    history.generations.insert(place, history.generations[place])
    renumbered(history, log)


def said(history: History, match: Callable[[Event], bool], **changed: object) -> None:
    """Another status in the place of one."""
    place = place_of(history, match)
    event = history.log[place]
    assert isinstance(event, StatusChanged)
    status = msgspec.structs.replace(event.status, **changed)
    history.log[place] = msgspec.structs.replace(event, status=status)
    history.readers = []


def received(history: History, id: str, delivery: Delivery) -> None:
    [asked] = [each for each in history.asked if each.id == id]
    asked.result = msgspec.structs.replace(asked.result, delivery=delivery)


def a_gap(history: History) -> None:
    history.log[4] = msgspec.structs.replace(history.log[4], seq=6)


def a_number_twice(history: History) -> None:
    history.log[4] = msgspec.structs.replace(history.log[4], seq=4)


def a_line_lost(history: History) -> None:
    history.accounts[2].wrote.insert(1, b"more")


def the_last_line_lost(history: History) -> None:
    history.accounts[1].wrote.append(b"last words")


def a_line_doubled(history: History) -> None:
    doubled(history, is_line)


def lines_in_another_order(history: History) -> None:
    history.accounts[1].wrote.reverse()


def a_line_torn(history: History) -> None:
    history.accounts[1].wrote[0] += b"and more"


def a_line_after_the_end(history: History) -> None:
    moved(history, answers("a"), 7)


def a_line_of_the_old_worker(history: History) -> None:
    place = place_of(history, answers("a"))
    log = [*history.log]
    log.insert(place + 9, log[place])
    history.generations.insert(place + 9, 2)
    renumbered(history, log)


def no_answer(history: History) -> None:
    without(history, answers("b"))


def no_answer_from_the_worker(history: History) -> None:
    without(history, answers("c"))
    history.accounts[2].wrote.pop()


def an_answer_twice(history: History) -> None:
    doubled(history, answers("b"))


def an_answer_to_nothing(history: History) -> None:
    history.asked = [each for each in history.asked if each.id != "a"]


def the_end_before_the_answer(history: History) -> None:
    moved(history, says(State.ERROR), -1)


def busy_after_the_end(history: History) -> None:
    moved(history, lambda event: isinstance(event, StatusChanged) and event.seq == 7, 3)


def two_ends(history: History) -> None:
    doubled(history, says(State.ERROR))


def two_starts(history: History) -> None:
    doubled(history, says(State.IDLE))


def no_end(history: History) -> None:
    without(history, says(State.ERROR))


def an_end_of_nothing(history: History) -> None:
    history.deeds = []


def another_cause(history: History) -> None:
    said(history, says(State.ERROR), cause=Cause.LINK_LOST)


def another_exit(history: History) -> None:
    said(history, says(State.ERROR), exit=Exit(code=1))


def a_clean_end(history: History) -> None:
    said(history, says(State.ERROR), state=State.STOPPED)


def an_exit_never_told(history: History) -> None:
    said(history, says(State.ERROR), exit=Exit())


def a_stop_with_a_link_that_held(history: History) -> None:
    said(history, says(State.STOPPED), cause=Cause.LINK_SILENT)


def a_crash_at_a_stop(history: History) -> None:
    said(history, says(State.STOPPED), exit=Exit(code=3))


def a_kill_that_nobody_noticed(history: History) -> None:
    assert history.deeds is not None
    history.deeds.append(Deed("kill", 3, 3, ends=True))


def refused_and_arrived(history: History) -> None:
    received(history, "c", Delivery.REFUSED)


def refused_and_found_elsewhere(history: History) -> None:
    received(history, "b", Delivery.REFUSED)
    without(history, lambda event: isinstance(event, Sent) and event.id == "b")
    history.strangers.append(Account(took=b'{"params":"<b>"}\n'))


def read_twice(history: History) -> None:
    history.strangers.append(Account(took=b'{"params":"<a>"}\n'))


def sent_twice(history: History) -> None:
    doubled(history, lambda event: isinstance(event, Sent) and event.id == "b")


def written_and_never_sent(history: History) -> None:
    without(history, lambda event: isinstance(event, Sent) and event.id == "b")


def written_and_not_read_to_the_end(history: History) -> None:
    history.accounts[2].took = b""


def read_in_part(history: History) -> None:
    history.accounts[1].took = b'{"id": "a"}\n'


def refused_without_an_answer(history: History) -> None:
    received(history, "b", Delivery.UNKNOWN)


def a_status_made_up(history: History) -> None:
    asked = history.asked[0]
    status = msgspec.structs.replace(asked.result.status, state=State.IDLE)
    asked.result = msgspec.structs.replace(asked.result, status=status)


def a_call_with_another_result(history: History) -> None:
    history.asked[0].do, history.asked[0].result = "call", "something else"


def a_send_too_long(history: History) -> None:
    history.asked[0].timeout, history.asked[0].ended = 1.0, 40.0


def an_event_missed(history: History) -> None:
    del history.readers[0].events[3]


def an_event_seen_twice(history: History) -> None:
    history.readers[0].events.insert(3, history.readers[0].events[3])


def a_reader_ended_early(history: History) -> None:
    history.readers[0].events.pop()


def equal_messages_of_which_one_is_missing(history: History) -> None:
    for asked in history.asked:
        asked.mark = b""
    history.asked.append(msgspec.structs.replace(history.asked[0], id="d", request=False))


FORGERIES: dict[Callable[[History], None], str] = {
    a_gap: "sequence",
    a_number_twice: "sequence",
    a_line_lost: "lines",
    the_last_line_lost: "lost_lines",
    a_line_doubled: "lines",
    lines_in_another_order: "lines",
    a_line_torn: "lines",
    a_line_after_the_end: "lines",
    a_line_of_the_old_worker: "lines",
    no_answer: "answers",
    no_answer_from_the_worker: "answers",
    an_answer_twice: "answers",
    an_answer_to_nothing: "answers",
    the_end_before_the_answer: "answers",
    busy_after_the_end: "statuses",
    two_ends: "statuses",
    two_starts: "statuses",
    no_end: "statuses",
    an_end_of_nothing: "losses",
    another_cause: "losses",
    another_exit: "losses",
    a_clean_end: "statuses",
    an_exit_never_told: "losses",
    a_stop_with_a_link_that_held: "losses",
    a_crash_at_a_stop: "losses",
    a_kill_that_nobody_noticed: "losses",
    refused_and_arrived: "receipts",
    refused_and_found_elsewhere: "receipts",
    read_twice: "receipts",
    sent_twice: "receipts",
    written_and_never_sent: "receipts",
    written_and_not_read_to_the_end: "receipts",
    read_in_part: "wire",
    refused_without_an_answer: "receipts",
    a_status_made_up: "receipts",
    a_call_with_another_result: "receipts",
    a_send_too_long: "durations",
    an_event_missed: "subscribers",
    an_event_seen_twice: "subscribers",
    a_reader_ended_early: "subscribers",
    equal_messages_of_which_one_is_missing: "receipts",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forgery_is_found(forge: Callable[[History], None]) -> None:
    """What is changed breaks the rule that stands against it."""
    history = true_history()
    forge(history)
    broken = broken_rules(history)
    assert any(each.startswith(FORGERIES[forge]) for each in broken), broken


# -- what a worker and this process tell -----------------------------------------------------------


def test_an_account_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """A worker that was killed while it wrote it down left its last record torn."""
    path = tmp_path / "7-1"
    whole = b"h1\n7w5\nhellod0\nr6\n<a>..\nw3\nyes"
    path.write_bytes(whole + b"d0\nr9\n<b>")
    account = read_account(path)
    assert (account.pid, bytes(account.took), account.wrote) == (7, b"<a>..\n", [b"hello", b"yes"])
    assert (account.whole, account.over) == (True, False)
    path.write_bytes(whole)
    assert not read_account(path).whole
    path.write_bytes(whole + b"d0\nt2\nhae0\n")
    account = read_account(path)
    assert (bytes(account.took), account.over) == (b"<a>..\nha", True)


def test_what_is_left_over_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child, a descriptor or a thread that was not there before."""
    monkeypatch.setattr("tests.faults.belongings.GONE_WITHIN", 0.1)
    before = belongings()
    assert left_over(before) == []
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.read(ours, 1)
        os._exit(0)
    try:
        left = left_over(before)
        assert f"a child process: {child}" in left[0]
        assert left[1].startswith("2 descriptors of")
    finally:
        os.write(theirs, b"!")
        os.waitpid(child, 0)
        os.close(ours)
        os.close(theirs)
    assert left_over(before) == []
