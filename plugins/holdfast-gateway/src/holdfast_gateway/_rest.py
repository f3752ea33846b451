"""The REST routes. What they take and give is in ``_models.py``, for OpenAPI."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, Final

import anyio
import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from holdfast import (
    ContentLength,
    Delivery,
    InvalidMessage,
    Lagged,
    Limits,
    Receipt,
    SessionBusy,
    SessionClosed,
    TransportError,
    demo,
)

from . import _models as models
from ._clients import NAME
from ._hosting import (
    LARGEST,
    LIMITS,
    MAX_WAITING,
    AlreadyAnswered,
    Gateway,
    Hosted,
    NotAllowed,
    TooMuchWaits,
    start,
)
from ._problems import Problem
from ._views import encode, event_view, fault, seen_by, session_view

_DELIVERY_WAIT: Final = 10.0
"""Seconds to wait for a message to be written before its delivery is said to be unknown."""

_BATCH: Final = 64
"""Events to read at once."""

_EVENTS_BYTES: Final = 8 * 1024 * 1024
"""Bytes of events after which an answer ends, whatever its ``limit``."""


# Both are async, since FastAPI runs others in threads: a session could be deleted before its route
# begins.
async def gateway_of(request: Request) -> Gateway:
    """The gateway of an application."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def hosted_of(session_id: str, gateway: Annotated[Gateway, Depends(gateway_of)]) -> Hosted:
    """The session that a path names."""
    return gateway.get(session_id)


GatewayOf = Annotated[Gateway, Depends(gateway_of)]
HostedOf = Annotated[Hosted, Depends(hosted_of)]
Client = Annotated[
    str,
    Query(
        pattern=f"^{NAME.pattern}$",
        description="Who asks: requests of different clients never meet, whatever their ids.",
    ),
]
Force = Annotated[bool, Query(description="Restart although a request is being answered.")]

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": models.Problem, "description": text}
    for code, text in {
        401: "No token, or a wrong one",
        403: "Not allowed here",
        404: "No such session",
        422: "Not understood",
    }.items()
}

router = APIRouter(responses=PROBLEMS)


def json_response(value: object, status: int = 200) -> Response:
    """A value as JSON, by msgspec."""
    return Response(encode(value), status, media_type="application/json")


# -- sessions ------------------------------------------------------------------------------------


@router.post("/api/sessions", include_in_schema=False)
@router.post("/api/sessions/", status_code=201, response_model=models.Session)
async def create_session(new: models.NewSession, gateway: GatewayOf) -> Response:
    """Create a session, and start its worker.

    It is created although its worker could not be started: its state is then ``error``, its reason
    ``initialization_failed``.
    """
    hosted = gateway.create(
        new.target,
        new.command,
        dialect=new.dialect,
        cwd=new.cwd,
        env=new.env,
        name=new.name,
        limits=_limits(new.limits),
    )
    if new.start:
        await start(hosted)
    return json_response(session_view(hosted), 201)


@router.get("/api/sessions", include_in_schema=False)
@router.get("/api/sessions/", response_model=models.Sessions)
async def list_sessions(gateway: GatewayOf) -> Response:
    """All sessions."""
    views = [session_view(hosted) for hosted in gateway.hosted.values()]
    return json_response({"sessions": views})


@router.post("/api/sessions/restart", response_model=models.RestartSummary)
async def restart_all(gateway: GatewayOf, force: Force = False) -> Response:
    """Restart every session, except those that are answering a request."""
    return json_response(await gateway.restart_all(force=force))


@router.get("/api/sessions/{session_id}", response_model=models.Session)
async def get_session(hosted: HostedOf) -> Response:
    """One session."""
    return json_response(session_view(hosted))


@router.delete("/api/sessions/{session_id}", status_code=204)
async def delete_session(hosted: HostedOf, gateway: GatewayOf) -> Response:
    """Stop a session and forget it with all its events."""
    await gateway.forget(hosted)
    return Response(status_code=204)


