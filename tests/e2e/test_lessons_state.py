"""The lessons about a session's state, on real workers: what a session says must be true.

The numbers are those of the list of failures that the field has seen in session managers.
"""

from __future__ import annotations

import json
import logging
import os
import signal

import anyio
import pytest

from holdfast import (
    CallError,
    Cause,
    Delivery,
    Exit,
    Fate,
    InvalidMessage,
    Reason,
    SessionManager,
    State,
    StatusChanged,
    WorkerLost,
    WorkerNotStarted,
)
from holdfast_transports.local import LocalTransport

from .workers.harness import (
    QUICK,
    answer_to,
    answers,
    ask,
    at_most,
    check,
    deadline,
    end_of,
    is_answer,
    is_status,
    journal,
    lines,
    observed,
    pid_of,
    request,
    running,
    sent,
    statuses,
    until,
)

pytestmark = pytest.mark.anyio


# -- 1: an id is registered, and then the write fails -----------------------------------------


@pytest.mark.uvloop
async def test_01_a_prompt_whose_write_fails_leaves_nothing_in_flight():
    """A request that could not be written is answered, and the session is not busy with it."""
    async with running(limits=QUICK) as session:
        await ask(session, "close", "close_stdin")
        with deadline():
            receipt = await session.send(request("p", "prompt"))
        assert receipt.delivery is Delivery.REFUSED
        assert receipt.status.state is State.ERROR
        assert not session.is_busy
        assert session.in_flight == frozenset()
        events = await journal(session)
        assert len(answers(events, "p")) == 1
        check(events)


@pytest.mark.parametrize("content", [{"params": object()}, {"params": {1j: 2}}, {"id": "p\n"}])
async def test_01_a_prompt_that_cannot_be_prepared_leaves_nothing_in_flight(content):
    """A message that fails on its way to the writer was never accepted."""
    async with running() as session:
        message = {**request("p", "prompt"), **content}
        if "params" in content:
            with pytest.raises(InvalidMessage):
                await session.send(message)
            with pytest.raises(InvalidMessage):
                await session.call("prompt", content["params"], id="p")
        else:
            with pytest.raises(InvalidMessage):
                await session.send(json.dumps(message, indent=1))
        assert not session.is_busy
        assert session.in_flight == frozenset()
        assert await ask(session, "p", "prompt", text="hello") == {"text": "hello"}


# -- 2: the status is told before the ids are cleared -----------------------------------------


@pytest.mark.uvloop
async def test_02_whoever_reacts_to_the_loss_finds_a_session_that_is_not_busy():
    """A client that sends at the very status of a loss is served, by a new worker."""
    registry, observer = observed()
    async with running(registry=registry) as session:
        await session.send(request("held", "prompt", do="hold"))
        assert session.is_busy
        reactions = []

        async def react(event):
            assert not session.is_busy
            assert session.in_flight == frozenset()
            receipt = await session.send(request("next", "prompt", text="again"))
            reactions.append((receipt, await answer_to(session, receipt)))

        async with session.subscribe(after=None) as events:
            await session.send({"jsonrpc": "2.0", "id": "k", "method": "killed"})
            with deadline():
                async for event in events:
                    if is_status(State.ERROR)(event):
                        await react(event)
                        break
        [(receipt, answer)] = reactions
        assert receipt.delivery is Delivery.WRITTEN
        assert answer["result"] == {"text": "again"}
        assert session.generation == 2
    [(status, busy, in_flight, last_seq)] = [
        each for each in observer.seen if each[0].state is State.ERROR
    ]
    assert (busy, in_flight) == (False, frozenset())
    assert last_seq >= status.seq, "the hook ran before the journal held the status"


# -- 5: a late reader of the old worker -------------------------------------------------------


async def test_05_an_old_workers_pipe_cannot_answer_the_new_workers_prompt(tmp_path):
    """What is written to the pipes of a worker before a restart changes nothing after it."""
    gate = tmp_path / "gate"
    late = tmp_path / "late.sh"
    late.write_text(
        f"mkfifo {gate}; echo ready; read -r _ < {gate}\n"
        'echo \'{"jsonrpc":"2.0","id":"p","result":"stale"}\'\n'
        'echo \'{"jsonrpc":"2.0","method":"stale"}\' >&2\n'
    )
    async with running() as session:
        # A process that left the worker's group holds the old pipes, and outlives the restart.
        found = await ask(session, "g", "grandchild", command=["sh", str(late)], escapes=True)
        await until(session, lambda event: getattr(event, "data", b"") == b"ready")
        with deadline():
            await session.restart()
        assert session.generation == 2
        await session.send(request("p", "prompt", do="hold"))
        gate.open("w").close()
        await end_of(found["pid"])
        await ask(session, "after", "ping")
        assert session.in_flight == {"p"}
        assert session.is_busy
        assert await ask(session, "r", "release", ids=["p"]) is None
        events = await journal(session)
        assert [answer["result"] for answer in answers(events, "p")] == ["released"]
        assert not any(b"stale" in getattr(event, "data", b"") for event in events)


