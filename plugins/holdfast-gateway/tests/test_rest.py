"""REST: what each route takes and gives, and that nothing a worker does is a 5xx."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import pytest
from fastapi.routing import APIRoute

from holdfast import demo
from holdfast_gateway import _rest
from holdfast_gateway._app import create_app

from .serving import DEADLINE, SCRIPTED, serving
from .test_security import every_route, flat

pytestmark = pytest.mark.anyio

SESSION = {
    *("id", "session_id", "state", "seq", "worker_id", "reason", "detail", "updated_at", "cause"),
    *("worker", "exit", "target", "command", "dialect", "cwd", "env", "name", "generation"),
    *("durability", "durability_detail", "is_busy", "in_flight", "last_seq", "first_seq", "demo"),
    "created_at",
}


async def settled(http, session):
    """Wait until all requests are answered."""
    async with asyncio.timeout(DEADLINE):
        while True:
            view = (await http.get(f"/api/sessions/{session['id']}")).json()
            if not view["in_flight"]:
                return view
            await asyncio.sleep(0.01)  # there is nothing to await over REST


def line(id, method, **params):
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


# -- sessions ------------------------------------------------------------------------------------


async def test_a_session_from_its_creation_to_its_end(gateway):
    """Created, listed, stopped, restarted and deleted: it says what it is all along."""
    async with gateway.http() as http:
        session = await gateway.create(name="mine", cwd="/", env={"B": "2", "A": "1"})
        assert set(session) == SESSION
        assert (session["state"], session["reason"], session["name"]) == ("idle", "start", "mine")
        assert (session["target"], session["command"]) == ("local:", SCRIPTED)
        assert (session["cwd"], sorted(session["env"])) == ("/", ["A", "B"])
        assert session["durability"] == "memory"
        path = f"/api/sessions/{session['id']}"

        listed = (await http.get("/api/sessions/")).json()["sessions"]
        assert session["id"] in [each["id"] for each in listed]
        assert (await http.post(f"{path}/stop")).json()["reason"] == "stop"
        again = (await http.post(f"{path}/restart")).json()
        assert (again["state"], again["generation"]) == ("idle", 2)
        assert (await http.delete(path)).status_code == 204
        assert (await http.get(path)).status_code == 404


async def test_a_session_is_looked_up_where_it_lives(gateway, monkeypatch):
    """In the event loop, so that none is deleted between that and the beginning of its route."""
    threads = []
    get = gateway.gateway.get

    def noted(session_id):
        threads.append(threading.current_thread())
        return get(session_id)

    session = await gateway.create()
    monkeypatch.setattr(gateway.gateway, "get", noted)
    async with gateway.http() as http:
        assert (await http.delete(f"/api/sessions/{session['id']}")).status_code == 204
    assert threads == [gateway.thread]


async def test_a_worker_that_cannot_be_started(gateway):
    """The session is created, in error/initialization_failed: a state, and no 5xx."""
    async with gateway.http() as http:
        for target, command in [
            ("local:", ["/no/such/program"]),
            ("local:", ["/"]),
            ("tcp://127.0.0.1:1?connect_timeout=1", ["any"]),
            ("ssh://127.0.0.1:1", ["any"]),
            ("ssh://no-such-host.invalid", ["any"]),
        ]:
            body = {"target": target, "command": command}
            answer = await http.post("/api/sessions/", json=body)
            assert answer.status_code == 201, answer.text
            session = answer.json()
            assert (session["state"], session["reason"]) == ("error", "initialization_failed")
            for action in ("restart", "stop"):
                answer = await http.post(f"/api/sessions/{session['id']}/{action}")
                assert answer.status_code == 200
            sent = await http.post(f"/api/sessions/{session['id']}/messages", content=line(1, "x"))
            assert (sent.status_code, sent.json()["delivery"]) == (200, "refused")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"command": []}, "command"),
        ({"command": None}, "command"),
        ({"command": "one string"}, "command"),
        ({"command": ["a\0b"]}, "NUL"),
        ({"target": "nothing"}, "not a target"),
        ({"target": "nowhere://x"}, "nowhere"),
        ({"target": "tcp://host"}, "tcp://host:port"),
        ({"target": "local:?x=1"}, "option"),
        ({"dialect": "jsonrcp"}, "did you mean 'jsonrpc'?"),
        ({"env": {"A": 1}}, "env"),
        ({"env": {"A=B": "1"}}, "A=B"),
        ({"limits": {"max_lines": 1}}, "max_lines"),
        ({"limits": {"max_line": -1}}, "max_line"),
        ({"limits": {"max_line": "1"}}, "max_line"),
        ({"limits": {"retained_bytes": 10**12}}, "limits"),
        ({"name": "x" * 201}, "name"),
        ({"nonsense": 1}, "nonsense"),
        ({"start": "yes"}, "start"),
    ],
)
async def test_a_body_that_makes_no_sense(gateway, change, says):
    """It is 422, says what is wrong and what to do, and makes no session."""
    before = set(gateway.gateway.hosted)
    async with gateway.http() as http:
        body = {"target": "local:", "command": ["true"], **change}
        answer = await http.post("/api/sessions/", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert says in problem["detail"]
    assert problem["hint"]
    assert set(gateway.gateway.hosted) == before


async def test_bodies_that_are_no_json(gateway):
    """422, whatever they are."""
    async with gateway.http() as http:
        for content in (b"", b"{", b"\xff", b"[]", b"null", b'"x"', b"[" * 100_000):
            answer = await http.post("/api/sessions/", content=content)
            assert answer.status_code == 422, content
            assert answer.headers["content-type"] == "application/problem+json"


async def test_an_unknown_session(gateway):
    """Every route that names one answers 404, as a problem with a hint."""
    async with gateway.http() as http:
        for method, path in every_route(gateway):
            if method is None or "some-id" not in path:
                continue
            answer = await http.request(method, path)
            assert answer.status_code == 404, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            if method != "HEAD":
                assert "some-id" in answer.json()["detail"]


async def test_an_unknown_path_or_method(gateway):
    """404 and 405, in the same form."""
    async with gateway.http() as http:
        for method, path, code in [("GET", "/no", 404), ("PUT", "/api/sessions/", 405)]:
            answer = await http.request(method, path)
            assert answer.status_code == code
            assert answer.json()["hint"]


async def test_a_restart_while_it_answers(gateway):
    """409 unless it is forced; then the request is answered with an error."""
    session = await gateway.create()
    path = f"/api/sessions/{session['id']}"
    async with gateway.http() as http, gateway.stream(session["id"]) as client:
        await client.request(1, "prompt", do="hold")
        await client.status("busy")
        answer = await http.post(f"{path}/restart")
        assert (answer.status_code, answer.json()["status"]) == (409, 409)
        assert "?force=true" in answer.json()["hint"]
        assert (await http.post(f"{path}/restart?force=true")).json()["reason"] == "restart"
        assert (await client.answer(1))["error"]["data"]["reason"] == "restart"


async def test_restart_of_all(gateway):
    """The summary says what became of each."""
    with serving() as own:
        idle = await own.create()
        busy = await own.create()
        failed = await own.create(["/no/such/program"])
        async with own.http() as http, own.stream(busy["id"]) as client:
            await client.request(1, "prompt", do="hold")
            await client.status("busy")
            summary = (await http.post("/api/sessions/restart")).json()
            assert summary == {
                "restarted": [idle["id"]],
                "skipped_busy": [busy["id"]],
                "failed": [failed["id"]],
            }
            summary = (await http.post("/api/sessions/restart?force=true")).json()
            assert sorted(summary["restarted"]) == sorted([idle["id"], busy["id"]])


# -- what flows ----------------------------------------------------------------------------------


async def test_events_in_pages(gateway):
    """``next_after`` leads through all of them, each once and in order."""
    session = await gateway.create(dialect="jsonrpc")
    path = f"/api/sessions/{session['id']}"
    async with gateway.http() as http:
        await http.post(f"{path}/messages", content=line(1, "count", to=500))
        await settled(http, session)
        events, after = [], 0
        while True:
            page = (await http.get(f"{path}/events?after={after}&limit=99")).json()
            assert len(page["events"]) <= 99
            events += page["events"]
            if page["next_after"] == page["last_seq"]:
                break
            after = page["next_after"]
        assert [event["seq"] for event in events] == list(range(1, page["last_seq"] + 1))
        kinds = [event["event"] for event in events]
        assert kinds[:4] == ["status_changed", "status_changed", "sent", "line"]
        numbers = [
            json.loads(e["text"])["params"]["number"]
            for e in events
            if "number" in e.get("text", "")
        ]
        assert numbers == list(range(500))
        assert page["first_seq"] == 1
        assert page["lagged"] is None
        nothing = (await http.get(f"{path}/events?after=10000000")).json()
        assert nothing["events"] == []
        assert nothing["next_after"] == nothing["last_seq"]
        for query in ("after=-1", "after=x", "limit=0", "limit=10001", "client=a:b", "client="):
            assert (await http.get(f"{path}/events?{query}")).status_code == 422


async def test_events_that_are_gone(gateway):
    """Where the window has moved on, it says from where it goes on."""
    session = await gateway.create(dialect="jsonrpc", limits={"retained_bytes": 20_000})
    path = f"/api/sessions/{session['id']}"
    async with gateway.http() as http:
        await http.post(f"{path}/messages", content=line(1, "count", to=500))
        await settled(http, session)
        page = (await http.get(f"{path}/events")).json()
        assert page["lagged"] == {"resume_from": page["first_seq"]}
        assert page["events"][0]["seq"] == page["first_seq"] > 1


async def test_a_receipt(gateway):
    """It says what became of a message, with the caller's own id; the answer comes as an event."""
    session = await gateway.create(dialect="jsonrpc")
    path = f"/api/sessions/{session['id']}"
    async with gateway.http() as http:
        for id in (1, "a:b", 2.5, 2**70):
            answer = await http.post(f"{path}/messages?client=me", content=line(id, "ping"))
            receipt = answer.json()
            assert (answer.status_code, receipt["delivery"], receipt["id"]) == (200, "written", id)
            assert receipt["status"]["session_id"] == session["id"]
        await http.post(f"{path}/messages?client=other", content=line(1, "ping"))
        await settled(http, session)
        for client, ids in [("me", [1, "a:b", 2.5, 2**70]), ("other", [1]), ("rest", [])]:
            page = (await http.get(f"{path}/events?client={client}")).json()
            answers = [e for e in page["events"] if e.get("kind") == "answer"]
            assert [answer["id"] for answer in answers] == ids
            assert [json.loads(answer["text"])["id"] for answer in answers] == ids
            own = [
                e["id"] for e in page["events"] if e["event"] == "sent" and e["client"] == client
            ]
            assert own == ids


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", -32700),
        (b"no JSON", -32700),
        (b"{", -32700),
        (b'{"a":1}\n{"b":2}', -32700),
        (b'[{"jsonrpc":"2.0","id":1,"method":"x"}]', -32600),
        (b"\xff", -32700),
    ],
)
async def test_a_message_that_is_none(gateway, content, code):
    """400, with JSON-RPC's own error."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.http() as http:
        answer = await http.post(f"/api/sessions/{session['id']}/messages", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["error"]["code"] == code


async def test_a_message_to_a_worker_that_takes_none(gateway, monkeypatch, tmp_path):
    """Its delivery is said to be unknown after a while; it is written when the worker reads."""
    monkeypatch.setattr(_rest, "_DELIVERY_WAIT", 0.2)
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    session = await gateway.create(dialect="jsonrpc")
    path = f"/api/sessions/{session['id']}"
    async with gateway.http() as http, gateway.stream(session["id"], client="rest") as client:
        await client.request(0, "pause", fifo=str(fifo))
        await client.answer(0)
        text = "x" * 500_000  # more than a pipe holds
        answer = await http.post(f"{path}/messages", content=line(1, "echo", text=text))
        assert (answer.status_code, answer.json()["delivery"]) == (200, "unknown")
        await asyncio.to_thread(fifo.write_bytes, b"")
        assert (await client.answer(1))["result"]["text"] == text


async def test_an_answer_that_comes_too_late(gateway):
    """The worker's request is answered once: the second caller is told 409, and by whom."""
    session = await gateway.create(dialect="jsonrpc")
    path = f"/api/sessions/{session['id']}/messages"
    answer = '{"jsonrpc":"2.0","id":"w-1","result":1}'
    async with gateway.http() as http, gateway.stream(session["id"]) as client:
        ask = '{"jsonrpc":"2.0","id":"w-1","method":"ask"}\n'
        await client.request(1, "print", text=ask)
        await client.answer(1)
        assert (await http.post(path + "?client=a", content=answer)).status_code == 200
        late = await http.post(path + "?client=b", content=answer)
        assert late.status_code == 409
        assert "client 'a'" in late.json()["detail"]


