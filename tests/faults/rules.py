"""What must hold of every session, whatever was asked of it and whatever befell it.

One set of rules for all histories: of drawn schedules on the in-memory transport, and of real
workers on real transports. A rule asks for no more than a history knows: without a worker's own
account only the journal and the client's side are held against each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from holdfast import (
    Kind,
    Lagged,
    Line,
    Origin,
    Reason,
    SessionClosed,
    State,
    Status,
    StatusChanged,
)

from .history import History
from .rules_of_delivery import is_request, lines, lost_lines, receipts, wire
from .rules_of_losses import ENDS, LOSSES, losses

_BUSY = {Reason.PROMPT, Reason.PROMPT_COMPLETE, Reason.PROMPT_ERROR}


def broken_rules(history: History) -> list[str]:
    """Every rule that this history breaks, in words."""
    return [
        *history.trouble,
        *sequence(history),
        *statuses(history),
        *answers(history),
        *lines(history),
        *wire(history),
        *receipts(history),
        *subscribers(history),
        *durations(history),
        *losses(history),
        *lost_lines(history),
    ]


def sequence(history: History) -> Iterator[str]:
    """Events are numbered from 1, by 1."""
    for position, event in enumerate(history.log):
        if event.seq != position + 1:
            yield f"sequence: event {position + 1} has seq {event.seq}"
            return
        if isinstance(event, StatusChanged) and event.status.seq != event.seq:
            yield f"sequence: a status has seq {event.status.seq} in event {event.seq}"


def statuses(history: History) -> Iterator[str]:
    """One start and one end for each generation, at most one later word about its exit."""
    running: str | None = None  # the worker whose start was announced and whose end was not
    before: Status | None = None
    told_exit: set[str | None] = set()
    started: set[str | None] = set()
    for event in history.log:
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        what = f"statuses: {status.state}/{status.reason} at {event.seq}"
        if status.reason in (Reason.START, Reason.RESTART) and status.state is State.IDLE:
            if running is not None:
                yield f"{what} starts {status.worker_id} while {running} has not ended"
            if status.worker_id in started:
                yield f"{what} starts {status.worker_id} again"
            running = status.worker_id
            started.add(running)
        elif status.reason in _BUSY:
            if running is None:
                yield f"{what}, and no worker runs"
            elif before is not None and (before.state is State.BUSY) == (
                status.state is State.BUSY
            ):
                yield f"{what} follows {before.state}"
        elif status.state is State.RESTARTING:
            running = None
        elif status.reason in LOSSES:
            if running is not None:
                running = None
            elif not _adds_exit(before, status):
                yield f"{what} is a second end of {status.worker_id}"
            elif status.worker_id in told_exit:
                yield f"{what} tells the exit of {status.worker_id} again"
            else:
                told_exit.add(status.worker_id)
        elif status.reason is Reason.STOP:
            if running is None and before is not None and before.state is State.STOPPED:
                if not _adds_exit(before, status) or status.worker_id in told_exit:
                    yield f"{what} is a second end of {status.worker_id}"
                told_exit.add(status.worker_id)
            running = None
        elif status.reason is Reason.INITIALIZATION_FAILED:
            if running is not None:
                yield f"{what} while {running} runs"
        else:
            yield f"{what} is unheard of"
        clean = status.exit is not None and status.exit.code == 0
        if status.state is State.STOPPED and status.reason is Reason.PROCESS_EXIT and not clean:
            yield f"{what} claims a clean end with {status.exit}"
        before = status


def _adds_exit(before: Status | None, status: Status) -> bool:
    return (
        before is not None
        and (before.state, before.reason, before.worker_id, before.detail, before.cause)
        == (status.state, status.reason, status.worker_id, status.detail, status.cause)
        and (before.exit is None or not before.exit.reported)
        and status.exit is not None
        and status.exit.reported
    )


def answers(history: History) -> Iterator[str]:
    """Each accepted request is answered once, before its generation's end is announced."""
    found: Counter[object] = Counter(
        event.id
        for event in history.log
        if isinstance(event, Line)
        and event.kind is Kind.ANSWER
        and (history.faithful or event.origin is Origin.HOLDFAST)
    )
    due: Counter[object] = Counter(each.id for each in history.asked if is_request(each))
    closed: Counter[object] = Counter(
        each.id for each in history.asked if isinstance(each.result, SessionClosed)
    )
    if history.asked:
        for id in {*due, *found}:
            least = due[id] - closed[id] if history.faithful else 0
            if not least <= found[id] <= due[id]:
                yield f"answers: {id!r} was asked {due[id]} times and answered {found[id]} times"
    elif history.faithful:
        for id, count in found.items():
            if count > 1 and id is not None:
                yield f"answers: {id!r} was answered {count} times"
    for accepted in history.accepted:
        for event in history.log[accepted.position :]:
            if isinstance(event, Line) and event.kind is Kind.ANSWER and event.id == accepted.id:
                break
            if isinstance(event, StatusChanged) and event.status.state in ENDS:
                yield (
                    f"answers: {accepted.id!r} of generation {accepted.generation} was not "
                    f"answered before {event.status.state} at {event.seq}"
                )
                break
        else:
            yield f"answers: {accepted.id!r} of generation {accepted.generation} never came"


def subscribers(history: History) -> Iterator[str]:
    """Each sees all that comes after its cursor, once and in order, or is told what it missed."""
    for reader in history.readers:
        due = reader.after + 1
        for event in reader.events:
            if isinstance(event, Lagged):
                if event.resume_from <= due:
                    yield f"subscribers: {reader.name} lags to {event.resume_from}, due was {due}"
                due = event.resume_from
                continue
            if event.seq != due:
                yield f"subscribers: {reader.name} got {event.seq}, due was {due}"
                break
            if event != history.log[event.seq - 1]:
                yield f"subscribers: {reader.name} got another event {event.seq}"
                break
            due += 1
        else:
            if reader.ended and due <= len(history.log):
                yield f"subscribers: {reader.name} ended before {due} of {len(history.log)}"
            if history.retains_all and any(isinstance(event, Lagged) for event in reader.events):
                yield f"subscribers: {reader.name} lagged although all was retained"


def durations(history: History) -> Iterator[str]:
    """What has a bound ends within it."""
    for asked in history.asked:
        if asked.ended is None:
            continue
        took = asked.ended - asked.began
        timeout = asked.timeout
        if timeout is None and asked.do == "send":
            timeout = history.send_timeout
        late = False
        if asked.do == "send" and timeout is not None:
            # A worker may have to be started first, and then the message waits as long once more.
            late = took > 2 * timeout + history.slack
        elif asked.do in ("call", "wait_for") and timeout is not None:
            late = took > timeout + history.patience
        elif asked.cancel is not None:
            late = took > asked.cancel + history.patience
        if late:
            yield f"durations: {asked} took {took:.3f} s"
