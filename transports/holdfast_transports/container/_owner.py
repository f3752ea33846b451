"""Whose a container is: a name for this process that no later process can have by chance."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

LABEL: Final = "holdfast.owner"
"""The label that names the process for which a container was made."""

SESSION: Final = "holdfast.session"
"""The label that names the one worker for which a container was made."""


class Owner(msgspec.Struct, frozen=True):
    """A process, wherever and whenever it runs.

    Attributes:
        host: Its machine.
        space: The space of process ids in which ``pid`` means it: that of a container, maybe.
        boot: Which start of the machine.
        pid: Its process id.
        started: When it was started, as its system counts that: process ids are used again.
    """

    host: str
    space: str
    boot: str
    pid: int
    started: str

    def __str__(self) -> str:
        return "/".join((self.host, self.space, self.boot, str(self.pid), self.started))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Read what ``str`` gives; ``None`` if it is nothing of ours."""
        parts = text.split("/")
        if len(parts) != 5 or not parts[3].isdigit():
            return None
        return cls(parts[0], parts[1], parts[2], int(parts[3]), parts[4])

    @property
    def dead(self) -> bool:
        """Whether it is certain that this process is over.

        Of a process on another machine, or among other process ids, nothing can be said.
        """
        here = place()
        if (self.host, self.space) != here[:2]:
            return False
        return self.boot != here[2] or _started(self.pid) != self.started


@cache
def place() -> tuple[str, str, str]:
    """This machine, its space of process ids, and its start."""
    host = socket.gethostname().replace("/", "-")
    if machine := _read("/etc/machine-id"):
        host = f"{host}-{machine[:12]}"
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        space = "0"
    return host, space, _read("/proc/sys/kernel/random/boot_id") or "0"


def this_process() -> Owner:
    """Who we are; asked anew each time, since a process may fork."""
    pid = os.getpid()
    return Owner(*place(), pid, _started(pid) or "0")


def _started(pid: int) -> str | None:
    """When a process was started; ``None`` if there is none of this id."""
    if sys.platform == "linux":
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return stat[19] if len(stat) > 19 and stat[0] not in ("Z", "X") else None
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "-".join(done.stdout.split()) or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
