"""The lessons about a worker's streams, on real workers: no byte lost, torn, or waited for in vain.

The numbers are those of the list of failures that the field has seen in session managers.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import anyio
import pytest

from holdfast import (
    Exit,
    Kind,
    Lagged,
    Limits,
    Line,
    LineTooLong,
    Reason,
    SessionManager,
    State,
    Stderr,
    UnknownSession,
)
from holdfast_transports.local import LocalTransport

from .workers.harness import (
    BIG,
    MIB,
    QUICK,
    WORKER,
    alive,
    answer_to,
    answers,
    ask,
    at_most,
    check,
    deadline,
    end_of,
    is_answer,
    is_notification,
    is_status,
    journal,
    lines,
    notifications,
    pid_of,
    request,
    running,
    sent,
    stuffed,
    until,
)

pytestmark = pytest.mark.anyio


def resident() -> int:
    """Bytes of memory that this process has now; the peak begins anew."""
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
    return peak()


def peak() -> int:
    """Bytes of memory that this process has had at once since :func:`resident`."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


# -- 3: stderr that nobody reads --------------------------------------------------------------


@pytest.mark.unwatched
@pytest.mark.uvloop
async def test_03_a_flood_on_stderr_blocks_nothing_and_takes_no_memory():
    """stderr is always drained: 100 MiB of it, with stdout between, in bounded memory."""
    limits = Limits(retained_bytes=4 * MIB)
    async with running(limits=limits) as session:
        await ask(session, "warm", "noise", rounds=4, size=MIB)
        before = resident()
        rounds = 0
        async with session.subscribe(after=None) as events:
            await session.send(request("p", "prompt", do="noise", rounds=100, size=MIB))
            with deadline(60):
                async for event in events:
                    if is_notification("round")(event):
                        rounds += 1
                    elif is_answer("p")(event):
                        break
        assert rounds == 100
        assert not session.is_busy
        assert peak() - before < 40 * MIB
        assert session.stderr_tail == b"e" * limits.stderr_tail
        await ask(session, "after", "ping")


async def test_03_stderr_is_told_byte_by_byte():
    """What stands in the journal of stderr is what the worker wrote there."""
    text = "first\nsecond, without an end \N{SNOWMAN}"
    async with running() as session:
        await ask(session, "e", "stderr", text=text)
        said = b""
        while said != text.encode():
            with deadline():
                await until(session, lambda event: isinstance(event, Stderr))
            events = await journal(session)
            said = b"".join(event.data for event in events if isinstance(event, Stderr))
        assert session.stderr_tail == said


# -- 4: a grandchild that keeps the pipes open ------------------------------------------------

CHATTY = "while :; do echo chat; echo chat >&2; sleep 0.01; done"
FLOOD = f"exec yes {'flood' * 40}"


@pytest.mark.uvloop
@pytest.mark.parametrize(
    "command",
    [["sleep", "1000"], ["sh", "-c", CHATTY], ["sh", "-c", FLOOD]],
    ids=["quiet", "chatty", "flooding"],
)
@pytest.mark.parametrize("escapes", [False, True], ids=["in its group", "in a group of its own"])
async def test_04_a_grandchild_that_holds_the_pipes_does_not_delay_the_status(command, escapes):
    """A worker's end is told within a second, whoever has inherited its pipes."""
    floods = FLOOD in command  # it keeps a core busy, and outruns what the journal retains
    async with running() as session:
        found = await ask(session, "g", "grandchild", command=command, escapes=escapes)
        try:
            await session.send(request("p", "prompt", do="hold"))
            pid = await pid_of(session)
            async with session.subscribe(after=None) as events:
                os.kill(pid, signal.SIGKILL)
                with at_most(4 if floods else 1.5):
                    async for event in events:
                        if is_status(State.ERROR)(event):
                            break
                assert not session.is_busy
                assert session.status.exit == Exit(signal="SIGKILL")
            if not escapes:
                await end_of(found["pid"])
            with deadline():
                answer = await session.call("prompt", {"text": "again"})
            assert answer == {"text": "again"}
            if not floods:
                events = await journal(session)
                assert len(answers(events, "p")) == 1
                check(events)
        finally:
            if escapes:
                os.kill(found["pid"], signal.SIGKILL)


async def test_04_a_worker_that_leaves_a_grandchild_behind_ends_cleanly():
    """Exit code 0 is a clean end, although the streams never end by themselves."""
    async with running() as session:
        found = await ask(session, "g", "grandchild", exits=True)
        with at_most(1.5):
            status = await session.wait_for(State.STOPPED, State.ERROR)
        assert (status.state, status.reason) == (State.STOPPED, Reason.PROCESS_EXIT)
        await end_of(found["pid"])


