"""The page's modules that decide without a document, tried in the browser that runs them."""

from __future__ import annotations

import itertools
import json
import shlex
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser, gateway):
    """Runs a script in the page, whose module and one value it is given."""
    page = browser.new_page()
    page.goto(gateway.page)

    def call(module: str, script: str, value: object = None) -> Any:
        return page.evaluate(
            f"async value => {{ const its = await import('/static/{module}.js'); {script} }}", value
        )

    yield call
    page.context.close()


# -- command lines -------------------------------------------------------------------------------


def test_a_command_line_is_split_as_a_shell_splits_it(run: Run):
    """Quotes and backslashes mean what they mean to sh; what does not end is an error."""
    lines = ["".join(each) for n in range(7) for each in itertools.product("a '\"\\", repeat=n)]
    split = run("text", "return value.map(its.parseArgv)", lines)
    for line, got in zip(lines, split, strict=True):
        try:
            words = shlex.split(line)
        except ValueError:
            assert got["error"], line
        else:
            assert (got["argv"], got["error"]) == (words, None), line


@pytest.mark.parametrize(
    "argv",
    [[], [""], ["a b", "c"], ["it's"], ['"', "\\", "$HOME", "*"], ["é\n\tx"], ["a=b", "--x=/y:z"]],
)
def test_a_quoted_command_line_is_split_into_the_same_words(run: Run, argv: list[str]):
    """Quoting and splitting are each other's inverse."""
    line = run("text", "return its.quoteArgv(value)", argv)
    assert run("text", "return its.parseArgv(value)", line) == {"argv": argv, "error": None}
    assert shlex.split(line) == argv


# -- texts ---------------------------------------------------------------------------------------

JOINERS = "\u200c\u200d"  # scripts and emoji need them
LETTERS = ("Lu", "Ll", "Lo", "Mn", "Nd", "So", "Sm", "Po", "Zs")


