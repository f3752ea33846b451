"""The memory transport itself: workers, scripts, faults by hand and by seed, and the fake clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import pytest

from holdfast import (
    Capability,
    Cause,
    ChannelClosed,
    Command,
    Exit,
    Fate,
    Operation,
    SessionManager,
    Signal,
    State,
    TransportBroken,
    TransportUnavailable,
    Unsupported,
    WorkerNotStarted,
)
from holdfast.testing._clock import fake_clock
from holdfast.testing._faults import Fault, What, draw, seeds, shrink
from holdfast.testing._memory import (
    MemoryChannel,
    MemoryTransport,
    ReadEnd,
    WriteEnd,
    echo,
    read_line,
)

COMMAND = Command(("worker",))
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine function on a fake clock."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        anyio.run(main, backend=request.param, backend_options=fake_clock(request.param))

    return run


async def read_all(channel: MemoryChannel) -> bytes:
    data = b""
    while piece := await channel.receive():
        data += piece
    return data


def test_a_worker_is_a_coroutine_with_three_ends(run: Run) -> None:
    """What it reads is what was sent, what it writes is received, what it returns is its exit."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> int:
        await stderr.write("ready\n")
        async for line in stdin:
            await stdout.write(line.upper())
        return 3

    async def main() -> None:
        async with MemoryTransport(worker).open(COMMAND) as channel:
            await channel.send(b"one\ntwo")
            await channel.send_eof()
            assert await read_all(channel) == b"ONE\nTWO"
            assert await channel.receive_stderr() == b"ready\n"
            assert await channel.wait() == Exit(code=3)
            assert channel.taken == b"one\ntwo"

    run(main)


def test_a_script_reads_writes_waits_and_ends(run: Run) -> None:
    """A worker may be a list of steps."""

    async def main() -> None:
        transport = MemoryTransport([read_line, b"first\n", 5.0, "second\n", Exit(code=7)])
        async with transport.open(COMMAND) as channel:
            began = anyio.current_time()
            await channel.send(b"go\n")
            assert await channel.receive() == b"first\n"
            assert await channel.receive() == b"second\n"
            assert anyio.current_time() - began == pytest.approx(5)
            assert await channel.receive() == b""
            assert await channel.wait() == Exit(code=7)

    run(main)


def test_a_failing_worker_ends_as_a_program_does(run: Run) -> None:
    """A traceback on stderr, and exit code 1."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        raise KeyError("oops")

    async def main() -> None:
        async with MemoryTransport(worker).open(COMMAND) as channel:
            assert await channel.wait() == Exit(code=1)
            assert b"KeyError: 'oops'" in await channel.receive_stderr()

    run(main)


def test_pipes_are_bounded_both_ways(run: Run) -> None:
    """Who does not read holds up who writes, and nobody else."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        await stdout.write(b"x" * 1000)
        await echo(stdin, stdout, stderr)

    async def main() -> None:
        async with MemoryTransport(worker, pipe_size=100).open(COMMAND) as channel:
            with anyio.move_on_after(1) as scope:
                await channel.send(b"y" * 1000)
            assert scope.cancelled_caught
            assert len(channel.taken) == 100
            assert channel.send_nowait(b"y") == 0
            received = b""
            while len(received) < 1000:
                received += await channel.receive()
            assert received == b"x" * 1000
            assert await channel.receive() == b"y" * 100

    run(main)


def test_a_kill_leaves_what_was_written(run: Run) -> None:
    """The bytes first, then the end of stdout; the next write breaks, and so does each after it."""

    async def main() -> None:
        async with MemoryTransport([b"last words", read_line]).open(COMMAND) as channel:
            await anyio.sleep(0.1)
            channel.kill()
            assert await read_all(channel) == b"last words"
            assert await channel.wait() == Exit(signal="SIGKILL")
            causes = []
            for _ in range(2):
                with pytest.raises(TransportBroken) as broken:
                    await channel.send(b"more")
                causes.append(broken.value.__cause__)
                assert broken.value.detail == "BrokenPipeError: [Errno 32] Broken pipe"
            assert causes[0] is causes[1]

    run(main)


def test_a_lost_link_is_no_end(run: Run) -> None:
    """What had arrived is handed out, then every operation says that the link is lost."""

    async def main() -> None:
        async with MemoryTransport([b"arrived", read_line]).open(COMMAND) as channel:
            await anyio.sleep(0.1)
            channel.cut()
            assert await channel.receive() == b"arrived"
            for operation in (
                channel.receive,
                lambda: channel.send(b"x"),
                channel.send_eof,
                lambda: channel.signal(Signal.TERM),
            ):
                with pytest.raises(TransportBroken) as broken:
                    await operation()
                assert broken.value.cause is Cause.LINK_LOST
                assert broken.value.worker is Fate.MAYBE_ALIVE
            assert await channel.wait() == Exit()

    run(main)