# -- 6: odd lines -----------------------------------------------------------------------------

ODD = [
    b"42",
    b"null",
    b"true",
    b'"text"',
    b"[1, 2, 3]",
    b"",
    b"",
    b"   ",
    b"{",
    b"plain text",
    b"\xff\xfe no UTF-8 \x80",
    b"\xef\xbb\xbf",
    b"\x00\x01\x1b[31m",
    b'{"jsonrpc":"2.0","method":"no/such/event","params":{"a":1}}',
    b'{"jsonrpc":"2.0","method":"event","params":{"text":"\xff"}}',
    b'{"jsonrpc":"2.0","id":"no such request","result":null}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}',
    b'{"jsonrpc":"2.0","method":"event","params":NaN}',
    b'{"jsonrpc":"2.0","id":[1],"result":1}',
    b'{"jsonrpc":"2.0","method":42}',
    b'{"jsonrpc":"2.0","method":"crlf"}\r',
    b"\r",
    b"[" * 20_000,
    b"{" * 20_000,
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"x" * 300_000,
]


@pytest.mark.uvloop
async def test_06_odd_lines_pass_unchanged_and_the_session_goes_on():
    """What is no message is a line all the same: byte for byte, in its place, and no end."""
    async with running() as session:
        text = b"".join(line + b"\n" for line in ODD).decode("latin-1")
        receipt = await session.send(request("p", "prompt", do="print", text=text))
        answer = await answer_to(session, receipt)
        assert answer["result"] is None
        events = await journal(session)
        assert lines(events)[:-1] == ODD
        assert session.status.state is State.IDLE
        assert session.status.reason is Reason.PROMPT_COMPLETE
        assert await ask(session, "q", "prompt", text="hello") == {"text": "hello"}
        check(await journal(session))


@pytest.mark.parametrize("odd", ODD[:9] + ODD[10:14], ids=ascii)
async def test_06_an_odd_line_alone_in_its_chunk_ends_nothing(odd):
    """The same, where nothing else arrives with it."""
    async with running() as session:
        after = session.last_seq
        text = (odd + b"\n").decode("latin-1")
        await session.send(request("p", "print", text=text))
        events = await until(session, is_answer("p"), after=after)
        assert lines(events)[0] == odd
        assert await ask(session, "q", "echo", text="hello") == {"text": "hello"}


async def test_06_answers_that_a_strict_parser_rejects_are_answers():
    """An answer reaches its request, though it holds what JSON does not allow."""
    tails = [b"NaN", b'"\xff"', b'"\\ud800"', b"[" * 5000 + b"]" * 5000]
    async with running(dialect="jsonrpc") as session:
        for number, tail in enumerate(tails):
            await session.send(request(number, "hold"))
            line = b'{"jsonrpc":"2.0","id":%d,"result":%b}\r\n' % (number, tail)
            await ask(session, f"print{number}", "print", text=line.decode("latin-1"))
            assert session.in_flight == frozenset()


@pytest.mark.uvloop
async def test_06_a_line_of_50_mib_passes_whole():
    """A line far above a pipe or a reader's buffer is one line like any other."""
    size = 50 * MIB
    async with running() as session:
        await session.send(request("p", "prompt", do="line", size=size))
        async with session.subscribe() as events:
            with deadline(30):
                async for event in events:
                    if isinstance(event, Line) and event.kind is Kind.NOTIFICATION:
                        break
        assert event.data == b'{"method":"long","params":"%b"}' % (b"x" * (size - 29))
        await until(session, is_answer("p"))
        assert await ask(session, "q", "prompt", text="hello") == {"text": "hello"}


@pytest.mark.unwatched
@pytest.mark.uvloop
async def test_06_a_line_above_the_limit_is_dropped_reported_and_forgotten():
    """Above ``max_line`` a line takes no memory, is told by its size, and ends nothing."""
    limits = Limits(max_line=MIB, retained_bytes=4 * MIB)
    async with running(limits=limits) as session:
        await ask(session, "warm", "line", size=MIB)
        before, size = resident(), 50 * MIB
        await session.send(request("p", "prompt", do="line", size=size))
        events = await until(session, is_answer("p"))
        [long] = [event for event in events if isinstance(event, LineTooLong)]
        assert long.size == size
        assert long.head.startswith(b'{"method":"long","params":"xxx')
        assert peak() - before < 20 * MIB
        assert await ask(session, "q", "prompt", text="hello") == {"text": "hello"}


