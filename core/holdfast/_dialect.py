"""What one line means: which messages are requests, and which of them make a session busy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from ._envelope import OPAQUE, Envelope, read
from ._errors import InvalidMessage
from ._events import Kind, RequestId
from ._framing import ContentLength, Framing, Lines

LOST_CODE: Final = -32000
"""The worker was lost, or could not be reached: no answer will come."""
REFUSED_CODE: Final = -32001
"""The session is busy with another request, and its dialect allows one at a time."""
TOO_LONG_CODE: Final = -32002
"""The worker answered, and the answer was too long to be kept."""


_REQUEST: Final = Kind.REQUEST


class Message(Struct, frozen=True, gc=False):
    """A message on its way to the worker.

    Attributes:
        data: Its bytes, without newline or header.
        envelope: What it is.
        busy: Whether it makes the session busy until it is answered.
        lane: Which conversation it belongs to, where only one request of each may run.
    """

    data: bytes
    envelope: Envelope
    busy: bool = False
    lane: str | None = None


class Dialect(Struct, frozen=True):
    """The protocol that a worker speaks, as far as a session has to know it.

    Attributes:
        name: What ``dialect=`` takes.
        summary: One line for a person.
        framing: How messages stand on the streams.
        json: Whether messages are JSON-RPC. If not, they have no meaning here.
        busy: The methods that make a session busy; ``None`` for every request with an id.
        exclusive: Whether a second such request is refused while one runs.
        lane: The parameter by which such requests are told apart, each value on its own.
        cancel: The requests that cancel, and are answered with success when nothing runs.
        recovers: Whether a request may start a new worker when the last one was lost. Not where
            a worker needs a handshake first, which only the client can repeat.
    """

    name: str
    summary: str
    framing: Framing = Lines()
    json: bool = True
    busy: frozenset[str] | None = None
    exclusive: bool = False
    lane: str | None = None
    cancel: frozenset[str] = frozenset()
    recovers: bool = False

    def read(self, data: bytes) -> Envelope:
        """The envelope of a message from the worker; never fails."""
        return read(data) if self.json else OPAQUE

    def message(self, content: bytes | str | Mapping[str, Any]) -> Message:
        """A message to the worker from what a program hands in.

        Raises:
            InvalidMessage: It is no JSON in a JSON dialect, cannot be encoded, or would be more
                than one line.
        """
        if isinstance(content, Mapping):
            data = encode(content)
        elif isinstance(content, str):
            try:
                data = content.encode()
            except UnicodeEncodeError as error:
                raise InvalidMessage(f"a message must be valid Unicode: {error}") from None
        elif isinstance(content, bytes | bytearray | memoryview):
            data = bytes(content)
        else:
            raise InvalidMessage(
                f"a message is bytes, str or a mapping, not {type(content).__name__}"
            )
        if isinstance(self.framing, Lines):
            data = data.removesuffix(b"\n")
            if b"\n" in data:
                raise InvalidMessage(
                    "a message must be one line, and this one holds a newline: send each line "
                    "by itself, or pass a mapping"
                )
        message = self.look(data)
        if self.json and message.envelope is OPAQUE:
            _check_json(data)
        return message

    def look(self, data: bytes) -> Message:
        """A message as it passes by; never fails."""
        envelope = self.read(data)
        if envelope.kind is _REQUEST:
            return self._request(data, envelope)
        return Message(data, envelope)

    def request(self, id: RequestId, method: str, params: object) -> Message:
        """A JSON-RPC request.

        Raises:
            InvalidMessage: The parameters cannot be written as JSON, or the dialect has none.
        """
        if not self.json:
            raise InvalidMessage(f"dialect {self.name!r} has no requests; use send and subscribe")
        content: dict[str, object] = {"jsonrpc": "2.0", "id": id, "method": method}
        if params is not None:
            content["params"] = params
        return self._request(encode(content), Envelope(_REQUEST, id, method))

    def _request(self, data: bytes, envelope: Envelope) -> Message:
        if self.busy is not None and envelope.method not in self.busy:
            return Message(data, envelope)
        return Message(data, envelope, True, self._lane(data) if self.lane else None)

    def _lane(self, data: bytes) -> str | None:
        try:
            params = json.loads(data).get("params")
        except (ValueError, RecursionError):
            return None
        value = params.get(self.lane) if isinstance(params, dict) else None
        return value if isinstance(value, str) else None


def encode(content: object) -> bytes:
    """A value as compact JSON.

    Raises:
        InvalidMessage: It holds something that JSON cannot.
    """
    try:
        return msgspec.json.encode(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessage(f"this message cannot be written as JSON: {error}") from None


def _check_json(data: bytes) -> None:
    try:
        json.loads(data)
    except RecursionError:
        return  # JSON that is nested too deep for a parser is for the worker to judge
    except ValueError as error:
        raise InvalidMessage(
            f"this dialect takes JSON, and this is none: {error}; use dialect='lines' for a "
            f"worker that takes any line"
        ) from None


def error_answer(id: RequestId, code: int, message: str, data: Mapping[str, Any]) -> bytes:
    """A JSON-RPC error answer, given in the worker's place."""
    return _answer({"id": id, "error": {"code": code, "message": message, "data": data}})


def success_answer(id: RequestId) -> bytes:
    """A JSON-RPC answer that says no more than that all is well."""
    return _answer({"id": id, "result": {}})


def _answer(fields: dict[str, Any]) -> bytes:
    # The standard library writes what msgspec refuses: an id that holds a lone surrogate.
    return json.dumps({"jsonrpc": "2.0", **fields}, separators=(",", ":")).encode()


BUILT_IN: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "jsonrpc",
            "JSON-RPC 2.0, one message per line; any number of requests at once",
            recovers=True,
        ),
        Dialect(
            "kimi-wire",
            "coding agents in wire mode; one prompt at a time",
            busy=frozenset({"prompt"}),
            exclusive=True,
            cancel=frozenset({"cancel"}),
            recovers=True,
        ),
        Dialect(
            "acp",
            "Agent Client Protocol; one prompt at a time in each of its sessions",
            busy=frozenset({"session/prompt"}),
            exclusive=True,
            lane="sessionId",
        ),
        Dialect("mcp", "Model Context Protocol over stdio"),
        Dialect(
            "lsp",
            "Language Server Protocol: messages behind Content-Length headers",
            framing=ContentLength(),
        ),
        Dialect("lines", "any text, line by line, without a meaning", json=False),
    )
}
