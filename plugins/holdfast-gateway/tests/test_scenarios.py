"""The failure from which this project grew, scenario by scenario, through the real server."""

from __future__ import annotations

import os
import signal

import pytest

pytestmark = pytest.mark.anyio


async def pid_of(client):
    """The process id of the worker, as it says it."""
    await client.request("pid", "ping")
    return (await client.answer("pid"))["result"]["pid"]


def places(client, *matches):
    """Where in what a client saw the first matches stand."""
    return [next(i for i, each in enumerate(client.seen) if match(each)) for match in matches]


def is_status(state, reason):
    return lambda message: (
        message.get("method") == "session_status"
        and (message["params"]["state"], message["params"]["reason"]) == (state, reason)
    )


def is_answer(id):
    return lambda message: message.get("id") == id and "method" not in message


async def test_a_prompt_to_a_worker_that_was_just_killed(gateway):
    """It is answered with an error of its own id, then the status says error; no 500, no close."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client, gateway.http() as http:
        pid = await pid_of(client)
        await client.request("p-1", "prompt", do="hold")
        await client.status("busy", "prompt")
        os.kill(pid, signal.SIGKILL)
        answer = await client.answer("p-1")
        status = await client.status("error")
        assert answer["error"]["code"] == -32000
        assert status["reason"] in ("stdin_broken", "process_exit")
        assert (await http.get(f"/api/sessions/{session['id']}")).json()["is_busy"] is False
        await client.request("p-2", "prompt", do="ping")
        assert "result" in await client.answer("p-2")
