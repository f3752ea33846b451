"""Everything that goes wrong in a request, as ``application/problem+json`` (RFC 9457) with a hint.

No failure of a worker or of a transport is among them: those are states of a session.
"""

from __future__ import annotations

import http
import logging
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_log = logging.getLogger("holdfast.gateway")

MEDIA_TYPE: Final = "application/problem+json"

_HINTS: Final = {
    404: "see /api/openapi.json for the paths there are",
    405: "see /api/openapi.json for the methods of this path",
}


class Problem(Exception):
    """A request that is refused.

    Args:
        status: The HTTP status code, 4xx.
        detail: What happened, to what.
        hint: What to do next.
        more: Further members of the JSON.
    """

    def __init__(self, status: int, detail: str, hint: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.more = more

    def encode(self) -> bytes:
        """The problem as JSON."""
        title = http.HTTPStatus(self.status).phrase
        return msgspec.json.encode(
            {
                "type": "about:blank",
                "title": title,
                "status": self.status,
                "detail": self.detail,
                "hint": self.hint,
                **self.more,
            }
        )

    def response(self, headers: dict[str, str] | None = None) -> Response:
        """The problem as an answer."""
        return Response(self.encode(), self.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let an application tell of all that goes wrong in this one form."""

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        detail = f"{http.HTTPStatus(error.status_code).phrase}: {request.method} {path}"
        hint = _HINTS.get(error.status_code, "see docs/gateway.md")
        headers = dict(error.headers) if error.headers else None
        return Problem(error.status_code, detail, hint).response(headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # What was given is not repeated: the value of an environment variable may be among it.
        faults = [
            {"at": ".".join(map(str, each["loc"])), "message": each["msg"]}
            for each in error.errors()
        ]
        detail = "; ".join(f"{each['at']}: {each['message']}" for each in faults)
        hint = "see /api/openapi.json for what this path takes"
        return Problem(422, detail, hint, errors=faults).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        detail = f"a mistake in the gateway: {type(error).__name__}"
        return Problem(500, detail, "its log has the traceback; please report it").response()
