"""What a target's options, or the arguments of :class:`~.SSHTransport`, say of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast import InvalidTarget, Target

from ._config import HostKeys


class ClientKind(StrEnum):
    """Who speaks the protocol."""

    PARAMIKO = "paramiko"
    OPENSSH = "openssh"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a host, and how to see that it is still there; see :class:`~.SSHTransport`."""

    host: str
    user: str | None = None
    port: int | None = None
    identity: tuple[Path, ...] = ()
    config: Path | None = None
    known_hosts: Path | None = None
    host_keys: HostKeys | None = None
    password: str | None = None
    passphrase: str | None = None
    heartbeat: float = 5.0
    deadline: float = 15.0
    timeout: float = 30.0
    connections: int = 32
    client: ClientKind = ClientKind.PARAMIKO

    def __post_init__(self) -> None:
        if not self.host:
            raise InvalidTarget("no host is given; write ssh://host, or ssh://user@host:port")
        for name in ("heartbeat", "deadline", "timeout"):
            value = getattr(self, name)
            if not 0 <= value <= 86400 or (value == 0 and name != "heartbeat"):
                raise InvalidTarget(f"not a number of seconds for {name}: {value:g}")
        if self.connections < 1:
            raise InvalidTarget(f"not a number of connections: {self.connections}")

    @property
    def where(self) -> str:
        """The host, as errors name it."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")


OPTIONS: Final[Mapping[str, str]] = {
    "client": "paramiko (default), or openssh: the system's ssh, with all that it can",
    "config": "path of an ssh_config, or none; default: what ssh itself reads",
    "connections": "how many connections to open at most, default 32",
    "deadline": "seconds (float) for a sign of life, default 15",
    "heartbeat": "seconds (float) of silence before one is asked for, default 5; 0: never",
    "host_keys": "strict (default): unknown keys are refused; accept-new: they are stored",
    "identity": "path of a private key; by default those of the configuration and the agent",
    "known_hosts": "path of a known_hosts; by default those of the configuration",
    "timeout": "seconds (float) to connect and log in, default 30",
}

_READ: Final[Mapping[str, Any]] = {
    "client": ClientKind,
    "config": Path,
    "connections": int,
    "deadline": float,
    "heartbeat": float,
    "host_keys": HostKeys,
    "identity": lambda text: (Path(text),),
    "known_hosts": Path,
    "timeout": float,
}


def from_target(target: Target) -> Settings:
    """Read ``ssh://[user@]host[:port][?options]``.

    Raises:
        InvalidTarget: An option is no such value, or the target has a path.
    """
    if target.path not in ("", "/"):
        raise InvalidTarget(
            f"an SSH target has no path, as {target.path!r} in {target.text!r}; "
            f"give the directory as cwd"
        )
    if ":" in target.opaque.partition("@")[0] and "@" in target.opaque:
        raise InvalidTarget(
            "a target holds no password, since others can see it; "
            "use a key, or SSHTransport(password=...)"
        )
    values: dict[str, Any] = {}
    for name, text in target.options.items():
        try:
            values[name] = _READ[name](text)
        except (ValueError, KeyError) as error:
            raise InvalidTarget(
                f"not a value of {name}: {text!r} in {target.text!r} ({OPTIONS.get(name)})"
            ) from error
    host = (target.host or "").replace("%25", "%")  # the zone of an IPv6 address (RFC 6874)
    return Settings(host=host, user=target.user, port=target.port, **values)
