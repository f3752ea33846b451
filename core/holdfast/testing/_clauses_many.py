"""Clauses on many channels: they do not disturb each other, and leave nothing behind."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import sniffio

from ._clause import clause
from ._kit import MUCH, PROMPT, Kit, Peer

_ROUNDS = 6
"""Channels to open and close: a leak shows as often."""

_IDLE_THREADS = ("AnyIO worker", "Trio thread", "asyncio_", "ThreadPoolExecutor", "waitpid-")
"""Threads that the event loops keep for a while for the next one who needs them."""


def threads() -> int:
    """Threads of this process, those of the event loops' own pools left out."""
    return sum(not each.name.startswith(_IDLE_THREADS) for each in threading.enumerate())


def descriptors() -> int:
    """Open descriptors of this process."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return sum(1 for _ in Path(folder).iterdir())
    raise AssertionError("this system does not list a process's descriptors")


def tasks() -> int:
    """Tasks in the event loop, this one among them."""
    if sniffio.current_async_library() == "asyncio":
        import asyncio

        return len(asyncio.all_tasks())
    import trio

    def count(task: trio.lowlevel.Task) -> int:
        return 1 + sum(
            count(each) for nursery in task.child_nurseries for each in nursery.child_tasks
        )

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return count(root)


def children() -> int:
    """Child processes of this process, dead ones that nobody waited for among them."""
    if not Path("/proc/self/stat").exists():
        return 0
    own, found = str(os.getpid()), 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            found += stat.rpartition(")")[2].split()[1] == own
    return found


def files(folder: str) -> list[str]:
    """What a folder holds."""
    return [path.name for path in Path(folder).iterdir()]


async def settle(count: Callable[[], int], at_most: int, kit: Kit) -> int:
    """The count, once it has come down to a bound or had the time to."""
    with anyio.move_on_after(PROMPT / 4 * kit.patience):
        while count() > at_most:  # noqa: ASYNC110 - nobody tells of a descriptor's close
            await anyio.sleep(0.02)
    return count()


async def use(kit: Kit) -> None:
    """Open a channel, use all of it, and close it while the worker lives."""
    async with kit.open("cat; exec sleep 1000") as peer:
        await peer.send(b"x\n")
        assert await peer.line() == b"x"
        with anyio.move_on_after(0.01):
            await peer.receive()


async def no_leak(kit: Kit, count: Callable[[], int], what: str) -> None:
    """Open and close channels, and see that no more of something is there than before."""
    await use(kit)  # what is made once for all channels is no leak
    before = count()
    for _ in range(_ROUNDS):
        await use(kit)
    after = await settle(count, before, kit)
    assert after <= before, f"{_ROUNDS} channels left {after - before} {what}"


async def echo(kit: Kit, peer: Peer, text: bytes) -> None:
    """See that a worker answers."""
    with kit.within("an echo"):
        await peer.send(text + b"\n")
        assert await peer.line() == text


class ManyClauses:
    """Many channels of one transport."""

    @clause("HF-LEAK-1", see="Channel.aclose")
    async def test_no_thread_is_left(self, kit: Kit) -> None:
        """A closed channel leaves no thread behind."""
        await no_leak(kit, threads, "threads")

    @clause("HF-LEAK-2", see="Channel.aclose")
    async def test_no_descriptor_is_left(self, kit: Kit) -> None:
        """A closed channel leaves no descriptor open."""
        await no_leak(kit, descriptors, "descriptors")

    @clause("HF-LEAK-3", see="Channel.aclose")
    async def test_no_task_is_left(self, kit: Kit) -> None:
        """A closed channel leaves no task running."""
        await no_leak(kit, tasks, "tasks")

    @clause("HF-LEAK-4", see="Channel.aclose")
    async def test_no_process_is_left(self, kit: Kit) -> None:
        """A closed channel leaves no child process of ours behind, dead or alive."""
        await no_leak(kit, children, "child processes")

    @clause("HF-LEAK-5", see="Channel.aclose")
    async def test_no_temporary_file_is_left(self, kit: Kit) -> None:
        """A closed transport leaves no temporary file behind."""
        before = tempfile.tempdir
        with tempfile.TemporaryDirectory(prefix="holdfast-kit-") as folder:
            tempfile.tempdir = folder
            try:
                await use(kit)
                await kit.transport.aclose()
                assert files(folder) == []
            finally:
                tempfile.tempdir = before

    @clause("HF-LEAK-6", see="Transport.aclose")
    async def test_the_transport_leaves_nothing(self, kit: Kit) -> None:
        """A closed transport leaves no descriptor, task, thread or child process behind."""
        counts = (descriptors, tasks, threads, children)
        await anyio.to_thread.run_sync(int)  # the event loop's own helpers exist from here on
        before = [count() for count in counts]
        await use(kit)
        with kit.within("Transport.aclose"):
            await kit.transport.aclose()
        for count, at_most in zip(counts, before, strict=True):
            after = await settle(count, at_most, kit)
            assert after <= at_most, f"it left {after - at_most} {count.__name__}"

    @clause("HF-MANY-1", see="Transport")
    async def test_a_stalled_channel_disturbs_no_other(self, kit: Kit) -> None:
        """A channel that stalls, and one whose flood nobody reads, hold up no other."""
        flood = f"echo ready; head -c {MUCH} /dev/zero; exec cat"
        async with (
            kit.open("echo ready; exec sleep 1000") as stalled,
            kit.open(flood) as flooding,
            kit.open("cat") as other,
            anyio.create_task_group() as tasks,
        ):
            await stalled.line()
            await flooding.line()
            tasks.start_soon(stalled.send, bytes(MUCH))
            await kit.pause()
            for number in range(20):
                await echo(kit, other, b"%d" % number)
            tasks.cancel_scope.cancel()

    @clause("HF-MANY-2", see="Transport")
    async def test_the_end_of_one_is_no_end_of_another(self, kit: Kit) -> None:
        """A worker's death, and the closing of a channel, leave the other channels alone."""
        async with (
            kit.open("kill -9 $$") as dead,
            kit.open("exec cat") as closed,
            kit.open("cat") as other,
        ):
            await echo(kit, other, b"before")
            await dead.to_end()
            await dead.broken_send()
            await closed.aclose()
            await echo(kit, other, b"after")

    @clause("HF-MANY-3", see="Transport")
    async def test_fifty_at_once(self, kit: Kit) -> None:
        """Fifty channels open at once; each talks to its own worker, and all close in time."""
        ready = 0
        everybody = anyio.Event()

        async def one(number: int) -> None:
            nonlocal ready
            async with kit.open("cat") as peer:
                ready += 1
                if ready == 50:
                    everybody.set()
                with kit.within("all fifty to be open", 3 * PROMPT):
                    await everybody.wait()
                await echo(kit, peer, b"I am %d" % number)

        with kit.within("fifty channels", 6 * PROMPT):
            await kit.together(*(partial(one, number) for number in range(50)))