@router.post(
    "/api/sessions/{session_id}/restart",
    response_model=models.Session,
    responses={409: {"model": models.Problem, "description": "It is answering a request"}},
)
async def restart_session(hosted: HostedOf, force: Force = False) -> Response:
    """Stop the worker and start a new one; a failure is a state."""
    if hosted.barred is not None:
        raise _refusal(NotAllowed(hosted.barred), hosted)
    try:
        await hosted.session.restart(force=force)
    except SessionBusy as error:
        raise Problem(409, str(error), "wait for the answer, cancel, or add ?force=true") from error
    except SessionClosed as error:
        raise _forgotten(hosted) from error
    except TransportError:
        pass  # the status says so
    return json_response(session_view(hosted))


@router.post("/api/sessions/{session_id}/stop", response_model=models.Session)
async def stop_session(hosted: HostedOf) -> Response:
    """Stop the worker: politely, then by force."""
    await hosted.session.stop()
    return json_response(session_view(hosted))


@router.post(
    "/api/sessions/{session_id}/kill",
    response_model=models.Session,
    responses={409: {"model": models.Problem, "description": "No worker runs"}},
)
async def kill_worker(hosted: HostedOf) -> Response:
    """Kill the demo worker with SIGKILL, to see what happens; only of the demo session."""
    if not hosted.demo:
        raise Problem(
            403, "only the demo worker may be killed", "stop the session, or restart it by force"
        )
    if not await hosted.ledger.kill():
        raise Problem(409, "no worker runs in this session", "start one: restart the session")
    return json_response(session_view(hosted))


# -- what flows ----------------------------------------------------------------------------------


