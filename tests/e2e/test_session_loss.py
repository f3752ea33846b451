"""A lost worker, on real processes: what is told, in which order, and how a session goes on."""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal

import anyio
import pytest

from holdfast import (
    Cause,
    Delivery,
    Exit,
    Fate,
    Line,
    Origin,
    Reason,
    Sent,
    State,
    StatusChanged,
    WorkerLost,
    WorkerNotStarted,
)

from .workers.harness import (
    DEADLINE,
    QUICK,
    alive,
    answer_to,
    answers,
    ask,
    at_most,
    check,
    deadline,
    end_of,
    is_status,
    journal,
    notifications,
    observed,
    pid_of,
    request,
    running,
    statuses,
    until,
)

pytestmark = pytest.mark.anyio

BROKEN_PIPE = "BrokenPipeError: [Errno 32] Broken pipe"


def wait_in_place(pid: int) -> None:
    """Wait for a process's end without letting the event loop run: nobody has noticed it yet."""
    pidfd = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([pidfd], [], [], DEADLINE)
        assert ended
    finally:
        os.close(pidfd)


# -- the order --------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_a_broken_stdin_is_told_in_the_order_that_lets_clients_go_on():
    """A warning; the ids cleared; an error for each; the status; the hook; ``send`` returns."""
    registry, observer = observed()
    warned = []
    async with running(dialect="jsonrpc", registry=registry, limits=QUICK) as session:

        class Handler(logging.Handler):
            def emit(self, record):
                warned.append((record, session.last_seq))

        handler = Handler(logging.WARNING)
        logger = logging.getLogger("holdfast")
        logger.addHandler(handler)
        try:
            for id in ("one", 2, "three"):
                await session.send(request(id, "hold"))
            pid = (await ask(session, "close", "close_stdin"))["pid"]
            before = session.last_seq
            hooks = len(observer.seen)
            with at_most(1.5):
                receipt = await session.send(request("four", "echo"))
            assert receipt.delivery is Delivery.REFUSED
            assert receipt.id == "four"
            status = receipt.status
            assert status == session.status
        finally:
            logger.removeHandler(handler)

        assert (status.state, status.reason) == (State.ERROR, Reason.STDIN_BROKEN)
        assert status.detail == BROKEN_PIPE
        assert (status.cause, status.worker, status.exit) == (Cause.STDIN_CLOSED, Fate.ALIVE, None)
        assert not session.is_busy
        assert session.in_flight == frozenset()

        events = await journal(session, after=before)
        assert [type(event) for event in events] == [Line, Line, Line, Line, StatusChanged]
        assert {event.id for event in events[:-1]} == {"one", 2, "three", "four"}
        assert all(event.origin is Origin.HOLDFAST for event in events[:-1])
        assert events[-1].status == status
        for id in ("one", 2, "three", "four"):
            [answer] = answers(events, id)
            assert answer["error"]["code"] == -32000
            assert answer["error"]["data"] == {
                "reason": "stdin_broken",
                "cause": "stdin_closed",
                "delivery": "refused" if id == "four" else "written",
                "detail": BROKEN_PIPE,
            }

        [(record, last_seq)] = warned
        assert record.levelno == logging.WARNING
        assert BROKEN_PIPE in record.getMessage()
        assert last_seq == before, "the warning came after the first answer"
        [told] = observer.seen[hooks:]
        assert told == (status, False, frozenset(), status.seq)

        # How it ended becomes known later: one more status, with the same state and reason.
        events = await until(
            session,
            lambda event: isinstance(event, StatusChanged) and event.status.exit is not None,
            after=status.seq,
        )
        [later] = statuses(events)
        assert (later.state, later.reason, later.detail) == (
            status.state,
            status.reason,
            status.detail,
        )
        assert later.exit == Exit(signal="SIGTERM")
        assert later.worker is Fate.GONE
        assert not alive(pid)
        check(await journal(session))


