"""``/api/sessions/{id}/stream``: one client's WebSocket on one session.

One task reads what the client sends, another one writes what the journal holds. The writer has a
cursor and nothing else: where the client is slow, the server's own flow control lets the writer
wait, with one batch of events and 64 KiB, and it reads on from where it stands. Whoever falls
behind what is retained is told so, and nobody else notices.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import anyio
from anyio import CancelScope
from starlette.websockets import WebSocket, WebSocketDisconnect

from holdfast import (
    Event,
    InvalidMessage,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    RequestId,
    Sent,
    SessionClosed,
    StatusChanged,
    Stderr,
)

from ._hosting import MAX_WAITING, AlreadyAnswered, Gateway, Hosted, NotAllowed, TooMuchWaits
from ._views import content, error_answer, event_view, fault, notification, seen_by

GOING_AWAY: Final = 1001
"""The gateway stops (RFC 6455, section 7.4.1)."""
FORGOTTEN: Final = 4404
"""There is no such session, or not any more."""
TOO_MANY: Final = 4429
"""Too many clients stream this session."""

TOO_MUCH_WAITS: Final = -32003
NOT_ALLOWED: Final = -32004
"""As the one before, beyond holdfast's own codes, which docs/protocol.md lists."""

_GOOD_BYES: Final = {
    GOING_AWAY: "the gateway stops",
    FORGOTTEN: "session forgotten",
    TOO_MANY: "too many clients on this session",
}

_BATCH: Final = 64
"""Events to take from the journal at once."""

_BATCH_BYTES: Final = 128 * 1024
"""Where events are large, fewer are taken: what a client that does not read keeps alive."""

_LEAVE: Final = 1.0
"""Seconds to say good-bye to a client that may not read."""

Render = Callable[[Event, str | None], list[str]]


