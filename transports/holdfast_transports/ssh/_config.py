"""What ``ssh HOST`` would connect to: the SSH configuration, as far as we can honour it.

Where OpenSSH is installed it is asked (``ssh -G``), so that ``Include``, ``Match``, tokens and
defaults are its own. Else the file is read by paramiko, which knows less; what it would get wrong
is refused.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from holdfast import InvalidTarget, TransportUnavailable

_ASK: Final = 10.0
"""Seconds for ``ssh -G``: it reads files, and may run the commands of ``Match exec``."""

_DEEPEST: Final = 8
"""Hosts on the way: beyond that, the configuration leads in circles."""

_DEFAULT_KEYS: Final = ("id_rsa", "id_ecdsa", "id_ed25519")
"""The names of keys that OpenSSH tries by itself, without those that need a hardware token."""

# Settings that change where or how one connects, and that this client cannot honour. What ssh -G
# prints for them where nothing is configured stands behind; any other value is refused.
_NOT_HONOURED: Final[Mapping[str, frozenset[str]]] = {
    "proxyusefdpass": frozenset({"no"}),  # the proxy command hands over a socket
    "knownhostscommand": frozenset({"none", ""}),  # keys from a program
    "revokedhostkeys": frozenset({"none", ""}),  # a file of revocations
    "verifyhostkeydns": frozenset({"no", "false"}),  # keys from the DNS
    "pkcs11provider": frozenset({"none", ""}),  # keys on a token
    "bindaddress": frozenset({"none", ""}),  # from which address
    "bindinterface": frozenset({"none", ""}),
    "remotecommand": frozenset({"none", ""}),  # in place of our command
}


class HostKeys(StrEnum):
    """What to do about a host whose key is not known. A changed key is refused always."""

    STRICT = "strict"
    ACCEPT_NEW = "accept-new"


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One host to log in to.

    Attributes:
        name: As it was written.
        host: The name or address to connect to.
        port: Its port.
        user: Whom to log in as.
        key_name: The name under which its key is known.
        key_port: The port under which its key is known.
        identities: Private keys to try, in this order.
        identities_only: Whether the agent's other keys are left out.
        agent: The agent's socket, if there is one to ask.
        known_hosts: Where keys of hosts are known from.
        host_keys: What to do about an unknown one.
        proxy_command: What to run to get there, in place of a connection of our own.
        jumps: The hosts on the way there.
        ciphers: What the configuration allows, ``None`` if that is not known; and so the next.
    """

    name: str
    host: str
    port: int
    user: str
    key_name: str
    key_port: int
    identities: tuple[Path, ...]
    identities_only: bool
    agent: str | None
    known_hosts: tuple[Path, ...]
    host_keys: HostKeys
    proxy_command: str | None = None
    jumps: tuple[Hop, ...] = ()
    ciphers: tuple[str, ...] | None = None
    macs: tuple[str, ...] | None = None
    kex: tuple[str, ...] | None = None
    host_key_algorithms: tuple[str, ...] | None = None
    connect_timeout: float | None = None


Said = Mapping[str, Sequence[str]]
"""What the configuration says of a host: the values of each setting, its name in small letters."""


def resolve(
    host: str,
    *,
    user: str | None = None,
    port: int | None = None,
    identity: Sequence[Path] = (),
    config: Path | None = None,
    known_hosts: Path | None = None,
    host_keys: HostKeys | None = None,
) -> Hop:
    """Find out where a name leads to. It blocks, and may run what the configuration says.

    Args:
        host: A host, or an alias of the configuration.
        user: Stands above the configuration, as do the others.
        port: As said.
        identity: Private keys in place of the configured ones.
        config: The file to read, ``none`` for none at all; by default what ``ssh`` reads.
        known_hosts: The one file to use in place of the configured ones.
        host_keys: As said.

    Raises:
        InvalidTarget: The host or the user cannot be used.
        TransportUnavailable: The configuration cannot be read or honoured.
    """
    return _resolve(host, user, port, tuple(identity), config, known_hosts, host_keys, 0)


