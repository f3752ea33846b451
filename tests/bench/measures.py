"""What is measured, each against a named peer: functions that give one sample each.

A sample of a round trip is the median of some hundred, in seconds; a sample of a throughput is
lines per second. Peers and holdfast take turns: a machine that becomes slow is slow for all.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

import holdfast

from . import bare, workers

TEXT = "x" * 120
ECHO = b'{"jsonrpc":"2.0","id":"hf-1234","method":"echo","params":{"text":"%b"}}\n' % TEXT.encode()


@asynccontextmanager
async def raw(command: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A bare asyncio process."""
    process = await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1, limit=1 << 20)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def session(command: list[str]) -> AsyncIterator[holdfast.Session]:
    """A session on default settings, with one subscriber that reads everything."""

    async def read() -> None:
        async with opened.subscribe() as events:
            async for _ in events.batches():
                pass

    async with holdfast.SessionManager() as manager:
        opened = await manager.start("local:", command)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            yield opened
            tasks.cancel_scope.cancel()


# -- round trip -----------------------------------------------------------------------------------


async def trip_raw() -> float:
    """asyncio's streams: ``write``, ``drain``, ``readline``."""
    async with raw(workers.ANSWER) as process:
        return await bare.trip_by_pipes(process, ECHO)


async def trip_holdfast(timeout: float | None = None) -> float:
    """``session.call``: with ids, journal, statuses and a subscriber."""
    async with session(workers.ANSWER) as opened:
        params = {"text": TEXT}
        return await bare.trips(lambda: opened.call("echo", params, timeout=timeout))


async def trip_mcp() -> float:
    """The MCP SDK's client: ``send_ping``, the smallest call it has."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=workers.ANSWER[0], args=workers.ANSWER[1:])
    async with (
        stdio_client(server) as (read, write),
        ClientSession(read, write) as client,
    ):
        await client.initialize()
        return await bare.trips(client.send_ping)


async def trip_run() -> float:
    """asyncio's streams, with ``holdfast run local: --`` between them and the worker."""
    between = [sys.executable, "-m", "holdfast", "run", "local:", "--", *workers.ANSWER]
    async with raw(between) as process:
        return await bare.trip_by_pipes(process, ECHO)


# -- throughput -----------------------------------------------------------------------------------


async def lines_raw(size: int, count: int) -> float:
    """asyncio's ``readline``, and nothing done with the line."""
    command, total = workers.flood(size, count)
    async with raw(command) as process:
        stdin, stdout = bare.pipes(process)
        stdin.write(b"\n")
        await stdout.readline()
        began = time.perf_counter()
        for _ in range(total - 1):
            await stdout.readline()
        return (total - 1) / (time.perf_counter() - began)


async def lines_holdfast(size: int, count: int) -> float:
    """A subscriber of a session: every line classified, and kept in the journal."""
    command, total = workers.flood(size, count)
    async with holdfast.SessionManager() as manager:
        opened = await manager.start("local:", command)
        async with opened.subscribe() as events:
            await opened.send({"jsonrpc": "2.0", "method": "go"})
            seen, began = 0, 0.0
            async for event in events:
                if isinstance(event, holdfast.Line):
                    if not seen:
                        began = time.perf_counter()
                    seen += 1
                    if seen == total:
                        break
            return (total - 1) / (time.perf_counter() - began)


async def lines_mcp(size: int, count: int) -> float:
    """The MCP SDK's client transport, which parses each line into a model."""
    from mcp import StdioServerParameters
    from mcp.client.stdio import stdio_client

    command, total = workers.flood(size, count)
    server = StdioServerParameters(command="sh", args=["-c", 'echo | "$@"', "sh", *command])
    async with stdio_client(server) as (read, _):
        await read.receive()
        began = time.perf_counter()
        for _ in range(total - 1):
            await read.receive()
        return (total - 1) / (time.perf_counter() - began)


# -- fan-out --------------------------------------------------------------------------------------


