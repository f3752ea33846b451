"""The application: every route behind one guard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from fastapi import FastAPI, Query, WebSocket
from fastapi.exceptions import WebSocketRequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

from ._clients import NAME
from ._hosting import Gateway
from ._problems import Problem, install
from ._rest import router
from ._security import SUBPROTOCOL
from ._stream import FORGOTTEN, Stream

PAGE: Final = Path(__file__).with_name("page")


def create_app(gateway: Gateway) -> FastAPI:
    """The routes of a gateway that runs; whoever serves them puts the guard before them."""
    app = FastAPI(
        title="holdfast gateway",
        description="Sessions of line-JSON workers; streams and messages: see docs/gateway.md.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # they load scripts of others
        redoc_url=None,
        redirect_slashes=False,
        # Spans would carry URLs, and so tokens, to wherever the environment says.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    install(app)
    app.include_router(router)
    _add_stream(app, gateway)
    _add_page(app)
    return app


def _add_stream(app: FastAPI, gateway: Gateway) -> None:
    @app.websocket("/api/sessions/{session_id}/stream")
    async def stream(
        websocket: WebSocket,
        session_id: str,
        after: Annotated[int, Query(ge=0)] = 0,
        client: Annotated[str | None, Query(pattern=f"^{NAME.pattern}$")] = None,
        format: Annotated[Literal["lines", "events"], Query()] = "lines",
    ) -> None:
        offered = websocket.scope.get("subprotocols", [])
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        hosted = gateway.hosted.get(session_id)
        if hosted is None:
            await websocket.close(FORGOTTEN, "no such session")
            return
        await Stream(
            gateway,
            hosted,
            websocket,
            client or gateway.new_client(),
            after,
            events=format == "events",
        ).run()

    @app.exception_handler(WebSocketRequestValidationError)
    async def invalid(websocket: WebSocket, error: WebSocketRequestValidationError) -> None:
        detail = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        problem = Problem(422, detail, "see docs/gateway.md for what a stream takes")
        await websocket.send_denial_response(problem.response())


def _add_page(app: FastAPI) -> None:
    if not PAGE.is_dir():
        return  # REST and streams work without it

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page."""
        return FileResponse(PAGE / "index.html")

    app.mount("/static", StaticFiles(directory=PAGE), "static")