def test_a_silent_link_is_noticed_where_the_transport_can(run: Run) -> None:
    """Writes go on until the window is full; with a heartbeat the deadline breaks it."""

    async def main() -> None:
        can = MemoryTransport.capabilities | Capability.DETECTS_SILENT_LINK
        for capabilities in (MemoryTransport.capabilities, can):
            transport = MemoryTransport(echo, capabilities=capabilities)
            async with transport.open(COMMAND) as channel:
                channel.silence(4.0)
                await channel.send(b"into the void")
                began = anyio.current_time()
                with anyio.move_on_after(60) as scope:
                    with pytest.raises(TransportBroken) as broken:
                        await channel.receive()
                    assert broken.value.cause is Cause.LINK_SILENT
                    assert anyio.current_time() - began == pytest.approx(4)
                assert scope.cancelled_caught is (capabilities is not can)

    run(main)


def test_a_frozen_worker_reacts_to_nothing_but_a_kill(run: Run) -> None:
    """As after SIGSTOP; and it goes on after SIGCONT."""

    async def main() -> None:
        async with MemoryTransport(echo).open(COMMAND) as channel:
            channel.freeze()
            await channel.send(b"anybody there?")
            await channel.signal(Signal.TERM)
            with anyio.move_on_after(100) as scope:
                await channel.receive()
            assert scope.cancelled_caught
            channel.thaw()
            assert await channel.receive() == b"anybody there?"
            channel.freeze()
            await channel.signal(Signal.KILL)
            assert await channel.wait() == Exit(signal="SIGKILL")

    run(main)


@pytest.mark.parametrize(
    ("what", "amount", "exit"),
    [
        (What.KILL, 0, Exit(signal="SIGKILL")),
        (What.EXIT, 3, Exit(code=3)),
        (What.VANISH, 0, Exit()),
    ],
)
def test_a_fault_happens_at_its_byte(run: Run, what: What, amount: int, exit: Exit) -> None:
    """``sent`` and ``received`` count bytes: so many pass, and not one more."""

    async def main() -> None:
        transport = MemoryTransport(echo, faults=[Fault(what, amount, sent=7)])
        async with transport.open(COMMAND) as channel:
            with pytest.raises(TransportBroken) as broken:
                await channel.send(b"0123456789")
            assert broken.value.operation is Operation.SEND
            assert channel.taken == b"0123456"
            assert await channel.wait() == exit
        transport = MemoryTransport(
            [b"0123456789", 100.0], faults=[Fault(what, amount, received=0)]
        )
        async with transport.open(COMMAND) as channel:
            assert channel.ended == exit

    run(main)


def test_faults_at_open_are_told_as_what_they_are(run: Run) -> None:
    """A place that refuses and a command that is missing, each only on the channel it names."""

    async def main() -> None:
        transport = MemoryTransport(
            echo, faults=[Fault(What.REFUSE, channel=0), Fault(What.MISSING, channel=1)]
        )
        for error in (TransportUnavailable, WorkerNotStarted):
            with pytest.raises(error):
                async with transport.open(COMMAND):
                    pass
        async with transport.open(COMMAND) as channel:
            await channel.send(b"third")
            assert await channel.receive() == b"third"

    run(main)


def test_reads_are_delayed_and_split(run: Run) -> None:
    """``SLOW_READ`` merges what was written meanwhile; ``SPLIT_READ`` cuts it to pieces."""

    async def main() -> None:
        faults = [Fault(What.SLOW_READ, 0.5), Fault(What.SPLIT_READ, 4)]
        transport = MemoryTransport([b"ab", 0.1, b"cdef", 100.0], faults=faults)
        async with transport.open(COMMAND) as channel:
            assert await channel.receive() == b"abcd"
            assert await channel.receive() == b"ef"

    run(main)


def test_a_late_error_a_held_stderr_and_a_late_exit(run: Run) -> None:
    """Measured on real transports: a write after death succeeds; a grandchild holds a pipe."""

    async def main() -> None:
        faults = [
            Fault(What.LATE_ERROR, 2),
            Fault(What.HOLD_STDERR, 3),
            Fault(What.LATE_EXIT, 2),
        ]
        async with MemoryTransport(echo, faults=faults).open(COMMAND) as channel:
            channel.exit(0)
            began = anyio.current_time()
            await channel.send(b"first")
            await channel.send(b"second")
            with pytest.raises(TransportBroken):
                await channel.send(b"third")
            assert await channel.wait() == Exit(code=0)
            assert anyio.current_time() - began == pytest.approx(2)
            assert await channel.receive_stderr() == b""
            assert anyio.current_time() - began == pytest.approx(3)

    run(main)


