"""The envelope of a message, judged by the standard library's json."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from holdfast import Kind, RequestId
from holdfast._envelope import OPAQUE, Envelope, _scan, answered_by, read

READERS = pytest.mark.parametrize("reader", [read, _scan], ids=["msgspec", "scanner"])
"""Both ways to read an envelope must agree on what both can read."""


def expected(data: bytes) -> Envelope:
    """What a message is by its decoded fields; the last of equal keys counts, as in json."""
    fields = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    if not isinstance(fields, dict):
        return OPAQUE
    id = fields.get("id")
    if id is not None and (isinstance(id, bool) or not isinstance(id, int | float | str)):
        return OPAQUE
    if isinstance(id, float) and not math.isfinite(id):
        return OPAQUE
    if "method" in fields:
        method = fields["method"]
        if not isinstance(method, str):
            return OPAQUE
        return Envelope(Kind.NOTIFICATION if id is None else Kind.REQUEST, id, method)
    if "id" not in fields:
        return OPAQUE
    if fields.get("error") is not None:
        return Envelope(Kind.ANSWER, id, None, True)
    return Envelope(Kind.ANSWER, id) if "result" in fields else OPAQUE


def same(one: Envelope, other: Envelope) -> bool:
    """Equal, and ``1`` is not ``1.0``."""
    return one == other and type(one.id) is type(other.id)


surrogates = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | surrogates,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(surrogates, inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["id", "method", "result", "error", "jsonrpc", "params", "i\u0064", "ID"])
fields = st.dictionaries(keys | surrogates, values, max_size=5)
ids = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | surrogates | st.none()
typical = st.one_of(
    st.fixed_dictionaries({"id": ids, "method": surrogates}, optional={"params": values}),
    st.fixed_dictionaries({"id": ids, "result": values}),
    st.fixed_dictionaries({"result": values, "id": ids}),
    st.fixed_dictionaries({"id": ids, "error": values}, optional={"result": values}),
    st.fixed_dictionaries({"method": surrogates}, optional={"params": values}),
)
styles: list[Callable[[Any], str]] = [
    json.dumps,
    lambda value: json.dumps(value, separators=(",", ":")),
    lambda value: json.dumps(value, indent="\t"),
    lambda value: json.dumps(value, separators=(" , ", " : ")),
]


@READERS
@given(typical | fields | values, st.sampled_from(styles), st.booleans())
@example({"id": 1, "error": None, "result": None}, json.dumps, False)
@example({"id": 1, "error": None}, json.dumps, False)
@example({"id": "\ud800", "result": math.nan}, json.dumps, True)
def test_an_envelope_is_what_json_says(
    reader: Callable[[bytes], Envelope], value: Any, style: Callable[[Any], str], bom: bool
) -> None:
    """Kind, id, method and error of any JSON are those that the standard library reads."""
    data = b"\xef\xbb\xbf" * bom + style(value).encode()
    assert same(reader(data), expected(data))


@READERS
@given(typical | fields)
def test_text_need_not_be_escaped(reader: Callable[[bytes], Envelope], value: Any) -> None:
    """Text that stands in a message as it is, is read as well; so are bytes that are no UTF-8."""
    data = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    expect = expected(data)
    got = reader(data)
    assert got.kind is expect.kind
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in f"{expect.id}{expect.method}"):
        assert same(got, expect)


@READERS
@given(st.binary(max_size=40) | st.text('{}[]:,"\\ 1aidmethodresult', max_size=40).map(str.encode))
def test_reading_never_fails(reader: Callable[[bytes], Envelope], data: bytes) -> None:
    """Any bytes have an envelope, if only the opaque one; what is whole JSON has the right one."""
    got = reader(data)
    try:
        expect = expected(data)
    except ValueError:
        return
    assert same(got, expect)


@READERS
@given(typical, st.data())
def test_a_cut_message_has_no_envelope(
    reader: Callable[[bytes], Envelope], value: Any, data: st.DataObject
) -> None:
    """A message without its end is opaque, wherever it was cut."""
    whole = json.dumps(value).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert reader(whole[:cut]) == OPAQUE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"42",
        b"null",
        b"true",
        b'"id"',
        b"[]",
        b'[{"id":1,"result":1}]',
        b"{}",
        b'{"id":1}',
        b'{"result":1}',
        b'{"error":{}}',
        b'{"id":1,"error":null}',
        b'{"id":true,"result":1}',
        b'{"id":false,"method":"x"}',
        b'{"id":[1],"result":1}',
        b'{"id":[1],"method":"x"}',
        b'{"id":{"a":1},"method":"x"}',
        b'{"id":NaN,"method":"x"}',
        b'{"id":1e999,"method":"x"}',
        b'{"id":1,"method":5}',
        b'{"id":1,"method":null,"result":1}',
        b'{"method":["x"]}',
        b'{"id":1,"result":1}{"id":2,"result":1}',
        b'{"id":1,"result":1} {"id":2,"result":1}',
        b'{"id":1,"result":1},',
        b'{"id":1,"result":1}]',
        b'{"id":1,"result":[1}',
        b'{"id":1,"result":"1}',
        b'x{"id":1,"result":1}',
        b"Content-Length: 20",
        b"\xff\xfe",
        b"\x00",
        '{"id":1,"result":1}'.encode("utf-16"),
    ],
)
@READERS
def test_opaque(reader: Callable[[bytes], Envelope], data: bytes) -> None:
    """What is no message of JSON-RPC, or is more than one, has no meaning."""
    assert reader(data) == OPAQUE


@pytest.mark.parametrize(
    ("data", "envelope"),
    [
        (b'{"method":"x"}', Envelope(Kind.NOTIFICATION, None, "x")),
        (b'{"method":"x","id":null}', Envelope(Kind.NOTIFICATION, None, "x")),
        (b'{"id":0,"method":""}', Envelope(Kind.REQUEST, 0, "")),
        (b'{"id":"","method":"x","result":1}', Envelope(Kind.REQUEST, "", "x")),
        (b'{"id":1,"result":null}', Envelope(Kind.ANSWER, 1)),
        (b'{"id":null,"error":{"code":-32700}}', Envelope(Kind.ANSWER, None, None, True)),
        (b'{"id":1,"error" : null ,"result":0}', Envelope(Kind.ANSWER, 1)),
        (b'{"id":1,"error":0}', Envelope(Kind.ANSWER, 1, None, True)),
        (b'{"id":1,"id":2,"result":0}', Envelope(Kind.ANSWER, 2)),
        (b'{"id":2.5,"result":0}', Envelope(Kind.ANSWER, 2.5)),
        (b'{"id":1.0,"result":0}', Envelope(Kind.ANSWER, 1.0)),
        (b'{"id":"\\u00e9\\n\\"","result":0}', Envelope(Kind.ANSWER, 'é\n"')),
        (b'{"\\u0069d":1,"result":0}', Envelope(Kind.ANSWER, 1)),
        (b'{"result":{"id":7,"method":"no"},"id":1}', Envelope(Kind.ANSWER, 1)),
        (b' \t\r\n{"id":1,"result":0} \t\r\n', Envelope(Kind.ANSWER, 1)),
        (b'{"id":%d,"result":0}' % 2**64, Envelope(Kind.ANSWER, 2**64)),
        (b'{"id":%d,"result":0}' % -(2**200), Envelope(Kind.ANSWER, -(2**200))),
        (b'{"id":%d,"result":0}' % (2**53 + 1), Envelope(Kind.ANSWER, 2**53 + 1)),
    ],
)
@READERS
def test_envelope(reader: Callable[[bytes], Envelope], data: bytes, envelope: Envelope) -> None:
    """Each kind of message, and ids that stay exact whatever their size."""
    assert same(reader(data), envelope)


@pytest.mark.parametrize(
    "result",
    [
        b"NaN",
        b"[Infinity,-Infinity]",
        b'"\\ud800"',
        b'"\xff\xfe"',
        b'{"a":"\xed\xa0\x80"}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'"\x01 \x1f"',
    ],
    ids=["nan", "infinity", "surrogate", "latin", "cesu", "arrays", "objects", "control"],
)
def test_an_answer_that_msgspec_refuses_still_finds_its_request(result: bytes) -> None:
    """An odd result does not hide that this is the answer, before or behind its id."""
    envelope = Envelope(Kind.ANSWER, 1)
    assert read(b'{"id":1,"result":%b}' % result) == envelope
    assert read(b'{"result":%b,"id":1}' % result) == envelope
    assert read(b'\xef\xbb\xbf{"result":%b,"id":1}' % result) == envelope
    assert read(b'{"id":1,"method":"x","params":%b}' % result) == Envelope(Kind.REQUEST, 1, "x")


def test_a_big_odd_answer_still_finds_its_request() -> None:
    """An answer of numbers that holds one NaN is an answer, however many there are."""
    data = b'{"id":1,"result":[' + b"0," * 1_500_000 + b"NaN]}"
    assert read(data) == Envelope(Kind.ANSWER, 1)


# -- the first bytes of a message that is too long --------------------------------------------


@pytest.mark.parametrize(
    ("head", "id"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":"aaaa', 1),
        (b'{"id":1,"result":', 1),
        (b'{"id":1,"result"', None),
        (b'{"id":1,"error":{"code":1,"message":"aa', 1),
        (b'\xef\xbb\xbf {"id":1,"result":[[[', 1),
        (b'{"id":"a\\"b","result":{"id":2,', 'a"b'),
        (b'{"result":{"id":2},"id":1,"x":"', 1),
        (b'{"result":1,"id":12', None),
        (b'{"result":{"id":2,"a":"b', None),
        (b'{"result":"aaa', None),
        (b'{"id":1,"method":"ask","params":"a', None),
        (b'{"id":1,"params":"a', None),
        (b'{"id":1,"method":"ask","result":"a', None),
        (b'{"id":1', None),
        (b'{"id":true,"result":"a', None),
        (b'{"id":null,"result":"a', None),
        (b'{"id":[1],"result":"a', None),
        (b'{"id":1,"result":"x\\",\\"id\\":2,\\"y', 1),
        (b'{"result":"x\\",\\"id\\":2,\\"y', None),
        (b'[{"id":1,"result":"a', None),
        (b"", None),
        (b"\xff", None),
        (b'noise {"id":1,"result":"a', None),
    ],
)
def test_whom_the_first_bytes_answer(head: bytes, id: RequestId | None) -> None:
    """The id is known if it stands in the head, whole and before the answer's content ends."""
    assert answered_by(head) == id
    assert type(answered_by(head)) is type(id)


