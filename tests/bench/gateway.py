"""The gateway under load: ``python -m tests.bench.gateway``.

Many sessions, many WebSockets on each, and some that never read. It says how long a request takes
until its answer, how long an event takes until the other clients have it, what memory the gateway
takes, and how long it takes to stop. Gateway and clients are a process each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

ANSWERS = ["sed", "-u", 's/"method":"ping"/"result":1/']
"""A worker of a few hundred KiB: it answers ``ping``, and says again what else it is told."""

WINDOW = {"retained_bytes": 1024 * 1024}
"""A session's events in memory, so that it can be seen what clients take that never read."""

WORD = re.compile(r'"n":(\d+)')


class Load:
    """A gateway, its sessions and its clients.

    Args:
        url: Where it is.
        token: Its token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.token = token
        self.sessions: list[str] = []
        self.live: list[list[ClientConnection]] = []
        self.deaf: list[socket.socket] = []
        self.began: dict[str, float] = {}
        self.answers: list[float] = []
        self.events: list[float] = []
        self.frames = 0
        self._readers: list[asyncio.Task[None]] = []
        self._waits: dict[str, asyncio.Event] = {}
        self._arrived = asyncio.Event()

    async def create(self, number: int) -> None:
        """Create sessions, eight at a time."""
        headers = {"authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=60, trust_env=False
        ) as http:
            rest = iter(range(number))

            async def some() -> None:
                for each in rest:
                    body = {"command": ANSWERS, "name": f"load-{each}", "limits": WINDOW}
                    answer = await http.post("/api/sessions/", json=body)
                    assert answer.status_code == 201, answer.text
                    self.sessions.append(answer.json()["id"])

            await asyncio.gather(*(some() for _ in range(8)))

    async def join(self, clients: int, deaf: int) -> None:
        """Open WebSockets; on each of the first ``deaf`` sessions one that never reads."""
        headers = {"Authorization": f"Bearer {self.token}"}
        for index, session in enumerate(self.sessions):
            path = f"/api/sessions/{session}/stream"
            hears = clients
            if index < deaf:
                self.deaf.append(self._never_reads(path))
                hears -= 1
            url = self.url.replace("http", "ws") + path
            self.live.append(
                await asyncio.gather(
                    *(
                        connect(
                            f"{url}?client=c{each}",
                            additional_headers=headers,
                            compression=None,
                            proxy=None,
                            max_queue=None,
                            ping_interval=None,
                        )
                        for each in range(hears)
                    )
                )
            )
            for each, client in enumerate(self.live[-1]):
                self._readers.append(asyncio.create_task(self._read(session, each, client)))

    def _never_reads(self, path: str) -> socket.socket:
        host, _, port = self.url.removeprefix("http://").partition(":")
        deaf = socket.create_connection((host, int(port)))
        deaf.sendall(
            f"GET {path}?client=deaf HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {self.token}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            "".encode()
        )
        return deaf

    async def _read(self, session: str, number: int, client: ClientConnection) -> None:
        async for frame in client:
            now = time.perf_counter()
            self.frames += 1
            if '"result":1' in str(frame):
                message = json.loads(frame)
                key = f"{session}/{message['id']}"
                self.answers.append(now - self.began[key])
                if (waits := self._waits.pop(key, None)) is not None:
                    waits.set()
            elif '"note"' in str(frame) and (word := WORD.search(str(frame))):
                self.events.append(now - self.began[f"{session}/n{word[1]}"])
            else:
                continue
            self._arrived.set()

    async def ask(self, seconds: float, rate: float) -> float:
        """Requests of all sessions in turn, at a rate; gives the rate that it came to."""
        began = time.perf_counter()
        sent = 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate:
                index = sent % len(self.sessions)
                id = 1_000_000 + sent
                self.began[f"{self.sessions[index]}/{id}"] = time.perf_counter()
                client = self.live[index][sent // len(self.sessions) % len(self.live[index])]
                await client.send(f'{{"jsonrpc":"2.0","id":{id},"method":"ping"}}')
                sent += 1
            await asyncio.sleep(0.002)
        await self._all(self.answers, sent)
        return sent / (time.perf_counter() - began)

    async def ask_in_turn(self, seconds: float) -> float:
        """As many requests as it takes, each session's next one behind its last; their rate."""
        began = time.perf_counter()
        before = len(self.answers)

        async def ask(session: str, client: ClientConnection) -> None:
            id = 2_000_000
            while time.perf_counter() - began < seconds:
                id += 1
                answered = self._waits[f"{session}/{id}"] = asyncio.Event()
                self.began[f"{session}/{id}"] = time.perf_counter()
                await client.send(f'{{"jsonrpc":"2.0","id":{id},"method":"ping"}}')
                await answered.wait()

        async with asyncio.timeout(seconds + 120):
            asks = (
                ask(each, clients[0])
                for each, clients in zip(self.sessions, self.live, strict=True)
            )
            await asyncio.gather(*asks)
        return (len(self.answers) - before) / (time.perf_counter() - began)

    async def tell(self, rounds: int, size: int, among: int) -> None:
        """Notifications of some size, said again to every client of the first sessions."""
        expected = len(self.events)
        padding = "x" * size
        for _ in range(rounds):
            for index in range(among):
                number = 1_000_000 + len(self.began)
                self.began[f"{self.sessions[index]}/n{number}"] = time.perf_counter()
                await self.live[index][0].send(
                    f'{{"jsonrpc":"2.0","method":"note","params":{{"n":{number},"x":"{padding}"}}}}'
                )
                expected += len(self.live[index])
            await self._all(self.events, expected)

    async def _all(self, arrived: list[float], expected: int) -> None:
        async with asyncio.timeout(120):
            while len(arrived) < expected:
                self._arrived.clear()
                await self._arrived.wait()

    def close(self) -> None:
        """Let all clients go."""
        for reader in self._readers:
            reader.cancel()
        for deaf in self.deaf:
            deaf.close()


