"""Managers, containers and engines that are killed at random; then, what is left.

``python -m tests.containers.kills 100`` counts it at length; a test does so in short.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter

from .engine import Dockerd

MANAGER = """
import sys
import anyio
import holdfast

async def main():
    async with holdfast.SessionManager() as manager:
        session = await manager.start(sys.argv[1], ["sh", "-c", "trap '' TERM; cat; sleep 1000"])
        print("up", flush=True)
        while True:
            await session.wait_for(holdfast.State.ERROR)
            try:
                await session.restart()
            except holdfast.TransportError:
                await anyio.sleep(0.1)

anyio.run(main)
"""


def start(engine: Dockerd) -> subprocess.Popen[bytes]:
    """A program that runs a worker, and a new one whenever that is lost."""
    return subprocess.Popen(
        [sys.executable, "-c", MANAGER, engine.target(heartbeat=0.5, deadline=2)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def doctor(engine: Dockerd) -> None:
    """Have what was left removed."""
    subprocess.run(
        [sys.executable, "-m", "holdfast", "doctor", "--reap"],
        env={**os.environ, "DOCKER_HOST": engine.host},
        capture_output=True,
        timeout=120,
        check=True,
    )


def kills(engine: Dockerd, count: int, seed: int) -> tuple[Counter[str], int, int]:
    """Kill this often; gives what was killed, and the containers left before and after reaping."""
    dice = random.Random(seed)
    killed: Counter[str] = Counter()
    managers = [start(engine) for _ in range(2)]
    for _ in range(count):
        time.sleep(dice.random() * 0.6)  # at whatever moment of a start, a life, or an end
        what = dice.choices(["manager", "container", "engine"], [5, 4, 1])[0]
        killed[what] += 1
        if what == "manager":
            victim = managers.pop(0)
            victim.kill()
            victim.communicate()
            managers.append(start(engine))
        elif what == "container":
            for each in engine.containers()[:1]:
                engine.api("POST", f"/containers/{each}/kill")
        else:
            engine.kill()
            engine.start()
    for each in managers:
        each.kill()
        each.communicate()
    before = len(engine.containers())
    doctor(engine)
    return killed, before, len(engine.containers())


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with Dockerd() as private:
        private.images()
        print(*kills(private, number, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 1))