@pytest.mark.uvloop
async def test_a_real_answer_that_lies_in_the_pipe_wins_over_ours():
    """Where the write meets the loss first, what the worker said before is read all the same."""
    async with running(dialect="jsonrpc") as session:
        pid = await pid_of(session)
        await session.send(request("lost", "hold"))
        await session.send(request("real", "exit", answers=True, code=3))
        wait_in_place(pid)
        receipt = await session.send(request("late", "echo"))
        assert receipt.delivery is Delivery.REFUSED
        status = receipt.status
        assert (status.state, status.reason) == (State.ERROR, Reason.STDIN_BROKEN)
        assert status.cause is Cause.WORKER_EXITED
        assert status.exit == Exit(code=3)
        events = await journal(session)
        [answer] = answers(events, "real")
        assert answer["result"] is None
        for id in ("lost", "late"):
            [answer] = answers(events, id)
            assert answer["error"]["code"] == -32000
        assert events[-1].seq == status.seq
        check(events)


async def test_all_that_a_dead_worker_wrote_stands_before_its_terminal_status():
    """Its last words come first, to the end of the stream."""
    async with running() as session:
        pid = await pid_of(session)
        text = "".join(f'{{"method":"last","params":{{"n":{n}}}}}\n' for n in range(1000))
        await session.send(request("p", "prompt", do="print_last", text=text, code=1))
        wait_in_place(pid)
        with deadline():
            await session.wait_for(State.ERROR)
        events = await journal(session)
        assert [each["n"] for each in notifications(events, "last")] == list(range(1000))
        assert is_status(State.ERROR)(events[-1])
        check(events)


# -- what is told -----------------------------------------------------------------------------


async def test_an_exit_with_an_error_is_told_with_the_last_words_of_stderr():
    """Who reads the status alone sees why a worker gave up."""
    async with running() as session:
        words = "Traceback:\n  somewhere\nValueError: no such model\n"
        await session.send(request("p", "prompt", do="exit", code=3, say=words))
        with deadline():
            status = await session.wait_for(State.ERROR)
        assert status.reason is Reason.PROCESS_EXIT
        last_words = "ValueError: no such model"
        assert status.detail == f"worker exited with code 3; its last words: {last_words}"
        assert (status.cause, status.worker) == (Cause.WORKER_EXITED, Fate.GONE)
        assert status.exit == Exit(code=3)
        assert session.stderr_tail == words.encode()


@pytest.mark.uvloop
async def test_a_worker_that_closes_its_stdout_and_lives_is_lost():
    """No answer can come any more, so none is waited for; the worker is ended, its exit added."""
    async with running(limits=QUICK) as session:
        await session.send(request("p", "prompt", do="hold"))
        pid = await pid_of(session)
        await session.send(request("c", "close_stdout"))
        with at_most(3):
            status = await session.wait_for(State.ERROR)
        assert status.reason is Reason.PROCESS_EXIT
        assert (status.worker, status.exit) == (Fate.ALIVE, None)
        assert not session.is_busy
        await end_of(pid)
        events = await until(
            session,
            lambda event: isinstance(event, StatusChanged) and event.status.exit is not None,
        )
        assert [(each.state, each.reason) for each in statuses(events)[-2:]] == [
            (State.ERROR, Reason.PROCESS_EXIT)
        ] * 2
        assert statuses(events)[-1].exit == Exit(signal="SIGTERM")
        assert len(answers(events, "p")) == 1
        check(events)


@pytest.mark.uvloop
async def test_only_one_terminal_status_is_told_of_a_worker():
    """Whoever else notices the same death adds nothing."""
    async with running(dialect="mcp") as session:
        pid = await pid_of(session)
        before = session.last_seq
        os.kill(pid, signal.SIGKILL)
        wait_in_place(pid)
        for number in range(5):  # the write, the reader and the waiter all meet it
            receipt = await session.send(request(number, "echo"))
            assert receipt.delivery is Delivery.REFUSED
            assert receipt.status.state is State.ERROR
        with deadline():
            await session.stop()
        told = statuses(await journal(session, after=before))
        assert [each.state for each in told if each.state is State.ERROR] == [State.ERROR]


async def test_a_status_as_json_keeps_its_names():
    """What a web page gets has the names of the design, and a time in UTC."""
    async with running(session_id="s") as session:
        await session.send(request("p", "prompt", do="killed"))
        with deadline():
            status = await session.wait_for(State.ERROR)
        told = status.to_dict()
        assert told["updated_at"].endswith(("Z", "+00:00"))
        del told["updated_at"]
        assert told == {
            "session_id": "s",
            "state": "error",
            "seq": status.seq,
            "worker_id": "s/1",
            "reason": "process_exit",
            "detail": "worker killed by SIGKILL",
            "cause": "worker_exited",
            "worker": "gone",
            "exit": {"code": None, "signal": "SIGKILL", "detail": None},
        }


