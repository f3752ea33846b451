"""What ``ssh`` says when it cannot connect, or no longer: what that means, and what to do."""

from __future__ import annotations

import re
from typing import Final

from holdfast import Cause, Fate, Operation, TransportBroken, TransportUnavailable

_MEANS: Final[dict[str, str]] = {
    r"Could not resolve hostname (.*?): (.*)": (
        "no such host: {0!r} ({1}); check its name and your network"
    ),
    r"connect to host .*: Connection refused": (
        "{where} refused the connection; does an SSH server listen there?"
    ),
    r"(?:connect to host|Connection to) .*timed out": (
        "{where} did not answer; is it up, and does a firewall drop the connection? (?timeout=)"
    ),
    r"connect to host .*: ((?:No route to host|Network is unreachable).*)": (
        "there is no way to {where} ({0}); check your network, or a VPN that should be up"
    ),
    r"REMOTE HOST IDENTIFICATION HAS CHANGED": (
        "the host key of {where} is another than the one that is known: if you know why, remove "
        "the old one (ssh-keygen -R); if not, somebody may be listening"
    ),
    r"Host key verification failed": (
        "the host key of {where} is not known: connect once with ssh and compare it, or say "
        "?host_keys=accept-new"
    ),
    r"Too many authentication failures": (
        "{where} refused to hear of more keys: name the right one with ?identity=, or with "
        "IdentityFile and IdentitiesOnly in your ssh_config"
    ),
    r"Permission denied \((.*)\)": (
        "{where} lets us in by none of its ways ({0}): is the user right, and does its "
        "authorized_keys hold your key? What asks for a password or a code needs a ControlMaster "
        "of yours"
    ),
    (
        r"((?:.*: line \d+: )?Bad configuration option: .*|.*[Bb]ad owner or permissions on .*"
        r"|Can't open user config.*|.*: terminating, \d+ bad configuration.*)"
    ): ("ssh does not take its configuration: {0}; correct that file, or name another (?config=)"),
    r"((?:Unable to negotiate|no matching) .*)": (
        "{where} and this ssh have no algorithm in common: {0}; allow one in your ssh_config"
    ),
    r"kex_exchange_identification: |Connection (?:closed|reset) by ": (
        "{where} closed the connection before it let us in ({said}); is that an SSH server, has it "
        "room (MaxStartups), and does it let this address in?"
    ),
    r"(unix_listener: .*|ControlSocket .*)": (
        "ssh could not make its control socket: {0}; set TMPDIR to a shorter, private directory"
    ),
}
"""The first that is found counts: what ssh prints last is often the least specific."""


def unavailable(where: str, said: str, ended: str) -> TransportUnavailable:
    """Why there is no connection; in ssh's own words where they are not known."""
    for pattern, text in _MEANS.items():
        if found := re.search(pattern, said):
            groups = [each.strip() for each in found.groups()]
            return TransportUnavailable(text.format(*groups, where=where, said=last_words(said)))
    return TransportUnavailable(
        f"ssh could not connect to {where}: {last_words(said) or ended}; try ssh -v on a terminal"
    )


def loss(said: str, ended: str) -> TransportBroken:
    """What the end of ssh means for the workers behind it."""
    words = f"ssh: {last_words(said) or ended}"
    silent = re.search(r"not responding|timed out", words) is not None
    return TransportBroken(
        Operation.RECEIVE,
        TimeoutError(words) if silent else ConnectionResetError(words),
        cause=Cause.LINK_SILENT if silent else Cause.LINK_LOST,
        worker=Fate.MAYBE_ALIVE,
    )


def last_words(said: str) -> str:
    """The last lines that ssh printed, on one line."""
    lines = ["".join(filter(str.isprintable, line)).strip() for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Warning: Permanently added")]
    return "; ".join(lines[-3:])[-400:]
