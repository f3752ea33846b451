"""Rules on what passes between client and worker: lines and messages, receipts and answers."""

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

from .history import MARK, Account, Asked, History
from .rules_of_losses import ENDS, generation_of, link_held

_STAMP = re.compile(rb"@(\d{4})@")


def lines(history: History) -> Iterator[str]:
    """A worker's lines come once, in order, whole, and between its start and its end."""
    seen: dict[int, list[Line | LineTooLong]] = {}
    ended: set[int] = set()
    for event, generation in zip(history.log, history.generations, strict=True):
        if isinstance(event, StatusChanged):
            if event.status.state in ENDS:
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
    return account.over and history.deeds is not None and link_held(history, generation)


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
        unwritten = result.delivery is not Delivery.WRITTEN and is_request(asked)
        if unwritten and asked.answered == 0:
            yield f"receipts: {asked} gave {result.delivery}, and no answer stood there yet"
        if result.delivery is Delivery.UNKNOWN and not any(
            status.state in (*ENDS, State.RESTARTING) and seq <= result.status.seq
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


def is_request(asked: Asked) -> bool:
    """Whether it is a request that somebody has to answer."""
    return asked.request and not isinstance(asked.result, InvalidMessage)


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
    if not link_held(history, generation):
        return False
    running = 0
    for event in history.log:
        if not isinstance(event, StatusChanged):
            continue
        status = event.status
        if status.reason in (Reason.START, Reason.RESTART) and status.state is State.IDLE:
            running = generation_of(status)
        elif running == generation and status.state in (*ENDS, State.RESTARTING):
            if status.reason is Reason.PROCESS_EXIT:
                return True
            return status.reason in (Reason.STOP, Reason.RESTART) and status.cause is None
    return False


def _short(event: Event) -> str:
    return repr(event)[:200]