@given(typical | fields, st.data())
def test_the_first_bytes_never_name_a_wrong_request(value: Any, data: st.DataObject) -> None:
    """Where a head names a request, it is the one that the whole message answers."""
    whole = json.dumps(value).encode()
    head = whole[: data.draw(st.integers(0, len(whole)))]
    id = answered_by(head)
    read = json.loads(whole)  # two surrogates in a row are one character then
    if id is not None and isinstance(read, dict) and "method" not in read:
        assert id == read["id"]
        assert not isinstance(read["id"], bool)


# -- time -------------------------------------------------------------------------------------

SLOW: dict[str, Callable[[int], bytes]] = {
    "escaped quotes without an end": lambda n: b'{"id":1,"result":"' + b'\\"' * n + b"}",
    "escaped text without an end": lambda n: b'{"id":1,"result":"' + b'x\\"y\\n' * n + b"}",
    "escapes": lambda n: b'{"id":1,"result":"' + b"\\" * (2 * n) + b'",NaN}',
    "quotes": lambda n: b'{"id":1,"result":' + b'"' * n + b"}",
    "opening": lambda n: b'{"id":1,"result":' + b"[" * n + b"}",
    "nested": lambda n: b'{"id":1,"result":' + b'{"a":[' * n + b"]}" * n + b"}",
    "members": lambda n: b"{" + b'"a":NaN,' * n + b'"id":1}',
    "keys without values": lambda n: b"{" + b'"a"' * n + b"}",
    "spaces": lambda n: b'{"id":1,"result":NaN' + b" " * n + b"}",
    "spaces between": lambda n: b'{"id":1,"result":[NaN' + b" , 1" * n + b"]}",
    "one long number": lambda n: b'{"id":' + b"1" * n + b',"result":NaN}',
}


