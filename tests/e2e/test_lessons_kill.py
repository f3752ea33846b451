"""A thousand workers killed with SIGKILL around a ``send``: 500 on asyncio, 500 on trio.

Every moment is drawn from a seed, printed at the end with what was met; ``HOLDFAST_SEED`` replays
another one. The delays of up to 2 ms are the stimulus; nothing is waited for by sleeping.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import anyio
import pytest
from tests.faults.history import Deed, History

from holdfast import Cause, Delivery, Line, Origin, Sent, State, StatusChanged

from .workers.harness import (
    TERMINAL,
    answers,
    deadline,
    is_answer,
    is_status,
    journal,
    observed,
    request as prompt,
    running,
    until,
)

pytestmark = pytest.mark.anyio

ROUNDS = {"asyncio": 500, "trio": 500, "asyncio+uvloop": 100}
SEED = int(os.environ.get("HOLDFAST_SEED", "2"))


async def pause(rng: random.Random) -> None:
    """Let up to 2 ms pass, with the event loop running or held up."""
    seconds = rng.uniform(0, 0.002)
    match rng.randrange(3):
        case 0:
            await anyio.sleep(seconds)
        case 1:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                pass
        case _:
            for _ in range(rng.randrange(4)):
                await anyio.lowlevel.checkpoint()


@pytest.mark.uvloop
async def test_a_worker_killed_at_any_moment_around_a_send_leaves_a_truthful_session(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    histories: list[History],
):
    """Whenever it dies: no exception, one answer, not busy at the end, the next prompt works."""
    backend = request.node.callspec.id
    rng = random.Random(SEED)
    met: Counter[str] = Counter()
    registry, observer = observed()
    began = time.monotonic()
    async with running(registry=registry) as session:
        [history] = histories
        history.deeds = []
        for number in range(ROUNDS[backend]):
            await one_round(session, number, rng, met, history.deeds)
            met["rounds"] += 1
    for status, busy, in_flight, _ in observer.seen:
        if status.state in TERMINAL:
            assert not busy
            assert in_flight == frozenset()
    took = time.monotonic() - began
    with capsys.disabled():
        figures = ", ".join(f"{name} {count}" for name, count in sorted(met.items()))
        print(f"\n{backend}: seed {SEED}, {took:.1f} s; {figures}")


def killed(generation: int) -> Deed:
    """What may be said of this generation's end."""
    exits, causes = frozenset({"SIGKILL"}), frozenset({Cause.WORKER_EXITED})
    return Deed("SIGKILL", generation, generation, ends=True, causes=causes, exits=exits)


async def one_round(session, number, rng, met, deeds):
    """A prompt that works, and then one around whose sending the worker is killed."""
    with deadline():
        pid = (await session.call("prompt", {"do": "ping"}))["pid"]
    start, generation = session.last_seq, session.generation
    deeds.append(killed(generation))

    id = f"round-{number}"
    what = rng.choice(["echo", "hold"])
    message = prompt(id, "prompt", do=what, text="x" * rng.choice([10, 10, 70_000, 400_000]))
    moment = rng.choice(["before", "during", "after"])

    async def kill():
        await pause(rng)
        os.kill(pid, signal.SIGKILL)

    with deadline():
        if moment == "before":
            os.kill(pid, signal.SIGKILL)
            await pause(rng)
            receipt = await session.send(message)
        elif moment == "during":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                if rng.randrange(2):
                    await anyio.lowlevel.checkpoint()
                receipt = await session.send(message)
        else:
            receipt = await session.send(message)
            await kill()

    await until(session, is_status(State.ERROR, State.STOPPED), after=start)
    if session.generation > generation:  # the death was known, and the prompt started a new worker
        met["by a new worker"] += 1
        assert moment != "after"
        if what == "hold":
            with deadline():
                await session.call("release", {"ids": [id]}, id="release")
    await until(session, is_answer(id), after=start)
    events = await journal(session, after=start)
    assert len(answers(events, id)) == 1
    [terminal] = [
        event
        for event in events
        if isinstance(event, StatusChanged) and event.status.state in TERMINAL
    ]
    assert terminal.status.worker_id == f"{session.id}/{generation}"
    assert terminal.status.exit is not None
    assert terminal.status.exit.signal == "SIGKILL"
    assert not session.is_busy
    assert session.in_flight == frozenset()

    [answer] = [event for event in events if is_answer(id)(event)]
    assert isinstance(answer, Line)
    handed_over = [event for event in events if isinstance(event, Sent)]
    if receipt.delivery is Delivery.REFUSED:
        assert handed_over == []
        assert answer.origin is Origin.HOLDFAST
    else:
        assert [event.id for event in handed_over if event.id != "release"] == [id]
    met[f"receipt {receipt.delivery}"] += 1
    met[f"answer by {answer.origin}"] += 1
    met[f"status {terminal.status.reason}"] += 1
    met[moment] += 1
