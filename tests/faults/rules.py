"""What must hold of every run, whatever was asked of the session and whatever befell it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from holdfast import (
    CallError,
    Delivery,
    Event,
    InvalidMessage,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    Origin,
    Reason,
    Receipt,
    Sent,
    SessionClosed,
    State,
    Status,
    StatusChanged,
    WorkerLost,
)
from holdfast._dialect import LOST_CODE

from .play import Outcome, Record

_STAMP = re.compile(rb"@(\d{4})@")
_ENDS = (State.ERROR, State.STOPPED)
_BUSY = {Reason.PROMPT, Reason.PROMPT_COMPLETE, Reason.PROMPT_ERROR}
_LOSSES = {Reason.PROCESS_EXIT, Reason.READ_LOOP_ERROR, Reason.STDIN_BROKEN}
_SLACK = 31.0
"""Virtual seconds: the worker that is being stopped before a start, with every grace in full, and
the time in which a loss is declared."""


def broken_rules(record: Record) -> list[str]:
    """Every rule that this run broke, in words."""
    return [
        *record.trouble,
        *sequence(record),
        *statuses(record),
        *answers(record),
        *lines(record),
        *wire(record),
        *receipts(record),
        *subscribers(record),
        *durations(record),
    ]


def sequence(record: Record) -> Iterator[str]:
    """Events are numbered from 1, by 1."""
    for position, event in enumerate(record.log):
        if event.seq != position + 1:
            yield f"sequence: event {position + 1} has seq {event.seq}"
            return
        if isinstance(event, StatusChanged) and event.status.seq != event.seq:
            yield f"sequence: a status has seq {event.status.seq} in event {event.seq}"


def statuses(record: Record) -> Iterator[str]:
    """One start and one end for each generation, at most one later word about its exit."""
    running: str | None = None  # the worker whose start was announced and whose end was not
    before: Status | None = None
    told_exit: set[str | None] = set()
    started: set[str | None] = set()
    for event in record.log:
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
        elif status.reason in _LOSSES:
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


def answers(record: Record) -> Iterator[str]:
    """Each accepted request is answered once, before its generation's end is announced."""
    found: Counter[object] = Counter(
        event.id for event in record.log if isinstance(event, Line) and event.kind is Kind.ANSWER
    )
    due: Counter[object] = Counter(
        each.op.id for each in record.outcomes if _is_request(record, each)
    )
    closed: Counter[object] = Counter(
        each.op.id for each in record.outcomes if isinstance(each.result, SessionClosed)
    )
    for id in {*due, *found}:
        if not due[id] - closed[id] <= found[id] <= due[id]:
            yield f"answers: {id!r} was asked {due[id]} times and answered {found[id]} times"
    for accepted in record.accepted:
        for event in record.log[accepted.position :]:
            if isinstance(event, Line) and event.kind is Kind.ANSWER and event.id == accepted.id:
                break
            if isinstance(event, StatusChanged) and event.status.state in _ENDS:
                yield (
                    f"answers: {accepted.id!r} of generation {accepted.generation} was not "
                    f"answered before {event.status.state} at {event.seq}"
                )
                break
    for event in record.log:
        if isinstance(event, Line) and event.origin is Origin.HOLDFAST:
            yield from _coherent(record, event)


def _is_request(record: Record, outcome: Outcome) -> bool:
    if record.schedule.dialect == "lines":
        return False
    if outcome.op.do not in ("request", "call", "again", "cancel"):
        return False
    return not isinstance(outcome.result, InvalidMessage)


def _coherent(record: Record, line: Line) -> Iterator[str]:
    """What our answer says of the delivery is true."""
    error = json.loads(line.data).get("error")
    data = (error or {}).get("data") or {}
    marks = [each.mark for each in record.outcomes if each.op.id == line.id]
    if len(marks) != 1 or "delivery" not in data:
        return
    whole, part = _arrived(record, marks[0])
    if data["delivery"] == "refused" and part:
        yield f"answers: {line.id!r} was refused, says {line.seq}, and bytes of it were taken"
    if data["delivery"] == "written" and not whole:
        yield f"answers: {line.id!r} was written, says {line.seq}, and it was not taken"


