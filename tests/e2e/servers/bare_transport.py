"""A third party's transport that reports no exit, in a distribution of its own: ``bare:``.

``bare:?breaks=1`` loses its link once the worker has written something.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from holdfast import (
    Capability,
    Cause,
    Channel,
    Command,
    Exit,
    Fate,
    Operation,
    Transport,
    TransportBroken,
    TransportSpec,
    hookimpl,
)
from holdfast_transports.local import LocalTransport


class BareTransport(Transport):
    capabilities = Capability.ANY_COMMAND | Capability.HALF_CLOSE | Capability.EARLY_EOF

    def __init__(self, breaks: bool) -> None:
        self._breaks = breaks

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with LocalTransport().open(command) as inner:
            yield BareChannel(inner, self._breaks)


class BareChannel(Channel):
    def __init__(self, inner: Channel, breaks: bool) -> None:
        self._inner = inner
        self._breaks = breaks
        self._broken: TransportBroken | None = None

    async def send(self, data: bytes) -> None:
        await self._inner.send(data)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._broken is not None:
            raise self._broken
        data = await self._inner.receive(max_bytes)
        if self._breaks:
            native = ConnectionResetError(104, "Connection reset by peer")
            self._broken = TransportBroken(
                Operation.RECEIVE, native, cause=Cause.LINK_LOST, worker=Fate.MAYBE_ALIVE
            )
        return data

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def wait(self) -> Exit:
        await self._inner.wait()
        return Exit()

    async def aclose(self) -> None:
        await self._inner.aclose()


@hookimpl
def holdfast_transports() -> list[TransportSpec]:
    return [
        TransportSpec(
            scheme="bare",
            factory=lambda target: BareTransport("breaks" in target.options),
            summary="a local process that nobody asks how it ended",
            example="bare:",
            options={"breaks": "lose the link after the first output (1)"},
        )
    ]


def install(folder: Path) -> Path:
    """Make an installed distribution of this file in ``folder``, for ``PYTHONPATH``."""
    info = folder / "holdfast_bare-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holdfast-bare\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast]\nbare = holdfast_bare\n")
    (folder / "holdfast_bare.py").write_text(Path(__file__).read_text())
    return folder
