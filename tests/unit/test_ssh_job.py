"""Jobs: blocking functions whose results many may await, and nobody needs to."""

from __future__ import annotations

import threading

import anyio
import pytest

from holdfast_transports.ssh._job import Job

pytestmark = pytest.mark.anyio

SECONDS = 10.0


async def test_many_await_one_result() -> None:
    """All who wait get the result, before and after it is there, and it is made once."""
    go, made = threading.Event(), []

    def make() -> int:
        go.wait(SECONDS)
        made.append(1)
        return 7

    job, got = Job(make, name="test"), []

    async def wait() -> None:
        got.append(await job.result())

    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            assert not job.done
            go.set()
        await wait()
    assert (got, made, job.done) == ([7] * 4, [1], True)


async def test_its_error_is_everybodys() -> None:
    """What the function raised is raised where it is awaited."""

    def fail() -> None:
        raise LookupError("not there")

    job = Job(fail, name="test")
    for _ in range(2):
        with pytest.raises(LookupError, match="not there"), anyio.fail_after(SECONDS):
            await job.result()


async def test_cancelling_one_disturbs_no_other() -> None:
    """Who is cancelled leaves at once; the job goes on for the others."""
    go = threading.Event()
    unwanted: list[bool] = []
    job = Job(lambda: go.wait(SECONDS), name="test", unwanted=unwanted.append)
    with anyio.fail_after(SECONDS):
        with anyio.move_on_after(0.05) as scope:
            await job.result()
        assert scope.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.result)
            await anyio.lowlevel.checkpoint()
            go.set()
    assert unwanted == []


async def test_a_result_that_nobody_wants_is_given_back() -> None:
    """Where all were cancelled, the result goes to ``unwanted``, in a thread; an error does not."""
    go, dropped = threading.Event(), threading.Event()
    where: list[int] = []

    def unwanted(result: str) -> None:
        assert result == "made"
        where.append(threading.get_ident())
        dropped.set()

    def make() -> str:
        go.wait(SECONDS)
        return "made"

    job = Job(make, name="test", unwanted=unwanted)
    with anyio.move_on_after(0.05):
        await job.result()
    go.set()
    with anyio.fail_after(SECONDS):
        await anyio.to_thread.run_sync(dropped.wait, SECONDS)
    assert where != [threading.get_ident()]
    assert job.dropped
