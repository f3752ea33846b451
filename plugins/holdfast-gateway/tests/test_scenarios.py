"""The failure from which this project grew, scenario by scenario, through the real server."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from holdfast import demo

from .serving import DEADLINE, SCRIPTED

pytestmark = pytest.mark.anyio


async def pid_of(client):
    """The process id of the worker, as it says it."""
    await client.request("pid", "ping")
    return (await client.answer("pid"))["result"]["pid"]


def is_status(state, reason=None):
    return lambda message: (
        message.get("method") == "session_status"
        and message["params"]["state"] == state
        and reason in (None, message["params"]["reason"])
    )


def is_answer(id):
    return lambda message: message.get("id") == id and "method" not in message


def place(client, match):
    """Where in what a client saw the first match stands; it is there once."""
    places = [index for index, message in enumerate(client.seen) if match(message)]
    assert len(places) == 1, places
    return places[0]


async def test_a_prompt_to_a_worker_that_was_just_killed(gateway):
    """It is answered, by its own id: no 500, and the socket stays open."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        os.kill(await pid_of(client), signal.SIGKILL)
        await client.request("p-1", "prompt", do="ping")  # it races with the news of the death
        answer = await client.answer("p-1")
        if "error" in answer:
            assert answer["error"]["code"] == -32000
            await client.status("error")
            await client.request("p-2", "prompt", do="ping")
            assert "result" in await client.answer("p-2")
        else:  # the loss was noticed first, and the prompt started a new worker
            assert is_status("error")(client.seen[place(client, is_status("error"))])


async def test_a_worker_killed_while_it_answers(gateway):
    """First the error answer, then the status, and by then the session is not busy any more."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client, gateway.http() as http:
        pid = await pid_of(client)
        await client.request("p-1", "prompt", do="hold")
        await client.status("busy", "prompt")
        os.kill(pid, signal.SIGKILL)
        status = await client.status("error")
        assert status["reason"] in ("process_exit", "stdin_broken")
        assert status["worker"] == "gone"
        assert (await http.get(f"/api/sessions/{session['id']}")).json()["is_busy"] is False
        assert place(client, is_answer("p-1")) < place(client, is_status("error"))
        answer = client.seen[place(client, is_answer("p-1"))]
        assert answer["error"]["code"] == -32000
        assert answer["error"]["data"]["delivery"] == "written"


async def test_a_stdin_that_broke(gateway):
    """Where the worker lives and shut its stdin, the prompt is answered: error/stdin_broken."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        await client.request(1, "close_stdin")
        await client.answer(1)
        await client.request("p-1", "prompt", do="ping")
        answer = await client.answer("p-1")
        status = await client.status("error")
        assert answer["error"]["data"]["reason"] == "stdin_broken"
        assert (status["reason"], status["cause"]) == ("stdin_broken", "stdin_closed")
        assert status["detail"] == "BrokenPipeError: [Errno 32] Broken pipe"


async def test_busy(gateway):
    """A second prompt is refused with an error that carries its own id; the first one goes on."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        await client.request("p-1", "prompt", do="hold")
        await client.status("busy", "prompt")
        await client.request("p-2", "prompt", do="ping")
        assert (await client.answer("p-2"))["error"]["code"] == -32001
        await client.request(3, "release", ids=[f'{client.name}:"p-1"'])
        assert (await client.answer("p-1"))["result"] == "released"
        await client.status("idle", "prompt_complete")


async def test_recovery(gateway):
    """In the state error a new prompt starts a new worker, and is answered by it."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        old = await pid_of(client)
        os.kill(old, signal.SIGKILL)
        await client.status("error")
        await client.request("p-1", "prompt", do="ping")
        assert (await client.answer("p-1"))["result"]["pid"] != old
        await client.status("idle", "prompt_complete")


async def test_cancel_while_idle(gateway):
    """It succeeds: there is nothing left to cancel."""
    session = await gateway.create(list(demo.WORKER))
    async with gateway.stream(session["id"]) as client:
        await client.notification("history_complete")
        await client.request(7, "cancel")
        assert (await client.answer(7))["result"] == {}


async def test_cancel_while_busy(gateway):
    """The demo worker is cancelled: both requests are answered, by itself."""
    session = await gateway.create(list(demo.WORKER))
    async with gateway.stream(session["id"]) as client:
        await client.request("p-1", "prompt", user_input="Hello")
        await client.until(lambda message: "ContentPart" in str(message))
        await client.request("c-1", "cancel")
        await client.answer("c-1")
        assert (await client.answer("p-1"))["result"]["status"] == "cancelled"


async def test_joining_while_output_flows(gateway):
    """History, then ``history_complete``, then what comes: no gap, and nothing twice."""
    session = await gateway.create()
    total = 20_000
    async with gateway.stream(session["id"]) as client:
        await client.request(1, "count", to=total)
        await client.until(lambda message: message.get("method") == "number")

        async def join():
            async with gateway.stream(session["id"]) as late:
                await late.until(lambda m: m.get("params", {}).get("number") == total - 1)
                methods = [message.get("method") for message in late.seen]
                numbers = [m["params"]["number"] for m in late.seen if m.get("method") == "number"]
                assert numbers == list(range(total))
                assert methods.count("history_complete") == 1

        async with asyncio.timeout(3 * DEADLINE), asyncio.TaskGroup() as joins:
            for _ in range(3):
                joins.create_task(join())
                await client.until(lambda message: message.get("method") == "number")


