"""What a transport did, and when: the record that a broken clause prints."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast import Channel, Exit, Signal

T = TypeVar("T")

_HEAD: Final = 12
_TAIL: Final = 24
"""Lines to keep of the beginning and of the end: a report, not a dump."""

_LONGEST: Final = 100


class Entry:
    """One operation, while it runs and afterwards."""

    __slots__ = ("_began", "_ended", "_outcome", "_what")

    def __init__(self, what: str, began: float) -> None:
        self._what = what
        self._began = began
        self._ended: float | None = None
        self._outcome = "still pending"

    def end(self, outcome: str, now: float) -> None:
        """Note how it ended."""
        self._outcome = outcome
        self._ended = now

    def line(self, now: float) -> str:
        """It as one line; times are seconds since the clause began, and how long it took."""
        took = (now if self._ended is None else self._ended) - self._began
        what, outcome = _short(self._what), _short(self._outcome)
        return f"{self._began:8.3f} s  {what}  ->  {outcome}  [{took:.3f} s]"


class Timeline:
    """The operations of one clause, with times."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._head: list[Entry] = []
        self._tail: list[Entry] = []
        self._left_out = 0

    def begin(self, what: str) -> Entry:
        """Note that an operation begins."""
        entry = Entry(what, self._now())
        if len(self._head) < _HEAD:
            self._head.append(entry)
        else:
            self._tail.append(entry)
            if len(self._tail) > _TAIL:
                del self._tail[0]
                self._left_out += 1
        return entry

    async def record(
        self, what: str, call: Callable[[], Awaitable[T]], show: Callable[[T], str] = repr
    ) -> T:
        """Run an operation and note how it ended."""
        entry = self.begin(what)
        try:
            result = await call()
        except BaseException as error:
            entry.end(_raised(error), self._now())
            raise
        entry.end(show(result), self._now())
        return result

    def end(self, entry: Entry, outcome: str) -> None:
        """Note how an operation ended."""
        entry.end(outcome, self._now())

    def render(self) -> str:
        """All of it, for a person."""
        now = self._now()
        lines = [entry.line(now) for entry in self._head]
        if self._left_out:
            lines.append(f"{'':8}    … {self._left_out} more operations …")
        lines += [entry.line(now) for entry in self._tail]
        return "\n".join(lines) or "nothing"

    def _now(self) -> float:
        return time.monotonic() - self._start


class Recorded(Channel):
    """A channel whose operations are noted in a timeline.

    Attributes:
        wrapped: The transport's own channel.
    """

    def __init__(self, wrapped: Channel, name: str, timeline: Timeline) -> None:
        self.wrapped = wrapped
        self.name = name
        self._timeline = timeline

    async def send(self, data: bytes) -> None:
        await self._timeline.record(
            f"{self.name}.send({show(data)})", lambda: self.wrapped.send(data), _returned
        )

    def send_nowait(self, data: bytes) -> int:
        entry = self._timeline.begin(f"{self.name}.send_nowait({show(data)})")
        try:
            taken = self.wrapped.send_nowait(data)
        except BaseException as error:
            self._timeline.end(entry, _raised(error))
            raise
        self._timeline.end(entry, repr(taken))
        return taken

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._timeline.record(
            f"{self.name}.receive({max_bytes})", lambda: self.wrapped.receive(max_bytes), show
        )

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        await self._timeline.record(
            f"{self.name}.forward(take, {max_bytes})",
            lambda: self.wrapped.forward(take, max_bytes),
            _returned,
        )

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self._timeline.record(
            f"{self.name}.receive_stderr({max_bytes})",
            lambda: self.wrapped.receive_stderr(max_bytes),
            show,
        )

    async def send_eof(self) -> None:
        await self._timeline.record(f"{self.name}.send_eof()", self.wrapped.send_eof, _returned)

    async def signal(self, signal: Signal) -> None:
        await self._timeline.record(
            f"{self.name}.signal({signal.name})", lambda: self.wrapped.signal(signal), _returned
        )

    async def wait(self) -> Exit:
        return await self._timeline.record(f"{self.name}.wait()", self.wrapped.wait)

    async def aclose(self) -> None:
        await self._timeline.record(f"{self.name}.aclose()", self.wrapped.aclose, _returned)


def show(data: object) -> str:
    """Bytes for a person: the first few, and how many there are."""
    if not isinstance(data, bytes | bytearray | memoryview):
        return repr(data)
    data = bytes(data)
    return repr(data) if len(data) <= 24 else f"{data[:20]!r}… {len(data):,} bytes"


def _returned(_: object) -> str:
    return "returned"


def _raised(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return "cancelled"
    return f"raised {type(error).__name__}: {error}"


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