async def fan_out(readers: int, count: int, slow: bool) -> float:
    """Deliveries per second to so many readers; with ``slow``, one more sleeps 5 ms a line."""
    command, total = workers.flood(200, count)
    done = 0

    async def read(opened: holdfast.Session) -> None:
        nonlocal done
        seen = 0
        async with opened.subscribe() as events:
            async for batch in events.batches():
                seen += sum(isinstance(event, holdfast.Line) for event in batch)
                if seen == total:
                    break
        done += 1
        if done == readers:
            finished.set()

    async def crawl(opened: holdfast.Session) -> None:
        async with opened.subscribe() as events:
            async for _ in events:
                await anyio.sleep(0.005)

    finished = anyio.Event()
    async with holdfast.SessionManager() as manager:
        opened = await manager.start("local:", command)
        async with anyio.create_task_group() as tasks:
            for _ in range(readers):
                tasks.start_soon(read, opened)
            if slow:
                tasks.start_soon(crawl, opened)
            await anyio.lowlevel.checkpoint()
            began = time.perf_counter()
            await opened.send({"jsonrpc": "2.0", "method": "go"})
            await finished.wait()
            took = time.perf_counter() - began
            tasks.cancel_scope.cancel()
    return readers * total / took


# -- the event log --------------------------------------------------------------------------------

GROUP = 100


def _log(count: int) -> list[list[holdfast.Event]]:
    """Lines of 200 bytes, in groups."""
    data = b"x" * 200
    return [
        [holdfast.Line(seq, data) for seq in range(first, first + GROUP)]
        for first in range(1, count + 1, GROUP)
    ]


async def log_raw(count: int) -> float:
    """``executemany`` of rows that are at hand, one transaction for each group."""
    import sqlite3

    rows = [[(each.seq, getattr(each, "data", b"")) for each in group] for group in _log(count)]
    with tempfile.TemporaryDirectory() as folder:
        database = sqlite3.connect(f"{folder}/raw.sqlite3", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE events (seq INTEGER PRIMARY KEY, data BLOB)")
        began = time.perf_counter()
        for group in rows:
            database.execute("BEGIN")
            database.executemany("INSERT INTO events VALUES (?, ?)", group)
            database.execute("COMMIT")
        took = time.perf_counter() - began
        database.close()
    return count / took


async def log_holdfast(count: int) -> float:
    """The gateway's event log: events to rows, in a thread, one commit for each group."""
    from holdfast_gateway._sqlite import SQLiteStore

    now = dt.datetime.now(dt.UTC)
    command, limits = holdfast.Command(("cat",)), holdfast.Limits()
    spec = holdfast.SessionSpec("s", "local:", command, (), "lines", limits, now, {})
    status = holdfast.Status("s", holdfast.State.IDLE, 1, "s/1", None, None, now)
    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteStore(f"{folder}/log")
        await store.open()
        groups = _log(count)
        began = time.perf_counter()
        for group in groups:
            head = holdfast.SessionHead(status, group[-1].seq, 1, (), clean=True)
            await store.write([holdfast.StoreEntry(spec, head, group)])
        took = time.perf_counter() - began
        await store.close()
    return count / took


# -- many sessions --------------------------------------------------------------------------------

MANY = 200


async def open_raw() -> float:
    """Processes of ``cat`` that asyncio opens per second."""
    began = time.perf_counter()
    processes = [
        await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1, stderr=-1)
        for _ in range(MANY)
    ]
    took = time.perf_counter() - began
    for process in processes:
        process.kill()
        await process.wait()
    return MANY / took


async def open_holdfast() -> float:
    """Sessions of ``cat`` that holdfast opens per second."""
    async with holdfast.SessionManager() as manager:
        began = time.perf_counter()
        for _ in range(MANY):
            await manager.start("local:", ["cat"], dialect="lines")
        return MANY / (time.perf_counter() - began)


async def session_cost() -> tuple[float, int]:
    """KiB of memory, and threads, for each of many sessions that are open."""
    async with holdfast.SessionManager() as manager:
        await manager.start("local:", ["cat"], dialect="lines")
        gc.collect()
        threads = threading.active_count()
        tracemalloc.start()
        for _ in range(MANY):
            await manager.start("local:", ["cat"], dialect="lines")
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return used / MANY / 1024, threading.active_count() - threads


def _cost(*command: str) -> float:
    """The CPU seconds of a command and of what it waits for."""
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_utime + usage.ru_stime


def start_up() -> tuple[float, float]:
    """CPU seconds of ``holdfast run local: -- true``, and of ``true`` alone."""
    return _cost(sys.executable, "-m", "holdfast", "run", "local:", "--", "true"), _cost("true")


def importing() -> tuple[float, float]:
    """CPU seconds of ``import holdfast``, and of the libraries it imports, each with its Python."""
    libraries = "import asyncio, anyio, anyio.lowlevel, msgspec, pluggy"
    return _cost(sys.executable, "-c", "import holdfast"), _cost(sys.executable, "-c", libraries)
