"""What the tests of ``holdfast run`` share: a process with real pipes, read under a deadline."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DEADLINE = 30.0
"""Seconds after which what a test waits for is held not to come: a defect, not a slow machine."""

HOLDFAST = (sys.executable, "-m", "holdfast")

SERVERS = Path(__file__).parent


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """A worker in a few lines of Python; it starts within some 15 ms."""
    prelude = "import os, sys, signal, time, json\n"
    return (sys.executable, "-I", "-S", "-c", prelude + code, *arguments)


def sh(script: str) -> tuple[str, ...]:
    """A worker in a few lines of POSIX shell."""
    return ("sh", "-c", script)


def run(*worker: str, options: Sequence[str] = (), target: str = "local:") -> list[str]:
    """The command line of ``holdfast run``."""
    return [*HOLDFAST, "run", *options, target, "--", *worker]


def request(id: object, method: str = "work", **params: Any) -> bytes:
    """A JSON-RPC request as one line."""
    return (
        json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()
        + b"\n"
    )


def answer(id: object, result: object = None) -> bytes:
    """A JSON-RPC answer as one line."""
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode() + b"\n"


class Running:
    """A process that is being tested, with our ends of those streams that are pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self._buffers = {"stdout": bytearray(), "stderr": bytearray()}

    def write(self, data: bytes) -> None:
        """Write all of it; it fails if that takes too long."""
        assert self.process.stdin is not None
        fd = self.process.stdin.fileno()
        os.set_blocking(fd, False)
        view = memoryview(data)
        end = time.monotonic() + DEADLINE
        while view:
            _, ready, _ = select.select([], [fd], [], max(0.0, end - time.monotonic()))
            assert ready, f"{len(view)} of {len(data)} bytes were not taken in {DEADLINE} s"
            view = view[os.write(fd, view[:65536]) :]

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _more(self, name: str, end: float, *, at_most: int = 65536) -> bytes:
        stream = getattr(self.process, name)
        ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
        seen = bytes(self._buffers[name][-2000:])
        assert ready, f"nothing on {name} in time; so far: {seen!r}"
        return os.read(stream.fileno(), at_most)

    def line(self, name: str = "stdout", seconds: float = DEADLINE) -> bytes:
        """The next line, with its newline; ``b""`` at the end."""
        buffer, end = self._buffers[name], time.monotonic() + seconds
        while (newline := buffer.find(b"\n")) < 0:
            data = self._more(name, end)
            if not data:
                rest = bytes(buffer)
                buffer.clear()
                return rest
            buffer += data
        line = bytes(buffer[: newline + 1])
        del buffer[: newline + 1]
        return line

    def until(self, text: bytes, name: str = "stdout", seconds: float = DEADLINE) -> bytes:
        """All that comes up to and with ``text``."""
        buffer, end = self._buffers[name], time.monotonic() + seconds
        while (place := buffer.find(text)) < 0:
            data = self._more(name, end)
            assert data, f"{name} ended before {text!r}: {bytes(buffer)!r}"
            buffer += data
        head = bytes(buffer[: place + len(text)])
        del buffer[: place + len(text)]
        return head

    def rest(self, name: str = "stdout", seconds: float = DEADLINE) -> bytes:
        """Everything up to its end."""
        buffer, end = self._buffers[name], time.monotonic() + seconds
        while data := self._more(name, end):
            buffer += data
        data = bytes(buffer)
        buffer.clear()
        return data

    def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit code as a shell gives it."""
        code = self.process.wait(seconds)
        return code if code >= 0 else 128 - code

    def rss(self) -> int:
        """Its resident memory, in bytes."""
        return _memory(self.pid, "VmRSS")

    def peak_rss(self) -> int:
        """The most memory it ever had, in bytes."""
        return _memory(self.pid, "VmHWM")

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def _memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is over")


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[Running]:
    """A process with pipes, and nothing left of it afterwards."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, **{**pipes, **options})
    try:
        yield Running(process)
    finally:
        children = descendants(process.pid)
        with suppress(ProcessLookupError):
            process.kill()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        process.wait(DEADLINE)


def finished(
    command: Sequence[str], stdin: bytes = b"", seconds: float = DEADLINE, **options: Any
) -> tuple[int, bytes, bytes]:
    """Run a process with this input to its end: exit code, stdout, stderr."""
    with started(command, **options) as running:
        out, err = running.process.communicate(stdin, seconds)
        return running.wait(), out, err


def descendants(pid: int) -> list[int]:
    """The processes below ``pid``."""
    found: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop()
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found += map(int, children)
        queue += map(int, children)
    return found


def worker_of(running: Running) -> int:
    """The process id of the worker that ``holdfast run`` started."""
    (child,) = _children(running.pid)
    return child


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int, seconds: float = DEADLINE) -> bool:
    """Wait until a process, which need not be our child, is over."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0]) or not is_alive(pid)
    finally:
        os.close(fd)


def eventually(condition: Callable[[], bool], seconds: float = DEADLINE) -> bool:
    """Look again until it is so: for what the kernel tells nobody, such as a full pipe."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        select.select([], [], [], 0.01)
    return True


def environment(**changes: str | None) -> Mapping[str, str]:
    """Our environment, changed; ``None`` removes a variable."""
    env = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env
