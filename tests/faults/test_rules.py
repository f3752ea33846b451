"""The rules catch what they are there for: each planted mistake is found, by the rule it breaks.

Without these a checker that never complains would look like a session that never errs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from holdfast import Delivery, Line, Reason, State, StatusChanged
from holdfast._machine import Machine, Phase
from holdfast._session import Session
from holdfast._subscription import Subscription
from holdfast._worker import Worker
from holdfast.testing._clock import fake_clock
from holdfast.testing._faults import seeds
from holdfast.testing._memory import MemoryChannel

from .play import Player
from .rules import broken_rules
from .schedules import drawn

AT_MOST = 400
"""Schedules until a mistake must be found; most show within the first ten."""


def status_before_answers(patch: pytest.MonkeyPatch) -> None:
    ended = Machine.ended

    def wrong(self: Machine, *args: Any) -> list[Any]:
        events = ended(self, *args)
        if len(events) < 2 or not isinstance(events[-1], StatusChanged):
            return events
        *answers, status = events
        first = answers[0].seq
        return [
            msgspec.structs.replace(
                status, seq=first, status=msgspec.structs.replace(events[-1].status, seq=first)
            ),
            *(msgspec.structs.replace(each, seq=each.seq + 1) for each in answers),
        ]

    patch.setattr(Machine, "ended", wrong)


def answer_dropped(patch: pytest.MonkeyPatch) -> None:
    answer_all = Machine._answer_all

    def wrong(self: Machine, *args: Any) -> list[Any]:
        answers = answer_all(self, *args)
        if answers:
            self.last_seq -= 1
        return answers[:-1]

    patch.setattr(Machine, "_answer_all", wrong)


def answer_twice(patch: pytest.MonkeyPatch) -> None:
    answer_all = Machine._answer_all

    def wrong(self: Machine, *args: Any) -> list[Any]:
        answers = answer_all(self, *args)
        if answers:
            self.last_seq += 1
            answers.append(msgspec.structs.replace(answers[-1], seq=self.last_seq))
        return answers

    patch.setattr(Machine, "_answer_all", wrong)


def in_flight_kept(patch: pytest.MonkeyPatch) -> None:
    answer_all = Machine._answer_all

    def wrong(self: Machine, *args: Any) -> list[Any]:
        requests = dict(self._requests)
        answers = answer_all(self, *args)
        self._requests = requests
        return answers

    patch.setattr(Machine, "_answer_all", wrong)


def ended_twice(patch: pytest.MonkeyPatch) -> None:
    ended = Machine.ended

    def wrong(self: Machine, *args: Any) -> list[Any]:
        events = ended(self, *args)
        if events and isinstance(events[-1], StatusChanged):
            status = events[-1].status
            events.append(
                self._announce(
                    status.state, status.reason, "again", status.cause, status.worker, None
                )
            )
        return events

    patch.setattr(Machine, "ended", wrong)


def stale_line_accepted(patch: pytest.MonkeyPatch) -> None:
    """A new worker does not wait for the end of the old one, whose lines still count."""
    frames = Machine.frames

    def wrong(self: Machine, generation: int, *args: Any) -> list[Any]:
        phase, self.phase = self.phase, Phase.RUNNING
        try:
            return frames(self, self.generation, *args)
        finally:
            self.phase = phase

    patch.setattr(Machine, "frames", wrong)
    patch.setattr(Worker, "wait_over", lambda self: anyio.lowlevel.checkpoint())


def line_after_the_end(patch: pytest.MonkeyPatch) -> None:
    ended = Machine.ended

    def wrong(self: Machine, *args: Any) -> list[Any]:
        events = ended(self, *args)
        if events and isinstance(events[-1], StatusChanged):
            self.last_seq += 1
            events.append(Line(self.last_seq, b"late"))
        return events

    patch.setattr(Machine, "ended", wrong)


def seq_gap(patch: pytest.MonkeyPatch) -> None:
    sending = Machine.sending

    def wrong(self: Machine, *args: Any) -> list[Any]:
        self.last_seq += self.last_seq == 7
        return sending(self, *args)

    patch.setattr(Machine, "sending", wrong)


def half_a_line_written(patch: pytest.MonkeyPatch) -> None:
    """What a torn message leaves in the pipe, with the next one glued to it."""
    put = MemoryChannel._put

    def wrong(self: MemoryChannel, data: memoryview, *args: Any) -> int:
        if len(data) > 40 and len(self.taken) > 60:
            put(self, data[: len(data) // 2], *args)
            return len(data)
        return put(self, data, *args)

    patch.setattr(MemoryChannel, "_put", wrong)


def sent_twice(patch: pytest.MonkeyPatch) -> None:
    put = MemoryChannel._put

    def wrong(self: MemoryChannel, data: memoryview, *args: Any) -> int:
        count = put(self, data, *args)
        if count == len(data):
            self.taken += data
        return count

    patch.setattr(MemoryChannel, "_put", wrong)


def sent_tells_another_order(patch: pytest.MonkeyPatch) -> None:
    """The journal tells of each message when the next one is written."""
    sending = Machine.sending
    held: list[Any] = []

    def wrong(self: Machine, *args: Any) -> list[Any]:
        events = sending(self, *args)
        held.extend(events)
        if len(held) < 2 or not events:
            return events
        return [msgspec.structs.replace(events[0], data=held[-2].data)]

    patch.setattr(Machine, "sending", wrong)


def refused_although_written(patch: pytest.MonkeyPatch) -> None:
    deliver = Session._deliver

    async def wrong(self: Session, *args: Any) -> Any:
        receipt = await deliver(self, *args)
        return msgspec.structs.replace(receipt, delivery=Delivery.REFUSED)

    patch.setattr(Session, "_deliver", wrong)


def always_written(patch: pytest.MonkeyPatch) -> None:
    deliver = Session._deliver

    async def wrong(self: Session, *args: Any) -> Any:
        receipt = await deliver(self, *args)
        return msgspec.structs.replace(receipt, delivery=Delivery.WRITTEN)

    patch.setattr(Session, "_deliver", wrong)


def busy_for_ever(patch: pytest.MonkeyPatch) -> None:
    forget = Machine._forget

    def wrong(self: Machine, id: Any, *, failed: bool) -> list[Any]:
        self._busy += self._requests[id].busy
        return forget(self, id, failed=failed)

    patch.setattr(Machine, "_forget", wrong)


def event_skipped(patch: pytest.MonkeyPatch) -> None:
    """A cancelled reader loses what it was about to get."""
    take = Subscription._take

    async def wrong(self: Subscription, at_most: int) -> Any:
        events = await take(self, at_most)
        return events[1:] if len(events) == 3 else events

    patch.setattr(Subscription, "_take", wrong)


def stop_hangs(patch: pytest.MonkeyPatch) -> None:
    async def wrong(self: Worker, channel: Any) -> None:
        await anyio.sleep_forever()

    patch.setattr(Worker, "_ladder", wrong)


def broken_reaches_the_caller(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Worker, broken: Exception) -> None:
        raise broken

    patch.setattr(Worker, "_broke", wrong)


def crash_told_as_a_clean_end(patch: pytest.MonkeyPatch) -> None:
    announce = Machine._announce

    def wrong(self: Machine, state: Any, reason: Any, *args: Any, **named: Any) -> Any:
        if reason is Reason.PROCESS_EXIT:
            state = State.STOPPED
        return announce(self, state, reason, *args, **named)

    patch.setattr(Machine, "_announce", wrong)


def first_loss_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A worker that is lost while idle is noticed by nobody."""
    until = Worker._until

    def wrong(self: Worker, condition: Callable[[], bool], seconds: float | None = None) -> Any:
        if seconds is None and self._channel is not None and not self._declared:
            return until(self, lambda: self._stop_asked)
        return until(self, condition, seconds)

    patch.setattr(Worker, "_until", wrong)


PLANTED: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    status_before_answers: "answers",
    answer_dropped: "answers",
    answer_twice: "answers",
    in_flight_kept: "at ",
    ended_twice: "statuses",
    stale_line_accepted: "",
    line_after_the_end: "lines",
    seq_gap: "sequence",
    half_a_line_written: "wire",
    sent_twice: "wire",
    sent_tells_another_order: "wire",
    refused_although_written: "receipts",
    always_written: "receipts",
    busy_for_ever: "at ",
    event_skipped: "subscribers",
    stop_hangs: "",
    broken_reaches_the_caller: "",
    crash_told_as_a_clean_end: "statuses",
    first_loss_is_not_told: "",
}


async def first_found(rule: str) -> str | None:
    for seed in seeds(AT_MOST):
        for broken in broken_rules((await Player(drawn(seed)).play()).history):
            if broken.startswith(rule):
                return broken
    return None


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake planted in core breaks the rule that stands against it."""
    plant(monkeypatch)
    found = anyio.run(
        first_found, PLANTED[plant], backend="asyncio", backend_options=fake_clock("asyncio")
    )
    assert found is not None, f"{plant.__name__} went unnoticed in {AT_MOST} schedules"
