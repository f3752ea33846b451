"""What it takes to make a session again from what a store has of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from ._dialect import BUILT_IN, Dialect
from ._errors import PluginError, WorkerNotStarted
from ._limits import Limits
from ._registry import Registry
from ._store import SessionSpec
from ._transport import Channel, Command, Transport


def describe(
    session_id: str,
    target: str | Transport,
    command: Command,
    dialect: Dialect,
    limits: Limits,
    record: Mapping[str, Any] | None,
) -> SessionSpec:
    """What is kept of a new session; no value of an environment variable is.

    Raises:
        ValueError: The record holds something that JSON cannot.
    """
    spec = SessionSpec(
        session_id,
        target if isinstance(target, str) else None,
        msgspec.structs.replace(command, env={}),
        tuple(command.env),
        dialect.name,
        limits,
        dt.datetime.now(dt.UTC),
        dict(record) if record is not None else {},
    )
    if record:
        try:
            spec.pack()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"a session's record holds what JSON can: {error}") from error
    return spec


class Refusing(Transport):
    """In the place of a transport that cannot be had again: it starts nothing, and says why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def open(self, command: Command) -> AbstractAsyncContextManager[Channel]:
        """Start nothing.

        Raises:
            WorkerNotStarted: Always.
        """
        raise WorkerNotStarted(self._why)


def obstacle(spec: SessionSpec) -> str | None:
    """Why no worker may be started for a session that was made again, if that is so."""
    if spec.env:
        return (
            f"the values of its environment variables were not kept: {', '.join(spec.env)}; "
            f"create the session again with them"
        )
    if spec.target is None:
        return (
            "it ran on a transport that its program had made itself, and which is not kept; "
            "create the session again"
        )
    return None


def dialect_of(spec: SessionSpec, registry: Registry) -> tuple[Dialect, str | None]:
    """The dialect of a kept session, and why no worker may be started, if it is not there."""
    try:
        return registry.dialect(spec.dialect), None
    except (PluginError, ValueError) as error:
        stand_in = msgspec.structs.replace(BUILT_IN["lines"], name=spec.dialect)
        return stand_in, f"its dialect is missing: {error}"
