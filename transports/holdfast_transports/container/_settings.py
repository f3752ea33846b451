"""What a target's options, or a transport's arguments, say; and what an engine is told of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from holdfast import InvalidTarget, Target

_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_CONTAINER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_NETWORK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_SIZE: Final = re.compile(r"([0-9]+)([bkmg]?)", re.IGNORECASE)
_UNITS: Final = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

PIDS: Final = 512
"""Processes that a container may have: many for a worker, few for a fork bomb."""


class Pull(StrEnum):
    """What to do about an image that the engine does not have."""

    NEVER = "never"
    MISSING = "missing"


class Mount(msgspec.Struct, frozen=True):
    """A directory of the engine's machine, or a volume, in a container."""

    source: str
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Mount:
        """Read ``/there:/here``, ``volume:/here``, either with ``:ro`` behind it."""
        parts = text.split(":")
        if len(parts) == 3 and parts[2] in ("ro", "rw"):
            mode = parts.pop()
        else:
            mode = "rw"
        if len(parts) != 2 or not parts[0] or not parts[1].startswith("/"):
            raise ValueError("a mount is source:/path, or source:/path:ro")
        if not parts[0].startswith("/") and not _CONTAINER.fullmatch(parts[0]):
            raise ValueError("a mount's source is an absolute path or the name of a volume")
        return cls(parts[0], parts[1], mode == "ro")

    @property
    def told(self) -> dict[str, Any]:
        """As the engine is told."""
        return {
            "Type": "bind" if self.source.startswith("/") else "volume",
            "Source": self.source,
            "Target": self.target,
            "ReadOnly": self.read_only,
        }


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach an engine, and how to run workers there.

    See :class:`~.ContainerTransport` and :class:`~.ExecTransport`.
    """

    name: str
    """The image, or the container."""
    host: str | None = None
    context: str | None = None
    user: str | None = None
    workdir: str | None = None
    env: Mapping[str, str] = {}
    heartbeat: float = 5.0
    deadline: float = 15.0
    timeout: float = 60.0
    # Of a container that is made:
    container: str | None = None
    mounts: tuple[Mount, ...] = ()
    network: str = "none"
    memory: int | None = None
    cpus: float | None = None
    pids: int = PIDS
    read_only: bool = False
    labels: Mapping[str, str] = {}
    pull: Pull = Pull.NEVER
    capabilities: bool = False
    new_privileges: bool = False
    reap: bool = False

    def __post_init__(self) -> None:
        for name, low in (("heartbeat", 0.0), ("deadline", 0.001), ("timeout", 0.001)):
            if not low <= getattr(self, name) <= 86400:
                raise InvalidTarget(f"not a number of seconds for {name}: {getattr(self, name):g}")
        _check("user", self.user, _USER)
        _check("name", self.container, _CONTAINER)
        _check("network", self.network, _NETWORK)
        if self.workdir is not None and not self.workdir.startswith("/"):
            raise InvalidTarget(f"workdir is an absolute path, not {self.workdir!r}")
        if self.memory is not None and self.memory < 6 * 1024**2:
            raise InvalidTarget("an engine wants at least 6m of memory")
        if self.cpus is not None and not 0.01 <= self.cpus <= 4096:
            raise InvalidTarget(f"not a number of CPUs: {self.cpus:g}")
        if self.pids < 0:
            raise InvalidTarget(f"not a number of processes: {self.pids}; 0 is no limit")
        for name in self.labels:
            if not name or name.startswith("holdfast."):
                raise InvalidTarget(f"not a label for you to set: {name!r}")
        for name in self.env:
            if not name or "=" in name:
                raise InvalidTarget(f"not the name of an environment variable: {name!r}")


def _check(name: str, value: str | None, pattern: re.Pattern[str]) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise InvalidTarget(f"not a value of {name}: {value!r}")


COMMON: Final[Mapping[str, str]] = {
    "context": "a Docker context; default: the current one",
    "deadline": "seconds (float) for a sign of life from the engine, default 15",
    "env": "variables for the worker, separated by commas: NAME (its value here) or NAME=value",
    "heartbeat": "seconds (float) between two questions whether the engine is there, default 5; "
    "0: never",
    "host": "the engine: unix:///path, tcp://host:port or ssh://host; default: DOCKER_HOST, then "
    "the context",
    "timeout": "seconds (float) to start a worker, default 60",
    "user": "whom to run as: name or number, maybe :group; default: the image's",
    "workdir": "the worker's directory, if no cwd is given; default: the image's",
}

OPTIONS: Final[Mapping[str, str]] = dict(
    sorted(
        {
            **COMMON,
            "capabilities": "drop (default): none; default: those that the engine gives",
            "cpus": "CPU time (float), in CPUs; default: no limit",
            "labels": "further labels, separated by commas: name=value",
            "memory": "bytes, or 512m, 2g; default: no limit",
            "mount": "directories and volumes, separated by commas: /there:/here, volume:/here, "
            "with :ro read-only",
            "name": "the container's name; default: the engine's choice",
            "network": "none (default), bridge, host, or a network's name",
            "new_privileges": "no (default); yes: set-uid programs work",
            "pids": f"processes at once (int), default {PIDS}; 0: no limit",
            "pull": "never (default), or missing: pull an image that is not there",
            "read_only": "no (default); yes: the image's files cannot be changed",
            "reap": "no (default); yes: remove what dead owners left before the first start",
        }.items()
    )
)

EXEC_OPTIONS: Final = COMMON


def _flag(text: str) -> bool:
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text]


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError("not a size")
    return int(found[1]) * _UNITS[found[2].lower()]


def _listed(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def _environment(text: str) -> dict[str, str]:
    found = {}
    for each in _listed(text):
        name, equals, value = each.partition("=")
        if not equals and name not in os.environ:
            raise ValueError(f"{name} is not set here")
        found[name] = value if equals else os.environ[name]
    return found


def _labels(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in _listed(text))}


_READ: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "capabilities": ("capabilities", lambda text: {"drop": False, "default": True}[text]),
    "context": ("context", str),
    "cpus": ("cpus", float),
    "deadline": ("deadline", float),
    "env": ("env", _environment),
    "heartbeat": ("heartbeat", float),
    "host": ("host", str),
    "labels": ("labels", _labels),
    "memory": ("memory", _size),
    "mount": ("mounts", lambda text: tuple(map(Mount.parse, _listed(text)))),
    "name": ("container", str),
    "network": ("network", str),
    "new_privileges": ("new_privileges", _flag),
    "pids": ("pids", int),
    "pull": ("pull", Pull),
    "read_only": ("read_only", _flag),
    "reap": ("reap", _flag),
    "timeout": ("timeout", float),
    "user": ("user", str),
    "workdir": ("workdir", str),
}
"""Each option: the setting that it is, and how its text is read."""


def from_target(target: Target, options: Mapping[str, str]) -> Settings:
    """Read ``docker://image[?options]`` or ``docker+exec://container[?options]``.

    Raises:
        InvalidTarget: It cannot be read.
    """
    values: dict[str, Any] = {}
    for name, text in target.options.items():
        setting, read = _READ[name]
        try:
            values[setting] = read(text)
        except (ValueError, KeyError) as error:
            why = f"; {error}" if isinstance(error, ValueError) else ""
            raise InvalidTarget(
                f"not a value of {name}: {text!r} in {target.text!r} ({options[name]}){why}"
            ) from error
    return Settings(name=target.opaque, **values)


def check_image(name: str) -> None:
    """See that this can be the name of an image.

    Raises:
        InvalidTarget: It cannot.
    """
    if not _IMAGE.fullmatch(name):
        raise InvalidTarget(f"not the name of an image: {name!r}; write docker://name:tag")


def check_container(name: str) -> None:
    """See that this can be the name of a container.

    Raises:
        InvalidTarget: It cannot.
    """
    if not _CONTAINER.fullmatch(name):
        raise InvalidTarget(f"not a container's name or id: {name!r}; write docker+exec://name")