def _resolve(
    host: str,
    user: str | None,
    port: int | None,
    identity: tuple[Path, ...],
    config: Path | None,
    known_hosts: Path | None,
    host_keys: HostKeys | None,
    depth: int,
) -> Hop:
    check_name("host", host)
    if user is not None:
        check_name("user", user)
    if config is not None and str(config).startswith("-"):
        raise InvalidTarget(f"not the path of a configuration: {str(config)!r}; write ./-…")
    if depth > _DEEPEST:
        raise TransportUnavailable(
            f"the ProxyJump of {host} leads through more than {_DEEPEST} hosts; is it a circle?"
        )
    said = _said(host, user, port, config)
    for setting, fine in _NOT_HONOURED.items():
        for value in said.get(setting, ()):
            if value.lower() not in fine:
                raise TransportUnavailable(
                    f"the configuration of {host} sets {setting} {value}, which this client cannot "
                    f"honour; use ?client=openssh"
                )
    name = _one(said, "hostname") or host
    number = port or int(_one(said, "port") or 22)
    login = user or _one(said, "user") or _own_name()
    alias = _one(said, "hostkeyalias")
    command = _one(said, "proxycommand")
    tokens = {"h": name, "p": str(number), "r": login, "n": host, "%": "%"}
    jump = _one(said, "proxyjump")
    jumps: tuple[Hop, ...] = ()
    if jump and jump.lower() != "none":
        jumps = _jumps(jump, config, known_hosts, host_keys, depth)
        command = None
    return Hop(
        name=host,
        host=name,
        port=number,
        user=login,
        key_name=alias or name,
        key_port=22 if alias else number,  # with an alias OpenSSH adds no port
        identities=tuple(map(_home, identity)) or _identities(said, tokens),
        identities_only=bool(identity) or _one(said, "identitiesonly") == "yes",
        agent=_agent(said),
        known_hosts=(_home(known_hosts),) if known_hosts else _known_hosts(said),
        host_keys=host_keys or _host_keys(said),
        proxy_command=_expand(command, tokens) if command and command != "none" else None,
        jumps=jumps,
        ciphers=_list(said, "ciphers"),
        macs=_list(said, "macs"),
        kex=_list(said, "kexalgorithms"),
        host_key_algorithms=_list(said, "hostkeyalgorithms"),
        connect_timeout=_seconds(_one(said, "connecttimeout")),
    )


def check_name(what: str, text: str) -> None:
    """See that a host or a user can be meant by this.

    Raises:
        InvalidTarget: It is empty, could be taken for an option, or holds what no name holds.
    """
    if not text or text.startswith("-") or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise InvalidTarget(f"not the name of a {what}: {text!r}")
    # A percent sign stands before the zone of an IPv6 address, and nowhere else.
    if what == "host" and re.search(r"""["'`$\\;&<>|(){}/@]|^[^:]*%""", text):
        raise InvalidTarget(f"not the name of a host: {text!r}")


# -- asking ------------------------------------------------------------------------------------


def _said(host: str, user: str | None, port: int | None, config: Path | None) -> Said:
    ssh = shutil.which("ssh")
    if ssh is not None:
        return _said_by_ssh(ssh, host, user, port, config)
    return _said_by_file(host, config)


