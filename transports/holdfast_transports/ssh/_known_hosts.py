"""Who a host is, by its key: ``known_hosts`` files, as sshd(8) describes them.

Host certificates are not supported: lines marked ``@cert-authority`` say nothing here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

_log = logging.getLogger("holdfast.ssh")

_STANDS_FOR: Final = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""The algorithms that use a kind of key, where they have other names (RFC 8332)."""


class Verdict(StrEnum):
    """What the files say of a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


class Entry(msgspec.Struct, frozen=True):
    """One line that speaks of a host."""

    revoked: bool
    key_type: str
    blob: bytes
    file: Path
    line: int


class KnownHosts:
    """The keys of hosts.

    Args:
        files: Where to look; a file that is not there knows nobody.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def key_types(self, name: str, port: int) -> list[str]:
        """The host key algorithms for which the host's keys are known, in the files' order."""
        types: dict[str, None] = {}
        for entry in self._entries(name, port):
            if not entry.revoked:
                types.update(dict.fromkeys(_STANDS_FOR.get(entry.key_type, (entry.key_type,))))
        return list(types)

    def check(self, name: str, port: int, key_type: str, blob: bytes) -> Verdict:
        """What is known of a host that shows this key."""
        return self._judge(name, port, key_type, blob)[0]

    def _judge(
        self, name: str, port: int, key_type: str, blob: bytes
    ) -> tuple[Verdict, Entry | None]:
        """The verdict, and the line that speaks against the key."""
        verdict, against = Verdict.UNKNOWN, None
        for entry in self._entries(name, port):
            if entry.blob == blob:
                if entry.revoked:
                    return Verdict.REVOKED, entry
                verdict, against = Verdict.KNOWN, None
            elif entry.key_type == key_type and not entry.revoked and verdict is Verdict.UNKNOWN:
                verdict, against = Verdict.CHANGED, entry
        return verdict, against

    def refusal(self, name: str, port: int, key_type: str, blob: bytes) -> str:
        """Why a host that shows this key is refused, and what to do next."""
        verdict, entry = self._judge(name, port, key_type, blob)
        host = f"{name} port {port}" if port != 22 else name
        shown = f"the {key_type} key {fingerprint(blob)}"
        files = ", ".join(map(str, self._files)) or "no file at all"
        place = shlex.quote(str(self._files[0])) if self._files else "~/.ssh/known_hosts"
        if verdict is Verdict.CHANGED and entry is not None:
            return (
                f"{host} shows {shown}, and {entry.file} line {entry.line} knows another: somebody "
                f"may be in between, or the host has a new key. Ask its owner; if it is new: "
                f"ssh-keygen -f {shlex.quote(str(entry.file))} -R {shlex.quote(listed(name, port))}"
            )
        if verdict is Verdict.REVOKED and entry is not None:
            return (
                f"{host} shows {shown}, which {entry.file} line {entry.line} marks as revoked: "
                f"do not trust it; ask the host's owner for its present key"
            )
        kind = key_type.partition("-")[2].partition("-")[0] if "ecdsa" not in key_type else "ecdsa"
        return (
            f"{host} is not known: it shows {shown}, and nothing of it is in {files}. Compare that "
            f"with what its owner says, and then: ssh-keyscan -p {port} -t {kind} "
            f"{shlex.quote(name)} >> {place} (or let new keys be stored: ?host_keys=accept-new)"
        )

    def _entries(self, name: str, port: int) -> Iterator[Entry]:
        wanted = listed(name, port).lower()
        for file in self._files:
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("%s cannot be read, and so knows no host: %s", file, error)
                continue
            for number, line in enumerate(text.splitlines(), 1):
                fields = line.split()
                if not fields or fields[0].startswith("#"):
                    continue
                marker = fields.pop(0) if fields[0].startswith("@") else ""
                if marker == "@cert-authority":
                    continue
                try:
                    names, key_type, encoded = fields[:3]
                    blob = base64.b64decode(encoded, validate=True)
                except (ValueError, binascii.Error):
                    _log.debug("%s line %d is no known host: %r", file, number, line)
                    continue
                if _speaks_of(names, wanted):
                    yield Entry(marker == "@revoked", key_type, blob, file, number)


def _speaks_of(names: str, wanted: str) -> bool:
    """Whether the first field of a line means a host."""
    if names.startswith("|1|"):
        return _is_hash_of(names, wanted)
    found = False
    for pattern in names.lower().split(","):
        if _matches(pattern.removeprefix("!"), wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    # Only * and ? mean something: in [host]:port the brackets are meant.
    return re.compile(translate(pattern.replace("[", "[[]")))


def _matches(pattern: str, wanted: str) -> bool:
    return pattern == wanted or (
        ("*" in pattern or "?" in pattern) and _expression(pattern).match(wanted) is not None
    )


def _is_hash_of(field: str, wanted: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in field[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.digest(salt, wanted.encode(), "sha1"), digest)


def listed(name: str, port: int) -> str:
    """How a host is written in the files."""
    return name if port == 22 else f"[{name}]:{port}"


def fingerprint(blob: bytes) -> str:
    """A key's fingerprint, as ``ssh-keygen -l`` prints it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def remember(file: Path, name: str, port: int, key_type: str, blob: bytes) -> None:
    """Add a host's key to a file, which is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{listed(name, port).lower()} {key_type} {base64.b64encode(blob).decode()}\n"
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = "\n" + line
        os.write(fd, line.encode())
    finally:
        os.close(fd)
