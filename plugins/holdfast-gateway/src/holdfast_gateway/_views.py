"""Sessions and events as JSON: what REST, the WebSocket and the page speak alike."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast import (
    Event,
    Kind,
    Line,
    LineTooLong,
    RequestId,
    Sent,
    StatusChanged,
    Stderr,
)

from ._clients import Unreadable, given_back, with_id

if TYPE_CHECKING:
    from ._hosting import Hosted

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600

encode = msgspec.json.Encoder().encode


def session_view(hosted: Hosted) -> dict[str, Any]:
    """A session: its status fields, flat, and what it is."""
    session = hosted.session
    spec = session.spec
    return {
        "id": session.id,
        **session.status.to_dict(),
        "target": spec.target,
        "command": list(spec.command.argv),
        "dialect": spec.dialect,
        "cwd": spec.command.cwd,
        "env": list(spec.env),
        "name": spec.record.get("name"),
        "generation": session.generation,
        "durability": session.durability,
        "durability_detail": session.durability_detail,
        "is_busy": session.is_busy,
        "in_flight": len(session.in_flight),
        "last_seq": session.last_seq,
        "first_seq": session.first_seq,
        "demo": hosted.demo,
        "created_at": spec.created_at,
    }


def seen_by(client: str, event: Event) -> Event | None:
    """An event as one client may see it: its own request ids are restored.

    ``None`` for an answer to somebody else. An answer to nobody's request is everybody's.
    """
    if type(event) is Line:
        if event.kind is not Kind.ANSWER:
            return event
    elif type(event) is not Sent or event.kind is not Kind.REQUEST:
        return event
    whose = given_back(event.id)
    if whose is None:
        return event
    if whose[0] == client:
        try:
            data = with_id(event.data, whose[1])
        except Unreadable:  # no parser takes it, so nobody will look for an id in it
            data = event.data
        return msgspec.structs.replace(event, data=data, id=whose[1])
    return None if type(event) is Line else event


def event_view(event: Event, client: str | None = None) -> dict[str, Any]:
    """An event.

    Args:
        event: The event, as :func:`seen_by` gives it.
        client: Who sent it, if it was sent.
    """
    match event:
        case Line(seq, data, kind, id, origin, terminated):
            return {
                "seq": seq,
                "event": "line",
                "kind": kind,
                "id": id,
                "origin": origin,
                "terminated": terminated,
                **content(data),
            }
        case Sent(seq, data, kind, id):
            return {
                "seq": seq,
                "event": "sent",
                "kind": kind,
                "id": id,
                "client": client,
                **content(data),
            }
        case StatusChanged(seq, status):
            return {"seq": seq, "event": "status_changed", "status": status.to_dict()}
        case Stderr(seq, data):
            return {"seq": seq, "event": "stderr", **content(data)}
        case LineTooLong(seq, size, head):
            return {"seq": seq, "event": "line_too_long", "size": size, **content(head, "head_")}
        case _:
            raise AssertionError(event)


def content(data: bytes, prefix: str = "") -> dict[str, str]:
    """Bytes as ``text`` where they are UTF-8, else as ``base64``."""
    try:
        return {f"{prefix}text": data.decode()}
    except UnicodeDecodeError:
        return {f"{prefix}base64": base64.b64encode(data).decode()}


def notification(method: str, params: object, **more: object) -> str:
    """One of our own messages to a client."""
    return encode({"jsonrpc": "2.0", "method": method, **more, "params": params}).decode()


def fault(data: bytes) -> int:
    """The JSON-RPC error code for a message that is none: no JSON, or no use."""
    try:
        json.loads(data)
    except RecursionError:
        return INVALID_REQUEST
    except ValueError:
        return PARSE_ERROR
    return INVALID_REQUEST


def error_answer(id: RequestId | None, code: int, message: str, hint: str) -> str:
    """Our own answer to a client's message."""
    error = {"code": code, "message": message, "data": {"hint": hint}}
    return encode({"jsonrpc": "2.0", "id": id, "error": error}).decode()