def lines(record: Record) -> Iterator[str]:
    """A worker's lines come once, in order, whole, and between its start and its end."""
    seen: dict[int, list[Line | LineTooLong]] = {}
    ended: set[int] = set()
    for event, generation in zip(record.log, record.generations, strict=True):
        if isinstance(event, StatusChanged):
            if event.status.state in _ENDS:
                ended.add(generation)
        elif isinstance(event, LineTooLong) or (
            isinstance(event, Line) and event.origin is Origin.WORKER
        ):
            if generation in ended:
                yield f"lines: event {event.seq} of generation {generation} came after its end"
            text = event.data if isinstance(event, Line) else event.head
            stamp = _STAMP.search(text)
            if stamp and int(stamp[1]) != generation:
                yield f"lines: event {event.seq} in generation {generation} is {text[:80]!r}"
            seen.setdefault(generation, []).append(event)
    for generation, events in seen.items():
        said = record.written.get(generation, [])
        if len(events) > len(said):
            yield f"lines: {len(events)} of generation {generation}, which wrote {len(said)}"
            continue
        for place, event in enumerate(events):
            if isinstance(event, LineTooLong):
                good = event.size <= len(said[place]) and said[place].startswith(event.head)
            elif event.terminated:
                good = event.data == said[place]
            else:
                framed = record.framed(said[place])
                good = place == len(events) - 1 and event.data in framed
            if not good:
                yield f"lines: {_short(event)} where the worker wrote {said[place][:80]!r}"
                break


def wire(record: Record) -> Iterator[str]:
    """A worker receives what ``Sent`` tells, in that order, whole but for the very last."""
    sent: dict[int, list[bytes]] = {}
    for event, generation in zip(record.log, record.generations, strict=True):
        if isinstance(event, Sent):
            sent.setdefault(generation, []).append(record.framed(event.data))
    for generation, channel in record.channels.items():
        frames = sent.pop(generation, [])
        taken = bytes(channel.taken)
        if not b"".join(frames).startswith(taken):
            yield f"wire: generation {generation} took {taken[:300]!r}, Sent tells {frames!r:.300}"
        elif len(taken) < sum(map(len, frames[:-1])):
            yield f"wire: generation {generation} lacks a part of a message before its last"
    if sent:
        yield f"wire: Sent in generations without a channel: {sorted(sent)}"


def receipts(record: Record) -> Iterator[str]:
    """What a receipt says is so."""
    known = {event.seq: event.status for event in record.log if isinstance(event, StatusChanged)}
    for outcome in record.outcomes:
        op, result = outcome.op, outcome.result
        deserved = op.do == "invalid" or op.id == "r0"  # r0 may be in flight already
        deserved = deserved or (record.schedule.dialect == "lines" and op.do == "call")
        if isinstance(result, InvalidMessage) and not deserved:
            yield f"receipts: {op} raised {result!r}"
        if not isinstance(result, Receipt):
            if isinstance(result, Status) and result.seq and known.get(result.seq) != result:
                yield f"receipts: {op} gave a status that was never announced: {result}"
            continue
        if result.status.seq and known.get(result.status.seq) != result.status:
            yield f"receipts: {op} tells a status that was never announced: {result.status}"
        whole, part = _arrived(record, outcome.mark)
        if result.delivery is Delivery.WRITTEN and whole != 1:
            yield f"receipts: {op} was written, and taken {whole} times"
        if result.delivery is Delivery.REFUSED and part:
            yield f"receipts: {op} was refused, and bytes of it were taken"
        if part > 1:
            yield f"receipts: {op} was sent {part} times"
        unwritten = result.delivery is not Delivery.WRITTEN and _is_request(record, outcome)
        if unwritten and outcome.answered == 0:
            yield f"receipts: {op} gave {result.delivery}, and no answer stood there yet"
        if result.delivery is Delivery.UNKNOWN and not any(
            status.state in (*_ENDS, State.RESTARTING) and seq <= result.status.seq
            for seq, status in known.items()
        ):
            yield f"receipts: {op} is unknown, and the status {result.status.state} says no loss"
    for outcome in record.outcomes:
        yield from _call(record, outcome)


