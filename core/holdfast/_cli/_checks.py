"""What ``holdfast doctor`` looks at: one function for each thing, in the order of :data:`CHECKS`.

A check looks, and claims no more than it saw. It gives one finding or several; where something is
missing, a finding says who needs it and what to do next.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec


class State(StrEnum):
    """What became of a check."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"
    UNCHECKED = "unchecked"


class Finding(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        name: What was looked at.
        state: What became of it.
        found: What was seen, for a person.
        needed_for: Who needs it.
        next_step: What to do about it; ``None`` where there is nothing to do.
        essential: Whether no worker runs on this machine without it.
    """

    name: str
    state: State
    found: str
    needed_for: str
    next_step: str | None = None
    essential: bool = False


Check = Callable[[], Iterable[Finding]]

_EVERYTHING: Final = "everything"

_ROUND_TRIP: Final = 10.0
"""Seconds until ``cat`` counts as not answering: far above what a loaded machine needs."""

_PING: Final = 2.0
"""Seconds until an engine on this machine counts as not answering."""

_FEW_FILES: Final = 256
"""What macOS gives a program by default: about 60 local sessions, of four descriptors each."""


def python() -> Iterable[Finding]:
    """The interpreter; one that is too old could not have come as far as this."""
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    yield Finding("Python", State.OK, found, _EVERYTHING, essential=True)


def operating_system() -> Iterable[Finding]:
    """The operating system."""
    name, found = "operating system", f"{platform.system()} {platform.release()}"
    if sys.platform == "linux":
        yield Finding(name, State.OK, found, _EVERYTHING, essential=True)
    elif os.name == "posix":
        text = f"{found}: POSIX; holdfast is tested on Linux"
        yield Finding(name, State.OK, text, _EVERYTHING, essential=True)
    else:
        step = "run holdfast on a POSIX system, such as Linux in WSL"
        text = f"{found} is not supported"
        yield Finding(name, State.BROKEN, text, _EVERYTHING, step, essential=True)


def pidfd() -> Iterable[Finding]:
    """Whether the end of a process can be waited for without polling."""
    name, needed_for = "pidfd", "noticing a local worker's end without polling"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        step = "polling works, too; Linux 5.3 or newer has pidfds"
        yield Finding(name, State.MISSING, "this system has none", needed_for, step)
    except OSError as error:
        step = "polling works, too; allow the system call pidfd_open to be rid of it"
        yield Finding(name, State.MISSING, str(error), needed_for, step)
    else:
        yield Finding(name, State.OK, "works", needed_for)


def open_files() -> Iterable[Finding]:
    """How many descriptors this process may have."""
    import resource  # POSIX only

    name, needed_for = "open files", "many sessions at once"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft}"
    if soft == resource.RLIM_INFINITY or soft > _FEW_FILES:
        yield Finding(name, State.OK, most, needed_for)
    else:
        limit = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        step = f"ulimit -n {limit}" if limit > soft else "raise its hard limit (see limits.conf(5))"
        yield Finding(name, State.MISSING, most, needed_for, step)


def plugins() -> Iterable[Finding]:
    """Every plugin that is installed, the built-in ones among them."""
    from holdfast._errors import PluginLoadError
    from holdfast._registry import Registry

    registry = Registry()
    broken = registry.load_all()
    for each in registry.transports:
        scheme, found = each.spec.scheme, f"loads ({each.distribution})"
        yield Finding(f"plugin {scheme}", State.OK, found, f"{scheme}: targets")
    for error in broken:
        name, step = "a plugin", "uninstall one of them"
        if isinstance(error, PluginLoadError):
            name, step = f"plugin {error.plugin}", f"update or uninstall {error.distribution}"
        yield Finding(name, State.BROKEN, str(error), "what it brings", step)


def reaped() -> Iterable[Finding]:
    """What killed programs had left, where plugins know how to find and remove it."""
    from holdfast._registry import Registry

    registry = Registry()
    registry.load_all()
    needed_for = "leaving nothing behind"
    for plugin, result in registry.reap():
        name = f"leftovers of {plugin}"
        if isinstance(result, Exception):
            text = f"{type(result).__name__}: {result}"
            yield Finding(name, State.BROKEN, text, needed_for, "remove them by hand, or try again")
        for line in [] if isinstance(result, Exception) else result:
            yield Finding(name, State.OK, line, needed_for)
        if not result:
            yield Finding(name, State.OK, "nothing to remove", needed_for)


def local_worker() -> Iterable[Finding]:
    """A worker on this machine, from its start to its end: ``cat``, and one line through it."""
    import anyio

    from holdfast._errors import HoldfastError

    name, needed_for = "local worker", "local: targets"
    try:
        found = anyio.run(_round_trip)
    except (HoldfastError, OSError, TimeoutError) as error:
        text = str(error) or f"no answer within {_ROUND_TRIP:g} s"
        step = "see the findings above; if they are all ok, reinstall holdfast"
        yield Finding(name, State.BROKEN, text, needed_for, step, essential=True)
    else:
        yield Finding(name, State.OK, found, needed_for, essential=True)


async def _round_trip() -> str:
    import anyio

    from holdfast._errors import HoldfastError
    from holdfast._events import Line, StatusChanged
    from holdfast._manager import SessionManager

    sent, got = b"holdfast doctor", None
    with anyio.fail_after(_ROUND_TRIP):
        async with SessionManager() as manager:
            session = await manager.start("local:", ["cat"], dialect="lines")
            async with session.subscribe(after=None) as events:
                began = time.perf_counter()
                await session.send(sent)
                async for event in events:
                    if isinstance(event, Line):
                        got = event.data
                    if isinstance(event, Line | StatusChanged):
                        break
                took = time.perf_counter() - began
            status = await session.stop()
    if got != sent:
        raise HoldfastError(f"`cat` was sent {sent!r} and gave {got!r}; it {status.exit}")
    return f"a line went through `cat` and back in {took * 1000:.1f} ms; then it {status.exit}"


def paramiko() -> Iterable[Finding]:
    """The library that speaks SSH."""
    step = "pip install 'holdfast[ssh]', or use ?client=openssh"
    yield _library("paramiko", "ssh: targets", step)


def openssh_client() -> Iterable[Finding]:
    """The ``ssh`` command."""
    name, needed_for = "OpenSSH client", "Include and Match in ssh_config, and client=openssh"
    path = shutil.which("ssh")
    if path is not None:
        yield Finding(name, State.OK, path, needed_for)
    else:
        step = "install openssh-client (Debian: apt-get install openssh-client)"
        yield Finding(name, State.MISSING, "no ssh command in PATH", needed_for, step)


def h11() -> Iterable[Finding]:
    """The library that speaks HTTP to engines."""
    yield _library("h11", "docker: and podman: targets", "pip install 'holdfast[container]'")


def _library(name: str, needed_for: str, step: str) -> Finding:
    """Look for a library without importing it."""
    try:
        return Finding(name, State.OK, version(name), needed_for)
    except PackageNotFoundError:
        return Finding(name, State.MISSING, "not installed", needed_for, step)


def docker() -> Iterable[Finding]:
    """Whether Docker's engine answers."""
    usual = ("/var/run/docker.sock", _in_runtime_directory("docker.sock"))
    step = "start Docker, or install it (Debian: apt-get install docker.io)"
    yield _engine("Docker", "DOCKER_HOST", usual, "docker: targets", step)


def podman() -> Iterable[Finding]:
    """Whether Podman's service answers."""
    usual = (_in_runtime_directory("podman/podman.sock"), "/run/podman/podman.sock")
    step = "install podman; systemctl --user enable --now podman.socket"
    yield _engine("Podman", "CONTAINER_HOST", usual, "podman: targets", step)


def _in_runtime_directory(name: str) -> str:
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/{name}"


_NOT_ANSWERING: Final[Mapping[type[OSError], tuple[State, str]]] = {
    FileNotFoundError: (State.MISSING, "no socket at {place}"),
    PermissionError: (State.BROKEN, "{place} may not be used by this user"),
    ConnectionRefusedError: (State.BROKEN, "nobody listens at {place}"),
    TimeoutError: (State.BROKEN, f"{{place}} gave no answer within {_PING:g} s"),
}
"""What it means when an engine cannot be asked."""


def _engine(name: str, variable: str, usual: Sequence[str], needed_for: str, step: str) -> Finding:
    """Ask a container engine whether it is there, by the one request that Docker and Podman share.

    The environment variable decides where; without it, the first of the usual sockets that exists.
    """
    address = os.environ.get(variable)
    if not address:
        address = "unix://" + next((path for path in usual if Path(path).exists()), usual[0])
    place = address.removeprefix("unix://")
    in_clear = "DOCKER_TLS_VERIFY" not in os.environ
    if not address.startswith(("unix://", "tcp://") if in_clear else "unix://"):
        step = f"ask it: {name.lower()} info"
        return Finding(name, State.UNCHECKED, f"{variable}={address}", needed_for, step)
    try:
        answer = _ping(address)
    except ValueError as error:
        text = f"{variable}={address} is no address: {error}"
        return Finding(name, State.BROKEN, text, needed_for, f"correct {variable}")
    except OSError as error:
        state, text = _NOT_ANSWERING.get(type(error), (State.BROKEN, f"{{place}}: {error}"))
        if state is State.BROKEN:
            step = f"see whether it runs, and whether this user may use it: {name.lower()} info"
        return Finding(name, state, text.format(place=place), needed_for, step)
    if " 200 " not in answer:
        return Finding(name, State.BROKEN, f"{place} answers {answer!r}", needed_for, step)
    return Finding(name, State.OK, f"answers at {place}", needed_for)


def _ping(address: str) -> str:
    """The status line of ``GET /_ping``."""
    with _connection(address) as connection:
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return connection.recv(4096).partition(b"\r\n")[0].decode("latin-1")


def _connection(address: str) -> socket.socket:
    url = urlsplit(address)
    if url.scheme == "tcp":
        return socket.create_connection((url.hostname or "localhost", url.port or 2375), _PING)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_PING)
        connection.connect(url.path)
    except OSError:
        connection.close()
        raise
    return connection


CHECKS: Final[tuple[Check, ...]] = (
    python,
    operating_system,
    pidfd,
    open_files,
    plugins,
    local_worker,
    paramiko,
    openssh_client,
    h11,
    docker,
    podman,
)
"""What is looked at, in this order. A new kind of target adds what it needs here."""