def _said_by_ssh(
    ssh: str, host: str, user: str | None, port: int | None, config: Path | None
) -> Said:
    command = [ssh, "-G"]
    if config is not None:
        command += ["-F", str(config)]
    if port is not None:
        command += ["-p", str(port)]
    if user is not None:
        command += ["-l", user]
    try:
        done = subprocess.run(
            [*command, "--", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransportUnavailable(
            f"ssh did not say in {_ASK:g} s where {host} is; does a Match exec in its "
            f"configuration wait for something?"
        ) from error
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise TransportUnavailable(f"ssh cannot read the configuration for {host}: {words}")
    said: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        setting, _, value = line.partition(" ")
        said.setdefault(setting.lower(), []).append(value.strip())
    return said


def _said_by_file(host: str, config: Path | None) -> Said:
    """Without OpenSSH: what paramiko reads, of files that it reads rightly."""
    import paramiko

    if config is not None and str(config) == "none":
        return {}
    own = [Path("~/.ssh/config"), Path("/etc/ssh/ssh_config")]
    merged = paramiko.SSHConfig()
    for path in map(_home, own if config is None else [config]):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            if config is not None:
                raise TransportUnavailable(f"no such configuration: {path}") from None
            continue
        except OSError as error:
            raise TransportUnavailable(f"{path} cannot be read: {error}") from error
        if found := re.search(r"(?im)^\s*(Include|Match)\b", text):
            raise TransportUnavailable(
                f"{path} uses {found[1]}, which only ssh itself can read: install openssh-client, "
                f"or name a file without it (?config=)"
            )
        try:
            merged.parse(text.splitlines(keepends=True))
        except paramiko.SSHException as error:
            raise TransportUnavailable(f"{path} cannot be read: {error}") from error
    found_values = merged.lookup(host)
    return {
        setting: [value] if isinstance(value, str) else list(value)
        for setting, value in found_values.items()
    }


# -- reading the answer ------------------------------------------------------------------------


def _one(said: Said, setting: str) -> str | None:
    values = said.get(setting) or [""]
    return values[0].strip() or None


def _list(said: Said, setting: str) -> tuple[str, ...] | None:
    value = _one(said, setting)
    if value is None or value[0] in "+-^":  # only ssh knows what these stand for
        return None
    return tuple(value.split(","))


def _seconds(value: str | None) -> float | None:
    return float(value) if value and value.isdigit() and value != "0" else None


def _own_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _home(path: Path | str) -> Path:
    """``~`` is ``$HOME``."""
    text = str(path)
    if text == "~" or text.startswith("~/"):
        text = (os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir) + text[1:]
    return Path(text)


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """Replace the tokens of ssh_config(5) that we know; others stay."""
    home = str(_home("~"))
    known = {**tokens, "d": home, "u": _own_name(), "i": str(os.getuid())}
    return re.sub(r"%([a-zA-Z%])", lambda found: known.get(found[1], found[0]), text)


def _identities(said: Said, tokens: Mapping[str, str]) -> tuple[Path, ...]:
    named = said.get("identityfile", ())
    if not named:
        return tuple(_home(f"~/.ssh/{name}") for name in _DEFAULT_KEYS)
    files = (_home(_expand(value.strip('"'), tokens)) for value in named if value != "none")
    return tuple(dict.fromkeys(files))


def _agent(said: Said) -> str | None:
    value = _one(said, "identityagent") or "SSH_AUTH_SOCK"
    if value.lower() == "none":
        return None
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}")) or None
    return str(_home(_expand(value.strip('"'), {"%": "%"})))


def _known_hosts(said: Said) -> tuple[Path, ...]:
    files: list[str] = []
    for setting, default in (
        ("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
        ("globalknownhostsfile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
    ):
        files += re.findall(r'"[^"]*"|\S+', _one(said, setting) or default)
    return tuple(_home(_expand(each.strip('"'), {"%": "%"})) for each in files if each != "none")


def _host_keys(said: Said) -> HostKeys:
    # `no` and `off` let ssh take changed keys, too: that we do not honour.
    value = (_one(said, "stricthostkeychecking") or "ask").lower()
    return HostKeys.ACCEPT_NEW if value in ("accept-new", "no", "off", "false") else HostKeys.STRICT


_JUMP: Final = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]*)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:/\s]+))(?::(?P<port>\d+))?/?"
)


def _jumps(
    text: str,
    config: Path | None,
    known_hosts: Path | None,
    host_keys: HostKeys | None,
    depth: int,
) -> tuple[Hop, ...]:
    """The hosts of ``ProxyJump``, each as the configuration says.

    As with OpenSSH, the first is reached in its own way, which may be by others again; each
    further one from the one before it.
    """
    hops: list[Hop] = []
    for part in text.split(","):
        match = _JUMP.fullmatch(part.strip())
        if match is None:
            raise TransportUnavailable(f"ProxyJump names no host: {part!r}")
        number = int(match["port"]) if match["port"] else None
        hop = _resolve(
            match["v6"] or match["host"],
            match["user"],
            number,
            (),
            config,
            known_hosts,
            host_keys,
            depth + 1,
        )
        if hops:
            hop = msgspec.structs.replace(hop, jumps=(), proxy_command=None)
        hops.append(hop)
    return tuple(hops)
