"""What must hold of every session, whatever was asked of it and whatever befell it.

One set of rules for all histories: of drawn schedules on the in-memory transport, and of real
workers on real transports. A rule asks for no more than a history knows: without a worker's own
account only the journal and the client's side are held against each other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from holdfast import (
    CallError,
    Cause,
    Delivery,
    Event,
    Exit,
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

from .history import MARK, Account, Asked, Deed, History

_STAMP = re.compile(rb"@(\d{4})@")
_ENDS = (State.ERROR, State.STOPPED)
_BUSY = {Reason.PROMPT, Reason.PROMPT_COMPLETE, Reason.PROMPT_ERROR}
_LOSSES = {Reason.PROCESS_EXIT, Reason.READ_LOOP_ERROR, Reason.STDIN_BROKEN}
_LADDER = {"0", "SIGTERM", "SIGKILL"}
"""How a worker may end that we stop: by the end of its stdin, or by our signals."""


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


def answers(history: History) -> Iterator[str]:
    """Each accepted request is answered once, before its generation's end is announced."""
    found: Counter[object] = Counter(
        event.id
        for event in history.log
        if isinstance(event, Line)
        and event.kind is Kind.ANSWER
        and (history.faithful or event.origin is Origin.HOLDFAST)
    )
    due: Counter[object] = Counter(each.id for each in history.asked if _is_request(each))
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
            if isinstance(event, StatusChanged) and event.status.state in _ENDS:
                yield (
                    f"answers: {accepted.id!r} of generation {accepted.generation} was not "
                    f"answered before {event.status.state} at {event.seq}"
                )
                break
        else:
            yield f"answers: {accepted.id!r} of generation {accepted.generation} never came"


def _is_request(asked: Asked) -> bool:
    return asked.request and not isinstance(asked.result, InvalidMessage)


def lines(history: History) -> Iterator[str]:
    """A worker's lines come once, in order, whole, and between its start and its end."""
    seen: dict[int, list[Line | LineTooLong]] = {}
    ended: set[int] = set()
    for event, generation in zip(history.log, history.generations, strict=True):
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
        if generation not in history.accounts:
            continue
        said = history.accounts[generation].wrote
        if len(events) > len(said):
            yield f"lines: {len(events)} of generation {generation}, which wrote {len(said)}"
            continue
        for place, event in enumerate(events):
            if isinstance(event, LineTooLong):
                good = event.size <= len(said[place]) and said[place].startswith(event.head)
            elif event.terminated:
                good = event.data == said[place]
            else:
                framed = history.framed(said[place])
                good = place == len(events) - 1 and event.data in framed
            if not good:
                yield f"lines: {_short(event)} where the worker wrote {said[place][:80]!r}"
                break


def wire(history: History) -> Iterator[str]:
    """A worker receives what ``Sent`` tells, in that order, whole but for the very last."""
    sent = _sent(history)
    for generation, account in history.accounts.items():
        frames = sent.get(generation, [])
        took = bytes(account.took)
        if not b"".join(frames).startswith(took):
            yield f"wire: generation {generation} took {took[:300]!r}, Sent tells {frames!r:.300}"
        elif _took_all(history, generation, account) and len(took) < sum(map(len, frames[:-1])):
            yield f"wire: generation {generation} lacks a part of a message before its last"
    if any(account.exact for account in history.accounts.values()):
        for generation in sorted(sent.keys() - history.accounts.keys()):
            yield f"wire: Sent in generation {generation}, which has no channel"


def _sent(history: History) -> dict[int, list[bytes]]:
    """What was handed to the transport, as it stands on the wire, for each generation."""
    sent: dict[int, list[bytes]] = {}
    for event, generation in zip(history.log, history.generations, strict=True):
        if type(event) is Sent:
            sent.setdefault(generation, []).append(history.framed(event.data))
    return sent


def _took_all(history: History, generation: int, account: Account) -> bool:
    """Whether a worker has got all that was written for it: it saw what stood behind it."""
    if account.exact:
        return True
    return account.over and history.deeds is not None and _link_held(history, generation)


class _Arrivals:
    """Which messages came how far, by their marks."""

    def __init__(self, history: History) -> None:
        self.told: Counter[bytes] = Counter()  # by what ``Sent`` tells; those without a mark, too
        self.whole: Counter[bytes] = Counter()
        self.part: Counter[bytes] = Counter()
        self.exact: set[int] = set()
        for event in history.log:
            if type(event) is Sent:
                self.told.update({event.data, *MARK.findall(event.data)})
        sent = _sent(history)
        for generation, account in history.accounts.items():
            took, place = len(account.took), 0
            if _took_all(history, generation, account):
                self.exact.add(generation)
            for frame in sent.get(generation, ()):
                marks = MARK.findall(frame)
                if took > place:
                    self.part.update(marks)
                if took >= place + len(frame):
                    self.whole.update(marks)
                place += len(frame)
        # A message must not be found beyond what the journal tells, nor with two workers.
        found: Counter[bytes] = Counter()
        for account in [*history.accounts.values(), *history.strangers]:
            found.update(MARK.findall(account.took))
        for mark, count in found.items():
            self.part[mark] = max(self.part[mark], count)


