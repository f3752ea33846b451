"""Sending, calling and reading, on real processes: what each promises, and what it never raises."""

from __future__ import annotations

import json
import logging

import anyio
import pytest

from holdfast import (
    CallError,
    Cause,
    Delivery,
    Exit,
    Fate,
    InvalidMessage,
    Limits,
    Line,
    Reason,
    SessionClosed,
    SessionManager,
    State,
    StatusChanged,
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
    journal,
    lines,
    notifications,
    pid_of,
    request,
    running,
    sent,
    statuses,
    stuffed,
    until,
)

pytestmark = pytest.mark.anyio

# -- a worker that takes no input -------------------------------------------------------------


@pytest.mark.uvloop
async def test_stop_ends_a_send_to_a_worker_that_takes_no_input_at_once(gate):
    """A blocked writer delays no stop: half a message and its end would only mislead the worker."""
    receipts = []
    async with running(dialect="jsonrpc") as session:
        await ask(session, "pause", "pause", fifo=gate.path)
        async with anyio.create_task_group() as tasks:
            await stuffed(session, tasks, receipts)
            with at_most(min(1.0, session.limits.eof_grace)):
                status = await session.stop()
        assert (status.state, status.reason) == (State.STOPPED, Reason.STOP)
        assert status.exit == Exit(signal="SIGTERM")
        [receipt] = receipts
        assert receipt.delivery is Delivery.UNKNOWN
        [answer] = answers(await journal(session), "big")
        assert answer["error"]["data"]["delivery"] == "unknown"
        assert answer["error"]["data"]["reason"] == "stop"


@pytest.mark.uvloop
async def test_a_send_that_expires_half_written_declares_the_worker_stuck(gate):
    """Expiry is a receipt: ``UNKNOWN``, and a session in error whose worker is then ended."""
    async with running(limits=QUICK) as session:
        await ask(session, "ignore", "ignore", signals=["SIGTERM"], eof=True)
        pid = (await ask(session, "pause", "pause", fifo=gate.path))["pid"]
        with at_most(1.5):
            receipt = await session.send(request("big", "prompt", text=BIG), timeout=0.2)
        assert receipt.delivery is Delivery.UNKNOWN
        status = receipt.status
        assert (status.state, status.reason) == (State.ERROR, Reason.STDIN_BROKEN)
        assert (status.cause, status.worker, status.exit) == (Cause.STUCK, Fate.ALIVE, None)
        assert not session.is_busy
        [answer] = answers(await journal(session), "big")
        assert answer["error"]["data"]["cause"] == "stuck"
        assert answer["error"]["data"]["delivery"] == "unknown"
        await end_of(pid)
        events = await until(
            session,
            lambda event: isinstance(event, StatusChanged) and event.status.exit is not None,
            after=status.seq,
        )
        [later] = statuses(events)
        assert (later.reason, later.cause) == (status.reason, status.cause)
        assert (later.worker, later.exit) == (Fate.GONE, Exit(signal="SIGKILL"))
        with deadline():
            assert await session.call("prompt", {"text": "again"}) == {"text": "again"}
        assert session.generation == 2
        check(await journal(session))


@pytest.mark.uvloop
async def test_a_worker_that_is_over_is_not_called_stuck():
    """Who inherited its stdin keeps the message waiting; what is told is the worker's exit."""
    script = "exec 3<&0; sleep 1000 & head -c 1 >/dev/null; exit 3"
    limits = Limits(eof_grace=0.3, term_grace=0.3, settle=2.0)
    async with running(command=["sh", "-c", script], limits=limits) as session:
        with deadline():
            receipt = await session.send(request("big", "prompt", text=BIG), timeout=0.5)
        assert receipt.delivery is Delivery.UNKNOWN
        status = receipt.status
        assert (status.state, status.reason) == (State.ERROR, Reason.PROCESS_EXIT)
        assert (status.cause, status.worker) == (Cause.WORKER_EXITED, Fate.GONE)
        assert status.exit == Exit(code=3)
        [answer] = answers(await journal(session), "big")
        assert answer["error"]["data"]["cause"] == "worker_exited"


