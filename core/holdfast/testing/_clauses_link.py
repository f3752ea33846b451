"""Clauses on a lost link, for transports that have one: they need the fixture ``sever``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio

from holdfast import Capability, Cause, ChannelClosed, Fate, Operation, TransportBroken

from ._clause import clause
from ._clauses_broken import check_broken, same_cause
from ._kit import PROMPT, Kit, Peer, outcome

Operate = Callable[[], Awaitable[object]]

_LINK_CAUSES = (Cause.LINK_LOST, Cause.LINK_SILENT, Cause.UNKNOWN)


async def lose(kit: Kit, peer: Peer) -> TransportBroken:
    """Cut the link and meet the loss by receiving."""
    await kit.sever(peer)
    data, broken = await peer.until_broken()
    assert broken is not None, f"the link was cut, and stdout just ended, after {data!r}"
    return broken


class LinkClauses:
    """What is said of a lost link."""

    @clause("HF-LINK-1", see="Channel.receive", fixture="sever")
    async def test_a_lost_link_is_no_end(self, kit: Kit) -> None:
        """A lost link never looks like the end of stdout: receive raises TransportBroken."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            check_broken(await lose(kit, peer), Operation.RECEIVE)
            with kit.within("a second receive after the loss"):
                assert isinstance(await outcome(peer.receive), TransportBroken)

    @clause("HF-LINK-2", see="Channel.receive", fixture="sever")
    async def test_what_arrived_before_is_delivered(self, kit: Kit) -> None:
        """Bytes that arrived before the loss are delivered before the error is raised."""
        async with kit.open("head -c 20000 /dev/zero; exec cat") as peer:
            with kit.within("the first byte"):
                first = await peer.receive(1)
            await kit.pause()  # the rest arrives while nobody reads
            await kit.sever(peer)
            data, broken = await peer.until_broken()
        assert len(first + data) == 20_000
        assert broken is not None

    @clause("HF-LINK-3", see="Channel.receive", fixture="sever")
    async def test_a_pending_receive_is_told(self, kit: Kit) -> None:
        """A receive that waits when the link is lost raises TransportBroken; it does not hang."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()

            async def cut() -> None:
                await anyio.sleep(0.1)
                await kit.sever(peer)

            with kit.within("a pending receive to raise TransportBroken"):
                met, _ = await kit.together(partial(outcome, peer.receive), cut)
        assert isinstance(met, TransportBroken), f"a pending receive: {met!r}"

    @clause("HF-LINK-4", see="Channel.send", fixture="sever")
    async def test_a_send_is_told(self, kit: Kit) -> None:
        """After the link is lost a send raises TransportBroken: if not at first, then soon."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            await kit.sever(peer)
            check_broken(await peer.broken_send(), Operation.SEND)

    @clause("HF-LINK-5", see="Channel", fixture="sever")
    async def test_the_loss_is_sticky(self, kit: Kit) -> None:
        """Every operation after the loss raises it again, with the same cause."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            broken = await lose(kit, peer)
            calls: list[Operate] = [
                partial(peer.send, b"x"),
                peer.receive,
                partial(peer.send, b"x"),
            ]
            if kit.can(Capability.HALF_CLOSE):
                calls.append(peer.send_eof)
            for call in calls:
                with kit.within("an operation after the loss"):
                    again = await outcome(call)
                assert isinstance(again, TransportBroken), f"after the loss: {again!r}"
                assert same_cause(again, broken), f"first {broken!r}, then {again!r}"

    @clause("HF-LINK-6", see="TransportBroken", fixture="sever")
    async def test_nothing_is_claimed_of_the_worker(self, kit: Kit) -> None:
        """A lost link says nothing of the worker: not that it is gone, nor how it ended."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            broken = await lose(kit, peer)
        assert broken.cause in _LINK_CAUSES
        assert broken.worker is not Fate.GONE
        assert broken.exit is None

    @clause("HF-LINK-7", see="Channel.wait", fixture="sever")
    async def test_the_exit_is_not_reported(self, kit: Kit) -> None:
        """After the link is lost wait returns, and says that the exit was not reported."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            await lose(kit, peer)
            with kit.within("wait after the loss"):
                exit = await peer.wait()
        assert not exit.reported, f"it claims to know how the worker ended: {exit}"

    @clause("HF-LINK-8", see="Channel.aclose", fixture="sever")
    async def test_close_after_the_loss(self, kit: Kit) -> None:
        """After the link is lost aclose returns in a bounded time, and the channel is closed."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            await kit.sever(peer)
            with kit.within("aclose after the loss"):
                await peer.aclose()
            await kit.expect(ChannelClosed, "receive", peer.receive)

    @clause("HF-LINK-9", see="Transport.open", fixture="sever")
    async def test_a_new_channel_after_the_loss(self, kit: Kit) -> None:
        """After a link was lost, the same transport opens new channels over a new one."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            await lose(kit, peer)
        assert await kit.probe("echo anew") == b"anew\n"

    @clause("HF-STDERR-6", Capability.STDERR, see="Channel.receive_stderr", fixture="sever")
    async def test_a_lost_link_is_no_end_of_stderr(self, kit: Kit) -> None:
        """A lost link never looks like the end of stderr: receive_stderr raises TransportBroken."""
        async with kit.open("echo ready >&2; exec cat") as peer:
            with kit.within("the first byte of stderr"):
                await peer.receive_stderr(1)
            await kit.sever(peer)
            with kit.within("receive_stderr to raise TransportBroken"):
                while (met := await outcome(peer.receive_stderr)) and isinstance(met, bytes):
                    pass
        assert isinstance(met, TransportBroken), f"the link was cut, and stderr just ended: {met!r}"

    @clause("HF-SILENT-1", Capability.DETECTS_SILENT_LINK, see="Capability", fixture="silence")
    async def test_a_silent_link_is_noticed(self, kit: Kit) -> None:
        """A link that drops everything is noticed, with nobody sending, and said to be silent."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            await kit.silence(peer)
            with kit.within("a pending receive to raise TransportBroken", 3 * PROMPT):
                met = await outcome(peer.receive)
        assert isinstance(met, TransportBroken), f"a pending receive: {met!r}"
        check_broken(met, Operation.RECEIVE)
        assert met.cause is Cause.LINK_SILENT
        assert met.worker is not Fate.GONE