class Stream:
    """One client's stream.

    Args:
        gateway: Whose.
        hosted: Its session.
        websocket: Its connection, accepted.
        client: Its name.
        after: The seq after which to begin.
        events: Whether every event is sent as one, with its seq; else worker lines as they are.
    """

    def __init__(
        self,
        gateway: Gateway,
        hosted: Hosted,
        websocket: WebSocket,
        client: str,
        after: int,
        *,
        events: bool,
    ) -> None:
        self._gateway = gateway
        self._hosted = hosted
        self._websocket = websocket
        self._client = client
        self._after = after
        self._render: Render = self._as_event if events else self._as_line
        self._scope = CancelScope()
        self._over = anyio.Event()
        self._code: int | None = None

    async def run(self) -> None:
        """Serve the client until it leaves or the session is forgotten."""
        hosted = self._hosted
        if self._gateway.closing:
            await self._close(GOING_AWAY)
            return
        if len(hosted.streams) >= self._gateway.settings.max_clients:
            await self._close(TOO_MANY)
            return
        hosted.streams.add(self)
        try:
            self._gateway.ensure_started(hosted)
            with self._scope:
                async with anyio.create_task_group() as both:
                    both.start_soon(self._read)
                    await self._write()
                    self._code = FORGOTTEN
                    both.cancel_scope.cancel()
        except* WebSocketDisconnect:
            self._code = None
        finally:
            if self._code is not None:
                await self._close(self._code)
            hosted.streams.discard(self)
            self._over.set()

    async def leave(self) -> None:
        """The gateway stops."""
        self._code = GOING_AWAY
        self._scope.cancel()
        await self._over.wait()

    async def _close(self, code: int) -> None:
        # It may have left by itself, which starlette says by the one error or the other.
        with (
            anyio.move_on_after(_LEAVE, shield=True),
            suppress(WebSocketDisconnect, RuntimeError),
        ):
            await self._websocket.close(code, _GOOD_BYES[code])

    async def _send(self, text: str) -> None:
        """Send one message.

        Raises:
            WebSocketDisconnect: The client is gone.
        """
        try:
            await self._websocket.send_text(text)
        except RuntimeError as error:  # what the server says once it closed the connection itself
            raise WebSocketDisconnect(1006) from error

    # -- from the client ---------------------------------------------------------------------

    async def _read(self) -> None:
        """Take messages and hand each to a task: none waits for the one before it.

        A message goes on its way although its client leaves, and a worker that takes no input
        holds up neither pings nor the client's good-bye.
        """
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._scope.cancel()
                return
            text = message.get("text")
            data = text.encode() if text is not None else message["bytes"]
            self._gateway.spawn(self._forward, data)

    async def _forward(self, data: bytes) -> None:
        try:
            await self._hosted.send(self._client, data)
        except InvalidMessage as error:
            id = self._hosted.id_of(data)
            await self._tell(error_answer(id, fault(data), str(error), "see docs/protocol.md"))
        except AlreadyAnswered as error:
            await self._tell(_request_answered(self._hosted.id_of(data), error.client))
        except TooMuchWaits:
            text = f"{MAX_WAITING} bytes of this client wait for the worker already"
            hint = "wait for its answers, or restart the session"
            id = self._hosted.id_of(data)
            await self._tell(error_answer(id, TOO_MUCH_WAITS, text, hint))
        except NotAllowed as error:
            hint = "delete this session, or ask who runs this gateway"
            await self._tell(error_answer(self._hosted.id_of(data), NOT_ALLOWED, str(error), hint))
        except SessionClosed:
            pass  # the stream's end says so

    async def _tell(self, text: str) -> None:
        with suppress(WebSocketDisconnect):  # it left without waiting for this
            await self._send(text)

    # -- to the client -----------------------------------------------------------------------

    async def _write(self) -> None:
        """Send what lies in the journal, say that it is all, and send what comes."""
        session, send = self._hosted.session, self._send
        goal = session.last_seq
        after = self._after
        if after > goal:  # a cursor of another life of this session
            await send(notification("session_lagged", {"resume_from": goal + 1}))
            after = goal
        async with session.subscribe(after=after) as subscription:
            complete = after >= goal
            if complete:
                await send(self._history_complete(goal))
            at_most = 1
            while batch := await anext(subscription.batches(at_most), None):
                at_most = _how_many(batch)
                for event in batch:
                    if isinstance(event, Lagged):
                        self._gateway.metrics.lagged.inc()
                        after = event.resume_from - 1
                        await send(
                            notification("session_lagged", {"resume_from": event.resume_from})
                        )
                    else:
                        after = event.seq
                        seen = seen_by(self._client, event)
                        if seen is not None:
                            sender = self._hosted.sender(event)
                            for text in self._render(seen, sender):
                                await send(text)
                    if not complete and after >= goal:
                        complete = True
                        await send(self._history_complete(goal))

    def _history_complete(self, last_seq: int) -> str:
        params = {"client": self._client, "last_seq": last_seq}
        return notification("history_complete", params, id=self._client)

    def _as_event(self, event: Event, sender: str | None) -> list[str]:
        texts = [notification("session_event", event_view(event, sender))]
        return texts + self._answered(event, sender)

    def _as_line(self, event: Event, sender: str | None) -> list[str]:
        match event:
            case Line(seq, data):
                try:
                    return [data.decode()]
                except UnicodeDecodeError:
                    text = base64.b64encode(data).decode()
                    return [notification("session_line_base64", {"seq": seq, "base64": text})]
            case StatusChanged(_, status):
                return [notification("session_status", status.to_dict())]
            case Stderr(seq, data):
                return [notification("session_stderr", {"seq": seq, **content(data)})]
            case LineTooLong(seq, size, head):
                params = {"seq": seq, "size": size, **content(head, "head_")}
                return [notification("session_line_too_long", params)]
            case Sent(seq, data):
                params = {"seq": seq, "client": sender, **content(data)}
                texts = [notification("session_sent", params)]
                return texts + self._answered(event, sender)
            case _:
                raise AssertionError(event)

    def _answered(self, event: Event, sender: str | None) -> list[str]:
        """Tell who did not answer a worker's request that it is answered."""
        if not isinstance(event, Sent) or event.kind is not Kind.ANSWER or sender == self._client:
            return []
        return [_request_answered(event.id, sender)]


def _how_many(batch: Sequence[Event | Lagged]) -> int:
    """How many events to take next, if they are as large as these."""
    size = sum(len(getattr(event, "data", b"")) for event in batch)
    return max(1, min(_BATCH, _BATCH_BYTES * len(batch) // max(size, 1)))


def _request_answered(id: RequestId | None, client: str | None) -> str:
    return notification("session_request_answered", {"id": id, "client": client})