def receipts(history: History) -> Iterator[str]:
    """What a receipt says is so, and so is what our answers say of a delivery."""
    known = {event.seq: event.status for event in history.log if isinstance(event, StatusChanged)}
    arrivals = _Arrivals(history)
    where = {
        mark: generation
        for event, generation in zip(history.log, history.generations, strict=True)
        if type(event) is Sent
        for mark in MARK.findall(event.data)
    }
    for asked in history.asked:
        result = asked.result
        if isinstance(result, InvalidMessage) and not asked.may_be_invalid:
            yield f"receipts: {asked} raised {result!r}"
        if not isinstance(result, Receipt):
            if isinstance(result, Status) and result.seq and known.get(result.seq) != result:
                yield f"receipts: {asked} gave a status that was never announced: {result}"
            continue
        if result.status.seq and known.get(result.status.seq) != result.status:
            yield f"receipts: {asked} tells a status that was never announced: {result.status}"
        if asked.mark:
            told, part = arrivals.told[asked.mark], arrivals.part[asked.mark]
            if result.delivery is Delivery.WRITTEN and told != 1:
                yield f"receipts: {asked} was written, and Sent tells of it {told} times"
            exact = where.get(asked.mark) in arrivals.exact
            if result.delivery is Delivery.WRITTEN and exact and not arrivals.whole[asked.mark]:
                yield f"receipts: {asked} was written, and not taken"
            if result.delivery is Delivery.REFUSED and (part or told):
                yield f"receipts: {asked} was refused, and bytes of it were taken"
            if part > 1 or told > 1:
                yield f"receipts: {asked} was sent {max(part, told)} times"
        unwritten = result.delivery is not Delivery.WRITTEN and _is_request(asked)
        if unwritten and asked.answered == 0:
            yield f"receipts: {asked} gave {result.delivery}, and no answer stood there yet"
        if result.delivery is Delivery.UNKNOWN and not any(
            status.state in (*_ENDS, State.RESTARTING) and seq <= result.status.seq
            for seq, status in known.items()
        ):
            yield f"receipts: {asked} is unknown, and the status {result.status.state} says no loss"
    yield from _equal_messages(history, arrivals)
    given: dict[object, list[Line]] = {}
    for event in history.log:
        if isinstance(event, Line) and event.kind is Kind.ANSWER:
            given.setdefault(event.id, []).append(event)
    for asked in history.asked:
        yield from _call(asked, given.get(asked.id, []))
    for event in history.log:
        if isinstance(event, Line) and event.origin is Origin.HOLDFAST:
            yield from _coherent(history, event, arrivals, where)


def _equal_messages(history: History, arrivals: _Arrivals) -> Iterator[str]:
    """Messages without a mark are counted: at least those written, none of those refused."""
    asked: Counter[bytes] = Counter()
    written: Counter[bytes] = Counter()
    refused: Counter[bytes] = Counter()
    for each in history.asked:
        if each.mark or each.data is None:
            continue
        asked[each.data] += 1
        if isinstance(each.result, Receipt):
            written[each.data] += each.result.delivery is Delivery.WRITTEN
            refused[each.data] += each.result.delivery is Delivery.REFUSED
    sent = Counter(event.data for event in history.log if type(event) is Sent)
    for data, count in asked.items():
        if not written[data] <= sent[data] <= count - refused[data]:
            yield (
                f"receipts: of {count} messages {data[:80]!r} {written[data]} were written and "
                f"{refused[data]} refused, and Sent tells of {sent[data]}"
            )


def _coherent(
    history: History, line: Line, arrivals: _Arrivals, where: dict[bytes, int]
) -> Iterator[str]:
    """What our answer says of the delivery is true."""
    error = json.loads(line.data).get("error")
    data = (error or {}).get("data") or {}
    marks = [each.mark for each in history.asked if each.id == line.id and each.sends]
    if len(marks) != 1 or not marks[0] or "delivery" not in data:
        return
    [mark] = marks
    if data["delivery"] == "refused" and (arrivals.part[mark] or arrivals.told[mark]):
        yield f"receipts: {line.id!r} was refused, says {line.seq}, and bytes of it were taken"
    exact = where.get(mark) in arrivals.exact
    if data["delivery"] == "written" and exact and not arrivals.whole[mark]:
        yield f"receipts: {line.id!r} was written, says {line.seq}, and it was not taken"


def _call(asked: Asked, given: list[Line]) -> Iterator[str]:
    """A call ends as its answer says."""
    result = asked.result
    if asked.do != "call" or not asked.request:
        return
    if isinstance(result, TimeoutError):
        if asked.timeout is None:
            yield f"receipts: {asked} timed out without a timeout"
        return
    if asked.cancelled or isinstance(result, InvalidMessage | SessionClosed):
        return
    if not given:
        yield f"receipts: {asked} gave {result!r}, and there is no answer"
        return
    for line in given:
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
    yield f"receipts: {asked} gave {result!r}, and the answer is {given[0].data[:200]!r}"


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


