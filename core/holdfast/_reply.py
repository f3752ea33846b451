"""The answer that a call waits for, and what it means to the caller."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ._dialect import LOST_CODE
from ._errors import CallError, WorkerLost
from ._events import Line, Origin
from ._status import Delivery, Status
from .wakeup import waiter


class Reply:
    """The answer that a call waits for."""

    __slots__ = ("line", "waiter")

    def __init__(self) -> None:
        self.line: Line | None = None
        self.waiter = waiter()

    def result(self, status: Status) -> Any:
        """The answer's result.

        Args:
            status: The session's, for the error that says that no answer came.

        Raises:
            CallError: It was answered with an error, or with what cannot be read.
            WorkerLost: It was answered in the worker's place.
        """
        assert self.line is not None
        try:
            answer = _decode(self.line.data)
        except (ValueError, RecursionError) as native:
            raise CallError(0, f"an answer that cannot be read as JSON: {native}") from native
        error = answer.get("error")
        if error is None:
            return answer.get("result")
        if not isinstance(error, dict):
            raise CallError(0, f"an error that is no JSON-RPC error object: {error!r}", error)
        code, data = error.get("code", 0), error.get("data")
        if self.line.origin is Origin.HOLDFAST and code == LOST_CODE:
            delivery = data["delivery"] if isinstance(data, dict) else Delivery.UNKNOWN
            raise WorkerLost(status, Delivery(delivery))
        raise CallError(code, str(error.get("message", "no message")), data)


def _decode(data: bytes) -> dict[str, Any]:
    try:
        result: dict[str, Any] = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        result = json.loads(data.decode("utf-8-sig", "surrogateescape"))
    return result
