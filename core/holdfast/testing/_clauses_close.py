"""Clauses on our own side: cancelling, closing, and leaving nothing behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel

from holdfast import Capability, ChannelClosed, Signal

from ._clause import clause
from ._kit import MUCH, PROMPT, Kit, Peer, outcome

REAPS_WORKER = Capability.REAPS_WORKER

Operation = Callable[[], Awaitable[object]]

STUBBORN = "trap '' INT TERM HUP; echo ready; while :; do sleep 1; done"
"""Reads nothing and ignores every polite request."""


class _OfTheBody(Exception):
    """Raised inside an open channel's context."""


async def cancelled_numbers(kit: Kit, peer: Peer, *, stderr: bool) -> list[bytes]:
    """Receive numbered lines up to the word ``end``, while cancelling at every moment there is.

    A turn is cancelled after so many steps of the event loop, every fourth after a short time.
    """
    receive = peer.wrapped.receive_stderr if stderr else peer.wrapped.receive
    data = b""
    turn = 0

    async def cancel(scope: anyio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    with kit.within("2,000 lines, received by calls that are often cancelled", 3 * PROMPT):
        async with anyio.create_task_group() as tasks:
            while b"end\n" not in data:
                turn += 1
                with anyio.move_on_after(0.002) as scope:
                    if turn % 4:
                        tasks.start_soon(cancel, scope, turn % 7)
                    piece = await receive(100)
                    data += piece
                    assert piece, f"it ended after {len(data):,} bytes"
    return data.partition(b"end\n")[0].split()


_NUMBERS = (
    "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; "
    "while :; do echo end; sleep 0.1; done"
)


class CloseClauses:
    """Cancelling and closing."""

    @clause("HF-CANCEL-1", see="Channel.receive")
    async def test_a_cancelled_receive_loses_nothing(self, kit: Kit) -> None:
        """Cancelling receive, at whatever moment, loses and doubles nothing."""
        async with kit.open(_NUMBERS) as peer:
            numbers = await cancelled_numbers(kit, peer, stderr=False)
        assert numbers == [b"%d" % number for number in range(2000)]

    @clause("HF-CANCEL-2", Capability.STDERR, see="Channel.receive_stderr")
    async def test_a_cancelled_receive_stderr_loses_nothing(self, kit: Kit) -> None:
        """Cancelling receive_stderr, at whatever moment, loses and doubles nothing."""
        async with kit.open(f"exec >&2; {_NUMBERS}") as peer:
            numbers = await cancelled_numbers(kit, peer, stderr=True)
        assert numbers == [b"%d" % number for number in range(2000)]

    @clause("HF-CANCEL-3", see="Channel")
    async def test_every_wait_can_be_cancelled(self, kit: Kit) -> None:
        """Whatever waits, ends at once when it is cancelled."""
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            waits: list[Operation] = [peer.receive, peer.wait, partial(peer.send, bytes(MUCH))]
            if kit.can(Capability.STDERR):
                waits.insert(0, peer.receive_stderr)
            for wait in waits:
                with anyio.move_on_after(0.1) as scope:
                    await wait()
                late = anyio.current_time() - scope.deadline
                assert scope.cancelled_caught, f"{wait} did not wait"
                assert late < 2 * kit.patience, f"{wait} took {late:.1f} s to be cancelled"

    @clause("HF-CANCEL-4", see="Channel.send")
    async def test_a_cancelled_send_leaves_a_channel_to_close(self, kit: Kit) -> None:
        """After a send was cancelled half-way its channel can be closed, and no other is harmed."""
        async with kit.open("echo ready; exec sleep 1000") as peer, kit.open("cat") as other:
            await peer.line()
            assert await kit.stays_pending(partial(peer.send, bytes(MUCH)))
            with kit.within("aclose after a cancelled send"):
                await peer.aclose()
            with kit.within("a second channel's send"):
                await other.send(b"unharmed\n")
            assert await other.line() == b"unharmed"

    @clause("HF-CANCEL-5", see="Transport.open")
    async def test_a_cancelled_body_closes(self, kit: Kit) -> None:
        """Where the body of open's context is cancelled, the channel is closed all the same."""
        peer = None
        with kit.within("the context to be left"), anyio.CancelScope() as scope:
            async with kit.open("echo $$; exec sleep 1000") as peer:
                pid = await peer.line()
                scope.cancel()
                await peer.receive()
        assert peer is not None
        await kit.expect(ChannelClosed, "receive after the close", peer.receive)
        if kit.can(REAPS_WORKER | Capability.ANY_COMMAND) and await kit.sees_workers():
            await kit.gone(peer, pid)

    @clause("HF-CANCEL-6", see="Transport.open")
    async def test_a_cancelled_open(self, kit: Kit) -> None:
        """An open that is cancelled, at whatever moment, hangs nowhere and spoils nothing."""
        for delay in (0, 0, 0.001, 0.01):
            with kit.within("a cancelled open"), anyio.move_on_after(delay):
                async with kit.open("exec cat") as peer:
                    await peer.receive()
        assert await kit.probe("echo fine") == b"fine\n"

    @clause("HF-CLOSE-1", see="Channel.aclose")
    async def test_close_is_idempotent(self, kit: Kit) -> None:
        """aclose may be called again and again; behind the first it does nothing."""
        async with kit.open("exec cat") as peer:
            for _ in range(3):
                with kit.within("aclose"):
                    await peer.aclose()

    @clause("HF-CLOSE-2", see="Channel.aclose")
    async def test_close_by_several_at_once(self, kit: Kit) -> None:
        """Several tasks may close at once; each returns when the channel is closed."""
        async with kit.open("exec cat") as peer:
            with kit.within("five tasks that close"):
                await kit.together(*[peer.aclose] * 5)
            await kit.expect(ChannelClosed, "send after the close", partial(peer.send, b"x"))

    @clause("HF-CLOSE-3", see="Channel.aclose")
    async def test_close_is_bounded(self, kit: Kit) -> None:
        """aclose is bounded, whatever the worker does: it closes by force and asks nobody."""
        for script in (STUBBORN, f"trap '' TERM; echo ready; head -c {MUCH} /dev/zero; exec cat"):
            async with kit.open(script) as peer:
                await peer.line()
                await kit.stays_pending(partial(peer.send, bytes(MUCH)))
                with kit.within("aclose"):
                    await peer.aclose()

    @clause("HF-CLOSE-4", see="Channel.aclose")
    async def test_close_under_cancellation(self, kit: Kit) -> None:
        """aclose is complete even if the task that calls it is cancelled."""
        async with kit.open("echo $$; exec sleep 1000") as peer:
            pid = await peer.line()
            with kit.within("aclose in a cancelled task"), anyio.CancelScope() as scope:
                scope.cancel()
                await peer.aclose()
            await kit.expect(ChannelClosed, "receive after the close", peer.receive)
            if kit.can(REAPS_WORKER | Capability.ANY_COMMAND) and await kit.sees_workers():
                await kit.gone(peer, pid)

    @clause("HF-CLOSE-5", see="Channel.aclose")
    async def test_pending_operations_at_the_close(self, kit: Kit) -> None:
        """What is pending at our own close raises ChannelClosed; a pending wait returns."""
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            calls: list[Operation] = [partial(peer.send, bytes(MUCH)), peer.receive]
            if kit.can(Capability.STDERR):
                calls.append(peer.receive_stderr)

            async def close() -> None:
                await kit.pause()
                await peer.aclose()

            with kit.within("pending operations to be told of the close"):
                met = await kit.together(
                    *(partial(outcome, call) for call in calls), peer.wait, close
                )
        for call, result in zip(calls, met, strict=False):
            assert isinstance(result, ChannelClosed), f"a pending {call} met {result!r}"

    @clause("HF-CLOSE-6", see="Channel")
    async def test_operations_after_the_close(self, kit: Kit) -> None:
        """After our own close every operation but wait and aclose raises ChannelClosed."""
        async with kit.open("echo unread; exec cat") as peer:
            await peer.aclose()
        calls: list[Operation] = [peer.receive, partial(peer.send, b"x")]
        if kit.can(Capability.STDERR):
            calls.append(peer.receive_stderr)
        if kit.can(Capability.HALF_CLOSE):
            calls.append(peer.send_eof)
        if kit.can(Capability.SIGNALS):
            calls.append(partial(peer.signal, Signal.TERM))
        for call in calls:
            with kit.within("an operation after the close"):
                result = await outcome(call)
            assert isinstance(result, ChannelClosed), f"{call} after the close: {result!r}"
        with suppress(ChannelClosed):
            assert peer.send_nowait(b"x") == 0

    @clause("HF-CLOSE-7", see="Transport.open")
    async def test_leaving_the_context_closes(self, kit: Kit) -> None:
        """Leaving the context of open closes the channel."""
        async with kit.open("exec cat") as peer:
            await peer.send(b"x")
        await kit.expect(ChannelClosed, "send after the close", partial(peer.send, b"x"))

    @clause("HF-CLOSE-8", see="Transport.open")
    async def test_an_error_in_the_body(self, kit: Kit) -> None:
        """An exception of the body comes out of the context, and the channel is closed."""
        peer = None
        try:
            async with kit.open("exec cat") as peer:
                raise _OfTheBody
        except* _OfTheBody:
            pass
        else:
            raise AssertionError("the context swallowed the body's exception")
        assert peer is not None
        await kit.expect(ChannelClosed, "receive after the close", peer.receive)

    @clause("HF-CLOSE-9", see="Transport.aclose")
    async def test_the_transport_closes(self, kit: Kit) -> None:
        """Transport.aclose is bounded and idempotent."""
        await kit.probe("echo used")
        for _ in range(2):
            with kit.within("Transport.aclose"):
                await kit.transport.aclose()

    @clause("HF-REAP-1", REAPS_WORKER | Capability.ANY_COMMAND, see="Capability")
    async def test_the_worker_is_gone(self, kit: Kit) -> None:
        """After aclose the worker is gone, though it ignored every signal that can be ignored."""
        await kit.need_sight()
        async with kit.open(f"echo $$; {STUBBORN}") as peer:
            pid = await peer.line()
            assert await peer.line() == b"ready"  # from here on it ignores them
            await peer.aclose()
            await kit.gone(peer, pid)

    @clause("HF-REAP-2", REAPS_WORKER | Capability.ANY_COMMAND, see="Capability")
    async def test_the_whole_group_is_gone(self, kit: Kit) -> None:
        """After aclose no process of the worker's group is left, the worker alive or not."""
        await kit.need_sight()
        for script in ("sleep 1000 & echo $!; wait", "sleep 1000 & echo $!; exit 0"):
            async with kit.open(script) as peer:
                pid = await peer.line()
                await kit.pause()
                await peer.aclose()
                await kit.gone(peer, pid)