def _call(record: Record, outcome: Outcome) -> Iterator[str]:
    """A call ends as its answer says."""
    op, result = outcome.op, outcome.result
    if op.do != "call" or record.schedule.dialect == "lines":
        return
    if isinstance(result, TimeoutError):
        if op.timeout is None:
            yield f"receipts: {op} timed out without a timeout"
        return
    if outcome.cancelled or isinstance(result, InvalidMessage | SessionClosed):
        return
    found = [e for e in record.log if isinstance(e, Line) and e.kind is Kind.ANSWER]
    mine = [e for e in found if e.id == op.id]
    if not mine:
        yield f"receipts: {op} gave {result!r}, and there is no answer"
        return
    for line in mine:
        content = json.loads(line.data)
        error = content.get("error")
        if isinstance(result, WorkerLost):
            fits = line.origin is Origin.HOLDFAST and error["code"] == LOST_CODE
            fits = fits and error["data"]["delivery"] == result.delivery
        elif isinstance(result, CallError):
            fits = error is not None and error["code"] == result.code
        else:
            fits = "result" in content and content["result"] == result
        if fits:
            return
    yield f"receipts: {op} gave {result!r}, and the answer is {mine[0].data[:200]!r}"


def _arrived(record: Record, mark: bytes) -> tuple[int, int]:
    """How often a message was taken whole, and how often at least in part."""
    whole = part = 0
    sent: dict[int, list[bytes]] = {}
    for event, generation in zip(record.log, record.generations, strict=True):
        if type(event) is Sent:
            sent.setdefault(generation, []).append(event.data)
    for generation, channel in record.channels.items():
        place = 0
        for data in sent.get(generation, ()):
            frame = record.framed(data)
            if mark in data:
                whole += len(channel.taken) >= place + len(frame)
                part += len(channel.taken) > place
            place += len(frame)
        if place == 0 and mark in channel.taken:
            part += 1
    return whole, part


def subscribers(record: Record) -> Iterator[str]:
    """Each sees all that comes after its cursor, once and in order, or is told what it missed."""
    for reader in record.readers:
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
            if event != record.log[event.seq - 1]:
                yield f"subscribers: {reader.name} got another event {event.seq}"
                break
            due += 1
        else:
            if due <= len(record.log):
                yield f"subscribers: {reader.name} ended before {due} of {len(record.log)}"
            if record.schedule.retained_bytes > 1e6 and any(
                isinstance(event, Lagged) for event in reader.events
            ):
                yield f"subscribers: {reader.name} lagged although all was retained"


def durations(record: Record) -> Iterator[str]:
    """What has a bound ends within it."""
    for outcome in record.outcomes:
        op = outcome.op
        if outcome.ended is None:
            continue
        took = outcome.ended - outcome.began
        timeout = op.timeout
        if timeout is None and op.do != "call":
            timeout = record.schedule.send_timeout
        if op.do in ("request", "notify", "again", "cancel") and timeout is not None:
            # A worker may have to be started first, and then the message waits as long once more.
            if took > 2 * timeout + _SLACK:
                yield f"durations: {op} took {took:.3f} s"
        elif op.do in ("call", "wait_for") and timeout is not None and took > timeout + 0.001:
            yield f"durations: {op} took {took:.3f} s"
        elif op.cancel is not None and took > op.cancel + 0.001:
            yield f"durations: {op} took {took:.3f} s although it was cancelled"


def _short(event: Event) -> str:
    return repr(event)[:200]
