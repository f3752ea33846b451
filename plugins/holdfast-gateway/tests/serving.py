"""A gateway on an ephemeral port, served by uvicorn in a thread, and its clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets
from websockets.asyncio.client import ClientConnection, connect

from holdfast_gateway._hosting import Gateway, Settings
from holdfast_gateway._server import Server, configured

ROOT = Path(__file__).parents[3]
SCRIPTED = [sys.executable, "-I", "-S", str(ROOT / "tests" / "e2e" / "workers" / "scripted.py")]
"""The worker that does what it is told; see that file."""

TOKEN = "the-token-of-the-tests-0123456789"
DEADLINE = 20.0
"""Seconds after which an awaited message is held not to come."""


_NAMES = itertools.count(1)


class Serving:
    """A gateway that runs, as a test sees it."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"
        self.token = gateway.settings.token

    def http(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client that has the token."""
        headers = {"authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        return httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=DEADLINE, trust_env=False, **options
        )

    async def create(
        self, command: Sequence[str] = SCRIPTED, *, dialect: str = "kimi-wire", **more: Any
    ) -> dict[str, Any]:
        """A new session, as JSON."""
        body = {"target": "local:", "command": [*command], "dialect": dialect, **more}
        async with self.http() as http:
            answer = await http.post("/api/sessions/", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    @asynccontextmanager
    async def stream(self, session_id: str, **query: Any) -> AsyncIterator[Client]:
        """A WebSocket on a session; ``client`` is its name, by default a new one."""
        query.setdefault("client", f"c{next(_NAMES)}")
        query_text = "&".join(f"{name}={value}" for name, value in query.items())
        url = f"ws://{self.host}/api/sessions/{session_id}/stream?{query_text}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with connect(
            url, additional_headers=headers, proxy=None, max_size=None, close_timeout=5
        ) as socket:
            yield Client(socket, query["client"])


class Client:
    """One WebSocket and what came on it."""

    def __init__(self, socket: ClientConnection, name: str) -> None:
        self.socket = socket
        self.name = name
        self.seen: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any] | str) -> None:
        """Send one message."""
        text = message if isinstance(message, str) else json.dumps(message)
        await self.socket.send(text)

    async def request(self, id: Any, method: str, **params: Any) -> None:
        """Send a JSON-RPC request."""
        await self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": params})

    async def until(self, match: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that matches, awaited."""
        async with asyncio.timeout(DEADLINE):
            while True:
                message = json.loads(await self.socket.recv())
                self.seen.append(message)
                if match(message):
                    return message

    async def answer(self, id: Any) -> dict[str, Any]:
        """The answer to a request."""
        return await self.until(lambda message: message.get("id") == id and "method" not in message)

    async def status(self, state: str, reason: str | None = None) -> dict[str, Any]:
        """A status of this state, and for this reason."""
        message = await self.until(
            lambda message: (
                message.get("method") == "session_status"
                and message["params"]["state"] == state
                and reason in (None, message["params"]["reason"])
            )
        )
        return message["params"]

    async def notification(self, method: str) -> dict[str, Any]:
        """The parameters of a notification."""
        return (await self.until(lambda message: message.get("method") == method))["params"]

    async def closed(self) -> int:
        """The code with which the server closes, awaited."""
        async with asyncio.timeout(DEADLINE):
            try:
                while True:
                    self.seen.append(json.loads(await self.socket.recv()))
            except websockets.ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd is not None else 1006


@contextmanager
def serving(**options: Any) -> Iterator[Serving]:
    """Serve a gateway in a thread of its own, until the end of the block."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=2048)
    settings = Settings(token=TOKEN, port=sock.getsockname()[1], **options)
    gateway = Gateway(settings)
    started = threading.Event()
    server = Server(configured(gateway), gateway, started.set)
    thread = threading.Thread(target=asyncio.run, args=(server.run_on(sock),))
    thread.start()
    try:
        assert started.wait(DEADLINE), "the server did not start"
        yield Serving(gateway, settings.port)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
