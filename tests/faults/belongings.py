"""What this process has that a session could leave behind: children, descriptors, threads."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

import msgspec
import uvloop

uvloop.new_event_loop().close()  # libuv keeps a pipe from its first loop on, for the whole process

GONE_WITHIN = 10.0
"""Seconds for what has been ended to be gone, on a busy machine."""


class Belongings(msgspec.Struct, frozen=True):
    """What there was at one moment."""

    children: frozenset[int]
    descriptors: dict[int, str]
    threads: frozenset[threading.Thread]

    def left_since(self, before: Belongings, *, processes: bool = True) -> list[str]:
        """What there was not before, in words."""
        new = {
            number: target
            for number, target in self.descriptors.items()
            if before.descriptors.get(number) != target
        }
        # A descriptor may be closed and its number given to another of those that are to stay.
        surplus = len(self.descriptors) - len(before.descriptors)
        children = self.children - before.children if processes else ()
        return [
            *(f"a child process: {pid} {_command(pid)}" for pid in children),
            *([f"{surplus} descriptors of {new}"] if surplus > 0 else []),
            *(f"a thread: {each.name}" for each in self.threads - before.threads),
        ]


def belongings() -> Belongings:
    """What there is now."""
    return Belongings(frozenset(children()), _descriptors(), frozenset(_threads()))


def left_over(before: Belongings, *, processes: bool = True) -> list[str]:
    """What is there beyond what was there before, once it had the time to go.

    Args:
        before: What was there before.
        processes: Whether children count; not where some are a server that is started again.
    """
    deadline = time.monotonic() + GONE_WITHIN
    while (
        left := belongings().left_since(before, processes=processes)
    ) and time.monotonic() < deadline:
        gc.collect()  # what only a cycle holds is gone, too
        time.sleep(0.02)
    return left


def children() -> set[int]:
    """Our child processes, zombies too."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except FileNotFoundError:  # a thread that has ended meanwhile
            continue
    return found


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of this very look
            continue
    return found


def _threads() -> list[threading.Thread]:
    # trio keeps threads at hand for a while after their work; they end by themselves.
    return [each for each in threading.enumerate() if not each.name.startswith("Trio thread")]


def _command(pid: int) -> str:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return data.replace(b"\0", b" ").decode(errors="replace")[:200]


def resident() -> int:
    """The memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