async def test_a_start_that_fails(gateway):
    """The session is there, in error/initialization_failed, and its stream stays usable."""
    session = await gateway.create(["/no/such/program"])
    assert (session["state"], session["reason"]) == ("error", "initialization_failed")
    assert "/no/such/program" in session["detail"]
    async with gateway.stream(session["id"]) as client:
        await client.status("error", "initialization_failed")
        await client.notification("history_complete")
        await client.request("p-1", "prompt")
        assert (await client.answer("p-1"))["error"]["code"] == -32000
        await client.request("c-1", "cancel")
        assert (await client.answer("c-1"))["result"] == {}


async def test_opening_a_stream_starts_a_stopped_worker(gateway):
    """A session that was never started, or was stopped, runs once somebody looks."""
    session = await gateway.create(start=False)
    assert session["state"] == "stopped"
    async with gateway.stream(session["id"]) as client, gateway.http() as http:
        await client.status("idle", "start")
        await http.post(f"/api/sessions/{session['id']}/stop")
        await client.status("stopped", "stop")
    async with gateway.stream(session["id"]) as client:
        await client.status("stopped", "stop")
        await client.status("idle", "start")


async def test_opening_a_stream_reports_a_start_that_fails(gateway):
    """The status is error/initialization_failed, once for all who look."""
    session = await gateway.create(["/no/such/program"], start=False)
    async with gateway.stream(session["id"]) as one, gateway.stream(session["id"]) as two:
        assert await one.status("error") == await two.status("error")
        await one.request("c-1", "cancel")
        await one.answer("c-1")
        assert place(one, is_status("error"))


async def test_two_clients_with_the_same_ids(gateway):
    """Each gets the answers to its own requests, under its own id, and no others."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"]) as one, gateway.stream(session["id"]) as two:
        await one.request(1, "echo", who="one")
        await two.request(1, "echo", who="two")
        assert (await one.answer(1))["result"]["who"] == "one"
        assert (await two.answer(1))["result"]["who"] == "two"
        for client in (one, two):
            await client.request("end", "echo")
            await client.answer("end")
            assert [m["result"].get("who") for m in client.seen if "result" in m] == [
                client.seen[place(client, is_answer(1))]["result"]["who"],
                None,
            ]


async def test_a_client_that_comes_back(gateway):
    """Under its name it finds, in the replay, the answer that came while it was away."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"], client="ann") as ann:
        await ann.request(1, "hold")
        await ann.notification("session_sent")
    async with gateway.stream(session["id"], client="ben") as ben:
        await ben.request(1, "release", ids=["ann:1"])
        assert (await ben.answer(1))["result"] is None
    async with gateway.stream(session["id"], client="ann") as ann:
        await ann.notification("history_complete")
        assert ann.seen[place(ann, is_answer(1))]["result"] == "released"


async def test_a_worker_that_asks(gateway):
    """Its request goes to all; the first answer reaches it, and the others are told."""
    session = await gateway.create(dialect="jsonrpc")
    ask = '{"jsonrpc":"2.0","id":"w-1","method":"ask"}'
    async with (
        gateway.stream(session["id"], client="one") as one,
        gateway.stream(session["id"], client="two") as two,
    ):
        await one.request(1, "report")
        await one.answer(1)
        await one.request(2, "print", text=f"{ask}\n")
        for client in (one, two):
            await client.until(lambda message: message.get("method") == "ask")
        await two.send({"jsonrpc": "2.0", "id": "w-1", "result": "two"})
        assert await one.notification("session_request_answered") == {"id": "w-1", "client": "two"}
        await one.send({"jsonrpc": "2.0", "id": "w-1", "result": "one"})
        assert await one.notification("session_request_answered") == {"id": "w-1", "client": "two"}
        await one.request(3, "print", text=f"{ask}\n")  # the worker asks again, under the same id
        await one.answer(3)
        await one.send({"jsonrpc": "2.0", "id": "w-1", "result": "one"})
        assert await two.notification("session_request_answered") == {"id": "w-1", "client": "one"}
        await one.request(4, "echo")
        await one.answer(4)
        sent = [m["params"]["text"] for m in one.seen if m.get("method") == "session_sent"]
        assert [text for text in sent if '"w-1"' in text and "result" in text] == [
            '{"jsonrpc": "2.0", "id": "w-1", "result": "two"}',
            '{"jsonrpc": "2.0", "id": "w-1", "result": "one"}',
        ]


async def test_a_session_that_is_deleted(gateway):
    """Its streams close with 4404, and it is gone."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client, gateway.http() as http:
        await client.notification("history_complete")
        assert (await http.delete(f"/api/sessions/{session['id']}")).status_code == 204
        assert await client.closed() == 4404
        assert (await http.get(f"/api/sessions/{session['id']}")).status_code == 404
    async with gateway.stream(session["id"]) as client:
        assert await client.closed() == 4404


async def test_kill_of_the_demo_worker(gateway):
    """It dies as by an accident, is reported, and recovers; other workers may not be killed."""
    session = await gateway.create(list(demo.WORKER))
    assert session["demo"] is True
    async with gateway.stream(session["id"]) as client, gateway.http() as http:
        await client.request("p-1", "prompt", user_input="Hello")
        await client.until(lambda message: "ContentPart" in str(message))
        assert (await http.post(f"/api/sessions/{session['id']}/kill")).status_code == 200
        assert (await client.status("error"))["exit"]["signal"] == "SIGKILL"
        assert "error" in client.seen[place(client, is_answer("p-1"))]
        assert (await http.post(f"/api/sessions/{session['id']}/kill")).status_code == 409
        await client.request("p-2", "prompt", user_input="Hello again")
        assert (await client.answer("p-2"))["result"]["status"] == "finished"
        other = await gateway.create(SCRIPTED)
        assert (await http.post(f"/api/sessions/{other['id']}/kill")).status_code == 403