def losses(history: History) -> Iterator[str]:
    """What is said of a worker's end fits what was done to it, and what ends it is noticed."""
    if history.deeds is None:
        return
    ended: set[int] = set()
    generation = 0
    after: dict[int, Status] = {}  # the last word about each end
    for event in history.log:
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        if status.reason in (Reason.START, Reason.RESTART) and status.state is State.IDLE:
            generation = _generation(status)
        elif status.state in (*_ENDS, State.RESTARTING):
            ended.add(generation)
            # A stop of what had ended already tells nothing of it.
            if generation not in after or after[generation].reason is status.reason:
                after[generation] = status
            yield from _fits(history, generation, status)
    for deed in history.deeds:
        if deed.ends and deed.first not in ended:
            yield f"losses: {deed.what} in generation {deed.first}, and its end was never told"
    for generation, status in after.items():
        told = status.exit is not None and status.exit.reported
        if told or status.reason not in (*_LOSSES, Reason.STOP):
            continue
        named = not any(deed.unnamed for deed in _deeds(history, generation))
        due = history.reports_exit and named and _link_held(history, generation)
        if due and not _restarted_at_once(history, status):
            yield f"losses: how generation {generation} ended was never told: {status}"


def _generation(status: Status) -> int:
    return int((status.worker_id or "/0").rpartition("/")[2])


def _deeds(history: History, generation: int) -> list[Deed]:
    return [each for each in history.deeds or () if each.first <= generation <= each.last]


def _link_held(history: History, generation: int) -> bool:
    return not any(deed.link for deed in _deeds(history, generation))


def _restarted_at_once(history: History, status: Status) -> bool:
    """Whether nobody could add an exit to this status any more."""
    for event in history.log[status.seq :]:
        if isinstance(event, StatusChanged):
            return event.status.state is State.RESTARTING
    return False


def _fits(history: History, generation: int, status: Status) -> Iterator[str]:
    deeds = _deeds(history, generation)
    done = ", ".join(each.what for each in deeds) or "nothing"
    said = f"{status.state}/{status.reason} at {status.seq}"
    exit = _named(status.exit)
    if status.reason in _LOSSES:
        if not deeds:
            yield f"losses: generation {generation} is lost, says {said}, and nothing was done"
            return
        if status.reason is Reason.READ_LOOP_ERROR:
            yield f"losses: {said} tells of a mistake: {status.detail}"
        causes = frozenset().union(*(each.causes for each in deeds))
        if not _link_held(history, generation):
            causes |= {Cause.UNKNOWN}  # two faults at once: nothing is claimed of either
        if status.cause is not None and status.cause not in causes:
            yield f"losses: {said} tells of {status.cause}, and what was done is {done}"
        exits = frozenset().union(*(each.exits for each in deeds))
        if status.reason is not Reason.PROCESS_EXIT or status.cause is not Cause.WORKER_EXITED:
            exits |= _LADDER  # it lived, and we have ended it since
        if exit is not None and exit not in exits:
            yield f"losses: {said} tells that it ended by {exit}, and what was done is {done}"
    elif status.reason is Reason.STOP:
        exits = _LADDER.union(*(each.exits for each in deeds))
        if exit is not None and exit not in exits:
            yield f"losses: {said} tells that it ended by {exit}, and what was done is {done}"
        if status.cause in (Cause.LINK_LOST, Cause.LINK_SILENT) and not any(
            status.cause in each.causes for each in deeds
        ):
            yield f"losses: {said} tells of {status.cause}, and what was done is {done}"


_BY_CODE = {"137": "SIGKILL", "143": "SIGTERM"}


def _named(exit: Exit | None) -> str | None:
    """How it ended, in a word; a shell's code for a signal is taken for the signal."""
    if exit is None or not exit.reported:
        return None
    return exit.signal or _BY_CODE.get(str(exit.code), str(exit.code))


def lost_lines(history: History) -> Iterator[str]:
    """All that a worker wrote before an end that it came to by itself stands in the journal."""
    if history.deeds is None:
        return
    got: Counter[int] = Counter()
    for event, generation in zip(history.log, history.generations, strict=True):
        if isinstance(event, LineTooLong) or (
            isinstance(event, Line) and event.origin is Origin.WORKER
        ):
            got[generation] += 1
    for generation, account in history.accounts.items():
        wrote = len(account.wrote) - (not account.whole)
        if got[generation] < wrote and _heard_out(history, generation):
            yield (
                f"lost_lines: generation {generation} wrote {wrote} lines, and {got[generation]} "
                f"stand in the journal: {account.wrote[got[generation]][:100]!r} is the first lost"
            )


def _heard_out(history: History, generation: int) -> bool:
    """Whether a worker's output was read to its end."""
    if not _link_held(history, generation):
        return False
    running = 0
    for event in history.log:
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        if status.reason in (Reason.START, Reason.RESTART) and status.state is State.IDLE:
            running = _generation(status)
        elif running == generation and status.state in (*_ENDS, State.RESTARTING):
            if status.reason is Reason.PROCESS_EXIT:
                return True
            return status.reason in (Reason.STOP, Reason.RESTART) and status.cause is None
    return False


def _short(event: Event) -> str:
    return repr(event)[:200]
