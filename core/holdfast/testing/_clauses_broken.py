"""Clauses on loss: what a broken transport says, and what it still delivers."""

from __future__ import annotations

from functools import partial

from holdfast import Capability, Exit, Fate, Operation, TransportBroken

from ._clause import clause
from ._kit import MUCH, Kit, Peer, outcome

_DIE = "kill -9 $$"


def innermost(error: BaseException) -> list[BaseException]:
    """What an exception wraps, from the outside in, itself left out."""
    chain: list[BaseException] = []
    inner = error.__cause__ or error.__context__
    while inner is not None and inner not in chain:
        chain.append(inner)
        inner = inner.__cause__ or inner.__context__
    return chain


def check_broken(broken: TransportBroken, operation: Operation) -> None:
    """See that a loss says what it must."""
    native = broken.__cause__
    if native is None:
        assert isinstance(broken.native, str)
        assert broken.detail == broken.native != ""
    else:
        assert broken.detail == f"{type(native).__name__}: {native}"
    assert broken.operation is operation


def same_cause(one: TransportBroken, other: TransportBroken) -> bool:
    """Whether two errors tell of one loss."""
    return (one.__cause__, one.detail, one.cause) == (other.__cause__, other.detail, other.cause)


async def dead_and_broken(peer: Peer, kit: Kit) -> TransportBroken:
    """Wait for the worker's death without reading; then meet the loss by sending."""
    if kit.can(Capability.EXIT_STATUS):
        with kit.within("the exit"):
            await peer.wait()
    return await peer.broken_send()


class BrokenClauses:
    """What is said of a loss."""

    @clause("HF-BROKEN-1", see="Channel.send")
    async def test_a_send_to_a_dead_worker(self, kit: Kit) -> None:
        """Sending to a worker that is over raises TransportBroken: if not at first, then soon."""
        async with kit.open(_DIE) as peer:
            await peer.to_end()
            await peer.broken_send()

    @clause("HF-BROKEN-2", see="TransportBroken")
    async def test_detail_and_cause(self, kit: Kit) -> None:
        """Detail is "{type}: {text}" of the native exception, which is the error's __cause__."""
        async with kit.open(_DIE) as peer:
            check_broken(await dead_and_broken(peer, kit), Operation.SEND)

    @clause("HF-BROKEN-3", see="TransportBroken")
    async def test_the_innermost_cause(self, kit: Kit) -> None:
        """Where a library wraps an OSError, the cause is the OSError, not the wrapper."""
        async with kit.open(_DIE) as peer:
            broken = await dead_and_broken(peer, kit)
        native = broken.__cause__
        if native is not None and not isinstance(native, OSError):
            hidden = [each for each in innermost(native) if isinstance(each, OSError)]
            assert not hidden, f"{native!r} wraps {hidden[0]!r}, which says more"

    @clause("HF-BROKEN-4", see="Channel")
    async def test_broken_is_sticky(self, kit: Kit) -> None:
        """After a loss, every write raises TransportBroken again, with the same cause."""
        async with kit.open(_DIE) as peer:
            broken = await dead_and_broken(peer, kit)
            for _ in range(3):
                with kit.within("a send after the loss"):
                    again = await outcome(partial(peer.send, b"again\n"))
                assert isinstance(again, TransportBroken), f"a send after the loss: {again!r}"
                assert same_cause(again, broken), f"first {broken!r}, then {again!r}"

    @clause("HF-BROKEN-5", Capability.HALF_CLOSE, see="TransportBroken")
    async def test_the_operation_is_named(self, kit: Kit) -> None:
        """A loss names the operation that met it, also when it is met again by another."""
        async with kit.open(_DIE) as peer:
            broken = await dead_and_broken(peer, kit)
            with kit.within("send_eof after the loss"):
                again = await outcome(peer.send_eof)
            assert isinstance(again, TransportBroken)
            assert again.operation is Operation.SEND_EOF
            assert same_cause(again, broken)
            assert broken.operation is Operation.SEND

    @clause("HF-BROKEN-6", see="Channel.receive")
    async def test_what_arrived_is_still_delivered(self, kit: Kit) -> None:
        """After a send met the loss, receive first hands out all that the worker had written."""
        async with kit.open(f"head -c 20000 /dev/zero; printf 'last words'; {_DIE}") as peer:
            with kit.within("the first byte"):
                first = await peer.receive(1)
            await kit.pause()  # the rest comes while nobody reads
            await dead_and_broken(peer, kit)
            data, broken = await peer.until_broken()
        assert len(first + data) == 20_010
        assert data.endswith(b"last words")
        if broken is not None:
            check_broken(broken, Operation.RECEIVE)

    @clause("HF-BROKEN-7", see="Channel.wait")
    async def test_wait_after_a_loss(self, kit: Kit) -> None:
        """After a loss, wait still returns an Exit, and the loss claims no other."""
        async with kit.open(_DIE) as peer:
            await peer.to_end()
            broken = await peer.broken_send()
            with kit.within("the exit after a loss"):
                exit = await peer.wait()
        assert isinstance(exit, Exit)
        assert exit.reported == kit.can(Capability.EXIT_STATUS)
        assert broken.exit in (None, exit)

    @clause("HF-BROKEN-8", see="Channel.receive")
    async def test_receive_goes_on_while_the_worker_lives(self, kit: Kit) -> None:
        """A worker that closed only its stdin lives: what it writes is delivered to its end."""
        async with kit.open("exec <&-; echo closed; sleep 1; echo still here") as peer:
            assert await peer.line() == b"closed"
            for _ in range(5):
                with kit.within("a send to a closed stdin"):
                    met = await outcome(partial(peer.send, b"anybody?\n"))
                assert met is None or isinstance(met, TransportBroken)
                if met is not None:
                    assert met.worker is not Fate.GONE, "it claims that a living worker is gone"
                    assert met.exit is None
            assert await peer.to_end() == b"still here\n"

    @clause("HF-BROKEN-9", see="Channel.send")
    async def test_a_pending_send_meets_the_loss(self, kit: Kit) -> None:
        """A send that waits when the worker dies raises TransportBroken; it does not hang."""
        async with kit.open(f"sleep 1; {_DIE}") as peer:
            with kit.within("a pending send to raise TransportBroken"):
                met = await outcome(partial(peer.send, bytes(MUCH)))
        assert isinstance(met, TransportBroken)
        check_broken(met, Operation.SEND)

    @clause("HF-NOWAIT-3", see="Channel.send_nowait")
    async def test_send_nowait_after_a_loss(self, kit: Kit) -> None:
        """After a loss, send_nowait raises it again, with the same cause, or takes nothing."""
        async with kit.open(_DIE) as peer:
            broken = await dead_and_broken(peer, kit)
            again = await outcome(partial(self.nowait, peer))
        assert again == 0 or isinstance(again, TransportBroken), f"after the loss: {again!r}"
        if isinstance(again, TransportBroken):
            assert again.operation is Operation.SEND
            assert same_cause(again, broken)

    async def nowait(self, peer: Peer) -> int:
        """send_nowait, for those who want something to await."""
        return peer.send_nowait(b"again\n")