@pytest.mark.uvloop
async def test_a_stuck_worker_that_reads_on_is_no_error_of_ours(gate, caplog):
    """It may take the rest while it is being ended: nothing of that is told, or logged."""
    limits = Limits(eof_grace=0.3, term_grace=5)
    async with running(dialect="jsonrpc", limits=limits) as session:
        await ask(session, "report", "report")
        await ask(session, "ignore", "ignore", signals=["SIGTERM"])
        pid = (await ask(session, "pause", "pause", fifo=gate.path))["pid"]
        receipt = await session.send(request("big", "exit", text=BIG), timeout=0.1)
        assert receipt.status.cause is Cause.STUCK
        gate.open()
        await end_of(pid)
        with deadline():
            assert await session.call("ping")
        assert len(answers(await journal(session), "big")) == 1
    assert [each for each in caplog.records if each.levelno > logging.WARNING] == []


@pytest.mark.uvloop
async def test_a_stuck_worker_is_not_given_half_a_message_and_an_end(gate, tmp_path):
    """A worker that takes the end of its input for the end of a line would act on half of it."""
    got = tmp_path / "got"
    script = f"read -r _ < {gate.path}; trap '' TERM; echo ready; read -r line; echo $? > {got}"
    limits = Limits(eof_grace=5, term_grace=0.3)
    async with running(
        dialect="lines",
        command=["sh", "-c", script.replace(f"read -r _ < {gate.path}; ", "")],
        limits=limits,
    ) as session:
        await until(session, lambda event: isinstance(event, Line))
        # A line without an end would be read to its end; the shell reads byte by byte, slowly.
        receipt = await session.send(b"x" * (10 * MIB), timeout=0.1)
        assert receipt.delivery is Delivery.UNKNOWN
        with at_most(3), deadline():
            await until(
                session,
                lambda event: isinstance(event, StatusChanged) and event.status.exit is not None,
                after=receipt.status.seq,
            )
        assert session.status.exit == Exit(signal="SIGKILL")
        assert not got.exists()