@pytest.mark.serial
@pytest.mark.parametrize("kind", SLOW)
def test_reading_takes_linear_time(kind: str) -> None:
    """A message made to be slow, and sixteen times as long, takes not much more than 16 times."""

    def seconds(n: int) -> float:
        data = SLOW[kind](n)
        best = math.inf
        for _ in range(3):
            begin = time.thread_time()
            read(data)
            answered_by(data)
            best = min(best, time.thread_time() - begin)
        return best

    seconds(1000)
    assert seconds(32_000) < 64 * max(seconds(2000), 20e-6)


@pytest.mark.parametrize(
    ("tail", "id"),
    [
        (b'xxx"},"id":7}', 7),
        (b'xxx]  , "id" : "a\\"b" }\r', 'a"b'),
        (b'xxx"},"id":7,"jsonrpc":"2.0"}', 7),
        (b'xxx,"id":7}}', None),
        (b'xxx,"id":7},"jsonrpc":"2.0"}', None),
        (b'xxx,"id":null}', None),
        (b"", None),
    ],
)
def test_an_id_at_the_end_of_a_dropped_answer_is_found(tail: bytes, id: object) -> None:
    """JSON-RPC's own examples write the id last; a nested object's id is not taken for it."""
    assert answered_by(b'{"jsonrpc":"2.0","result":{"text":"xxx', tail) == id
    assert answered_by(b'{"jsonrpc":"2.0","method":"x","params":{"text":"xxx', tail) is None
