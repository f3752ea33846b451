"""Dialects: what a message is, which requests make busy, and what cannot be sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from holdfast import ContentLength, Dialect, InvalidMessage, Kind, Lines
from holdfast._dialect import BUILT_IN, error_answer, success_answer
from holdfast._envelope import OPAQUE, Envelope

JSON_DIALECTS = [name for name, dialect in BUILT_IN.items() if dialect.json]


def test_the_built_in_dialects() -> None:
    """The design's six dialects, and what a session has to know of each."""
    table = {
        name: (type(d.framing), d.json, d.exclusive, d.lane, d.recovers)
        for name, d in BUILT_IN.items()
    }
    assert table == {
        "jsonrpc": (Lines, True, False, None, True),
        "kimi-wire": (Lines, True, True, None, True),
        "acp": (Lines, True, True, "sessionId", False),
        "mcp": (Lines, True, False, None, False),
        "lsp": (ContentLength, True, False, None, False),
        "lines": (Lines, False, False, None, False),
    }
    assert all(d.summary and d.name == name for name, d in BUILT_IN.items())


@pytest.mark.parametrize(
    ("dialect", "method", "busy"),
    [
        ("jsonrpc", "anything", True),
        ("mcp", "tools/call", True),
        ("lsp", "initialize", True),
        ("kimi-wire", "prompt", True),
        ("kimi-wire", "cancel", False),
        ("acp", "session/prompt", True),
        ("acp", "session/new", False),
        ("acp", "prompt", False),
    ],
)
def test_which_requests_make_busy(dialect: str, method: str, busy: bool) -> None:
    """A request makes busy as its dialect says; a notification never does."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method}
    assert BUILT_IN[dialect].message(request).busy is busy
    assert BUILT_IN[dialect].request(1, method, None).busy is busy
    assert BUILT_IN[dialect].message({"method": method}).busy is False


@pytest.mark.parametrize(
    ("params", "lane"),
    [
        (b'{"sessionId":"a"}', "a"),
        (b'{"x":{"sessionId":"b"}}', None),
        (b'{"sessionId":7}', None),
        (b'{"sessionId":null}', None),
        (b'["a"]', None),
        (b"null", None),
        (b'{"sessionId":"\\u0061"}', "a"),
        (b'{"sessionId":"a","x":NaN}', "a"),
    ],
)
def test_a_prompts_lane(params: bytes, lane: str | None) -> None:
    """An ACP prompt belongs to the session that its parameters name."""
    data = b'{"id":1,"method":"session/prompt","params":%b}' % params
    assert BUILT_IN["acp"].message(data).lane == lane


def test_a_prompt_that_is_nested_too_deep_has_no_lane() -> None:
    """What no parser reads is still sent."""
    deep = b"[" * 100_000 + b"]" * 100_000
    data = b'{"id":1,"method":"session/prompt","params":{"sessionId":"a","x":%b}}' % deep
    message = BUILT_IN["acp"].message(data)
    assert (message.data, message.busy, message.lane) == (data, True, None)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("content", [b'{"id":1,"method":"\xc3\xa9"}', '{"id":1,"method":"é"}'])
def test_text_and_bytes_are_sent_as_they_are(name: str, content: bytes | str) -> None:
    """What a program writes itself is not written anew."""
    message = BUILT_IN[name].message(content)
    assert message.data == b'{"id":1,"method":"\xc3\xa9"}'
    expected = Envelope(Kind.REQUEST, 1, "é") if BUILT_IN[name].json else OPAQUE
    assert message.envelope == expected


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_bytes_are_copied(kind: Any) -> None:
    """A buffer that the caller changes later does not change the message."""
    buffer = bytearray(b'{"method":"x"}')
    message = BUILT_IN["jsonrpc"].message(kind(buffer))
    buffer[:] = b" " * len(buffer)
    assert message.data == b'{"method":"x"}'


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none()))
def test_a_mapping_is_written_as_one_line(content: Mapping[str, object]) -> None:
    """A mapping becomes compact JSON without a newline, whatever its texts hold."""
    for name in ("jsonrpc", "lines"):
        data = BUILT_IN[name].message(content).data
        assert b"\n" not in data
        assert json.loads(data) == content


@pytest.mark.parametrize("name", [n for n in BUILT_IN if n != "lsp"])
def test_one_newline_at_the_end_is_the_framings(name: str) -> None:
    """A line may be given with its newline; more than one line may not."""
    dialect = BUILT_IN[name]
    assert dialect.message(b'{"method":"x"}\n').data == b'{"method":"x"}'
    assert dialect.message(b'{"method":"x"}\r\n').data == b'{"method":"x"}\r'
    for content in (b'{"a":1}\n{"b":2}', b'{"a":1}\n\n', b'{\n"a":1}', b"\n{}"):
        with pytest.raises(InvalidMessage, match="one line"):
            dialect.message(content)


def test_behind_a_header_newlines_are_content() -> None:
    """In a framing that counts bytes, a message may be of many lines."""
    content = b'{\n"method":"x"\n}\n'
    assert BUILT_IN["lsp"].message(content).data == content


@pytest.mark.parametrize("name", JSON_DIALECTS)
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"{", b'{"a":1,}', b"\xff", b'{"a":1}{"b":2}', "nul", b"\x00"]
)
def test_what_is_no_json_is_refused_at_the_edge(name: str, content: bytes | str) -> None:
    """A dialect of JSON takes nothing else, and says what to do."""
    with pytest.raises(InvalidMessage, match="dialect='lines'"):
        BUILT_IN[name].message(content)


@pytest.mark.parametrize("name", JSON_DIALECTS)
@pytest.mark.parametrize(
    "content",
    [b"[]", b"42", b"null", b'{"a":NaN}', b'"\\ud800"', b"[" * 100_000 + b"]" * 100_000, b"{}"],
)
def test_json_that_is_no_message_is_sent(name: str, content: bytes) -> None:
    """Any JSON may be sent; what has no envelope is opaque."""
    message = BUILT_IN[name].message(content)
    assert (message.data, message.envelope, message.busy) == (content, OPAQUE, False)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\x00", "日本"])
def test_lines_take_anything(content: bytes | str) -> None:
    """The dialect without a meaning takes any line."""
    message = BUILT_IN["lines"].message(content)
    assert message.data == (content.encode() if isinstance(content, str) else content)
    assert message.envelope == OPAQUE


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(
    "content", [None, 7, ["a"], object(), "\ud800", {"a": object()}, {"a": {1: "\ud800"}}]
)
def test_what_cannot_be_written_is_refused(name: str, content: Any) -> None:
    """Something that is no message is ``InvalidMessage``, and nothing else."""
    with pytest.raises(InvalidMessage):
        BUILT_IN[name].message(content)


@pytest.mark.parametrize("dialect", list(JSON_DIALECTS))
def test_a_request_is_json_rpc(dialect: str) -> None:
    """``call`` writes id, method and params, and leaves params out where there are none."""
    message = BUILT_IN[dialect].request("a", "m", {"x": [1, None]})
    assert json.loads(message.data) == {
        "jsonrpc": "2.0", "id": "a", "method": "m", "params": {"x": [1, None]},
    }  # fmt: skip
    assert message.envelope == Envelope(Kind.REQUEST, "a", "m")
    assert "params" not in json.loads(BUILT_IN[dialect].request(1, "m", None).data)
    assert json.loads(BUILT_IN[dialect].request(1, "m", []).data)["params"] == []


def test_a_request_keeps_its_lane() -> None:
    """A prompt by ``call`` belongs to its ACP session as one by ``send`` does."""
    assert BUILT_IN["acp"].request(1, "session/prompt", {"sessionId": "a"}).lane == "a"


@pytest.mark.parametrize("id", [2**64, -(2**100), 2**63, 1.5, "é", ""])
def test_a_request_keeps_its_id(id: Any) -> None:
    """An id of any size is written as it is."""
    message = BUILT_IN["jsonrpc"].request(id, "m", None)
    assert json.loads(message.data)["id"] == id
    assert BUILT_IN["jsonrpc"].read(message.data) == message.envelope


def test_a_request_that_cannot_be_written() -> None:
    """Parameters that JSON cannot hold are refused, as are requests without a meaning."""
    with pytest.raises(InvalidMessage, match="cannot be written as JSON"):
        BUILT_IN["jsonrpc"].request(1, "m", {"a": object()})
    with pytest.raises(InvalidMessage, match="'lines' has no requests"):
        BUILT_IN["lines"].request(1, "m", None)


def test_nesting_without_an_end_is_refused() -> None:
    """A mapping that holds itself cannot be written, and says so."""
    content: dict[str, object] = {}
    content["a"] = content
    with pytest.raises(InvalidMessage):
        BUILT_IN["jsonrpc"].message(content)


@pytest.mark.parametrize("id", [1, 2**70, 1.5, "é", 'a"b', "\ud800", ""])
def test_an_answer_in_the_workers_place_reaches_its_request(id: Any) -> None:
    """Whatever the id, the answer is read as one to it, and fits on a line."""
    for data, failed in ((success_answer(id), False), (error_answer(id, -1, "no\n", {}), True)):
        assert b"\n" not in data
        envelope = BUILT_IN["jsonrpc"].read(data)
        assert (envelope.kind, envelope.id, envelope.failed) == (Kind.ANSWER, id, failed)


def test_a_dialect_of_ones_own() -> None:
    """A dialect says by its fields which methods make busy."""
    dialect = Dialect("mine", "one word", busy=frozenset({"go"}), exclusive=True)
    assert dialect.message({"id": 1, "method": "go"}).busy
    assert not dialect.message({"id": 1, "method": "look"}).busy
    assert dialect.message({"id": math.pi, "method": "go"}).envelope.id == math.pi
