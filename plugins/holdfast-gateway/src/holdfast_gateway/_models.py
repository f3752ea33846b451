"""What the REST routes take and give, as OpenAPI tells it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from holdfast import Cause, Delivery, Fate, Reason, State


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewSession(_Strict):
    """What a session is made of."""

    target: str = Field("local:", description="Where the worker runs, such as `ssh://build7`.")
    command: list[str] = Field(min_length=1, description="The program and its arguments.")
    dialect: str = Field("jsonrpc", description="The protocol that the worker speaks.")
    cwd: str | None = Field(None, description="The directory to run in.")
    env: dict[str, str] = Field({}, description="Variables to add; their values are never shown.")
    name: str | None = Field(None, max_length=200, description="What people call it.")
    limits: dict[str, Any] = Field({}, description="Bounds of its own, as `holdfast.Limits`.")
    start: bool = Field(True, description="Whether to start its worker now.")


class ExitModel(BaseModel):
    """How a worker ended, as far as that was reported."""

    code: int | None
    signal: str | None
    detail: str | None


class Status(BaseModel):
    """What a session says of itself at one moment."""

    session_id: str
    state: State
    seq: int
    worker_id: str | None
    reason: Reason | None
    detail: str | None
    updated_at: dt.datetime
    cause: Cause | None
    worker: Fate | None
    exit: ExitModel | None


class Session(Status):
    """A session: its status, and what it is."""

    id: str
    target: str
    command: list[str]
    dialect: str
    cwd: str | None
    env: list[str] = Field(description="The names of its variables.")
    name: str | None
    generation: int = Field(description="How many workers it has had.")
    durability: str = Field(description="`durable`, or `memory` where its events are not kept.")
    durability_detail: str | None
    is_busy: bool
    in_flight: int
    last_seq: int
    first_seq: int
    demo: bool
    created_at: dt.datetime


class Sessions(BaseModel):
    """All sessions."""

    sessions: list[Session]


class RestartSummary(BaseModel):
    """What became of each session, by id."""

    restarted: list[str]
    skipped_busy: list[str]
    failed: list[str]


class LaggedModel(BaseModel):
    """Events are gone that were asked for."""

    resume_from: int


class Events(BaseModel):
    """A part of a session's journal."""

    events: list[dict[str, Any]] = Field(description="See docs/gateway.md.")
    first_seq: int
    last_seq: int
    next_after: int
    lagged: LaggedModel | None


class Receipt(BaseModel):
    """What became of a message."""

    delivery: Delivery
    status: Status
    id: int | float | str | None


class TransportModel(BaseModel):
    """A place where workers can run."""

    scheme: str
    summary: str
    example: str
    options: dict[str, str]
    capabilities: list[str]
    distribution: str


class DialectModel(BaseModel):
    """A protocol that workers speak."""

    name: str
    summary: str
    framing: str
    json_: bool = Field(alias="json")
    exclusive: bool
    recovers: bool


class Transports(BaseModel):
    """What a new session may be made of."""

    transports: list[TransportModel]
    dialects: list[DialectModel]
    broken: list[str]
    demo: dict[str, Any] | None


class Health(BaseModel):
    """Whether the gateway works."""

    status: str
    version: str
    sessions: int
    durability: str


class Problem(BaseModel):
    """What went wrong, and what to do next."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
