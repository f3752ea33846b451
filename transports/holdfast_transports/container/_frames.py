"""stdout and stderr, taken apart: an engine sends both down one stream, in frames.

A frame is a byte that names the stream, three zero bytes, the length of the payload as four bytes,
big endian, and the payload. Frames come cut anywhere.

Source: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
"""

from __future__ import annotations

from typing import Final

STDOUT: Final = 1
STDERR: Final = 2

_HEADER: Final = 8
_KNOWN: Final = frozenset({0, STDOUT, STDERR, 3})
"""0 is stdin, which nobody sends us; 3 is what an engine itself has to say, an error."""


class NotFramed(Exception):
    """What came is no frame: engines say errors in plain text where frames should be."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data.decode("utf-8", "replace").strip())


class Demultiplexer:
    """Takes the stream apart, piece by piece, and copies each payload at most once."""

    __slots__ = ("_head", "_left", "_stream")

    def __init__(self) -> None:
        self._head = b""  # the beginning of a header
        self._left = 0  # of the payload that is being received
        self._stream = 0

    @property
    def cut(self) -> bool:
        """Whether what came so far ends within a frame."""
        return bool(self._head) or self._left > 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take what came, and give its payloads, none of them empty, with their streams.

        Raises:
            NotFramed: It is something else.
        """
        left = self._left
        if left >= len(data) > 0:  # the middle of a large frame: nothing to take apart
            self._left = left - len(data)
            return [(self._stream, data)]
        found: list[tuple[int, bytes]] = []
        at = 0
        if left:
            found.append((self._stream, data[:left]))
            at = left
        if self._head:
            data, at = self._head + data[at:], 0
        size = len(data)
        while size - at >= _HEADER:
            stream = data[at]
            if stream not in _KNOWN or data[at + 1 : at + 4] != b"\0\0\0":
                raise NotFramed(data[at:])
            length = int.from_bytes(data[at + 4 : at + _HEADER], "big")
            at += _HEADER
            end = at + length
            if length:
                piece = data[at:end]
                if piece:
                    found.append((stream, piece))
            if end > size:
                self._stream, self._left, self._head = stream, end - size, b""
                return found
            at = end
        self._left, self._head = 0, data[at:]
        return found