# -- about the gateway ---------------------------------------------------------------------------


async def test_transports(gateway):
    """What a form needs to offer a new session, the demo among it."""
    async with gateway.http() as http:
        offer = (await http.get("/api/transports")).json()
        assert {"local", "ssh", "tcp"} <= {each["scheme"] for each in offer["transports"]}
        assert set(offer["transports"][0]) == {
            *("scheme", "summary", "example", "options", "capabilities", "distribution")
        }
        framings = {each["name"]: each["framing"] for each in offer["dialects"]}
        assert (framings["kimi-wire"], framings["lsp"]) == ("lines", "content-length")
        assert offer["broken"] == []
        assert offer["demo"]["command"] == list(demo.WORKER)
        session = (await http.post("/api/sessions/", json=offer["demo"])).json()
        assert (session["demo"], session["state"]) == (True, "idle")


async def test_openapi_tells_of_every_route(gateway):
    """Each has a summary and a model of what it gives, and no page of the framework is there."""
    async with gateway.http() as http:
        document = (await http.get("/api/openapi.json")).json()
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await http.get(path)).status_code == 404
    for route in flat(create_app(gateway.gateway).routes):
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        for method in route.methods:
            told = document["paths"][route.path][method.lower()]
            assert told["description"]
            assert {"401", "403", "404", "422"} <= set(told["responses"])