async def test_05_the_old_workers_exit_says_nothing_of_the_new_one():
    """A restart tells of the new worker only: no status of a loss, no exit of the old one."""
    async with running() as session:
        old = await pid_of(session)
        before = session.last_seq
        with deadline():
            status = await session.restart()
        await end_of(old)
        assert await pid_of(session) != old
        assert status == session.status
        assert (status.state, status.reason) == (State.IDLE, Reason.RESTART)
        told = statuses(await journal(session, after=before))
        assert [(each.state, each.reason) for each in told] == [
            (State.RESTARTING, Reason.RESTART),
            (State.IDLE, Reason.RESTART),
        ]


# -- 8: sequence numbers ----------------------------------------------------------------------


@pytest.mark.uvloop
async def test_08_the_journal_has_the_order_of_the_wire():
    """Sequence numbers have no gap, and a message's place in them is its place on the wire."""
    async with running(dialect="jsonrpc") as session:
        await ask(session, "report", "report")
        async with anyio.create_task_group() as senders:
            for number in range(200):
                padding = "x" * (number * 997 % 50_000)
                senders.start_soon(session.send, request(number, "echo", padding=padding))
        with deadline():
            while session.in_flight:
                await until(session, is_answer(min(session.in_flight)))
        events = await journal(session)
        check(events)
        handed_over = [number for number in sent(events) if isinstance(number, int)]
        assert sorted(handed_over) == list(range(200))
        arrived = [json.loads(line) for line in lines(events)]
        assert [each["id"] for each in arrived if isinstance(each.get("id"), int)] == handed_over


# -- 10: exits --------------------------------------------------------------------------------


async def test_10_exit_code_0_while_idle_is_a_clean_end():
    """A worker that ends by itself and says that all is well has not failed."""
    async with running() as session:
        await session.send(request("e", "exit", code=0, answers=True))
        with deadline():
            status = await session.wait_for(State.STOPPED, State.ERROR)
        assert status.state is State.STOPPED
        assert status.reason is Reason.PROCESS_EXIT
        assert status.exit == Exit(code=0)
        assert status.worker is Fate.GONE


async def test_10_exit_code_0_with_a_request_in_flight_is_a_loss():
    """Whoever waits for an answer has lost it, whatever the worker thinks of itself."""
    async with running() as session:
        await session.send(request("p", "prompt", do="hold"))
        await session.send(request("e", "exit", code=0))
        with deadline():
            status = await session.wait_for(State.STOPPED, State.ERROR)
        assert status.state is State.ERROR
        assert status.reason is Reason.PROCESS_EXIT
        assert status.exit == Exit(code=0)
        events = await journal(session)
        assert len(answers(events, "p")) == len(answers(events, "e")) == 1
        check(events)


@pytest.mark.parametrize(
    ("params", "exit"),
    [
        ({"do": "exit", "code": 1}, Exit(code=1)),
        ({"do": "exit", "code": 255}, Exit(code=255)),
        ({"do": "exit", "code": 137}, Exit(code=137)),
        ({"do": "killed", "signal": "SIGKILL"}, Exit(signal="SIGKILL")),
        ({"do": "killed", "signal": "SIGTERM"}, Exit(signal="SIGTERM")),
    ],
)
async def test_10_an_exit_is_told_as_it_was(params, exit):
    """A code is a code, a signal is a signal, and neither is ever made up."""
    async with running() as session:
        await session.send(request("e", "prompt", **params, answers=True))
        with deadline():
            status = await session.wait_for(State.STOPPED, State.ERROR)
        assert status.state is State.ERROR
        assert status.reason is Reason.PROCESS_EXIT
        assert status.cause is Cause.WORKER_EXITED
        assert status.exit == exit


# -- 11: prompts during a restart; a worker that cannot be started ----------------------------