@pytest.mark.parametrize("plane", range(17))
def test_no_character_that_acts_instead_of_being_shown_is_left(run: Run, plane: int):
    """C0, C1, bidi controls and what is invisible are written out; letters and signs stay."""
    codes = range(plane * 0x10000, (plane + 1) * 0x10000)
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
    shown = run("text", "return its.visible(value)", text)
    assert [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\n\t"] == []
    acting = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B")
    assert [c for c in shown if unicodedata.bidirectional(c) in acting and c not in "\n\t"] == []
    assert not set(shown) & set("\u200b\u200e\u200f\u061c\u2060\ufeff\u00ad\U000e0041")
    harmless = "".join(c for c in text if unicodedata.category(c) in LETTERS or c in JOINERS)
    assert run("text", "return its.visible(value)", harmless) == harmless


def test_half_a_character_is_written_out(run: Run):
    """A surrogate without its other half is shown as its number."""
    shown = run("text", "return its.visible(JSON.parse(value))", r'"a\ud83d b \ud83d\ude00"')
    assert shown == "a\\ud83d b \U0001f600"


def test_bytes_that_are_no_text_are_written_out(run: Run):
    """Base64 of bytes that are not UTF-8 is shown with their values."""
    assert run("text", "return its.base64ToVisible(value)", "Y2Fm6Qo=") == "caf\\xe9\n"


# -- what is read in a session's events ----------------------------------------------------------


def line(seq: int, message: object, kind: str = "notification", **more: object) -> dict[str, Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    event = {"seq": seq, "event": "line", "kind": kind, "id": None, "origin": "worker"}
    return {**event, "text": text, **more}


def wire(seq: int, kind: str, /, **payload: object) -> dict[str, Any]:
    return line(seq, {"method": "event", "params": {"type": kind, "payload": payload}})


def acp(seq: int, kind: str, /, **update: object) -> dict[str, Any]:
    update = {"sessionUpdate": kind, **update}
    return line(seq, {"method": "session/update", "params": {"sessionId": "s", "update": update}})


def read(run: Run, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return run(
        "model",
        """const model = new its.Model("me");
           for (const event of value) model.push(event);
           return model.entries.map(({events, ...entry}) => ({...entry, n: events.length}));""",
        events,
    )


def test_pieces_of_text_are_one_entry(run: Run):
    """What is streamed in pieces is read as one text, a pair of surrogates in two pieces too."""
    template = wire(0, "ContentPart", text="TEXT")["text"]
    texts = ("a ", r"\ud83d", r"\ude00", "b")
    pieces = [line(n, template.replace("TEXT", text)) for n, text in enumerate(texts, 1)]
    (entry,) = read(run, pieces)
    assert (entry["type"], entry["text"], entry["n"]) == ("text", "a \U0001f600b", 4)


def test_an_entry_does_not_grow_for_ever(run: Run):
    """After 2,000 pieces another entry begins; no piece is lost."""
    entries = read(run, [wire(n, "ContentPart", text="x") for n in range(1, 5001)])
    assert [each["n"] for each in entries] == [2000, 2000, 1000]


def test_an_agents_messages_tools_and_plans(run: Run):
    """The updates of the Agent Client Protocol are read: chunks joined, a tool's in one card."""
    entries = read(
        run,
        [
            acp(1, "agent_thought_chunk", content={"type": "text", "text": "hm"}),
            acp(2, "agent_message_chunk", content={"type": "text", "text": "I "}),
            acp(3, "agent_message_chunk", content={"type": "text", "text": "look"}),
            acp(4, "tool_call", toolCallId="t", title="ls", kind="execute", status="pending"),
            acp(5, "tool_call_update", toolCallId="t", status="completed",
                content=[{"type": "content", "content": {"type": "text", "text": "README"}}]),
            acp(6, "plan", entries=[{"content": "read it", "status": "pending"}]),
        ],
    )  # fmt: skip
    assert [each["type"] for each in entries] == ["thought", "text", "tool", "note"]
    assert entries[1]["text"] == "I look"
    tool = entries[2]
    assert (tool["title"], tool["status"], tool["output"]) == ("ls", "done", "README")


def test_an_answer_is_read_with_its_question(run: Run):
    """An answer says which method it answers; one in the worker's place is marked as such."""
    sent = {"seq": 1, "event": "sent", "kind": "request", "id": "7", "client": "me",
            "text": '{"id":"7","method":"tools/list"}'}  # fmt: skip
    error = {"id": "7", "error": {"code": -32000, "message": "no answer will come"}}
    entries = read(run, [sent, line(2, error, "answer", id="7", origin="holdfast")])
    assert entries[0]["type"] == "request"
    last = entries[1]
    assert (last["type"], last["method"], last["holdfast"]) == ("error", "tools/list", True)


@pytest.mark.parametrize(
    "text",
    ["42", "null", "[]", '"text"', "{", "", '{"method": 1}', '{"method":"event","params":null}',
     '{"method":"session/update","params":{"update":{"sessionUpdate":"tool_call"}}}',
     '{"method":"event","params":{"type":"ToolResult","payload":7}}',
     '{"method":"event","params":{"type":"ContentPart","payload":{"text":{"deep":1}}}}',
     '{"method":"event","params":{"type":"ToolCall","payload":{"id":1,"function":{"name":{}}}}}',
     '{"method":"event","params":{"type":"TurnBegin","payload":{"user_input":[{"type":"image"}]}}}'],
)  # fmt: skip
def test_any_line_is_read(run: Run, text: str):
    """What is odd makes an entry of some kind that can be drawn, and never an error."""
    kinds = run(
        "model",
        """const { entryView } = await import("/static/entries.js");
           const model = new its.Model("me");
           for (const event of value) model.push(event);
           return model.entries.map(entry => {
             const { node } = entryView(entry, { reply() {}, question: () => null });
             for (const each of node.querySelectorAll("details")) each.open = true;
             return entry.type;
           });""",
        [line(1, text, "opaque"), line(2, text)],
    )
    assert len(kinds) in (1, 2)


def test_what_was_dropped_is_not_looked_for(run: Run):
    """Trimming keeps about as many events as it should, and whole entries."""
    kept = run(
        "model",
        """const model = new its.Model("me");
           for (const event of value) model.push(event);
           const dropped = model.trim(1000);
           return [dropped, model.events.length, model.first, model.entries[0].seq];""",
        [wire(n, f"Odd{n}") for n in range(1, 3001)],
    )
    assert kept == [{"entries": 2000, "events": 2000}, 1000, 2001, 2001]


# -- reading backwards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "before", "given"),
    [
        ([(1, 50)], 40, (1, 40)),
        ([(1, 9000)], 5000, (3001, 5000)),
        ([(1, 9000), (1_009_001, 1_009_020)], 1_009_000, (7001, 9000)),
        ([(1, 3), (1_000_003, 1_000_020)], 1_000_002, (1, 3)),
        ([(500, 500), (5_000_000, 5_000_020)], 4_999_999, (500, 500)),
        ([(900, 1000)], 899, None),
    ],
)
def test_earlier_events_are_found_behind_numbers_left_out(run: Run, kept, before, given):
    """The last 2,000 numbers before a place; where they are empty, those before the gap."""
    seqs, asked = run(
        "history",
        """const { api } = await import("/static/api.js");
           const kept = value.kept.flatMap(([from, to]) =>
             Array.from({ length: to - from + 1 }, (_, i) => from + i));
           const original = api.events;
           let asked = 0;
           api.events = async (id, { after, limit }) => {
             asked += 1;
             const events = kept.filter(seq => seq > after).slice(0, limit);
             const next_after = events.length ? events[events.length - 1] : after;
             return { events: events.map(seq => ({ seq })), next_after, lagged: null };
           };
           const { events } = await its.readEarlier("s", value.before, kept[0], 2000);
           api.events = original;
           return [events.map(({ seq }) => seq), asked];""",
        {"kept": kept, "before": before},
    )
    assert seqs == ([] if given is None else list(range(given[0], given[1] + 1)))
    assert asked < 60


# -- the timeline --------------------------------------------------------------------------------


def test_a_timeline_of_thousands_of_states_is_a_few_bars(run: Run):
    """States too short to be seen are drawn together, in the gravest of them."""
    statuses = [
        {"seq": n, "state": "error" if n == 2000 else ("busy", "idle")[n % 2], "reason": "prompt",
         "detail": None, "cause": None, "worker": None, "exit": None, "worker_id": "s/1",
         "updated_at": f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}Z"}
        for n in range(1, 3500)
    ]  # fmt: skip
    states = run(
        "timeline",
        """const timeline = new its.Timeline(() => {});
           document.body.append(timeline.node);
           timeline.node.style.width = "900px";
           timeline.set(value);
           const bars = [...timeline.node.querySelectorAll(".bar")];
           timeline.close();
           timeline.node.remove();
           return bars.map(bar => bar.dataset.state);""",
        statuses,
    )
    assert len(states) < 400
    assert "error" in states
