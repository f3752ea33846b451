"""Thousands of drawn lives of a session, each held against every rule of ``rules.py``.

A failure prints the seed, the whole schedule and the least of it that still fails.
``HOLDFAST_SEED=N`` plays exactly that one.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator, Sequence

import anyio
import pytest

from holdfast.testing._clock import fake_clock
from holdfast.testing._faults import SEED_VARIABLE, Fault, seeds, shrink

from .play import ERRORS, Player, Record
from .rules import broken_rules
from .schedules import Op, Schedule, drawn

PER_BATCH = 500
BATCHES = 20
BACKENDS = ("asyncio", "trio")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """A lost worker is a warning each time; only what core calls an error is looked at."""
    logger = logging.getLogger("holdfast")
    logger.addHandler(ERRORS)
    before = logger.level, logger.propagate
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    # Each schedule leaves some thousand objects behind, few of them in cycles: looking for those
    # after each 700 allocations takes a fifth of the whole time.
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, *thresholds[1:])
    yield
    gc.set_threshold(*thresholds)
    logger.removeHandler(ERRORS)
    logger.setLevel(before[0])
    logger.propagate = before[1]


async def play_all(schedules: Sequence[Schedule]) -> tuple[Schedule, Record, list[str]] | None:
    """Play one after the other, until one breaks a rule."""
    for schedule in schedules:
        record = await Player(schedule).play()
        if broken := broken_rules(record.history):
            return schedule, record, broken
    return None


def run(backend: str, schedules: Sequence[Schedule]) -> tuple[Schedule, Record, list[str]] | None:
    return anyio.run(play_all, schedules, backend=backend, backend_options=fake_clock(backend))


def explain(backend: str, schedule: Schedule, record: Record, broken: list[str]) -> str:
    """The finding, and the least schedule that shows it."""
    rule = broken[0].split(":")[0]

    def fails(parts: list[Op | Fault]) -> bool:
        found = run(backend, [schedule.only(parts)])
        return found is not None and any(each.split(":")[0] == rule for each in found[2])

    least = schedule.only(shrink(schedule.parts, fails))
    again = run(backend, [least]) or (schedule, record, broken)
    count = f"{len(schedule.parts)} parts to {len(again[0].parts)}"
    told = [f"{backend}: {len(broken)} broken rules; replay with {SEED_VARIABLE}={schedule.seed}"]
    told += [f"  - {each}" for each in broken[:10]]
    history = again[1].history
    told += ["", f"the least schedule that breaks it ({count}):", str(again[0])]
    told += [f"  - {each}" for each in again[2][:10]]
    told += ["its journal, with generations:"]
    told += [
        f"  {generation} {event!r:.230}"
        for event, generation in zip(history.log, history.generations, strict=True)
    ]
    told += ["its operations:"]
    told += [f"  {o.began:.3f}..{o.ended} {o} -> {o.result!r:.200}" for o in history.asked]
    return "\n".join(told)


@pytest.mark.parametrize("batch", range(1 if os.environ.get(SEED_VARIABLE) else BATCHES))
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_schedule_breaks_a_rule(backend: str, batch: int) -> None:
    """Whatever is asked of a session and whatever befalls it, each rule holds."""
    found = run(backend, [drawn(seed) for seed in seeds(PER_BATCH, batch * PER_BATCH)])
    if found is not None:
        pytest.fail(explain(backend, *found), pytrace=False)