async def test_an_observer_that_raises_changes_nothing(caplog):
    """What a plugin does wrong is logged, and the session goes on."""
    registry, observer = observed()

    def fail(*_):
        raise RuntimeError("a plugin's mistake")

    observer.seen = type("Broken", (list,), {"append": fail})()
    async with running(registry=registry) as session:
        await session.send(request("p", "prompt", do="killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        assert await session.call("prompt", {"text": "again"}) == {"text": "again"}
    assert "a plugin's mistake" in caplog.text


# -- how a session goes on --------------------------------------------------------------------


@pytest.mark.uvloop
@pytest.mark.parametrize(("dialect", "method"), [("kimi-wire", "prompt"), ("jsonrpc", "echo")])
async def test_the_next_request_starts_a_new_worker(dialect, method):
    """Where no handshake is needed, a failed session recovers by being used."""
    async with running(dialect=dialect) as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        receipt = await session.send(request("p", method, text="again"))
        assert receipt.delivery is Delivery.WRITTEN
        assert (await answer_to(session, receipt))["result"] == {"text": "again"}
        assert session.generation == 2
        events = await journal(session)
        assert statuses(events)[-1].worker_id == f"{session.id}/2"
        assert [each.reason for each in statuses(events)].count(Reason.START) == 2
        check(events)


async def test_a_request_after_a_clean_end_starts_a_new_worker():
    """A worker that ended by itself is no reason to refuse."""
    async with running() as session:
        await session.send(request("e", "exit", answers=True))
        with deadline():
            await session.wait_for(State.STOPPED)
            assert await session.call("prompt", {"text": "again"}) == {"text": "again"}
        assert session.generation == 2


@pytest.mark.parametrize("dialect", ["mcp", "acp"])
async def test_a_worker_that_needs_a_handshake_is_not_started_by_a_request(dialect):
    """The request is refused and answered; a restart, and a handshake, are the client's to do."""
    async with running(dialect=dialect) as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        receipt = await session.send(request("p", "echo"))
        assert receipt.delivery is Delivery.REFUSED
        assert receipt.status.reason is Reason.PROCESS_EXIT
        [answer] = answers(await journal(session), "p")
        assert answer["error"]["code"] == -32000
        assert answer["error"]["data"]["delivery"] == "refused"
        assert session.generation == 1
        with pytest.raises(WorkerLost) as caught:
            await session.call("echo")
        assert caught.value.delivery is Delivery.REFUSED
        receipt = await session.send({"jsonrpc": "2.0", "method": "notice"})
        assert (receipt.delivery, receipt.id) == (Delivery.REFUSED, None)
        with deadline():
            await session.restart()
        assert await ask(session, "q", "echo", text="hello") == {"text": "hello"}


async def test_lines_are_refused_after_a_loss():
    """In a dialect without requests nothing is answered; the receipt says it all."""
    async with running(dialect="lines", command=["sh", "-c", "read -r _; exit 1"]) as session:
        await session.send("end")
        with deadline():
            await session.wait_for(State.ERROR)
        before = session.last_seq
        receipt = await session.send(b"more")
        assert (receipt.delivery, receipt.id) == (Delivery.REFUSED, None)
        assert session.last_seq == before
        assert session.generation == 1


@pytest.mark.uvloop
async def test_a_recovery_that_fails_is_told_and_answered(tmp_path):
    """The receipt says ``REFUSED``, the status why, and the request has its one answer."""
    program = tmp_path / "program"
    shutil.copy("/bin/sh", program)
    async with running(command=[str(program), "-c", "read -r _; exit 1"]) as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        program.unlink()
        for id in ("p", "q"):
            receipt = await session.send(request(id, "prompt"))
            assert receipt.delivery is Delivery.REFUSED
            status = receipt.status
            assert (status.state, status.reason) == (State.ERROR, Reason.INITIALIZATION_FAILED)
            assert status.detail is not None
            assert "no such command" in status.detail
            [answer] = answers(await journal(session), id)
            assert answer["error"]["data"]["reason"] == "initialization_failed"
            assert not session.is_busy
        program.symlink_to("/bin/sh")
        receipt = await session.send(request("r", "prompt"))
        assert receipt.delivery is Delivery.WRITTEN


@pytest.mark.uvloop
async def test_prompts_in_parallel_share_a_start_that_fails(tmp_path):
    """Ten clients that wait make one attempt, not ten in a row; each of them is answered."""
    program = tmp_path / "program"
    program.symlink_to("/bin/cat")
    async with running(dialect="jsonrpc", command=[str(program)]) as session:
        program.unlink()
        with deadline():
            with pytest.raises(WorkerNotStarted):
                await session.restart()
        before = session.last_seq
        receipts = []

        async def send(id):
            receipts.append(await session.send(request(id, "echo")))

        with deadline():
            async with anyio.create_task_group() as tasks:
                for id in range(10):
                    tasks.start_soon(send, id)
        assert [receipt.delivery for receipt in receipts] == [Delivery.REFUSED] * 10
        events = await journal(session, after=before)
        assert all(len(answers(events, id)) == 1 for id in range(10))
        failed = [each for each in statuses(events) if each.reason is Reason.INITIALIZATION_FAILED]
        assert len(failed) == 1


@pytest.mark.uvloop
async def test_calls_in_parallel_after_a_crash_all_reach_the_new_worker():
    """The worker is started once, for all who need it."""
    async with running(dialect="jsonrpc") as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        pids = set()

        async def call():
            pids.add((await session.call("ping"))["pid"])

        with deadline():
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(call)
        assert len(pids) == 1
        assert session.generation == 2


@pytest.mark.uvloop
async def test_calls_in_parallel_around_a_crash_are_all_answered():
    """Each ends with a result or with ``WorkerLost``; none hangs, none is answered twice."""
    async with running(dialect="jsonrpc") as session:
        pid = await pid_of(session)
        outcomes = []

        async def call(number):
            try:
                outcomes.append(await session.call("echo", {"n": number}, id=number))
            except WorkerLost as lost:
                outcomes.append(lost)
            if number == 20:
                os.kill(pid, signal.SIGKILL)

        with deadline():
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(call, number)
        assert len(outcomes) == 100
        assert session.in_flight == frozenset()
        with deadline():
            await until(session, is_status(State.ERROR, State.STOPPED))
            assert await session.call("echo", {"n": "after"}) == {"n": "after"}
        check(await journal(session))


@pytest.mark.uvloop
async def test_a_message_accepted_before_a_loss_never_reaches_the_next_worker():
    """Nothing is sent twice by us: what was on its way to the old worker is answered with it."""
    async with running(dialect="jsonrpc", limits=QUICK) as session:
        await ask(session, "close", "close_stdin")
        receipts = []

        async def send(id):
            receipts.append(await session.send(request(id, "echo")))

        with deadline():
            async with anyio.create_task_group() as tasks:
                for id in ("a", "b", "c"):
                    tasks.start_soon(send, id)
        assert {receipt.delivery for receipt in receipts} == {Delivery.REFUSED}
        with deadline():
            await session.call("report")
        events = await journal(session)
        assert next(event.id for event in events if isinstance(event, Sent)) == "close"
        for id in ("a", "b", "c"):
            assert len(answers(events, id)) == 1
            assert not any(isinstance(event, Sent) and event.id == id for event in events)
        check(events)


async def test_restart_after_a_loss_waits_for_nothing_but_the_old_workers_end(tmp_path):
    """Two workers of one session never run at once."""
    marks = tmp_path / "marks"
    script = (
        f"echo start >> {marks}; trap 'echo end >> {marks}; exit' TERM; "
        "exec <&-; echo ready; while :; do sleep 0.01; done"
    )
    async with running(dialect="lines", command=["sh", "-c", script], limits=QUICK) as session:
        await until(session, lambda event: isinstance(event, Line))
        with deadline():
            receipt = await session.send("x")
        assert receipt.status.reason is Reason.STDIN_BROKEN
        with deadline():
            await session.restart()
        await until(session, lambda event: isinstance(event, Line), after=session.status.seq)
        assert marks.read_text().split() == ["start", "end", "start"]