@pytest.mark.uvloop
async def test_11_a_prompt_sent_during_a_restart_reaches_the_new_worker():
    """Where the dialect lets a request start a worker, it waits for the one that is coming."""
    async with running() as session:
        old = await pid_of(session)
        results = {}

        async def prompt():
            receipt = await session.send(request("p", "prompt", do="ping"))
            results["p"] = receipt, await answer_to(session, receipt)

        async with session.subscribe(after=None) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(session.restart)
            with deadline():
                async for event in events:
                    if is_status(State.RESTARTING)(event):
                        tasks.start_soon(prompt)
                        break
        receipt, answer = results["p"]
        assert receipt.delivery is Delivery.WRITTEN
        assert answer["result"]["pid"] != old
        assert len(answers(await journal(session), "p")) == 1


@pytest.mark.parametrize("dialect", ["mcp", "acp"])
async def test_11_a_request_during_a_restart_is_answered_where_it_cannot_be_sent(dialect):
    """Where a worker needs a handshake first, a request meanwhile is refused, and answered."""
    async with running(dialect=dialect) as session:
        receipts = []
        async with session.subscribe(after=None) as events, anyio.create_task_group() as tasks:
            tasks.start_soon(session.restart)
            with deadline():
                async for event in events:
                    if is_status(State.RESTARTING)(event):
                        receipts.append(await session.send(request("p", "echo")))
                        break
        [receipt] = receipts
        assert receipt.delivery is Delivery.REFUSED
        assert (await answer_to(session, receipt))["error"]["code"] == -32000
        assert await ask(session, "q", "echo", text="hello") == {"text": "hello"}


async def test_11_a_worker_that_cannot_be_started_is_told_by_a_status():
    """A start that fails raises, and leaves a session that says why."""
    registry, observer = observed()
    async with SessionManager(registry=registry) as manager:
        with pytest.raises(WorkerNotStarted) as caught:
            await manager.start(LocalTransport(), ["/no/such/program"], session_id="s")
        session = manager.get("s")
        status = session.status
        assert (status.state, status.reason) == (State.ERROR, Reason.INITIALIZATION_FAILED)
        assert status.detail == str(caught.value)
        assert statuses(await journal(session)) == [status]
        assert [each[0] for each in observer.seen] == [status]


# -- 12: errors under fresh random ids --------------------------------------------------------


@pytest.mark.parametrize(
    "id", [1, -1, 0, 2**53 + 1, 2**70, "1", "", "ä\u2028€", "a\nb", 1.5], ids=ascii
)
async def test_12_a_lost_requests_error_has_its_own_id(id):
    """The answer that we give carries the id that was asked with, exactly."""
    async with running() as session:
        receipt = await session.send(request(id, "prompt", do="killed"))
        assert receipt.id == id
        answer = await answer_to(session, receipt)
        assert answer["id"] == id
        assert type(answer["id"]) is type(id)
        assert answer["error"]["code"] == -32000
        assert answer["error"]["data"] == {
            "reason": "process_exit",
            "cause": "worker_exited",
            "delivery": "written",
            "detail": "worker killed by SIGKILL",
        }


# -- 15: two prompts race in ------------------------------------------------------------------