@router.get("/api/sessions/{session_id}/events", response_model=models.Events)
async def read_events(
    hosted: HostedOf,
    after: Annotated[int, Query(ge=0, description="Events with a larger seq.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    client: Client = "rest",
) -> Response:
    """Events that have happened, without waiting for more.

    Answers to other clients' requests are left out. Fewer than ``limit`` are given where they are
    large: go on with ``after=next_after`` until that is ``last_seq``.
    """
    events: list[dict[str, Any]] = []
    lagged = None
    last = hosted.session.last_seq
    cursor = min(after, last)
    size = 0
    while cursor < last and len(events) < limit and size < _EVENTS_BYTES:
        batch = await hosted.session.read(after=cursor, at_most=_BATCH)
        if isinstance(batch, Lagged):
            lagged = {"resume_from": batch.resume_from}
            cursor = batch.resume_from - 1
            continue
        if not batch:  # the session was forgotten meanwhile
            break
        for event in batch:
            cursor = event.seq
            size += len(getattr(event, "data", b""))
            seen = seen_by(client, event)
            if seen is not None:
                events.append(event_view(seen, hosted.sender(event)))
            if len(events) == limit:
                break
    return json_response(
        {
            "events": events,
            "first_seq": hosted.session.first_seq,
            "last_seq": hosted.session.last_seq,
            "next_after": cursor,
            "lagged": lagged,
        }
    )


_LINE: Final = {"schema": {"type": "string"}, "example": '{"jsonrpc":"2.0","id":1,"method":"ping"}'}


@router.post(
    "/api/sessions/{session_id}/messages",
    response_model=models.Receipt,
    responses={
        400: {"model": models.Problem, "description": "No message, with JSON-RPC's error"},
        409: {"model": models.Problem, "description": "The worker's request is answered already"},
        429: {"model": models.Problem, "description": "Too much waits for the worker"},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": _LINE, "text/plain": _LINE},
        }
    },
)
async def send_message(
    hosted: HostedOf, gateway: GatewayOf, request: Request, client: Client = "rest"
) -> Response:
    """Send the worker one message, the body as it is.

    Whatever became of it is told by ``delivery``; a request's answer comes as an event.
    """
    data = (await request.body()).removesuffix(b"\n").removesuffix(b"\r")
    outcome: list[Receipt | Exception] = []
    done = anyio.Event()

    async def send() -> None:
        try:
            outcome.append(await hosted.send(client, data))
        except (
            InvalidMessage,
            AlreadyAnswered,
            NotAllowed,
            TooMuchWaits,
            SessionClosed,
        ) as error:
            outcome.append(error)
        finally:
            done.set()

    gateway.spawn(send)
    with anyio.move_on_after(_DELIVERY_WAIT):
        await done.wait()
    result = outcome[0] if outcome else None
    if isinstance(result, Exception):
        raise _refusal(result, hosted, data) from result
    delivery = result.delivery if result is not None else Delivery.UNKNOWN
    status = result.status if result is not None else hosted.session.status
    id = result.id if result is not None else hosted.id_of(data)
    return json_response({"delivery": delivery, "status": status.to_dict(), "id": id})


def _refusal(error: Exception, hosted: Hosted, data: bytes = b"") -> Problem:
    match error:
        case InvalidMessage():
            answer = {"jsonrpc": "2.0", "id": None}
            error_object = {"code": fault(data), "message": str(error)}
            hint = "send one JSON-RPC message on one line, with an id that is not in flight"
            return Problem(400, str(error), hint, error={**answer, "error": error_object})
        case NotAllowed():
            hint = "its events can be read; delete it, or ask who runs this gateway"
            return Problem(403, str(error), hint)
        case AlreadyAnswered(client=client):
            who = f"client {client!r}" if client is not None else "nobody; its worker is gone"
            return Problem(409, f"this request of the worker was answered by {who}", "drop it")
        case TooMuchWaits():
            return Problem(
                429,
                f"{MAX_WAITING} bytes of this client wait for the worker already",
                "wait for its answers, or restart the session",
            )
        case _:
            return _forgotten(hosted)


def _forgotten(hosted: Hosted) -> Problem:
    return Problem(404, f"session {hosted.session.id!r} was deleted", "create a new one")


def _limits(given: dict[str, Any]) -> Limits:
    hint = f"known are {', '.join(_KNOWN_LIMITS)}"
    try:
        limits = msgspec.convert({**msgspec.structs.asdict(LIMITS), **given}, Limits, strict=True)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise Problem(422, f"limits: {error}", hint) from error
    unknown = sorted(set(given) - set(_KNOWN_LIMITS))
    if unknown:
        raise Problem(422, f"limits: no limit is called {unknown[0]!r}", hint)
    if max(limits.max_line, limits.retained_bytes, limits.stderr_tail) > LARGEST:
        raise Problem(422, "limits: more bytes than this gateway allows", f"ask for {LARGEST}")
    return limits


_KNOWN_LIMITS: Final = Limits.__struct_fields__


# -- about the gateway ---------------------------------------------------------------------------


@router.get("/api/transports", response_model=models.Transports)
async def list_transports(gateway: GatewayOf) -> Response:
    """What a new session may be made of."""
    registry = gateway.registry
    policy = gateway.settings.policy
    transports = [
        {
            "scheme": each.spec.scheme,
            "summary": each.spec.summary,
            "example": each.spec.example,
            "options": dict(each.spec.options),
            "capabilities": [(can.name or "").lower() for can in each.spec.capabilities or ()],
            "distribution": each.distribution,
        }
        for each in registry.transports
    ]
    dialects = [
        {
            "name": each.name,
            "summary": each.summary,
            "framing": "content-length" if isinstance(each.framing, ContentLength) else "lines",
            "json": each.json,
            "exclusive": each.exclusive,
            "recovers": each.recovers,
        }
        for each in registry.dialects.values()
    ]
    example = {
        "target": "local:",
        "command": list(demo.WORKER),
        "dialect": "kimi-wire",
        "name": "demo",
    }
    return json_response(
        {
            "transports": transports,
            "dialects": dialects,
            "broken": [str(error) for error in gateway.broken],
            "demo": example if policy.allows("local:", demo.WORKER, ()) else None,
        }
    )


@router.get("/healthz", response_model=models.Health)
async def health(gateway: GatewayOf) -> Response:
    """Whether the gateway works."""
    return json_response(
        {
            "status": "ok",
            "version": metadata.version("holdfast-gateway"),
            "sessions": len(gateway.hosted),
            "durability": gateway.durability,
        }
    )


@router.get("/metrics", response_class=Response)
async def metrics(gateway: GatewayOf) -> Response:
    """Figures for Prometheus."""
    return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