async def test_06_the_limit_of_a_line_is_exact():
    """``max_line`` bytes pass; one more does not."""
    async with running(limits=Limits(max_line=1000)) as session:
        await ask(session, "p", "line", size=1000)
        await ask(session, "q", "line", size=1001)
        events = await journal(session)
        assert [len(line) for line in lines(events) if b"long" in line] == [1000]
        assert [event.size for event in events if isinstance(event, LineTooLong)] == [1001]


async def test_06_a_request_whose_answer_is_above_the_limit_is_answered_with_an_error():
    """Nobody waits for ever for a line that was dropped."""
    async with running(limits=Limits(max_line=MIB)) as session:
        receipt = await session.send(request("p", "prompt", do="long_answer", size=2 * MIB))
        answer = await answer_to(session, receipt)
        assert answer["error"]["code"] == -32002
        assert not session.is_busy
        assert session.in_flight == frozenset()
        assert session.status.reason is Reason.PROMPT_ERROR
        assert await ask(session, "q", "prompt", text="hello") == {"text": "hello"}
        check(await journal(session))


@pytest.mark.parametrize("end", ["", "\n"], ids=["no newline", "newline"])
async def test_06_a_last_line_without_its_newline_is_told(end):
    """The stream's last words count, whole or not, and say which of the two they are."""
    async with running(dialect="lines", command=["printf", f"one\ntwo{end}"]) as session:
        with deadline():
            await session.wait_for(State.STOPPED)
        events = await journal(session)
        told = [(event.data, event.terminated) for event in events if isinstance(event, Line)]
        assert told == [(b"one", True), (b"two", bool(end))]
        check(events)


async def test_06_an_answer_without_its_newline_is_the_answer():
    """A real answer at the very end of the stream wins over ours."""
    async with running() as session:
        text = '{"jsonrpc":"2.0","id":"p","result":"real"}'
        await session.send(request("p", "prompt", do="print_last", text=text))
        with deadline():
            status = await session.wait_for(State.STOPPED, State.ERROR)
        events = await journal(session)
        assert [answer.get("result") for answer in answers(events, "p")] == ["real"]
        assert status.state is State.STOPPED
        check(events)


# -- 7: a subscriber that never reads ---------------------------------------------------------


@pytest.mark.unwatched
@pytest.mark.uvloop
async def test_07_a_subscriber_that_never_reads_costs_the_others_nothing():
    """999 subscribers read all of it, one reads nothing; stop and restart are as fast as ever."""
    count = 20_000
    limits = Limits(retained_bytes=MIB)
    async with running(dialect="jsonrpc", limits=limits) as session:
        with deadline():
            await session.call("count", {"to": 10_000})
        started = session.last_seq
        before = resident()
        totals = []

        async def read(ready, last):
            number = 0
            async with session.subscribe(after=started) as events:
                ready.set()
                async for batch in events.batches():
                    assert not isinstance(batch[0], Lagged), "a reader that reads fell behind"
                    number += len(batch)
                    if batch[-1].seq >= last:
                        break
            totals.append(number)

        async with session.subscribe(after=started) as stuck:
            with deadline(60):
                async with anyio.create_task_group() as readers:
                    for _ in range(999):
                        ready = anyio.Event()
                        # the request, what it prints, its answer, and two statuses
                        readers.start_soon(read, ready, started + count + 4)
                        await ready.wait()
                    await session.send(request("p", "count", to=count))
            assert totals == [count + 4] * 999
            with at_most(2):
                await session.restart()
            with at_most(2):
                await session.stop()
            with deadline():
                first = await anext(stuck)
                assert isinstance(first, Lagged)
                assert first.resume_from > started + 1
                cursor = first.resume_from
                while cursor <= session.last_seq:
                    event = await anext(stuck)
                    assert event.seq == cursor
                    cursor += 1
        assert peak() - before < 30 * MIB


# -- 9: output while stopping, grandchildren, the time it takes -------------------------------


@pytest.mark.uvloop
async def test_09_a_worker_that_ends_at_the_end_of_its_input_says_its_last_words():
    """Stopping begins with an end of input; what the worker writes then is kept, its exit told."""
    async with running() as session:
        await ask(session, "p", "ping")
        with at_most(1.5):
            status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        assert status.exit == Exit(code=0)
        events = await journal(session)
        assert len(notifications(events, "bye")) == 1
        check(events)


