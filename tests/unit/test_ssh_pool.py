"""The connections of an SSH transport: a start that is cancelled leaves them fit for the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from holdfast import Command
from holdfast_transports._shell import STARTED
from holdfast_transports.ssh._job import Job
from holdfast_transports.ssh._pool import Pool

pytestmark = pytest.mark.anyio

SECONDS = 10.0


class Session:
    """A session whose bootstrap says where it runs, once and when it is told to."""

    where = "there"
    finished = False

    def __init__(self, connection: Connection) -> None:
        self.on_closed: Callable[[], None] = lambda: None
        self._connection = connection
        self._asked = False

    async def become_guard(self) -> None:
        if self._asked:
            await anyio.sleep_forever()  # it has said it already
        self._asked = True
        self._connection.asked.set()
        await self._connection.speaks.wait()

    async def start(self, command: Command, guard: Any) -> None:
        await guard.ready()

    async def receive(self) -> bytes:
        return STARTED

    async def aclose(self) -> None:
        self.on_closed()


class Connection:
    """A connection that is there."""

    lost = False

    def __init__(self) -> None:
        self.closed = False
        self.asked = anyio.Event()
        self.speaks = anyio.Event()

    async def session(self) -> Session:
        return Session(self)

    def guarded_by(self, guard: Session) -> None:
        pass

    def close(self) -> None:
        self.closed = True


async def test_a_start_that_is_cancelled_while_the_guard_starts() -> None:
    """Who waited behind it, and who comes later, has a worker; the connection is given up."""
    made = [Connection(), Connection()]
    made[1].speaks.set()
    left = list(made)
    pool = Pool("there", lambda: Job(lambda: left.pop(0), name="dial"), 9, SECONDS)  # type: ignore[arg-type, return-value]
    opened = []

    async def wait_behind_it() -> None:
        opened.append(await pool.open(Command(("x",))))

    with anyio.fail_after(SECONDS / 2):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as first:
                first.start_soon(pool.open, Command(("x",)))
                await made[0].asked.wait()
                tasks.start_soon(wait_behind_it)
                await anyio.wait_all_tasks_blocked()
                first.cancel_scope.cancel()
        opened.append(await pool.open(Command(("x",))))
        await pool.aclose()
    assert len(opened) == 2
    assert [each.closed for each in made] == [True, True]
