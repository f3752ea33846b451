"""What a session may never leave behind: processes, zombies, descriptors, threads, tasks."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading

import anyio
import pytest
from tests.faults.belongings import children
from tests.faults.tap import tasks_living

from holdfast import Exit, SessionManager, State
from holdfast_transports.local import LocalTransport

from .workers.harness import (
    QUICK,
    WORKER,
    answers,
    ask,
    at_most,
    check,
    deadline,
    end_of,
    journal,
    pid_of,
    request,
    running,
)

pytestmark = pytest.mark.anyio


def threads() -> set[int | None]:
    """Our threads; those of earlier tests may end at any time."""
    return {each.ident for each in threading.enumerate()}


def belongings() -> dict[str, object]:
    """What this process has, as far as a session could leave something of it."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": children(),
        "tasks": tasks_living(),
    }


async def one_life(manager, number):
    """A session that is started, used, and ended in one of the ways there are."""
    session = await manager.start(LocalTransport(), WORKER, dialect="kimi-wire", limits=QUICK)
    await session.call("prompt", {"number": number})
    match number % 6:
        case 0:
            await session.stop()
        case 1:
            await session.send(request("k", "killed"))
            await session.wait_for(State.ERROR)
        case 2:
            await session.restart()
        case 3:
            await session.call("grandchild")
            await manager.forget(session.id)
        case 4:
            await session.call("close_stdin")
            await session.send(request("p", "prompt"))
            await session.call("prompt")
        case 5:
            with anyio.move_on_after(0.01):
                await session.call("hold")


@pytest.mark.uvloop
async def test_fifty_sessions_leave_nothing_behind():
    """No zombie, no descriptor, no thread and no task, whichever way they ended."""
    async with SessionManager() as manager:
        await one_life(manager, 0)
    before, threads_before = belongings(), threads()
    with deadline(60):
        async with SessionManager() as manager:
            for first in range(0, 50, 10):
                async with anyio.create_task_group() as tasks:
                    for number in range(first, first + 10):
                        tasks.start_soon(one_life, manager, number)
        assert len(manager.sessions) < 50
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
    assert belongings() == before
    assert threads() <= threads_before


@pytest.mark.uvloop
async def test_a_session_restarted_fifty_times_holds_what_one_worker_needs():
    """Each worker takes its descriptors, its process id and its tasks with it."""
    others = children()  # a server of other tests may be among them
    async with running() as session:
        await session.call("ping")
        before, threads_before = belongings(), threads()
        for number in range(50):
            with deadline():
                if number % 2:
                    await session.restart()
                else:
                    await session.send(request(f"k{number}", "killed"))
                    await session.wait_for(State.ERROR)
                await session.call("ping")
        after = belongings()
        assert len(before.pop("children") - others) == len(after.pop("children") - others) == 1
        assert after == before
        assert threads() <= threads_before


@pytest.mark.uvloop
async def test_a_lost_worker_is_reaped_before_anybody_asks():
    """A dead worker is no zombie, though its session is neither stopped nor restarted."""
    async with running() as session:
        pid = await pid_of(session)
        descriptors = len(os.listdir("/proc/self/fd"))
        os.kill(pid, signal.SIGKILL)
        with deadline():
            await session.wait_for(State.ERROR)
            while pid in children():
                await anyio.lowlevel.checkpoint()
            while len(os.listdir("/proc/self/fd")) > descriptors - 4:
                await anyio.lowlevel.checkpoint()


@pytest.mark.uvloop
async def test_sessions_cost_no_thread():
    """Twenty workers run, and this process has the threads that it had."""
    before = threads()
    async with SessionManager() as manager:
        for _ in range(20):
            await manager.start(LocalTransport(), WORKER)
        assert threads() <= before


@pytest.mark.uvloop
async def test_all_of_it_works_without_a_pidfd(monkeypatch):
    """Where the system has none, or a sandbox forbids it, exits are seen all the same."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    open_pidfd = os.pidfd_open
    async with running(limits=QUICK) as session:
        monkeypatch.setattr(os, "pidfd_open", refuse)
        with deadline():
            await session.restart()
            pid = (await ask(session, "ping", "ping"))["pid"]
            await session.send(request("p", "prompt", do="hold"))
            grandchild = (await ask(session, "g", "grandchild"))["pid"]
            with at_most(1.5):
                os.kill(pid, signal.SIGKILL)
                status = await session.wait_for(State.ERROR)
            assert status.exit == Exit(signal="SIGKILL")
            assert len(answers(await journal(session), "p")) == 1
            assert await session.call("prompt", {"a": 1}) == {"a": 1}
            await ask(session, "i", "ignore", eof=True)
            with at_most(1.5):
                assert (await session.stop()).exit == Exit(signal="SIGTERM")
        monkeypatch.setattr(os, "pidfd_open", open_pidfd)
        await end_of(grandchild)
        check(await journal(session))


async def test_a_child_that_somebody_else_reaped_is_an_exit_that_nobody_reported():
    """Where another part of the program reaps our child, we do not make up how it ended."""
    async with running(dialect="mcp") as session:
        pid = await pid_of(session)
        await session.send(request("p", "hold"))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - it is killed already
        with deadline():
            status = await session.wait_for(State.ERROR)
        assert status.exit is None or not status.exit.reported
        assert len(answers(await journal(session), "p")) == 1