@pytest.mark.uvloop
async def test_09_a_worker_that_ignores_the_end_of_its_input_is_terminated_politely():
    """SIGTERM is next, and what a worker writes then is kept too."""
    async with running(limits=Limits(eof_grace=0.3)) as session:
        await ask(session, "w", "last_words")
        with at_most(2):
            status = await session.stop()
        assert status.exit == Exit(code=3)
        events = await journal(session)
        assert len(notifications(events, "bye")) == 1
        assert len(notifications(events, "terminated")) == 1
        check(events)


@pytest.mark.uvloop
async def test_09_a_worker_that_ignores_everything_is_killed():
    """The ladder ends, whatever the worker does, and the exit tells how."""
    async with running(limits=QUICK) as session:
        await ask(session, "i", "ignore", eof=True, signals=["SIGTERM", "SIGINT", "SIGHUP"])
        pid = await pid_of(session)
        with at_most(2):
            status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        assert status.exit == Exit(signal="SIGKILL")
        assert not alive(pid)
        assert len(notifications(await journal(session), "bye")) == 1


@pytest.mark.parametrize("ignores", [False, True], ids=["polite", "ignores all"])
async def test_09_stop_takes_the_grandchildren_too(ignores):
    """A worker's process group goes with it."""
    async with running(limits=QUICK) as session:
        if ignores:
            await ask(session, "i", "ignore", eof=True, signals=["SIGTERM"])
        pids = [(await ask(session, n, "grandchild"))["pid"] for n in range(3)]
        nested = await ask(session, "n", "grandchild", command=["sh", "-c", "sleep 99; :"])
        pids.append(nested["pid"])
        assert all(map(alive, pids))
        with at_most(2):
            await session.stop()
        for pid in pids:
            await end_of(pid)


async def test_09_a_request_in_flight_may_be_answered_while_the_session_stops():
    """What the worker still answers wins; what it does not is answered by us, before the status."""
    answer = '{"jsonrpc":"2.0","id":"one","result":"late"}'
    script = f"while read -r line; do :; done; echo '{answer}'"
    async with running(dialect="jsonrpc", command=["sh", "-c", script]) as session:
        await session.send(request("one", "x"))
        await session.send(request("two", "x"))
        with deadline():
            await session.stop()
        events = await journal(session)
        assert [each["result"] for each in answers(events, "one")] == ["late"]
        [lost] = answers(events, "two")
        assert lost["error"]["code"] == -32000
        assert lost["error"]["data"]["reason"] == "stop"
        assert is_status(State.STOPPED, reason="stop")(events[-1])
        check(events)


# -- 13: who joins during output; what is kept ------------------------------------------------


@pytest.mark.uvloop
async def test_13_whoever_joins_during_output_misses_nothing_and_gets_nothing_twice():
    """A subscription from any point is that point's suffix, and goes on live."""
    async with running(dialect="jsonrpc") as session:
        await session.send(request("p", "count", to=5000))
        started = joined = 0
        got = {}

        async def join(number, after):
            nonlocal joined
            async with session.subscribe(after=after) as events:
                begin = session.last_seq if after is None else after
                joined += 1
                seqs = []
                async for event in events:
                    seqs.append(event.seq)
                    if is_answer("end")(event):
                        break
            got[number] = begin, seqs

        with deadline():
            async with session.subscribe() as events, anyio.create_task_group() as tasks:
                async for event in events:
                    if event.seq % 50 == 0 and started < 100:
                        after = (None, 0, event.seq, event.seq // 2)[started % 4]
                        started += 1
                        tasks.start_soon(join, event.seq, after)
                    if is_answer("p")(event):
                        break
                while joined < started:
                    await anyio.lowlevel.checkpoint()
                await session.send(request("end", "ping"))
        assert len(got) >= 10
        assert len({seqs[-1] for _, seqs in got.values()}) == 1
        for begin, seqs in got.values():
            assert seqs == list(range(begin + 1, seqs[-1] + 1))


async def test_13_replay_is_bounded_and_says_so():
    """Who joins late gets what is retained, and is told from where on."""
    async with running(dialect="jsonrpc", limits=Limits(retained_bytes=100_000)) as session:
        with deadline():
            await session.call("count", {"to": 5000})
        async with session.subscribe(after=0) as events:
            with deadline():
                lagged = await anext(events)
                assert isinstance(lagged, Lagged)
                seqs = [(await anext(events)).seq]
                while seqs[-1] < session.last_seq:
                    seqs.append((await anext(events)).seq)
        assert seqs == list(range(lagged.resume_from, session.last_seq + 1))
        assert 100 < len(seqs) < 500


async def test_13_a_forgotten_session_leaves_nothing():
    """Forgetting ends its worker and its subscriptions, and gives its memory back."""
    async with SessionManager() as manager:
        session = await manager.start(LocalTransport(), WORKER, session_id="s")
        pid = await pid_of(session)
        ends = []

        async def read(session):
            async with session.subscribe() as events:
                async for event in events:
                    last = event
                ends.append(last)

        with deadline():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, session)
                tasks.start_soon(read, session)
                await anyio.lowlevel.checkpoint()
                await manager.forget("s")
        assert [is_status(State.STOPPED)(event) for event in ends] == [True, True]
        assert not alive(pid)
        with pytest.raises(UnknownSession):
            manager.get("s")
        assert "s" not in manager.sessions
        gone = weakref.ref(session)
        del session
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            gc.collect()
        assert gone() is None


