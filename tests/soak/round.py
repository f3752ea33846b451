"""One round of the soak: sessions on every place at once, each with faults of its own."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import msgspec
from tests.faults.belongings import belongings, left_over
from tests.faults.play import ERRORS
from tests.faults.rules import broken_rules
from tests.faults.tap import tasks_living

from holdfast import Reason, Registry, SessionManager, StatusChanged

from .life import Life
from .places import Place

BACKENDS = (
    ("asyncio", {"use_uvloop": False}),
    ("trio", {}),
    ("asyncio", {"use_uvloop": True}),
)

LINGERS = 2.0
"""Seconds in which a link that is whole again may still be found broken: connections that had
dropped something, and were not known to be lost yet."""

_REGISTRY = Registry()
_EVERYDAY = {Reason.PROMPT, Reason.PROMPT_COMPLETE, Reason.PROMPT_ERROR}


class Result(msgspec.Struct):
    """What a round came to.

    Attributes:
        done: How often each kind of fault was done, and each thing asked that is no fault.
        sessions: How many there were.
        workers: How many they had.
        events: How many stood in their journals.
        broken: The rules that were broken, with what it takes to see why.
    """

    done: Counter[str] = msgspec.field(default_factory=Counter)
    sessions: int = 0
    workers: int = 0
    events: int = 0
    broken: list[str] = []


def play(seed: int, places: list[Place], folder: Path, seconds: float) -> Result:
    """Play the round of this seed."""
    result = Result(broken=[])
    before = belongings()
    name, options = BACKENDS[seed % len(BACKENDS)]
    lives: list[Life] = []
    with _quiet():
        try:
            lives = anyio.run(
                _play, seed, places, folder, seconds, result, backend=name, backend_options=options
            )
        except Exception as error:  # noqa: BLE001 - whatever reaches a caller of a session is a finding
            result.broken += traceback.format_exception(error)
    for life in lives:
        history = life.history
        result.sessions += 1
        result.workers += life.session.generation
        result.events += len(history.log)
        if broken := broken_rules(history):
            result.broken += _explained(life, broken)
    del lives
    servers = frozenset[int]().union(*(place.servers() for place in places))
    before = msgspec.structs.replace(before, children=before.children | servers)
    result.broken += [f"left over: {each}" for each in left_over(before)]
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Each lost worker is a warning; only what core calls an error is looked at."""
    logger, paramiko = logging.getLogger("holdfast"), logging.getLogger("paramiko")
    before = logger.level, logger.propagate, paramiko.level
    logger.addHandler(ERRORS)
    ERRORS.seen.clear()
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    paramiko.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.removeHandler(ERRORS)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        paramiko.setLevel(before[2])


async def _play(
    seed: int, places: list[Place], folder: Path, seconds: float, result: Result
) -> list[Life]:
    random, tasks_before = Random(seed), tasks_living()
    lives: dict[Place, list[Life]] = {}
    async with anyio.create_task_group() as subscribers:
        async with SessionManager(registry=_REGISTRY) as manager:
            for place in places:
                for number in range(random.choice((1, 2))):
                    name = f"{place.name}-{seed}-{number}"
                    (folder / name).mkdir()
                    life = Life(manager, place, name, f"{seed}/{name}", folder / name, result.done)
                    lives.setdefault(place, []).append(life)
                    life.watch(subscribers)
            async with anyio.create_task_group() as living:
                for place, its in lives.items():
                    if place.links:
                        living.start_soon(_break_links, place, its, random, seconds, result.done)
                    for life in its:
                        living.start_soon(life.live, seconds)
            async with anyio.create_task_group() as recovering:
                for its in lives.values():
                    for life in its:
                        recovering.start_soon(life.recover)
    every = [life for its in lives.values() for life in its]
    for life in every:
        await life.collect()
    for place in places:
        place.let_go()
        result.broken += [f"left over at {place.name}: {each}" for each in place.left()]
    if (tasks := tasks_living()) != tasks_before:
        result.broken.append(f"tasks left over: {tasks_before} before, {tasks} after")
    result.broken += [f"core logged an error: {text}" for text in ERRORS.seen]
    return every


async def _break_links(
    place: Place, lives: list[Life], random: Random, seconds: float, done: Counter[str]
) -> None:
    """Break the link that these sessions share, again and again."""
    end = anyio.current_time() + seconds

    def at_most(wanted: float) -> float:
        return max(0.0, min(wanted, end - anyio.current_time()))

    while True:
        await anyio.sleep(at_most(random.uniform(0.5, 4.0)))
        if anyio.current_time() >= end:
            return
        how = random.choice(place.links)
        done[how] += 1
        deeds = [life.note(how, link=True, causes=place.link_causes) for life in lives]
        heal = await anyio.to_thread.run_sync(place.break_link, how)
        await anyio.sleep(at_most(random.choice((0.2, 2.0, 9.0))))
        await anyio.to_thread.run_sync(heal)
        await anyio.sleep(LINGERS)
        for life, deed in zip(lives, deeds, strict=True):
            deed.last = life.session.generation


def _explained(life: Life, broken: list[str]) -> list[str]:
    """The broken rules of one session, and its story."""
    history = life.history
    story = [f"== {life.session.id} ({life.dialect}) breaks {len(broken)} rules"]
    story += [f"  - {each[:600]}" for each in broken[:10]]
    story += [f"    deed: {deed}" for deed in history.deeds or ()]
    for event, generation in zip(history.log, history.generations, strict=True):
        if isinstance(event, StatusChanged) and event.status.reason not in _EVERYDAY:
            status = event.status
            story.append(
                f"    {status.updated_at:%M:%S.%f} {event.seq} generation {generation}: "
                f"{status.state}/{status.reason} {status.cause} {status.worker} {status.exit} "
                f"{status.detail}"
            )
    return story