def percentiles(values: list[float]) -> dict[str, float]:
    """Milliseconds."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {
        "p50": round(cuts[49] * 1000, 1),
        "p95": round(cuts[94] * 1000, 1),
        "p99": round(cuts[98] * 1000, 1),
        "max": round(max(values) * 1000, 1),
    }


def memory(pid: int, what: str = "VmRSS") -> float:
    """MiB that a process takes."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"{what}:\s+(\d+) kB", text)
    assert found is not None
    return round(int(found[1]) / 1024, 1)


def cpu_seconds(pid: int) -> float:
    """The time that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(each)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for each in (task / "children").read_text().split()
    ]


@contextmanager
def gateway(folder: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A gateway in a process of its own, with its URL and token."""
    command = [sys.executable, "-m", "holdfast", "serve", "--port", "0", "--data", f"{folder}/data"]
    env = {**os.environ, "XDG_RUNTIME_DIR": folder}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=env) as one:
        try:
            assert one.stdout is not None
            url, _, token = one.stdout.readline().split()[-1].partition("/?token=")
            yield one, url, token
        finally:
            if one.poll() is None:
                one.kill()


async def measure(
    pid: int, url: str, token: str, *, sessions: int, clients: int, deaf: int, seconds: float
) -> dict[str, Any]:
    """All figures but those of the stop, which the caller takes while the clients are there."""
    found: dict[str, Any] = {"memory_empty": memory(pid)}
    load = Load(url, token)
    began = time.perf_counter()
    await load.create(sessions)
    found["sessions_per_s"] = round(sessions / (time.perf_counter() - began))
    found["memory_sessions"] = memory(pid)
    began = time.perf_counter()
    await load.join(clients, deaf)
    found["streams_per_s"] = round(sessions * clients / (time.perf_counter() - began))
    found["memory_streams"] = memory(pid)

    await load.ask(seconds, float(sessions))
    found["answer_ms"] = percentiles(load.answers)
    load.answers.clear()
    await load.tell(3, 200, sessions)
    load.events.clear()
    await load.tell(5, 200, sessions)
    found["fanout_ms"] = percentiles(load.events)
    load.events.clear()

    # What the deaf do not read, until their connections are full, and then some.
    await load.tell(64, 100_000, deaf)
    found["memory_deaf"] = memory(pid)
    load.answers.clear()
    await load.ask(seconds, float(sessions))
    found["answer_beside_deaf_ms"] = percentiles(load.answers)
    load.answers.clear()
    frames = load.frames
    load.answers.clear()
    busy = cpu_seconds(pid)
    rate = await load.ask_in_turn(seconds)
    found["cpu_ms_per_request"] = round((cpu_seconds(pid) - busy) / len(load.answers) * 1000, 2)
    found["requests_per_s"] = round(rate)
    found["frames_per_s"] = round((load.frames - frames) * rate / len(load.answers))
    found["memory_most"] = memory(pid, "VmHWM")
    found["threads"] = len(os.listdir(f"/proc/{pid}/task"))
    workers = children(pid)
    found["workers"] = len(workers)

    began = time.perf_counter()
    pidfd = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(120):
        await ended.wait()
    found["stop_s"] = round(time.perf_counter() - began, 2)
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
    found["workers_left"] = sum(not _ended(each) for each in workers)
    load.close()
    return found


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--deaf", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder, gateway(folder) as (process, url, token):
        found = asyncio.run(measure(process.pid, url, token, **options))
        found["exit_code"] = process.wait()
    print(json.dumps({**options, **found}, indent=2))


if __name__ == "__main__":
    main()
