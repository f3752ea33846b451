"""What the tools of this folder share: waiting, reading /proc, and knowing whose a thing is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import pytest

T = TypeVar("T")

PROC = Path("/proc")
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where sshd and iptables are; an ordinary user's PATH lacks it."""


class Process(NamedTuple):
    """A process, as tests speak of it."""

    pid: int
    command: str


class Stat(NamedTuple):
    """One line of /proc/PID/stat (proc(5)), as far as it is needed here."""

    ppid: int
    name: str
    state: str
    started: int

    @property
    def dead(self) -> bool:
        """Whether only its entry is left, until its parent asks for it."""
        return self.state in "ZX"


Table = dict[int, Stat]
"""Processes, by their numbers."""


def until(condition: Callable[[], T], what: str, within: float = 10.0) -> T:
    """Wait for what nobody announces, and return the first true value.

    Raises:
        TimeoutError: It did not come true; the text says what was awaited.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() >= deadline  # before it: a busy machine gets a last look
        if value := condition():
            return value
        if late:
            raise TimeoutError(f"not within {within:g} s: {what}")
        time.sleep(0.002)


def missing(what: str) -> NoReturn:
    """Give up the tests that need something which this machine lacks; in CI that is a failure."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
        pytest.fail(what)
    pytest.skip(f"capability: {what}")


def find(name: str) -> str | None:
    """The path of a command, if this machine has it."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


@cache
def command(name: str, package: str) -> str:
    """The path of a command; root installs Debian's package if it is not there."""
    if found := find(name):
        return found
    apt = find("apt-get")
    if os.geteuid() != 0 or apt is None:
        missing(f"{name} is not installed (Debian's package {package})")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    patient = [apt, "-qq", "-o", "DPkg::Lock::Timeout=90"]  # pytest's other processes install too
    for step in (["update"], ["install", "-y", "--no-install-recommends", package]):
        done = subprocess.run(
            [*patient, *step],
            env=quiet,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        if done.returncode != 0:
            missing(f"{name} is not installed, and apt-get {step[0]} failed: {done.stderr}")
    return find(name) or missing(f"{package} has no {name}")


def stat(pid: int) -> Stat | None:
    """One process; None if there is none of this number."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name may hold anything, blanks and brackets too: it ends at the last bracket.
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(int(fields[1]), head.partition("(")[2], fields[0], int(fields[19]))


def running() -> Table:
    """All processes that run now."""
    found = {int(path.name): stat(int(path.name)) for path in PROC.glob("[0-9]*")}
    return {pid: each for pid, each in found.items() if each is not None and not each.dead}


def descendants(roots: Iterable[int], table: Table) -> set[int]:
    """The children of some processes, their children, and so on."""
    found: set[int] = set()
    level = set(roots)
    while level:
        level = {pid for pid, each in table.items() if each.ppid in level} - found
        found |= level
    return found


def command_line(pid: int) -> str:
    """What a process was started as, or how it calls itself; empty if it is gone."""
    try:
        text = (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.replace(b"\0", b" ").decode(errors="replace").strip()


def environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; empty if it is gone or another user's."""
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes, some of which may have gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def owner() -> str:
    """This process, as what it leaves on the machine names it."""
    me = stat(os.getpid())
    assert me is not None
    return f"{os.getpid()}-{me.started}"


def owner_lives(name: str) -> bool:
    """Whether the process still runs that called itself so; numbers are used again, so by time."""
    pid, _, started = name.partition("-")
    each = stat(int(pid))
    return each is not None and not each.dead and each.started == int(started)
