"""Clauses on ``forward``: the same as a loop around ``receive``, whoever overrides it."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

import anyio

from holdfast import ChannelClosed, TransportBroken

from ._clause import clause
from ._clauses_bytes import MIB, pattern, send_in_pieces
from ._kit import PROMPT, Kit, outcome, same_bytes


class ForwardClauses:
    """What is forwarded."""

    @clause("HF-FORWARD-1", see="Channel.forward")
    async def test_all_of_stdout_is_forwarded(self, kit: Kit) -> None:
        """Forward gives all of stdout, in order, in pieces up to max_bytes, until its end."""
        data = pattern(MIB)
        pieces: list[bytes] = []
        async with kit.open(f"head -c {len(data)}") as peer:
            with kit.within("all of stdout to be forwarded", 3 * PROMPT):
                await kit.together(
                    partial(peer.forward, pieces.append, 1000),
                    partial(send_in_pieces, peer, data, 65536),
                )
        same_bytes(b"".join(pieces), data)
        assert all(1 <= len(piece) <= 1000 for piece in pieces)

    @clause("HF-FORWARD-2", see="Channel.forward")
    async def test_forward_waits_for_a_slow_taker(self, kit: Kit) -> None:
        """Where take gives an awaitable, nothing more is given until that is done."""
        waiting = False
        received = b""

        def take(data: bytes) -> Awaitable[None]:
            nonlocal waiting, received
            assert not waiting, "a piece was given while the last one was still being waited for"
            waiting = True
            received += data
            return slow()

        async def slow() -> None:
            nonlocal waiting
            await anyio.sleep(0.01)
            waiting = False

        data = pattern(20_000)
        async with kit.open(f"head -c {len(data)}") as peer:
            with kit.within("all of stdout to be forwarded"):
                await kit.together(
                    partial(peer.forward, take, 1000), partial(send_in_pieces, peer, data, 1000)
                )
        same_bytes(received, data)

    @clause("HF-FORWARD-3", see="Channel.forward")
    async def test_a_cancelled_forward_loses_nothing(self, kit: Kit) -> None:
        """Cancelling forward, at whatever moment, loses nothing: receive goes on where it ended."""
        data = pattern(200_000)
        pieces: list[bytes] = []
        async with kit.open(f"head -c {len(data)}") as peer, anyio.create_task_group() as tasks:
            tasks.start_soon(send_in_pieces, peer, data, 997)
            for turn in range(40):
                with anyio.move_on_after(turn % 4 * 0.001):
                    await peer.forward(pieces.append, 500)
            rest = await peer.to_end()
        same_bytes(b"".join(pieces) + rest, data)

    @clause("HF-FORWARD-4", see="Channel.forward")
    async def test_forward_and_our_own_close(self, kit: Kit) -> None:
        """A forward that waits at our own close raises ChannelClosed, and so does a later one."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()

            async def close() -> None:
                await kit.pause()
                await peer.aclose()

            with kit.within("a pending forward to be told of the close"):
                met, _ = await kit.together(partial(outcome, partial(peer.forward, _ignore)), close)
            assert isinstance(met, ChannelClosed), f"a pending forward met {met!r}"
            assert isinstance(await outcome(partial(peer.forward, _ignore)), ChannelClosed)

    @clause("HF-FORWARD-5", see="Channel.forward", fixture="sever")
    async def test_a_lost_link_ends_forward(self, kit: Kit) -> None:
        """A lost link never looks like the end to forward: it raises TransportBroken."""
        received = b""
        ready = anyio.Event()

        def take(data: bytes) -> None:
            nonlocal received
            received += data
            if b"\n" in received:
                ready.set()

        async def cut() -> None:
            await ready.wait()
            await kit.sever(peer)

        async with kit.open("echo ready; exec cat") as peer:
            with kit.within("forward to be told of the loss"):
                met, _ = await kit.together(partial(outcome, partial(peer.forward, take)), cut)
        assert isinstance(met, TransportBroken), f"forward met {met!r}"
        assert received == b"ready\n"


def _ignore(data: bytes) -> None:
    """Take it, and forget it."""
