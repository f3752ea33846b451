"""What each dialect makes of a worker's messages, on real processes."""

from __future__ import annotations

import json

import pytest

from holdfast import (
    Cause,
    Delivery,
    InvalidMessage,
    Kind,
    Limits,
    Line,
    LineTooLong,
    Reason,
    State,
)

from .workers.harness import (
    QUICK,
    WORKER,
    answer_to,
    answers,
    ask,
    at_most,
    check,
    deadline,
    is_answer,
    journal,
    lines,
    notifications,
    request,
    running,
    sent,
    statuses,
    until,
)

pytestmark = pytest.mark.anyio

FRAMES = [*WORKER, "--frames"]


# -- kimi-wire --------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_a_prompts_life_is_told_by_its_statuses():
    """Busy with the prompt, idle with its answer, and each status says why."""
    async with running() as session:
        await ask(session, "ok", "prompt", text="hello")
        await session.send(request("bad", "prompt", do="fail"))
        await until(session, is_answer("bad"))
        events = await journal(session)
        assert [(status.state, status.reason) for status in statuses(events)] == [
            (State.IDLE, Reason.START),
            (State.BUSY, Reason.PROMPT),
            (State.IDLE, Reason.PROMPT_COMPLETE),
            (State.BUSY, Reason.PROMPT),
            (State.IDLE, Reason.PROMPT_ERROR),
        ]
        check(events)


async def test_a_request_that_is_no_prompt_makes_nobody_busy():
    """Only what the dialect names does; others are in flight beside it."""
    async with running() as session:
        await session.send(request("other", "hold"))
        assert not session.is_busy
        assert session.in_flight == {"other"}
        assert await ask(session, "p", "prompt", text="hello") == {"text": "hello"}


async def test_a_cancel_when_nothing_runs_is_answered_with_success():
    """There is nothing to cancel, and no need to ask the worker; not even for a worker."""
    async with running() as session:
        receipt = await session.send(request("c", "cancel"))
        assert receipt.delivery is Delivery.REFUSED
        answer = await answer_to(session, receipt)
        assert "error" not in answer
        assert "result" in answer
        assert await session.call("cancel") == answer["result"]
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        receipt = await session.send(request("d", "cancel"))
        assert "result" in await answer_to(session, receipt)
        assert session.generation == 1
        assert "c" not in sent(await journal(session))


async def test_a_cancel_while_a_prompt_runs_reaches_the_worker():
    """Then it is the worker's to answer."""
    async with running() as session:
        await session.send(request("p", "prompt", do="hold"))
        receipt = await session.send(request("c", "cancel", do="release", ids=["p"]))
        assert receipt.delivery is Delivery.WRITTEN
        await answer_to(session, receipt)
        assert not session.is_busy
        assert session.in_flight == frozenset()


# -- acp --------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_acp_has_one_prompt_at_a_time_in_each_of_its_sessions():
    """A second one in the same lane is refused by its id; another lane is free."""
    async with running(dialect="acp") as session:
        for id, lane in ((1, "a"), (2, "b")):
            receipt = await session.send(request(id, "session/prompt", sessionId=lane, do="hold"))
            assert receipt.delivery is Delivery.WRITTEN
        receipt = await session.send(request(3, "session/prompt", sessionId="a"))
        assert receipt.delivery is Delivery.REFUSED
        assert (await answer_to(session, receipt))["error"]["code"] == -32001
        assert session.in_flight == {1, 2}
        await ask(session, "r1", "release", ids=[1])
        assert session.is_busy, "the other lane is answering still"
        assert session.in_flight == {2}
        assert await ask(session, 4, "session/prompt", sessionId="a", x=1) == {
            "sessionId": "a",
            "x": 1,
        }
        await ask(session, "r2", "release", ids=[2])
        assert not session.is_busy
        check(await journal(session))


async def test_acp_answers_every_lane_when_its_worker_is_lost():
    """Each prompt has its one error, and nothing is busy any more."""
    async with running(dialect="acp") as session:
        for id in (1, 2, 3):
            await session.send(request(id, "session/prompt", sessionId=f"s{id}", do="hold"))
        await session.send(request("k", "killed"))
        with deadline():
            await session.wait_for(State.ERROR)
        assert not session.is_busy
        events = await journal(session)
        assert all(len(answers(events, id)) == 1 for id in (1, 2, 3, "k"))
        check(events)