@pytest.mark.uvloop
async def test_a_queued_send_that_expires_is_withdrawn(gate):
    """Not a byte of it reached the worker: ``REFUSED``, one answer, and the session goes on."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "report", "report")
        await ask(session, "pause", "pause", fifo=gate.path)
        async with anyio.create_task_group() as tasks:
            await stuffed(session, tasks)
            with at_most(1):
                receipt = await session.send(request("queued", "echo"), timeout=0.1)
            assert receipt.delivery is Delivery.REFUSED
            assert receipt.status.state is State.BUSY
            assert session.in_flight == {"big"}
            [answer] = answers(await journal(session), "queued")
            assert answer["error"]["data"]["delivery"] == "refused"
            gate.open()
        await until(session, is_answer("big"))
        await ask(session, "after", "echo")
        events = await journal(session)
        assert "queued" not in sent(events)
        assert not notifications(events, "garbled")
        assert len(answers(events, "queued")) == 1
        check(events)


async def test_the_sessions_own_send_timeout_is_the_default(gate):
    """``Limits.send_timeout`` bounds every send that names no bound of its own."""
    limits = Limits(send_timeout=0.1, eof_grace=0.3, term_grace=0.3)
    async with running(limits=limits) as session:
        await ask(session, "pause", "pause", fifo=gate.path)
        with at_most(1.5):
            receipt = await session.send(request("big", "prompt", text=BIG))
        assert receipt.status.cause is Cause.STUCK


@pytest.mark.uvloop
async def test_a_worker_that_takes_no_input_holds_up_nobody_else(gate):
    """Other sessions answer, and its own output is read, while its input is stuck."""
    async with SessionManager() as manager:
        ticking = "exec 3<&0; while :; do echo tick; sleep 0.01; done"
        deaf = await manager.start(LocalTransport(), ["sh", "-c", ticking], dialect="lines")
        other = await manager.start(LocalTransport(), WORKER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deaf.send, b"x" * (10 * MIB))
            with at_most(2):
                for _ in range(50):
                    await other.call("ping")
            before = deaf.last_seq
            await until(deaf, lambda event: isinstance(event, Line), after=before)
            with at_most(1):
                await deaf.stop()


@pytest.mark.uvloop
async def test_large_messages_both_ways_at_once_do_not_block_each_other():
    """A worker that writes while it is written to is read meanwhile."""
    async with running(dialect="lines", command=["cat"]) as session:
        line = b"y" * MIB
        with deadline(30):
            async with anyio.create_task_group() as tasks:
                for _ in range(30):
                    tasks.start_soon(session.send, line)
                async with session.subscribe() as events:
                    count = 0
                    async for event in events:
                        if isinstance(event, Line):
                            assert event.data == line
                            count += 1
                            if count == 30:
                                break


# -- what can be sent -------------------------------------------------------------------------


async def test_a_message_is_bytes_text_or_a_mapping():
    """All three arrive as the same line, bytes unchanged."""
    async with running(dialect="lines", command=["cat"]) as session:
        for message in (b"\xff bytes", b"with its end\n", "text \N{SNOWMAN}", {"a": 1}, b"", "\r"):
            assert (await session.send(message)).delivery is Delivery.WRITTEN
        events = await until(session, lambda event: getattr(event, "data", None) == b"\r")
        while len(lines(events)) < 6:
            events = await until(session, lambda event: isinstance(event, Line), after=0)
            events = await journal(session)
            await anyio.lowlevel.checkpoint()
        assert lines(events) == [
            b"\xff bytes",
            b"with its end",
            "text \N{SNOWMAN}".encode(),
            b'{"a":1}',
            b"",
            b"\r",
        ]


@pytest.mark.parametrize(
    "message", [b"no json", "{", b"two\nlines", b"\xff", 42, None, {"a": 1j}], ids=ascii
)
async def test_what_is_no_message_is_refused_at_the_edge(message):
    """``InvalidMessage``, a ``ValueError``, and nothing has happened."""
    async with running(dialect="jsonrpc") as session:
        before = session.last_seq
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - that it is one is the point
            await session.send(message)
        assert isinstance(caught.value, InvalidMessage)
        assert session.last_seq == before


async def test_the_workers_own_requests_are_answered_through_send():
    """What a client answers, and what it notifies, passes; the receipt has the answer's id."""
    async with running(dialect="jsonrpc", command=["cat"]) as session:
        answer = {"jsonrpc": "2.0", "id": "theirs", "result": True}
        receipt = await session.send(answer)
        assert (receipt.delivery, receipt.id) == (Delivery.WRITTEN, "theirs")
        receipt = await session.send({"jsonrpc": "2.0", "method": "notice"})
        assert (receipt.delivery, receipt.id) == (Delivery.WRITTEN, None)
        assert session.in_flight == frozenset()


# -- call -------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_a_call_gives_its_result_or_raises_its_error():
    """An error of the worker arrives with its code, message and data."""
    async with running(dialect="jsonrpc") as session:
        with deadline():
            assert await session.call("echo", {"a": [1, None]}) == {"a": [1, None]}
            assert await session.call("echo") == {}
            with pytest.raises(CallError) as caught:
                await session.call("fail", {"why": "no reason"})
        assert caught.value.code == 7
        assert caught.value.message == "as asked"
        assert caught.value.data == {"why": "no reason"}
        assert session.in_flight == frozenset()


@pytest.mark.uvloop
async def test_a_call_that_takes_too_long_raises_timeout_error():
    """The request stays in flight, since the worker has it; its late answer is only an event."""
    async with running(dialect="jsonrpc") as session:
        with at_most(1), pytest.raises(TimeoutError):
            await session.call("hold", id="slow", timeout=0.05)
        assert session.in_flight == {"slow"}
        await ask(session, "r", "release", ids=["slow"])
        assert session.in_flight == frozenset()
        assert await session.call("echo", {"n": 1}, id="slow") == {"n": 1}


