"""The WebSocket: both formats, cursors, odd lines, slow clients, and what is no message."""

from __future__ import annotations

import base64
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from .serving import SCRIPTED, TOKEN

pytestmark = pytest.mark.anyio


def events(client):
    """The events that a client saw, in the format of events."""
    return [m["params"] for m in client.seen if m.get("method") == "session_event"]


def is_event(**fields):
    """Matches an event with these fields."""
    return lambda message: (
        message.get("method") == "session_event" and fields.items() <= {**message["params"]}.items()
    )


async def test_every_event_with_its_seq(gateway):
    """In the format of events nothing is left out but other clients' answers."""
    session = await gateway.create(dialect="jsonrpc", limits={"max_line": 100_000})
    async with gateway.stream(session["id"], format="events", client="ann") as client:
        await client.request(1, "stderr", text="hello")
        await client.request(2, "line", size=200_000)
        await client.request(3, "print", text="\xff\xfe\n42\n\n")
        answered = await client.until(is_event(kind="answer", id=3))
        seen = events(client)
        assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
        assert answered["params"] == {
            "seq": seen[-1]["seq"],
            "event": "line",
            "kind": "answer",
            "id": 3,
            "origin": "worker",
            "terminated": True,
            "text": '{"jsonrpc": "2.0", "id": 3, "result": null}',
        }
        by_kind = {event["event"]: event for event in seen}
        assert by_kind["status_changed"]["status"]["state"] in ("idle", "busy")
        assert by_kind["stderr"] == {
            "seq": by_kind["stderr"]["seq"],
            "event": "stderr",
            "text": "hello",
        }
        assert by_kind["line_too_long"]["size"] == 200_000
        assert by_kind["line_too_long"]["head_text"].startswith('{"method":"long"')
        sent = [event for event in seen if event["event"] == "sent"]
        assert [(event["id"], event["client"]) for event in sent] == [
            (1, "ann"),
            (2, "ann"),
            (3, "ann"),
        ]
        assert json.loads(sent[0]["text"])["id"] == 1
        odd = [e.get("text", e.get("base64")) for e in seen if e.get("kind") == "opaque"]
        assert odd == [base64.b64encode(b"\xff\xfe").decode(), "42", ""]


@pytest.mark.parametrize("answer", ['{"id":ID,"result":1,}', '{"result":tru e,"id":ID}'])
async def test_an_answer_that_no_parser_takes(gateway, answer):
    """It ends nobody's stream: its own client has it as it is, and others never see it."""
    session = await gateway.create(dialect="jsonrpc")
    async with (
        gateway.stream(session["id"], format="events", client="ann") as ann,
        gateway.stream(session["id"], format="events", client="bob") as bob,
    ):
        line = answer.replace("ID", '"ann:1"')
        await ann.request(1, "print", text=f"{line}\n")
        heard = await ann.until(is_event(kind="answer", id=1))
        assert heard["params"]["text"] == line
        await bob.request(2, "print", text="")
        await bob.until(is_event(kind="answer", id=2))
        assert not [event for event in events(bob) if event.get("text") == line]
    async with gateway.http() as http:
        page = await http.get(f"/api/sessions/{session['id']}/events?client=ann")
    assert line in [event.get("text") for event in page.json()["events"]]


async def test_lines_as_they_are(gateway):
    """In the format of lines a worker's line is one frame, byte for byte."""
    session = await gateway.create(dialect="jsonrpc")
    odd = '{"jsonrpc":"2.0" , "method":"\u00e9" ,"params":{"a":NaN,"b":1e400}}'
    async with gateway.stream(session["id"], client="ann") as client:
        await client.request(1, "print", text=f"{odd}\n".encode().decode("latin-1"))
        frames = []
        while '"id"' not in (frames or [""])[-1] or "history" in frames[-1]:
            frames.append(await client.socket.recv())
        assert odd in frames
        await client.request(2, "print", text="\xff\n")
        wrapped = await client.notification("session_line_base64")
        assert base64.b64decode(wrapped["base64"]) == b"\xff"
        await client.answer(2)
        await client.request(3, "stderr", text="hello")
        assert (await client.notification("session_stderr"))["text"] == "hello"
        sent = [m["params"] for m in client.seen if m.get("method") == "session_sent"]
        assert {each["client"] for each in sent} == {"ann"}


async def test_a_status_has_all_its_fields(gateway):
    """``session_status`` carries a status, flat, and its seq is that of its event."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        status = await client.status("idle", "start")
    assert status == {name: session[name] for name in status}
    assert {"session_id", "state", "seq", "worker_id", "reason", "detail", "updated_at"} <= set(
        status
    )


async def test_a_cursor(gateway):
    """``after`` leaves out what was seen; a cursor from nowhere is told that it lagged."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"], format="events", client="ann") as client:
        await client.request(1, "count", to=50)
        await client.until(is_event(kind="answer", id=1))
        last = events(client)[-1]["seq"]
    query = {"format": "events", "client": "ann", "after": last - 10}
    async with gateway.stream(session["id"], **query) as client:
        complete = await client.notification("history_complete")
        assert [event["seq"] for event in events(client)] == [
            *range(last - 9, complete["last_seq"] + 1)
        ]
    async with gateway.stream(session["id"], after=10**9) as client:
        lagged = await client.notification("session_lagged")
        complete = await client.notification("history_complete")
        assert lagged["resume_from"] == complete["last_seq"] + 1


