"""The HTTP that an engine speaks, by h11: requests and answers, and connections that are upgraded.

Each request has a connection of its own, which costs a tenth of a millisecond on a Unix socket and
leaves no question of what a connection that broke while it was idle had said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import h11
import msgspec

from ._wire import Wire

_MOST: Final = 16 * 1024 * 1024
"""Bytes of an answer: far more than any that we ask for."""


class BadAnswer(Exception):
    """What answered does not speak an engine's HTTP."""


class Answer(msgspec.Struct, frozen=True):
    """What an engine said."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it did what was asked, or had nothing to do."""
        return self.status < 400

    @property
    def json(self) -> Any:
        """The body, read."""
        try:
            return json.loads(self.body or b"null")
        except ValueError as error:
            raise BadAnswer(f"it answered {self.body[:200]!r}, which is no JSON") from error

    @property
    def message(self) -> str:
        """What it says of an error."""
        try:
            return str(json.loads(self.body)["message"]).strip()
        except (ValueError, KeyError, TypeError):
            return self.body[:500].decode("utf-8", "replace").strip() or f"HTTP {self.status}"


class HttpConnection:
    """A connection to an engine, which it owns until an upgrade gives it away."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._h11 = h11.Connection(h11.CLIENT)

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        upgrade: bool = False,
        keep: bool = False,
    ) -> None:
        """Send a request."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = "Upgrade" if upgrade else "keep-alive" if keep else "close"
        headers = [("Host", "engine"), ("Connection", kind), ("Content-Length", str(len(data)))]
        if upgrade:
            headers.append(("Upgrade", "tcp"))
        if body is not None:
            headers.append(("Content-Type", "application/json"))
        sent = self._h11.send(h11.Request(method=method, target=path, headers=headers)) or b""
        if data:
            sent += self._h11.send(h11.Data(data=data)) or b""
        sent += self._h11.send(h11.EndOfMessage()) or b""
        await self.wire.write(sent)

    async def answer(self) -> Answer:
        """Read the whole answer."""
        status = await self.head()
        return Answer(status, await self.rest())

    async def head(self) -> int:
        """Read the answer up to its body; gives its status."""
        event = await self._event()
        if isinstance(event, h11.InformationalResponse):
            return event.status_code
        if not isinstance(event, h11.Response):
            raise BadAnswer(f"it answered with {type(event).__name__}")
        return event.status_code

    async def rest(self) -> bytes:
        """Read the answer's body."""
        parts: list[bytes] = []
        size = 0
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > _MOST:
                raise BadAnswer(f"its answer is longer than {_MOST:,} bytes")
        return b"".join(parts)

    async def piece(self) -> bytes:
        """The next piece of the body, ``b""`` at its end: for answers that go on."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def upgraded(self) -> Answer | bytes:
        """What a request for an upgrade led to: the first raw bytes, or a refusal."""
        status = await self.head()
        if status == 101:
            return self._h11.trailing_data[0]
        return Answer(status, await self.rest())

    def next_request(self) -> None:
        """Be ready for another one on this connection."""
        try:
            self._h11.start_next_cycle()
        except h11.LocalProtocolError as error:
            raise BadAnswer("it does not keep a connection open") from error

    async def _event(self) -> h11.Event | type[h11.PAUSED]:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                data = await self.wire.read()
                if not data and self._h11.their_state is h11.SEND_RESPONSE:
                    if said := self._h11.trailing_data[0]:
                        raise BadAnswer(f"it said {said[:100]!r}, which is no HTTP")
                    raise ConnectionResetError("the engine closed the connection")
                self._h11.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise BadAnswer(f"it does not speak HTTP: {error}") from error
        return event  # type: ignore[return-value]

    async def aclose(self) -> None:
        """Close it."""
        await self.wire.aclose()


def query(path: str, **values: str | int | Mapping[str, Any]) -> str:
    """A path with its query."""
    from urllib.parse import urlencode

    plain = {
        name: json.dumps(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }
    return f"{path}?{urlencode(plain)}"