@pytest.mark.uvloop
async def test_a_call_that_expires_before_it_is_written_is_withdrawn(gate):
    """Not a byte of it was written, so it is answered, and its id is free again."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "pause", "pause", fifo=gate.path)
        async with anyio.create_task_group() as tasks:
            await stuffed(session, tasks)
            with at_most(1), pytest.raises(TimeoutError):
                await session.call("echo", id="queued", timeout=0.1)
            assert session.in_flight == {"big"}
            gate.open()
        with deadline():
            assert await session.call("echo", {"n": 1}, id="queued") == {"n": 1}


async def test_a_cancelled_call_leaves_its_request_to_the_worker():
    """Nobody waits for it any more; it is in flight until it is answered."""
    async with running(dialect="jsonrpc") as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.call, "hold")
            while not session.in_flight:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        [id] = session.in_flight
        await ask(session, "r", "release", ids=[id])
        assert session.in_flight == frozenset()


# -- wait_for ---------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_wait_for_gives_the_status_that_was_waited_for():
    """Even where the session has moved on before the waiting task runs."""
    async with running() as session:
        assert (await session.wait_for(State.IDLE)).state is State.IDLE
        seen = []

        async def wait():
            seen.append(await session.wait_for(State.BUSY))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.lowlevel.checkpoint()
            await session.call("prompt", {"text": "short"})
        assert [each.state for each in seen] == [State.BUSY]
        with at_most(1), pytest.raises(TimeoutError):
            await session.wait_for(State.ERROR, timeout=0.05)


async def test_wait_for_ends_when_the_session_is_forgotten():
    """Nobody waits for ever for a session that is gone."""
    async with SessionManager() as manager:
        session = await manager.start(LocalTransport(), WORKER, session_id="s")
        caught = []

        async def wait():
            with pytest.raises(SessionClosed) as info:
                await session.wait_for(State.BUSY)
            caught.append(info)

        with deadline():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.lowlevel.checkpoint()
                await manager.forget("s")
        assert len(caught) == 1
        with deadline(), pytest.raises(SessionClosed):
            await session.wait_for(State.BUSY)


# -- subscribe --------------------------------------------------------------------------------


async def test_a_subscription_begins_where_it_was_asked_to():
    """0 for all there is, n for what follows n, ``None`` for what comes from now on."""
    async with running() as session:
        await ask(session, "p", "ping")
        last = session.last_seq
        assert last > 2
        for after, first in ((0, 1), (2, 3), (last - 1, last)):
            async with session.subscribe(after=after) as events:
                assert (await anext(events)).seq == first
        async with session.subscribe(after=None) as now, session.subscribe(after=last) as later:
            await ask(session, "q", "ping")
            assert (await anext(now)).seq == (await anext(later)).seq == last + 1
        with pytest.raises(ValueError, match="0 or more"):
            async with session.subscribe(after=-1):
                pass


@pytest.mark.uvloop
@pytest.mark.parametrize("how", ["one by one", "batches"])
async def test_cancelling_a_reader_that_waits_loses_nothing(how):
    """Its next read goes on where it was, and the subscription lives."""
    async with running(dialect="jsonrpc") as session, session.subscribe(after=None) as events:
        batches = events.batches()
        seqs = []

        async def read():
            if how == "batches":
                seqs.extend(event.seq for event in await anext(batches))
            else:
                seqs.append((await anext(events)).seq)

        begin = session.last_seq
        for number in range(30):
            with anyio.move_on_after(0.001 * (number % 4)):
                await read()
            await session.send(request(number, "echo"))
            with anyio.move_on_after(0):
                await read()
        with deadline():
            while session.in_flight or (seqs[-1] if seqs else begin) < session.last_seq:
                await read()
        assert seqs == list(range(begin + 1, session.last_seq + 1))


async def test_batches_and_single_events_can_be_mixed():
    """Both read from the same cursor: what one has fetched, the other does not skip."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "p", "count", to=200)
        async with session.subscribe() as events:
            seqs = [(await anext(events)).seq, (await anext(events)).seq]
            batches = events.batches(10)
            seqs += [event.seq for event in await anext(batches)]
            seqs += [(await anext(events)).seq]
            while seqs[-1] < session.last_seq:
                with deadline():
                    seqs += [event.seq for event in await anext(batches)]
        assert seqs == list(range(1, session.last_seq + 1))


async def test_breaking_out_of_batches_leaves_nothing_behind():
    """A reader may stop anywhere, on any event loop, without a warning."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "p", "count", to=10)
        async with session.subscribe() as events:
            async for batch in events.batches():
                assert batch
                break
        assert await answer_to(session, await session.send(request("q", "ping")))
        assert json.loads(lines(await journal(session))[-1])["id"] == "q"
        assert alive(await pid_of(session))