async def test_history_complete_says_who_one_is(gateway):
    """A client without a name is told the one it was given."""
    session = await gateway.create()
    url = f"ws://{gateway.host}/api/sessions/{session['id']}/stream?token={TOKEN}"
    names = set()
    for _ in range(2):
        async with connect(url, proxy=None) as socket:
            while (message := json.loads(await socket.recv()))["method"] != "history_complete":
                pass
            assert message["id"] == message["params"]["client"]
            names.add(message["id"])
    assert len(names) == 2


@pytest.mark.parametrize("query", ["client=a:b", "client=", "after=-1", "after=x", "format=xml"])
async def test_a_query_that_makes_no_sense(gateway, query):
    """It is refused at the handshake, as a problem with a hint."""
    session = await gateway.create()
    url = f"ws://{gateway.host}/api/sessions/{session['id']}/stream?token={TOKEN}&{query}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, proxy=None):
            pass
    assert refused.value.response.status_code == 422
    assert json.loads(refused.value.response.body)["hint"]


@pytest.mark.parametrize(
    ("text", "id", "code"),
    [
        ("no JSON", None, -32700),
        ("", None, -32700),
        ('{"id":1', None, -32700),
        ('{"jsonrpc":"2.0","id":7,\n"method":"x"}', 7, -32600),
        ('[{"jsonrpc":"2.0","id":1,"method":"x"}]', None, -32600),
    ],
)
async def test_a_message_that_is_none(gateway, text, id, code):
    """It is answered with an error of its own id, or null; the stream goes on."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"]) as client:
        await client.notification("history_complete")
        await client.send(text)
        error = await client.until(lambda message: "error" in message)
        assert (error["id"], error["error"]["code"]) == (id, code)
        await client.request(8, "echo")
        await client.answer(8)


async def test_an_id_that_is_in_flight_already(gateway):
    """The second request of a client with the same id is refused; another client's is not."""
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"]) as one, gateway.stream(session["id"]) as two:
        await one.request(1, "hold")
        await one.request(1, "echo")
        assert (await one.answer(1))["error"]["code"] == -32600
        await two.request(1, "echo")
        assert "result" in await two.answer(1)


async def test_a_cancel_reaches_the_request_that_it_means(gateway):
    """A notification that names a request is told to the worker under the worker's id."""
    session = await gateway.create(["cat"], dialect="mcp")
    async with gateway.stream(session["id"], client="ann") as client:
        await client.send('{"method":"notifications/cancelled","params":{"requestId":1}}')
        got = await client.notification("notifications/cancelled")
        assert got == {"requestId": "ann:1"}


async def test_a_worker_without_a_protocol(gateway):
    """In the dialect ``lines`` any text goes both ways, binary frames too."""
    session = await gateway.create(["cat"], dialect="lines")
    async with gateway.stream(session["id"]) as client:
        await client.notification("history_complete")
        await client.socket.send("any [text")
        while (frame := await client.socket.recv()) != "any [text":
            assert "method" in json.loads(frame)
        await client.socket.send(b"\xff")
        got = await client.notification("session_line_base64")
        assert base64.b64decode(got["base64"]) == b"\xff"


async def test_a_client_that_reads_slowly(gateway):
    """It is told that it lagged and goes on from there; nobody else notices."""
    rounds, lines = 100, 500  # 50 MB in all, which is much more than sockets hold
    one = f"head -c {lines * 1000} /dev/zero | tr '\\0' x | fold -w 1000; echo; echo done"
    session = await gateway.create(
        ["sh", "-c", f"while read go; do {one}; done"],
        dialect="lines",
        limits={"retained_bytes": 2 * 1024 * 1024},  # the quick one is never so far behind
    )
    async with gateway.stream(session["id"]) as slow, gateway.stream(session["id"]) as quick:
        await quick.notification("history_complete")
        for _ in range(rounds):
            await quick.socket.send("go")
            seen = 0
            while (frame := await quick.socket.recv()) != "done":
                assert "session_lagged" not in frame
                seen += frame.startswith("x")
            assert seen == lines

        gap, seen, done = 0, 0, 0
        while not gap or frame != "done":
            frame = await slow.socket.recv()
            seen += frame.startswith("x")
            done += frame == "done"
            if "session_lagged" in frame:
                gap = json.loads(frame)["params"]["resume_from"]
        assert gap > seen
        assert done < rounds


async def test_an_answer_is_seen_by_its_client_alone(gateway):
    """Live and in the replay, in both formats; what is nobody's answer is everybody's."""
    session = await gateway.create(SCRIPTED, dialect="jsonrpc")
    async with gateway.stream(session["id"], client="ann") as ann:
        await ann.request("secret", "echo", text="for ann")
        await ann.answer("secret")
        stray = '{"id":"x","result":"stray"}\\n{"id":null,"error":{}}\\n'.replace("\\n", "\n")
        await ann.request(2, "print", text=stray)
        await ann.answer(2)
    for format in ("lines", "events"):
        async with gateway.stream(session["id"], client="ben", format=format) as ben:
            await ben.notification("history_complete")
            texts = [
                json.dumps(message) for message in ben.seen if "session_sent" not in str(message)
            ]
            texts = [text for text in texts if '"sent"' not in text]
            assert not any("for ann" in text for text in texts)
            assert any("stray" in text for text in texts)
