"""The envelope of a message: id, method, and whether it is an answer. Nothing else is decoded.

A message is never refused for what it holds. msgspec reads nearly every one; it rejects some that
the standard library's ``json`` writes or takes (``NaN``, a lone surrogate, a byte order mark, very
deep nesting), and a worker may print bytes that are not UTF-8. An answer among those must still
reach the request that waits for it, so a scanner that looks at nothing but strings and brackets
reads their envelopes. What even that cannot read is opaque.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ._events import Kind, RequestId


class Envelope(Struct, frozen=True, gc=False):
    """What is known of a message.

    Attributes:
        kind: What it is.
        id: The id of a request or of an answer.
        method: The method of a request or notification.
        failed: Whether it is an answer that carries an error.
    """

    kind: Kind
    id: RequestId | None = None
    method: str | None = None
    failed: bool = False


OPAQUE: Final = Envelope(Kind.OPAQUE)

# On Python 3.11 it takes 0.1 µs to look up a member of an enum, and a line passes many.
_REQUEST: Final = Kind.REQUEST
_NOTIFICATION: Final = Kind.NOTIFICATION
_ANSWER: Final = Kind.ANSWER


class _Wire(Struct, gc=False):
    id: int | float | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Wire).decode


def read(data: bytes) -> Envelope:
    """The envelope of one message; :data:`OPAQUE` if it has none."""
    if data[:1] != b"{":
        return _scan(data)
    try:
        wire = _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return _scan(data)
    id, method = wire.id, wire.method
    if method is not UNSET:
        if id is UNSET or id is None:
            return Envelope(_NOTIFICATION, None, method)
        return Envelope(_REQUEST, id, method)
    if id is UNSET:
        return OPAQUE
    if wire.error is not UNSET and bytes(wire.error) != b"null":
        return Envelope(_ANSWER, id, None, True)
    if wire.result is UNSET:
        return OPAQUE
    return Envelope(_ANSWER, id)


# A string that does not end is a token too: a search that began anew at each quote in it would
# take quadratic time.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{}:,]', re.DOTALL)
# Inside a member's value only the brackets count; a million numbers are one step.
_NESTED: Final = re.compile(rb'(?:[^]["{}]++|"(?:[^"\\]++|\\.)*+"?)*+[][{}]', re.DOTALL)
# At the end of an object, where JSON-RPC's own examples put it: behind the id at most the version,
# then the one bracket that closes the object; behind a nested object's id there would be two.
_ID_AT_THE_END: Final = re.compile(
    rb',\s*"id"\s*:\s*("(?:[^"\\]|\\.)*+"|[-+.0-9eE]+)\s*(?:,\s*"jsonrpc"\s*:\s*"2.0"\s*)?}\s*\Z',
    re.DOTALL,
)
_SPACE: Final = b" \t\r\n"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_TOKENS_AT_MOST: Final = 1_000_000  # about a third of a second, on a line made to be slow


def _scan(data: bytes) -> Envelope:
    """Read an envelope by strings and brackets alone, without recursion and in linear time."""
    text = data.removeprefix(_BYTE_ORDER_MARK).strip(_SPACE)
    if text[:1] != b"{" or text[-1:] != b"}":
        return OPAQUE
    fields, _, whole = _members(text)
    if not whole:
        return OPAQUE
    method = _text(fields.get("method"))
    id = _identifier(fields.get("id"))
    if id is None and fields.get("id", b"null") != b"null":
        return OPAQUE
    if method is not None:
        return Envelope(_NOTIFICATION if id is None else _REQUEST, id, method)
    if "method" in fields or "id" not in fields:
        return OPAQUE
    failed = fields.get("error", b"null") != b"null"
    if not failed and "result" not in fields:
        return OPAQUE
    return Envelope(_ANSWER, id, None, failed)


def answered_by(head: bytes, tail: bytes = b"") -> RequestId | None:
    """The id of the request that a message answers, read from its first and last bytes alone.

    ``None`` if they do not tell: the id may stand in between.
    """
    fields, key, _ = _members(head.removeprefix(_BYTE_ORDER_MARK).lstrip(_SPACE))
    names = {*fields, key}
    if "method" in names or not names & {"result", "error"}:
        return None
    if "id" in fields:
        return _identifier(fields["id"])
    last = _ID_AT_THE_END.search(tail)
    return _identifier(last[1]) if last else None


def _members(text: bytes) -> tuple[dict[str, bytes], str | None, bool]:
    """An object's own members as raw values, the key left open, and whether it is whole."""
    fields: dict[str, bytes] = {}
    key: str | None = None
    if not text.startswith(b"{"):
        return fields, key, False
    brackets = bytearray()
    last = b""  # the last string at the top, which a colon makes a key
    start = 0
    end = 0
    for _ in range(_TOKENS_AT_MOST):
        nested = len(brackets) > 1
        token = _NESTED.match(text, end) if nested else _TOKEN.search(text, end)
        if token is None:
            break
        end = token.end()
        mark = text[end - 1 : end] if nested else token[0]
        if mark in (b"{", b"["):
            brackets += b"}" if mark == b"{" else b"]"
        elif mark in (b"}", b"]"):
            if brackets.pop() != mark[0]:
                break
            if not brackets:
                if key is not None:
                    fields[key] = text[start : end - 1].strip(_SPACE)
                return fields, None, end == len(text)
        elif mark == b":":
            key = _text(last)
            if key is None:
                break
            start, last = end, b""
        elif mark == b",":
            if key is None:
                break
            fields[key] = text[start : end - 1].strip(_SPACE)
            key, last = None, b""
        elif key is None:
            last = mark
    return fields, key, False


def _text(raw: bytes | None) -> str | None:
    value = _value(raw)
    return value if isinstance(value, str) else None


def _identifier(raw: bytes | None) -> RequestId | None:
    value = _value(raw)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _value(raw: bytes | None) -> Any:
    if raw is None:
        return None
    try:
        return json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