# -- 14: a cancelled send leaves half a line --------------------------------------------------


@pytest.mark.uvloop
async def test_14_a_cancelled_send_is_finished_if_it_was_begun(gate):
    """A cancelled send never leaves half a line: the worker gets all of it, and the next too."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "report", "report")
        await ask(session, "pause", "pause", fifo=gate.path)
        big = json.dumps(request("big", "echo_size", text=BIG)).encode()
        small = json.dumps(request("small", "ping")).encode()

        async with anyio.create_task_group() as sender:
            sender.start_soon(session.send, big)
            await until(session, lambda event: getattr(event, "id", None) == "big")
            sender.cancel_scope.cancel()
        assert session.in_flight == {"big"}
        gate.open()
        await session.send(small)
        events = await until(session, is_answer("small"))
        got = [each["size"] for each in notifications(events, "got")]
        assert got[-2:] == [len(big), len(small)]
        assert not notifications(events, "garbled")
        await until(session, is_answer("big"))
        assert session.in_flight == frozenset()
        check(await journal(session))


@pytest.mark.uvloop
async def test_14_a_cancelled_send_that_was_not_begun_is_withdrawn_and_answered(gate):
    """A message that waited behind another never reaches the worker; it is answered once."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "report", "report")
        await ask(session, "pause", "pause", fifo=gate.path)
        async with anyio.create_task_group() as tasks:
            await stuffed(session, tasks)
            async with anyio.create_task_group() as sender:
                sender.start_soon(session.send, request("queued", "echo"))
                while "queued" not in session.in_flight:
                    await anyio.lowlevel.checkpoint()
                sender.cancel_scope.cancel()
            assert session.in_flight == {"big"}
            [answer] = answers(await journal(session), "queued")
            assert answer["error"]["data"]["delivery"] == "refused"
            gate.open()
            with deadline():
                assert await session.call("ping")
        events = await until(session, is_answer("big"))
        assert not notifications(events, "garbled")
        assert "queued" not in sent(events)
        assert len(answers(events, "queued")) == 1
        # The id is free again.
        after = session.last_seq
        await session.send(request("queued", "echo", text="again"))
        await until(session, is_answer("queued"), after=after)


# -- 16: orphans ------------------------------------------------------------------------------


async def test_16_a_lost_workers_children_are_ended():
    """What a dead worker leaves in its process group goes at once, not when the manager ends."""
    async with running() as session:
        pids = [(await ask(session, n, "grandchild"))["pid"] for n in range(3)]
        await session.send(request("k", "killed"))
        for pid in pids:
            await end_of(pid)
        assert session.status.state is State.ERROR


async def test_16_a_worker_has_its_three_streams_and_no_other_descriptor():
    """No worker holds an end of another's pipes: its stdin ends when we do."""
    async with SessionManager() as manager:
        for _ in range(3):
            session = await manager.start(LocalTransport(), WORKER)
            assert (await session.call("surroundings"))["fds"] == [0, 1, 2]


MANAGER = """
import anyio, sys
from holdfast import SessionManager
from holdfast_transports.local import LocalTransport

async def main():
    async with SessionManager() as manager:
        for _ in range(3):
            session = await manager.start(LocalTransport(), sys.argv[2:])
            print((await session.call("ping"))["pid"], flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_16_a_killed_manager_leaves_no_worker_that_reads_its_input(backend):
    """Where we are killed with SIGKILL, every worker sees the end of its input."""
    with subprocess.Popen(
        [sys.executable, "-c", MANAGER, backend, *WORKER],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as manager:
        try:
            assert manager.stdout is not None
            pids = [int(manager.stdout.readline()) for _ in range(3)]
            pidfds = [os.pidfd_open(pid) for pid in pids]
        finally:
            manager.kill()
    for pidfd in pidfds:
        ended, _, _ = select.select([pidfd], [], [], 10)
        os.close(pidfd)
        assert ended, "a worker outlived its killed manager"
