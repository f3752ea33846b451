"""Target URIs: where a worker shall run, as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from ._errors import InvalidTarget

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_AUTHORITY: Final = re.compile(
    r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|.*?)(?::(?P<port>[0-9]{1,5}))?", re.DOTALL
)


class Target(msgspec.Struct, frozen=True):
    """A parsed target.

    Attributes:
        scheme: Which transport: ``"local"``, ``"ssh"``, ...
        user: What stands before ``@``.
        host: The host, without the brackets of an IPv6 address.
        port: The port, if one is given as a number.
        path: What follows the host, with its leading slash; or, without ``//``, all there is.
        options: What stands behind ``?``.
        text: The target as it was written.
    """

    scheme: str
    user: str | None
    host: str | None
    port: int | None
    path: str
    options: Mapping[str, str]
    text: str

    @property
    def opaque(self) -> str:
        """All between ``scheme://`` and ``?``, as it was written: an image, a container's name."""
        rest = self.text.partition(":")[2].partition("?")[0]
        return rest.removeprefix("//")

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``scheme:``, ``scheme:path`` or ``scheme://[user@]host[:port][/path][?options]``.

        Raises:
            InvalidTarget: It is no such text.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise InvalidTarget(
                f"not a target: {text!r}; write scheme:… such as local: or ssh://host"
            )
        if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
            raise InvalidTarget(f"a target holds no control characters: {text!r}")
        rest, _, query = rest.partition("?")
        user = host = port = None
        path = rest
        if rest.startswith("//"):
            authority, slash, tail = rest[2:].partition("/")
            path = slash + tail
            match = _AUTHORITY.fullmatch(authority)
            assert match is not None, authority  # its host takes anything
            user = unquote(match["user"]) if match["user"] is not None else None
            host = match["host"].removeprefix("[").removesuffix("]") or None
            port = int(match["port"]) if match["port"] else None
            if port is not None and not 0 < port < 65536:
                raise InvalidTarget(f"not a port: {port} in {text!r}; ports are 1 to 65535")
        return cls(scheme.lower(), user, host, port, unquote(path), _options(query, text), text)


def _options(query: str, text: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = map(unquote, pair.partition("="))
        if name in options:
            raise InvalidTarget(f"option {name!r} is given twice in {text!r}")
        options[name] = value
    return options
