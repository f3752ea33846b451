"""The allow-lists of targets and commands."""

from __future__ import annotations

import sys

import pytest

from holdfast_gateway._policy import Policy

from .serving import SCRIPTED, program


@pytest.mark.parametrize(
    ("patterns", "target", "allowed"),
    [
        ((), "ssh://any?x=1", True),
        (("local:",), "local:", True),
        (("local:",), "ssh://local:", False),
        (("ssh://build*",), "ssh://build7", True),
        (("ssh://build*",), "ssh://build7?config=/tmp/mine", False),
        (("ssh://build*?*",), "ssh://build7?config=/tmp/mine", True),
        (("ssh://build?",), "ssh://build7", False),
        (("ssh://build[7]",), "ssh://build7", False),
        (("local:", "tcp://127.0.0.1:*"), "tcp://127.0.0.1:7000", True),
        (("tcp://127.0.0.1:*",), "tcp://127.0.0.1:7000\nx", True),
        (("*",), "ssh://any?x=1", False),
    ],
)
def test_targets(patterns, target, allowed):
    """A star stands for anything but a question mark, behind which the options stand."""
    assert Policy(targets=patterns).allows(target, ["any"], ()) is allowed


@pytest.mark.parametrize(
    ("patterns", "command", "allowed"),
    [
        (("kimi --wire",), ["kimi", "--wire"], True),
        (("kimi --wire",), ["kimi", "--wire", "x"], False),
        (("kimi --wire",), ["kimi --wire"], False),
        (("kimi *",), ["kimi", "a b", "c"], True),
        (("kimi *",), ["kimi"], False),
        (("kimi *",), ["kimi x"], False),
        (("kimi *",), ["kimi;x", "y"], False),
        (("kimi",), ["./kimi"], False),
        (("*",), ["sh", "-c", "a\nb"], True),
    ],
)
def test_commands(patterns, command, allowed):
    """A command is judged as one line, quoted, so that no argument passes for two."""
    assert Policy(commands=patterns).allows("local:", command, ()) is allowed


def test_variables():
    """Where commands are restricted, nobody makes another one of them by a variable."""
    assert Policy().allows("local:", ["x"], ["PATH"])
    assert Policy(targets=("local:",)).allows("local:", ["x"], ["PATH"])
    assert not Policy(commands=("x",)).allows("local:", ["x"], ["PATH"])


@pytest.mark.anyio
async def test_a_gateway_with_lists(tmp_path):
    """What is not on them is 403, for sessions of earlier gateways too: they can only be read."""
    lists = ("--port", "0", "--allow-target", "local:", "--allow-command", f"{sys.executable} *")
    with program(tmp_path) as gateway:
        other = await gateway.create(["cat"], dialect="jsonrpc")
        async with gateway.stream(other["id"]) as client:
            await client.send('{"jsonrpc":"2.0","method":"hello","params":{}}')
            await client.notification("hello")
        gateway.stop()
    with program(tmp_path, *lists) as gateway:
        allowed = await gateway.create(SCRIPTED)
        path = f"/api/sessions/{other['id']}"
        async with gateway.http() as http:
            for body in (
                {"target": "local:", "command": ["cat"]},
                {"target": "ssh://host", "command": SCRIPTED},
                {"target": "local:", "command": SCRIPTED, "env": {"PATH": "/tmp"}},
            ):
                answer = await http.post("/api/sessions/", json=body)
                assert answer.status_code == 403
                assert answer.json()["hint"]
            assert (await http.post(f"{path}/restart")).status_code == 403
            assert (await http.post(f"{path}/messages", content="{}")).status_code == 403
            summary = (await http.post("/api/sessions/restart")).json()
            assert summary == {
                "restarted": [allowed["id"]],
                "skipped_busy": [],
                "failed": [other["id"]],
            }
            page = (await http.get(f"{path}/events")).json()
            assert any("hello" in event.get("text", "") for event in page["events"])
        async with gateway.stream(other["id"]) as client:
            await client.notification("history_complete")
            await client.request(1, "x")
            assert (await client.answer(1))["error"]["code"] == -32004
        async with gateway.http() as http:
            assert (await http.get(path)).json()["state"] == "stopped"
            assert (await http.get("/api/transports")).json()["demo"] is not None
            assert (await http.delete(path)).status_code == 204
        gateway.stop()
