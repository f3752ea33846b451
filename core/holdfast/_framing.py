"""Bytes to messages and back, in bounded memory: lines, and ``Content-Length`` frames.

A framer is fed whatever arrives, in whatever pieces, and gives the messages that these bytes
complete. It never fails: what is too long is dropped and reported, what is out of place is
handed on as it is.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from msgspec import Struct

_HEAD = 1024  # at each end of a message that is too long, enough to see what it was


class TooLong(Struct, frozen=True, gc=False):
    """A message above the limit, dropped: its length, its first bytes, and the last behind them."""

    size: int
    head: bytes
    tail: bytes = b""

    @classmethod
    def of(cls, message: bytes) -> TooLong:
        """What is kept of a message that is at hand."""
        return cls(len(message), message[:_HEAD], message[_HEAD:][-_HEAD:])


class Unframed(Struct, frozen=True, gc=False):
    """Bytes that belong to no message: handed on, never read as one."""

    data: bytes


class Cut(Struct, frozen=True, gc=False):
    """What stood at the end of the stream without its end; it may be whole all the same."""

    data: bytes


Frame = bytes | TooLong | Unframed | Cut


class Framer(Protocol):
    """Splits one stream into messages; one framer per stream."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take some bytes and give the messages that they complete."""
        ...

    def finish(self) -> list[Frame]:
        """The stream ended: give what is left, which is no whole message."""
        ...


class Framing(Protocol):
    """A way to put messages on a stream."""

    def framer(self, max_size: int) -> Framer:
        """A framer that drops messages of more than ``max_size`` bytes."""
        ...

    def encode(self, message: bytes) -> bytes:
        """One message as it goes on the wire."""
        ...


class _Partial:
    """The beginning of a message, collected in pieces, or only counted once it is too long."""

    __slots__ = ("_head", "_max_size", "_pieces", "_tail", "size")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._pieces: list[bytes] = []
        self._head = b""
        self._tail = b""
        self.size = 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if len(self._head) < _HEAD:
            self._head += data[: _HEAD - len(self._head)]
        self._tail = data[-_HEAD:] if len(data) >= _HEAD else (self._tail + data)[-_HEAD:]
        if self.size <= self._max_size:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def take(self) -> bytes | TooLong:
        """The message, and start anew."""
        frame: bytes | TooLong
        if self.size <= self._max_size:
            frame = b"".join(self._pieces)
        else:
            behind = min(_HEAD, self.size - len(self._head))
            frame = TooLong(self.size, self._head, self._tail[-behind:] if behind else b"")
        self._pieces = []
        self._head = self._tail = b""
        self.size = 0
        return frame


class LineFramer:
    """Messages end with a newline, which is not theirs; a carriage return is."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._partial = _Partial(max_size)

    def feed(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if self._partial.size:
            head, newline, data = data.partition(b"\n")
            self._partial.add(head)
            if not newline:
                return frames
            frames.append(self._partial.take())
        lines = data.split(b"\n")
        if lines[-1]:
            self._partial.add(lines[-1])
        lines.pop()
        if len(data) > self._max_size:
            frames += [line if len(line) <= self._max_size else TooLong.of(line) for line in lines]
        elif frames:
            frames += lines
        else:
            return lines  # type: ignore[return-value]  # a fresh list, and the hot path
        return frames

    def finish(self) -> list[Frame]:
        if not self._partial.size:
            return []
        rest = self._partial.take()
        return [Cut(rest) if isinstance(rest, bytes) else rest]


class ContentLengthFramer:
    """Messages stand behind a header block, as in the Language Server Protocol's base protocol.

    Bytes that are no header are handed on line by line, and the search goes on with the next line.
    """

    # Two short fields are all that the protocol defines; a "header" beyond this is none.
    _LONGEST_HEADER: Final = 8192
    _FIELD: Final = re.compile(rb"[!-9;-~]+:[ \t]*[^\r\n]*")
    _LENGTH: Final = re.compile(rb"(?i:content-length):[ \t]*([0-9]{1,18})[ \t]*")

    def __init__(self, max_size: int) -> None:
        self._partial = _Partial(max_size)
        self._header = bytearray()  # the lines of the block so far, then the line that is open
        self._line = 0  # where in it the open line begins
        self._length: int | None = None
        self._missing = -1  # bytes that the body still lacks; -1 within a header

    def feed(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        position = 0
        while position < len(data):
            if self._missing >= 0:
                piece = data[position : position + self._missing]
                position += len(piece)
                self._take_body(piece, frames)
                continue
            newline = data.find(b"\n", position)
            end = len(data) if newline < 0 else newline + 1
            end = min(end, position + self._LONGEST_HEADER - len(self._header))
            self._header += data[position:end]
            position = end
            if self._header.endswith(b"\n"):
                self._end_line(frames)
            if len(self._header) >= self._LONGEST_HEADER:
                self._give_up(frames)
        return frames

    def _take_body(self, piece: bytes, frames: list[Frame]) -> None:
        if piece:
            self._partial.add(piece)
            self._missing -= len(piece)
        if self._missing == 0:
            frames.append(self._partial.take())
            self._missing = -1

    def _end_line(self, frames: list[Frame]) -> None:
        line = bytes(self._header[self._line :]).rstrip(b"\r\n")
        if not line and self._length is not None:
            self._missing, self._length = self._length, None
            self._header.clear()
            self._line = 0
            self._take_body(b"", frames)
        elif self._FIELD.fullmatch(line):
            self._line = len(self._header)
            if length := self._LENGTH.fullmatch(line):
                self._length = int(length[1])
        else:
            self._give_up(frames)

    def _give_up(self, frames: list[Frame]) -> None:
        """What stands in the header is none: hand it on, line by line."""
        block = bytes(self._header)
        self._header.clear()
        self._line = 0
        self._length = None
        frames += [Unframed(line) for line in block.removesuffix(b"\n").split(b"\n")]

    def finish(self) -> list[Frame]:
        if self._missing >= 0:
            self._missing = -1
            rest = self._partial.take()
            return [Cut(rest) if isinstance(rest, bytes) else rest]
        block = bytes(self._header)
        self._header.clear()
        self._line = 0
        self._length = None
        return [Cut(block)] if block else []


class Lines:
    """One message per line."""

    def framer(self, max_size: int) -> Framer:
        return LineFramer(max_size)

    def encode(self, message: bytes) -> bytes:
        return message + b"\n"


class ContentLength:
    """Each message behind a ``Content-Length`` header."""

    def framer(self, max_size: int) -> Framer:
        return ContentLengthFramer(max_size)

    def encode(self, message: bytes) -> bytes:
        return b"Content-Length: %d\r\n\r\n%b" % (len(message), message)
