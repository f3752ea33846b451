"""Request ids made unique and given back, and nothing else of a message touched."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress

import pytest
from hypothesis import example, given, settings, strategies as st

from holdfast import Kind, Registry
from holdfast_gateway._clients import (
    NAME,
    Unreadable,
    given_back,
    made_unique,
    with_cancelled,
    with_id,
)

settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")

JSONRPC = Registry().dialect("jsonrpc")

surrogates = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | surrogates,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(surrogates, inner, max_size=3),
    max_leaves=6,
)
ids = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | surrogates
names = st.from_regex(NAME, fullmatch=True)
nested_ids = st.dictionaries(st.sampled_from(["id", "requestId", "params", "a"]), values)
messages = st.one_of(
    st.fixed_dictionaries({"id": ids, "method": surrogates}, optional={"params": nested_ids}),
    st.fixed_dictionaries({"params": nested_ids, "method": surrogates, "id": ids}),
    st.fixed_dictionaries({"id": ids, "result": values | nested_ids}),
    st.fixed_dictionaries({"error": values | nested_ids, "id": ids, "x": nested_ids}),
)
styles = st.sampled_from(
    [
        lambda value: json.dumps(value).encode(),
        lambda value: json.dumps(value, separators=(",", ":")).encode(),
        lambda value: json.dumps(value, indent="\t").encode(),
        lambda value: b"\xef\xbb\xbf " + json.dumps(value, ensure_ascii=True).encode() + b" \r",
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    ]
)


def same(one, other):
    """Equal as JSON; NaN is itself, and 1 is not 1.0."""
    return json.dumps(one) == json.dumps(other)


@given(names, ids)
@example("a", "b:c")
@example("-", "")
@example("c1", "c2:1")
def test_an_id_comes_back(name, id):
    """Whose a request was and which id it had is read from the id that the worker saw."""
    whose = given_back(made_unique(name, id))
    assert whose is not None
    assert whose[0] == name
    assert same(whose[1], id)


@given(st.tuples(names, ids), st.tuples(names, ids))
def test_different_requests_have_different_ids(one, other):
    """Two clients never meet, whatever their ids."""
    if not same(one, other):
        assert made_unique(*one) != made_unique(*other)


@given(surrogates | st.integers() | st.none())
def test_other_ids_are_nobodys(id):
    """An id that no client can have given back is left alone."""
    whose = given_back(id)
    if whose is not None:
        assert NAME.fullmatch(whose[0])
        assert isinstance(id, str)
        assert same(json.loads(id.partition(":")[2]), whose[1])


@pytest.mark.parametrize("id", ["c1", "c1:", ":1", "c 1:1", "c1:true", "c1:null", "c1:[1]", "c1:x"])
def test_what_looks_like_an_id_and_is_none(id):
    """Names and JSON are checked."""
    assert given_back(id) is None


@given(messages, styles, names)
def test_only_the_id_changes(message, style, name):
    """The worker sees another id; every other byte is the client's, and back it is the same."""
    data = style(message)
    unique = made_unique(name, message["id"])
    outward = with_id(data, unique)
    assert JSONRPC.read(outward).kind == JSONRPC.read(data).kind
    assert JSONRPC.read(outward).id == (unique if JSONRPC.read(data).id is not None else None)

    text = json.dumps(message["id"]).encode()
    if data.count(text) == 1:
        assert outward == data.replace(text, json.dumps(unique).encode())
    decoded = json.loads(outward.decode("utf-8-sig", "surrogatepass"))
    assert same(decoded, {**message, "id": unique})

    back = with_id(outward, message["id"])
    assert same(json.loads(back.decode("utf-8-sig", "surrogatepass")), message)


@given(st.binary(max_size=60) | st.text('{}[]",:\\ 1idmethodresult', max_size=60).map(str.encode))
def test_any_bytes(data):
    """What has an id for holdfast has one here; what has none is refused, and nothing hangs."""
    envelope = JSONRPC.read(data)
    try:
        changed = with_id(data, "new")
    except Unreadable:
        assert envelope.kind not in (Kind.REQUEST, Kind.ANSWER) or envelope.id is None
    else:
        if envelope.kind in (Kind.REQUEST, Kind.ANSWER):
            assert JSONRPC.read(changed).id == "new"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"id":1,"id":2,"method":"x"}', b'{"id":"n","id":"n","method":"x"}'),
        (b'{"\\u0069d":1,"method":"x"}', b'{"\\u0069d":"n","method":"x"}'),
        (b'{"ID":1,"id":2,"method":"x"}', b'{"ID":1,"id":"n","method":"x"}'),
        (b'{"a":{"id":1},"id":2,"result":0}', b'{"a":{"id":1},"id":"n","result":0}'),
        (b'{"a":"\\"id\\":1","id":2,"result":0}', b'{"a":"\\"id\\":1","id":"n","result":0}'),
        (b'{"a":"\xff","id":2,"result":NaN}', b'{"a":"\xff","id":"n","result":NaN}'),
        (b'{ "id" : "}" , "result" : [ "]" ] } ', b'{ "id" : "n" , "result" : [ "]" ] } '),
    ],
)
def test_odd_messages(data, expected):
    """Equal keys, escaped keys, ids inside of values, bytes that are not UTF-8."""
    assert with_id(data, "n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '{"method":"notifications/cancelled","params":{"reason":"id","requestId":7}}',
            '{"method":"notifications/cancelled","params":{"reason":"id","requestId":"c:7"}}',
        ),
        (
            '{"params":{"id":"a"},"method":"$/cancelRequest"}',
            '{"params":{"id":"c:\\"a\\""},"method":"$/cancelRequest"}',
        ),
        ('{"method":"$/cancelRequest","params":{"id":true}}', None),
        ('{"method":"$/cancelRequest","params":[1]}', None),
        ('{"method":"$/cancelRequest"}', None),
        ('{"method":"other","params":{"id":1,"requestId":1}}', None),
    ],
)
def test_a_notification_that_cancels(text, expected):
    """It names the request as the worker knows it; others, and odd ones, pass as they are."""
    data = text.encode()
    method = JSONRPC.read(data).method
    assert with_cancelled(data, method, "c") == (expected or text).encode()


@pytest.mark.serial
@pytest.mark.parametrize(
    "make",
    [
        lambda n: b'{"id":1,"result":' + b"[" * n + b"]" * n + b"}",
        lambda n: b'{"id":1,"result":"' + b'\\"' * n + b'"}',
        lambda n: b'{"id":1,"result":' + b'"' * n + b"}",
        lambda n: b'{"id":1,"result":[' + b'"a",' * n + b"1]}",
        lambda n: b"{" + b'"a":1,' * n + b'"id":1,"result":1}',
        lambda n: b'{"id":1' + b" " * n + b',"result":1}',
    ],
    ids=["nested", "escapes", "quotes", "strings", "members", "spaces"],
)
def test_it_takes_linear_time(make):
    """A message made to be slow, and sixteen times as long, takes not much more than 16 times."""

    def seconds(n):
        data = make(n)
        best = math.inf
        for _ in range(3):
            begin = time.thread_time()
            with suppress(Unreadable):
                with_id(data, "n")
            best = min(best, time.thread_time() - begin)
        return best

    seconds(1000)
    assert seconds(32_000) < 64 * max(seconds(2000), 20e-6)