def test_a_missing_capability_is_missing(run: Run) -> None:
    """No exit status, no stderr, no signals, no half close."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> int:
        await stderr.write("not seen")
        return 5

    async def main() -> None:
        transport = MemoryTransport(worker, capabilities=Capability(0))
        async with transport.open(COMMAND) as channel:
            assert await channel.wait() == Exit()
            with pytest.raises(Unsupported):
                await channel.send_eof()
            with pytest.raises(Unsupported):
                await channel.signal(Signal.TERM)

    run(main)


def test_an_end_that_is_told_late(run: Run) -> None:
    """Without ``EARLY_EOF`` a closed stdout or stderr ends only with its worker."""

    async def worker(stdin: ReadEnd, stdout: WriteEnd, stderr: WriteEnd) -> None:
        await stdout.write("bye")
        stdout.close()
        stderr.close()
        await anyio.sleep(7)

    async def main() -> None:
        for capabilities, seconds in (
            (MemoryTransport.capabilities, 0),
            (MemoryTransport.capabilities & ~Capability.EARLY_EOF, 7),
        ):
            async with MemoryTransport(worker, capabilities=capabilities).open(COMMAND) as channel:
                began = anyio.current_time()
                assert await channel.receive() == b"bye"
                assert await channel.receive() == b""
                assert await channel.receive_stderr() == b""
                assert anyio.current_time() - began == pytest.approx(seconds)

    run(main)


def test_our_close_ends_what_is_pending(run: Run) -> None:
    """Pending operations get ``ChannelClosed``; ``wait`` returns; the worker is gone."""

    async def main() -> None:
        seen: list[Any] = []

        async def pending(operation: Callable[[], Awaitable[Any]]) -> None:
            try:
                seen.append(await operation())
            except ChannelClosed:
                seen.append("closed")

        transport = MemoryTransport([100.0], pipe_size=4)
        async with transport.open(COMMAND) as channel, anyio.create_task_group() as tasks:
            for operation in (channel.receive, lambda: channel.send(b"too much"), channel.wait):
                tasks.start_soon(pending, operation)
            await anyio.sleep(1)
            await channel.aclose()
            await channel.aclose()
        assert sorted(map(str, seen)) == ["closed", "closed", "killed by SIGKILL"]

    run(main)


def test_an_error_in_the_body_is_not_wrapped(run: Run) -> None:
    """What the ``async with`` block raises comes out as it is."""

    async def main() -> None:
        with pytest.raises(KeyError):
            async with MemoryTransport(echo).open(COMMAND):
                raise KeyError("mine")

    run(main)


def test_an_application_tests_its_own_reaction(run: Run) -> None:
    """A session on it is told of a kill as on any other transport, without waiting for real."""

    async def main() -> None:
        transport = MemoryTransport(echo, faults=[Fault(What.KILL, after=3600.0)])
        async with SessionManager() as manager:
            session = await manager.start(transport, ["worker"], dialect="lines")
            status = await session.wait_for(State.ERROR)
            assert status.exit == Exit(signal="SIGKILL")

    before = time.monotonic()
    run(main)
    assert time.monotonic() - before < 30


def test_a_seed_draws_the_same_faults_again() -> None:
    """One number is all that a replay needs."""
    one, same, other = (MemoryTransport(echo, seed=seed) for seed in (1, 1, 2))
    drawn = [one.faults_of(channel) for channel in range(20)]
    assert drawn == [same.faults_of(channel) for channel in range(20)]
    assert drawn != [other.faults_of(channel) for channel in range(20)]
    assert {fault.what for seed in range(2000) for fault in draw(Random(seed))} == set(What)


def test_one_seed_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """``HOLDFAST_SEED`` plays exactly that one; what is no number is said to be none."""
    monkeypatch.delenv("HOLDFAST_SEED", raising=False)
    assert list(seeds(3, first=10)) == [10, 11, 12]
    monkeypatch.setenv("HOLDFAST_SEED", "77")
    assert list(seeds(3)) == [77]
    monkeypatch.setenv("HOLDFAST_SEED", "all")
    with pytest.raises(ValueError, match="'all'"):
        seeds(3)


def test_a_failing_schedule_is_shrunk_to_what_matters() -> None:
    """Nothing is left that it fails without."""
    assert shrink(range(100), lambda parts: 17 in parts and 61 in parts) == [17, 61]
    assert shrink(range(5), lambda parts: True) == []
    assert shrink([], lambda parts: True) == []


def test_a_fault_says_how_to_write_it_again() -> None:
    """What a failure prints can be pasted into a test."""
    fault = Fault(What.EXIT, 3, sent=7, channel=1)
    assert eval(str(fault)) == fault
    for wrong in ({"sent": 1, "after": 1.0}, {"sent": -1}, {"amount": -1}):
        with pytest.raises(ValueError, match="fault"):
            Fault(What.KILL, **wrong)
    with pytest.raises(ValueError, match="not a valid"):
        Fault("explode")  # type: ignore[arg-type]


def test_the_fake_clock_does_not_forget_threads(run: Run) -> None:
    """What another thread brings in is heard, timers or not."""

    async def main() -> None:
        assert await anyio.to_thread.run_sync(lambda: 42) == 42
        with anyio.fail_after(10):
            began = anyio.current_time()
            await anyio.sleep(5)
            assert anyio.current_time() - began == pytest.approx(5)

    run(main)


def test_there_is_no_fake_clock_for_others() -> None:
    with pytest.raises(ValueError, match="curio"):
        fake_clock("curio")