# -- lsp --------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_lsp_messages_stand_behind_their_length():
    """Requests, answers and notifications, byte-exact, newlines within and all."""
    async with running(dialect="lsp", command=FRAMES) as session:
        body = json.dumps(request("pretty", "echo", text="a\nb"), indent=2).encode()
        receipt = await session.send(body)
        assert receipt.delivery is Delivery.WRITTEN
        assert (await answer_to(session, receipt))["result"] == {"text": "a\nb"}
        await ask(session, "n", "count", to=100)
        text = "\N{SNOWMAN}" * 100_000
        assert await ask(session, "big", "echo", text=text) == {"text": text}
        events = await journal(session)
        assert [each["number"] for each in notifications(events, "number")] == list(range(100))
        assert not notifications(events, "garbled")
        with deadline():
            await session.stop()
        assert len(notifications(await journal(session), "bye")) == 1


@pytest.mark.uvloop
async def test_lsp_bytes_out_of_place_pass_and_the_session_goes_on():
    """What a language server prints beside its messages is handed on, and is no message."""
    async with running(dialect="lsp", command=FRAMES) as session:
        frame = '{"jsonrpc":"2.0","method":"framed"}'
        text = f"a log line\nanother: one\n\r\nContent-Length: {len(frame)}\r\n\r\n{frame}"
        await ask(session, "p", "print", text=text)
        events = await journal(session)
        [framed] = [event for event in events if getattr(event, "data", b"") == frame.encode()]
        assert isinstance(framed, Line)
        assert framed.kind is Kind.NOTIFICATION
        assert b"a log line" in lines(events)
        assert await ask(session, "q", "echo", a=1) == {"a": 1}


async def test_lsp_a_message_above_the_limit_is_dropped_and_answered():
    """Its length is known, its bytes are not kept, and its request is answered."""
    limits = Limits(max_line=100_000)
    async with running(dialect="lsp", command=FRAMES, limits=limits) as session:
        receipt = await session.send(request("p", "long_answer", size=200_000))
        assert (await answer_to(session, receipt))["error"]["code"] == -32002
        events = await journal(session)
        [long] = [event for event in events if isinstance(event, LineTooLong)]
        assert long.size > 200_000
        assert await ask(session, "q", "echo", a=1) == {"a": 1}


async def test_lsp_a_server_that_is_lost_needs_its_handshake_again():
    """Every request is answered, and no new server is started behind the client's back."""
    async with running(dialect="lsp", command=FRAMES) as session:
        await session.send(request(1, "hold"))
        await session.send(request(2, "exit", code=1, say="out of memory\n"))
        with deadline():
            status = await session.wait_for(State.ERROR)
        assert status.cause is Cause.WORKER_EXITED
        assert status.detail is not None
        assert status.detail.endswith("out of memory")
        receipt = await session.send(request(3, "initialize"))
        assert receipt.delivery is Delivery.REFUSED
        events = await journal(session)
        assert all(len(answers(events, id)) == 1 for id in (1, 2, 3))
        assert session.generation == 1


# -- lines ------------------------------------------------------------------------------------


@pytest.mark.uvloop
async def test_lines_have_no_meaning():
    """Nothing is a request, nobody is busy, and every byte passes."""
    async with running(dialect="lines", command=["cat"], limits=QUICK) as session:
        odd = [b'{"id":1,"method":"prompt"}', b"\xff\xfe", b"", b"cancel", b"\r"]
        for line in odd:
            receipt = await session.send(line)
            assert (receipt.delivery, receipt.id) == (Delivery.WRITTEN, None)
            assert not session.is_busy
        with deadline():
            await session.stop()
        events = await journal(session)
        assert lines(events) == odd
        assert {event.kind for event in events if isinstance(event, Line)} == {Kind.OPAQUE}
        with pytest.raises(InvalidMessage, match="no requests"):
            await session.call("prompt")


async def test_a_command_that_ends_is_told_at_once():
    """A worker that only prints is a session too."""
    command = ["sh", "-c", "echo one; echo two >&2; exit 4"]
    async with running(dialect="lines", command=command) as session:
        with at_most(2):
            status = await session.wait_for(State.ERROR, State.STOPPED)
        assert status.detail == "worker exited with code 4; its last words: two"
        assert lines(await journal(session)) == [b"one"]