@pytest.mark.uvloop
async def test_15_of_two_prompts_at_once_one_runs_and_the_other_is_refused_by_its_id():
    """One prompt at a time: the other is answered at once, with -32001 and its own id."""
    async with running() as session:
        await ask(session, "report", "report")
        receipts = {}

        async def prompt(id):
            receipts[id] = await session.send(request(id, "prompt", do="hold"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(prompt, "one")
            tasks.start_soon(prompt, "two")
        [running_id] = session.in_flight
        [refused_id] = {"one", "two"} - {running_id}
        assert receipts[running_id].delivery is Delivery.WRITTEN
        assert receipts[refused_id].delivery is Delivery.REFUSED
        assert receipts[refused_id].status.state is State.BUSY
        answer = await answer_to(session, receipts[refused_id])
        assert answer["error"]["code"] == -32001
        with pytest.raises(CallError) as caught:
            await session.call("prompt", {"do": "echo"}, id="three")
        assert caught.value.code == -32001
        # Other requests pass meanwhile, and none of them frees the way for a second prompt.
        await ask(session, "aside", "echo")
        assert session.is_busy
        await ask(session, "r", "release", ids=[running_id])
        assert not session.is_busy
        events = await journal(session)
        assert sent(events) == ["report", running_id, "aside", "r"]
        assert await ask(session, refused_id, "prompt", again=True) == {"again": True}


async def test_15_of_two_prompts_after_a_crash_one_runs():
    """Both may start the worker anew; it is started once, and only one of them is let in."""
    async with running() as session:
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        receipts = []

        async def prompt(id):
            receipts.append(await session.send(request(id, "prompt", do="hold")))

        async with anyio.create_task_group() as tasks:
            for id in ("one", "two", "three"):
                tasks.start_soon(prompt, id)
        assert session.generation == 2
        assert sorted(each.delivery for each in receipts) == ["refused", "refused", "written"]
        assert len(session.in_flight) == 1


# -- 17: two clients use the same ids ---------------------------------------------------------


async def test_17_an_id_that_is_in_flight_cannot_be_used_again():
    """Its answer could not be told from the other's: the second one is told to be a mistake."""
    async with running(dialect="jsonrpc") as session:
        await session.send(request(1, "hold"))
        with pytest.raises(InvalidMessage, match="in flight"):
            await session.send(request(1, "echo"))
        with pytest.raises(InvalidMessage, match="in flight"):
            await session.call("echo", id=1)
        await session.send(request("1", "hold"))
        assert session.in_flight == {1, "1"}
        await ask(session, "r", "release", ids=[1])
        assert session.in_flight == {"1"}
        assert await ask(session, "again", "echo", who=2) == {"who": 2}
        events = await journal(session)
        assert [answer["result"] for answer in answers(events, 1)] == ["released"]


async def test_17_each_call_gets_its_own_answer():
    """Calls in parallel, answered in any order, never see each other's results."""
    async with running(dialect="jsonrpc") as session:
        results = {}

        async def call(number):
            results[number] = await session.call("echo", {"number": number})

        with deadline():
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(call, number)
        assert results == {number: {"number": number} for number in range(100)}
        assert session.in_flight == frozenset()


@pytest.mark.parametrize("lost", [False, True], ids=["alive", "after a crash"])
async def test_17_two_calls_with_one_id_at_once(lost):
    """The second is refused, the first gets its answer, and no id is left in flight."""
    async with running(dialect="jsonrpc") as session:
        if lost:
            await session.send(request("k", "killed"))
            with deadline():
                await session.wait_for(State.ERROR)
        outcomes = []

        async def call(number):
            try:
                outcomes.append(await session.call("echo", {"number": number}, id="same"))
            except InvalidMessage as error:
                outcomes.append(error)

        with deadline(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, 1)
                tasks.start_soon(call, 2)
        assert sum(isinstance(each, InvalidMessage) for each in outcomes) == 1
        assert [each for each in outcomes if isinstance(each, dict)] in (
            [{"number": 1}],
            [{"number": 2}],
        )
        assert session.in_flight == frozenset()


async def test_17_an_id_can_be_called_again_as_soon_as_it_is_answered():
    """Whoever sees an answer may use its id; a call that still sleeps is in nobody's way."""
    async with running(dialect="jsonrpc") as session:
        results = []

        async def first():
            results.append(await session.call("echo", {"turn": 1}, id="same"))

        async def second():
            await until(session, is_answer("same"))
            results.append(await session.call("echo", {"turn": 2}, id="same"))

        with deadline(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(second)
                tasks.start_soon(first)
        assert sorted(each["turn"] for each in results) == [1, 2]
        assert session.in_flight == frozenset()


# -- the loss itself, as a caller sees it -----------------------------------------------------


async def test_a_call_to_a_worker_that_dies_raises_worker_lost(caplog):
    """Whoever waits for an answer is told at once that none will come."""
    async with running() as session:
        with caplog.at_level(logging.WARNING, "holdfast"), at_most(3):
            with pytest.raises(WorkerLost) as caught:
                await session.call("prompt", {"do": "killed"})
        assert caught.value.status.state is State.ERROR
        assert caught.value.delivery is Delivery.WRITTEN
        [record] = [each for each in caplog.records if each.name == "holdfast"]
        assert "SIGKILL" in record.getMessage()


async def test_a_worker_killed_while_idle_is_reported_with_no_send_at_all():
    """Nobody has to send anything to hear of a death."""
    async with running() as session:
        pid = await pid_of(session)
        before = session.last_seq
        with at_most(1):
            os.kill(pid, signal.SIGKILL)
            with deadline():
                status = await session.wait_for(State.ERROR)
        assert status.exit == Exit(signal="SIGKILL")
        [event] = await journal(session, after=before)
        assert isinstance(event, StatusChanged)
