"""A gateway on an ephemeral port, served by uvicorn in a thread, and its clients."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import subprocess
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


class Address:
    """A gateway that runs, as its clients see it."""

    def __init__(self, port: int, token: str) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"
        self.token = token

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


class Serving(Address):
    """A gateway in a thread of this process."""

    def __init__(self, gateway: Gateway, thread: threading.Thread) -> None:
        super().__init__(gateway.settings.port, gateway.settings.token)
        self.gateway = gateway
        self.thread = thread


class Program(Address):
    """``holdfast serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        super().__init__(port, token)
        self.process = process
        self.pid = process.pid

    def memory(self) -> int:
        """The most memory that it has taken so far, in bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Stop it; gives its exit code, and all that it wrote."""
        self.process.send_signal(how)
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout + stderr


def arguments(folder: Path, *options: str) -> list[str]:
    """The command line of a gateway that keeps its data in a folder."""
    return [sys.executable, "-m", "holdfast", "serve", "--data", str(folder / "data"), *options]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Our environment, and a runtime directory in a folder."""
    runtime = folder / "run"
    runtime.mkdir(exist_ok=True)
    return {**os.environ, "XDG_RUNTIME_DIR": str(runtime), **more}


@contextmanager
def program(folder: Path, *options: str, **env: str) -> Iterator[Program]:
    """Run ``holdfast serve`` with a token of its own; it is killed at the end if it still runs."""
    process = subprocess.Popen(
        arguments(folder, *(options or ("--port", "0"))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder, HOLDFAST_TOKEN=TOKEN, **env),
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r":(\d+)/", said)
        assert found is not None, said + process.communicate(timeout=DEADLINE)[1]
        yield Program(process, int(found[1]), TOKEN)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


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
        yield Serving(gateway, thread)
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
