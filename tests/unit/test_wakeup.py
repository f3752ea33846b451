"""Waiters and bells: nobody who waits is forgotten, on any event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from holdfast.wakeup import Bell, bell, caller, in_trio, waiter

pytestmark = [pytest.mark.anyio, pytest.mark.uvloop]


async def test_the_running_loop_is_known(anyio_backend_name: str) -> None:
    """Trio is told from asyncio and its kind."""
    assert in_trio() is (anyio_backend_name == "trio")


def test_without_a_loop_there_is_no_trio() -> None:
    """Outside of an event loop nothing is claimed and nothing fails."""
    assert not in_trio()


async def test_a_waiter_may_be_set_first() -> None:
    """Who comes after ``set`` does not wait."""
    one = waiter()
    one.set()
    one.set()
    with anyio.fail_after(5):
        await one.wait()


async def test_a_waiter_wakes_the_task_that_waits() -> None:
    """``set`` wakes the waiting task, and not before."""
    one, woken = waiter(), []

    async def wait() -> None:
        await one.wait()
        woken.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not woken
        one.set()
    assert woken


async def test_a_waiter_whose_task_was_cancelled_can_be_set() -> None:
    """A cancelled wait leaves nothing that ``set`` could stumble over."""
    one = waiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.wait)
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    one.set()


async def test_a_ring_wakes_all_who_wait() -> None:
    """One ring wakes every task that waits at that moment."""
    one, woken = bell(), []

    async def wait(n: int) -> None:
        await one.wait()
        woken.append(n)

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(wait, n)
        await wait_all_tasks_blocked()
        assert not woken
        one.ring()
    assert sorted(woken) == list(range(100))


async def test_a_ring_that_nobody_hears_is_forgotten() -> None:
    """Who comes after a ring waits for the next one."""
    one = bell()
    one.ring()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.wait)
        await wait_all_tasks_blocked()
        waits = True
        tasks.cancel_scope.cancel()
    assert waits


async def test_who_waits_again_hears_the_next_ring() -> None:
    """A task that goes back to waiting is woken once by each ring."""
    one, heard = bell(), 0

    async def listen() -> None:
        nonlocal heard
        while heard < 3:
            await one.wait()
            heard += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        for expected in (1, 2, 3):
            await wait_all_tasks_blocked()
            one.ring()
            one.ring()
            await wait_all_tasks_blocked()
            assert heard == expected


async def test_a_cancelled_listener_costs_the_others_nothing() -> None:
    """Cancelling some who wait, before or while it rings, wakes the rest all the same."""
    for when in ("before", "while"):
        one, woken = bell(), list[int]()
        gone = anyio.CancelScope()

        async def leave(one: Bell = one, gone: anyio.CancelScope = gone) -> None:
            with gone:
                await one.wait()

        async def wait(one: Bell = one, woken: list[int] = woken) -> None:
            await one.wait()
            woken.append(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(leave)
            tasks.start_soon(wait)
            await wait_all_tasks_blocked()
            gone.cancel()
            if when == "before":
                await wait_all_tasks_blocked()
            one.ring()
        assert len(woken) == 2


async def test_no_ring_is_missed_between_a_look_and_a_wait() -> None:
    """A condition that is looked at before each wait is seen, however the tasks take turns."""
    one, produced, seen = bell(), 0, 0

    async def consume() -> None:
        nonlocal seen
        while seen < 500:
            while seen == produced:
                await one.wait()
            seen = produced
            if seen % 3 == 0:
                await checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            for n in range(500):
                produced += 1
                one.ring()
                if n % 2:
                    await checkpoint()


async def test_a_thread_may_call_into_the_loop() -> None:
    """What another thread hands to ``caller``'s function is called in the loop's own thread."""
    call, done, where = caller(), anyio.Event(), []

    def called() -> None:
        where.append(threading.get_ident())
        done.set()

    thread = threading.Thread(target=call, args=(called,))
    thread.start()
    with anyio.fail_after(5):
        await done.wait()
    thread.join()
    assert where == [threading.get_ident()]


def test_a_loop_that_is_over_is_told() -> None:
    """Calling into a loop that has ended is a RuntimeError, on every loop."""
    for backend in ("asyncio", "trio"):

        async def get() -> Callable[[Callable[[], object]], object]:
            return caller()

        call = anyio.run(get, backend=backend)
        with pytest.raises(RuntimeError):
            call(lambda: None)
