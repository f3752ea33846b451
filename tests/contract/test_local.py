"""The local transport keeps the contract, on asyncio, trio and uvloop."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import pytest

from holdfast import Exit, TransportBroken
from holdfast.testing import TransportContract
from holdfast.testing._kit import raises
from holdfast_transports.local import LocalTransport


class TestLocal(TransportContract):
    backends: ClassVar = [
        *TransportContract.backends,
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
    ]

    @pytest.fixture
    def transport(self):
        return LocalTransport()

    # Where the contract allows for wires that know less, this one knows:

    async def test_a_signal_is_named(self, kit):
        """Death by a signal is reported by name."""
        async with kit.open("kill -9 $$") as peer:
            assert await peer.wait() == Exit(signal="SIGKILL")

    async def test_a_closed_stdin_is_noticed(self, kit):
        """A worker that closes its stdin and lives is found out by the next send."""
        async with kit.open("exec <&-; echo closed; exec sleep 1000") as peer:
            await peer.line()
            await kit.expect(TransportBroken, "a send", partial(peer.send, b"anybody?\n"))

    async def test_send_nowait_is_told_of_a_loss(self, kit):
        """send_nowait does write, and so meets the loss."""
        async with kit.open("kill -9 $$") as peer:
            await peer.wait()
            with raises(TransportBroken, "send_nowait"):
                peer.send_nowait(b"anybody?\n")

    async def test_the_end_of_stdout_alone(self, kit):
        """A worker that closes its stdout, and keeps its stderr, is seen to have closed it."""
        async with kit.open("echo bye; exec >&-; exec sleep 1000") as peer:
            assert await peer.to_end() == b"bye\n"
            assert await kit.stays_pending(peer.receive_stderr)

    async def test_the_end_of_stderr_alone(self, kit):
        """A worker that closes its stderr, and keeps its stdout, is seen to have closed it."""
        async with kit.open("exec 2>&-; exec cat") as peer:
            assert await peer.stderr_to_end() == b""
            assert await kit.stays_pending(peer.receive)
