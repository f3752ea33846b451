"""Many clients, one worker: request ids made unique on their way in, and given back on the way out.

Towards the worker the request ``1`` of the client ``c1`` is ``"c1:1"``: the client's name, a colon,
and its own id as JSON. So an id says by itself whose it is, in a replay and after a restart too,
and no table has to be kept. Only the bytes of an id are changed; all others pass as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from holdfast import RequestId

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What a client may be called: no colon is in it."""

CANCELLERS: Final = {"notifications/cancelled": b"requestId", "$/cancelRequest": b"id"}
"""The notifications that name a request by its id, and the parameter that does: of the Model
Context Protocol, and of the Language Server Protocol, which others follow."""

_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_SCALAR: Final = re.compile(rb'[^][{}",: \t\r\n]++')
# Inside a value only the brackets count, and strings may hold some that do not.
_NESTED: Final = re.compile(rb'(?:[^]["{}]++|"(?:[^"\\]++|\\.)*+")*+([][{}])', re.DOTALL)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

Span = tuple[int, int]
"""Where a value stands: its first byte, and the one behind its last."""


class Unreadable(ValueError):
    """An object whose members cannot be told apart."""


def made_unique(client: str, id: RequestId) -> str:
    """A client's request id as the worker sees it."""
    return f"{client}:{json.dumps(id)}"


def given_back(id: RequestId | None) -> tuple[str, RequestId] | None:
    """Whose request an id of the worker's side names, and its own id; ``None`` if nobody's."""
    if not isinstance(id, str):
        return None
    client, colon, text = id.partition(":")
    if not colon or not NAME.fullmatch(client):
        return None
    try:
        own = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(own, bool) or not isinstance(own, int | float | str):
        return None
    return client, own


def with_id(data: bytes, id: RequestId) -> bytes:
    """A message with another id; nothing else of it is touched.

    Raises:
        Unreadable: There is no id to be found in it.
    """
    spans = [span for key, span in _members(data, _start(data)) if key == b"id"]
    if not spans:
        raise Unreadable("no id was found where the message should have one")
    # Of equal keys the last one counts for most parsers, and the first one for some: so all change.
    return _replaced(data, spans, json.dumps(id).encode())


def with_cancelled(data: bytes, method: str | None, client: str) -> bytes:
    """A notification in which the request that it cancels is named as the worker knows it.

    What names no request passes as it is.
    """
    parameter = CANCELLERS.get(method or "")
    if parameter is None:
        return data
    try:
        for key, span in _members(data, _start(data)):
            if key != b"params" or data[span[0] : span[0] + 1] != b"{":
                continue
            for name, inner in _members(data, span[0]):
                if name == parameter:
                    id = json.loads(data[inner[0] : inner[1]])
                    if not isinstance(id, bool) and isinstance(id, int | float | str):
                        text = json.dumps(made_unique(client, id)).encode()
                        return data[: inner[0]] + text + data[inner[1] :]
    except ValueError:  # it is for the worker to judge
        pass
    return data


def _replaced(data: bytes, spans: list[Span], text: bytes) -> bytes:
    pieces = []
    end = 0
    for first, behind in spans:
        pieces += [data[end:first], text]
        end = behind
    pieces.append(data[end:])
    return b"".join(pieces)


def _start(data: bytes) -> int:
    return _skip(data, len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0)


def _skip(data: bytes, position: int) -> int:
    match = _SPACE.match(data, position)
    assert match is not None  # it matches nothing, too
    return match.end()


def _members(data: bytes, position: int) -> Iterator[tuple[bytes, Span]]:
    """The keys of the object that begins at ``position``, and where their values stand.

    Values are told by strings and brackets alone, without recursion and in linear time: what no
    strict parser takes (``NaN``, lone surrogates, bytes that are not UTF-8) hides no id.

    Raises:
        Unreadable: There is no whole object.
    """
    if data[position : position + 1] != b"{":
        raise Unreadable("no object")
    position = _skip(data, position + 1)
    if data[position : position + 1] == b"}":
        return
    while True:
        key = _STRING.match(data, position)
        if key is None:
            raise Unreadable("no key")
        position = _skip(data, key.end())
        if data[position : position + 1] != b":":
            raise Unreadable("no colon")
        first = _skip(data, position + 1)
        behind = _end(data, first)
        yield _plain(key[0]), (first, behind)
        position = _skip(data, behind)
        mark = data[position : position + 1]
        if mark == b"}":
            return
        if mark != b",":
            raise Unreadable("no comma")
        position = _skip(data, position + 1)


def _end(data: bytes, first: int) -> int:
    """Where the value that begins at ``first`` ends."""
    mark = data[first : first + 1]
    if mark in (b"{", b"["):
        depth = 1
        position = first + 1
        while depth:
            bracket = _NESTED.match(data, position)
            if bracket is None:
                raise Unreadable("an open bracket")
            depth += 1 if bracket[1] in b"[{" else -1
            position = bracket.end()
        return position
    match = _STRING.match(data, first) if mark == b'"' else _SCALAR.match(data, first)
    if match is None:
        raise Unreadable("no value")
    return match.end()


def _plain(key: bytes) -> bytes:
    """A key without its quotes and escapes."""
    if b"\\" not in key:
        return key[1:-1]
    try:
        text: str = json.loads(key.decode("utf-8", "surrogateescape"))
    except ValueError:
        return key
    return text.encode("utf-8", "surrogatepass")