async def test_metrics(gateway):
    """Sessions by state, events, bytes, losses by cause, and how long requests took."""
    with serving() as own:
        session = await own.create(dialect="jsonrpc")
        async with own.http() as http, own.stream(session["id"]) as client:
            await client.request(1, "stderr", text="hello")
            await client.answer(1)
            await client.request(2, "killed")
            await client.status("error")
            await own.create()
            text = (await http.get("/metrics")).text
        lines = dict(each.rsplit(" ", 1) for each in text.splitlines() if each[:1] != "#")
        assert lines['holdfast_sessions{state="error"}'] == "1.0"
        assert lines['holdfast_sessions{state="idle"}'] == "1.0"
        assert lines["holdfast_clients"] == "1.0"
        assert lines['holdfast_events_total{event="stderr"}'] == "1.0"
        assert lines['holdfast_bytes_total{event="stderr"}'] == "5.0"
        assert lines['holdfast_broken_total{cause="worker_exited",reason="process_exit"}'] == "1.0"
        assert lines["holdfast_request_seconds_count"] == "2.0"
        assert lines["holdfast_lagged_total"] == "0.0"


async def test_a_mistake_of_the_gateway(gateway, monkeypatch):
    """Even that is a problem with a hint, and says nothing of its inside."""
    monkeypatch.setattr(_rest, "session_view", lambda hosted: 1 / 0)
    session = next(iter(gateway.gateway.hosted), None) or (await gateway.create())["id"]
    async with gateway.http() as http:
        answer = await http.get(f"/api/sessions/{session}")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "a mistake in the gateway: ZeroDivisionError"
    assert "content-security-policy" in answer.headers
