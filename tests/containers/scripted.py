"""An engine that says what a test tells it to, about a worker that is a process on this machine."""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

NEVER = "0001-01-01T00:00:00Z"
GONE = (
    500,
    {"cause": "no such container", "message": "x does not exist in database: no such container"},
)


def state(status: str, code: int = 0) -> tuple[int, dict[str, Any]]:
    """What an engine says of a container in this state."""
    over = status in ("exited", "stopped")
    return 200, {
        "Id": "x",
        "State": {
            "Status": status,
            "Running": status == "running",
            "ExitCode": code,
            "FinishedAt": "2026-01-01T00:00:00Z" if over else NEVER,
        },
    }


class ScriptedEngine(socketserver.ThreadingUnixStreamServer):
    """One container's engine.

    Attributes:
        states: What it says of the container, one after the other; the last for ever.
        exits: What it answers to who waits for the exit, one after the other, once it may.
        may_tell: Whether it does yet.
    """

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.states = [state("running")]
        self.exits: list[object] = []
        self.may_tell = threading.Event()
        self.asked = 0
        self._argv: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._streams: _Handler | None = None
        super().__init__(str(path), _Handler)

    @property
    def target(self) -> str:
        """Where a container of it is."""
        options = {"host": f"unix://{self.server_address}", "heartbeat": 5, "deadline": 5}
        return f"podman://image?{urlencode(options)}"

    def end_streams(self, last: bytes = b"") -> None:
        """End the worker's streams, and say nothing else."""
        assert self._streams is not None
        with suppress(OSError):
            self._streams.wfile.write(last)
        self._streams.connection.shutdown(2)

    def look(self) -> tuple[int, Any]:
        """What it says of the container now."""
        self.asked += 1
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def create(self, described: dict[str, Any]) -> None:
        """Make the container."""
        self._argv = [*described["Entrypoint"], *described["Cmd"]]

    def attach(self, streams: _Handler) -> None:
        """Carry the worker's streams until somebody ends them."""
        self._streams = streams
        while data := streams.rfile.read1(65536):
            self._started.wait()
            assert self._process is not None
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it is over
                self._process.stdin.write(data)

    def start(self) -> None:
        """Start the container's process."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._argv, bufsize=0, stdin=pipe, stdout=pipe, start_new_session=True
        )
        self._pumping = threading.Thread(target=self._pump)
        self._pumping.start()
        self._started.set()

    def _pump(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._streams is not None
        while data := self._process.stdout.read(65536):
            with suppress(OSError):
                self._streams.wfile.write(b"\1\0\0\0" + len(data).to_bytes(4, "big") + data)

    def close(self) -> None:
        """End all of it."""
        self.may_tell.set()
        self._started.set()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._pumping.join()
            with self._process:
                pass  # reaps it, and closes its pipes
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0
    server: ScriptedEngine

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: who asks knows."""

    def do_GET(self) -> None:
        if self.path.startswith("/_ping"):
            return self._answer(200, "OK")
        if self.path == "/images/image/json":
            return self._answer(200, {"Config": {"User": "somebody"}})
        assert self.path.startswith("/containers/x/json"), self.path
        return self._answer(*self.server.look())

    def do_DELETE(self) -> None:
        self._answer(200, None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        what = self.path.partition("?")[0].rpartition("/")[2]
        if what == "create":
            self.server.create(json.loads(body))
            self._answer(201, {"Id": "x"})
        elif what == "start":
            self.server.start()
            self._answer(200, None)
        elif what == "attach":
            self.close_connection = True
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "tcp")
            self.end_headers()
            self.server.attach(self)
        elif what == "wait":
            self._tell_exit()
        else:
            raise AssertionError(self.path)

    def _tell_exit(self) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()  # at once, as engines do; the body comes with the exit
        self.server.may_tell.wait()
        if self.server.exits:
            self.wfile.write(json.dumps(self.server.exits.pop(0)).encode())

    def _answer(self, status: int, said: object) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def scripted(path: Path) -> Iterator[ScriptedEngine]:
    """Run one."""
    engine = ScriptedEngine(path)
    thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield engine
    finally:
        engine.close()
        thread.join()
