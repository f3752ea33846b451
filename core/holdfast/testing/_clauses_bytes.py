"""Clauses on bytes: what is sent and received is exact, and nobody hoards it."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel

from holdfast import Capability

from ._clause import clause
from ._kit import MUCH, PROMPT, Kit, Peer, same_bytes

MIB = 1024 * 1024
EVERY_BYTE = bytes(range(256))
STDERR = Capability.STDERR

_PRINT_EVERY_BYTE = "printf '" + "".join(f"\\{value:03o}" for value in range(256)) + "'"


def pattern(size: int) -> bytes:
    """Bytes in which a lost, doubled or moved piece shows."""
    rows = b"".join(b"%09d\n" % number for number in range(min(size // 10 + 1, 100_000)))
    return (rows * (size // len(rows) + 1))[:size]


async def send_in_pieces(peer: Peer, data: bytes, size: int) -> None:
    """Send in pieces of this size."""
    for start in range(0, len(data), size):
        await peer.send(data[start : start + size])


class ByteClauses:
    """What is sent and received."""

    @clause("HF-SEND-1", see="Channel.send")
    async def test_every_byte_value_is_sent(self, kit: Kit) -> None:
        """All 256 byte values reach the worker unchanged: no terminal, no newline translation."""
        async with kit.open("head -c 256 | od -An -v -tx1") as peer:
            await peer.send(EVERY_BYTE)
            assert bytes.fromhex((await peer.to_end()).decode()) == EVERY_BYTE

    @clause("HF-SEND-2", see="Channel.send")
    async def test_all_of_it_is_sent(self, kit: Kit) -> None:
        """One send delivers all of its bytes, however many they are."""
        size = 5 * MIB + 3
        async with kit.open(f"head -c {size} | wc -c") as peer:
            with kit.within("a send of 5 MiB", 3 * PROMPT):
                await peer.send(pattern(size))
            assert int(await peer.line()) == size

    @clause("HF-SEND-3", see="Channel.send")
    async def test_sends_keep_their_order(self, kit: Kit) -> None:
        """What is sent first arrives first."""
        data = pattern(200_000)
        async with kit.open("cat") as peer:
            received, _ = await kit.together(
                partial(peer.exactly, len(data)), partial(send_in_pieces, peer, data, 997)
            )
        same_bytes(received, data)

    @clause("HF-SEND-4", see="Channel.send")
    async def test_an_empty_send(self, kit: Kit) -> None:
        """Sending no bytes does nothing: in particular it does not close the worker's stdin."""
        async with kit.open("cat") as peer:
            await peer.send(b"")
            await peer.send(b"after\n")
            assert await peer.line() == b"after"

    @clause("HF-SEND-5", see="Channel.send")
    async def test_send_feels_back_pressure(self, kit: Kit) -> None:
        """While the worker does not read, sends come to wait: no buffer of ours takes it all."""
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            for _ in range(MUCH // MIB):
                if await kit.stays_pending(partial(peer.send, bytes(MIB))):
                    return
        raise AssertionError(f"it took {MUCH:,} bytes for a worker that reads nothing")

    @clause("HF-SEND-6", see="Channel.send")
    async def test_a_stalled_reader_loses_nothing(self, kit: Kit) -> None:
        """A worker that stops reading for a while gets everything when it reads on."""
        data = pattern(MIB)
        async with kit.open("sleep 1; exec cat") as peer:
            received, _ = await kit.together(
                partial(peer.exactly, len(data)), partial(peer.send, data)
            )
        same_bytes(received, data)

    @clause("HF-SEND-7", see="Channel.send")
    async def test_a_send_is_not_held_back(self, kit: Kit) -> None:
        """A single byte goes out at once: no delay, no wait for a newline or for more."""
        async with kit.open("head -c 1 | od -An -tx1; exec cat") as peer:
            await peer.send(b"x")
            assert (await peer.line()).split() == [b"78"]

    @clause("HF-NOWAIT-1", see="Channel.send_nowait")
    async def test_send_nowait_takes_the_beginning(self, kit: Kit) -> None:
        """send_nowait takes a message's first bytes and says how many; send can do the rest."""
        data = pattern(3 * MIB)

        async def send_all(peer: Peer) -> None:
            for start in range(0, len(data), 100_000):
                piece = data[start : start + 100_000]
                taken = peer.send_nowait(piece)
                assert isinstance(taken, int)
                assert 0 <= taken <= len(piece)
                if taken < len(piece):
                    await peer.send(piece[taken:])

        async with kit.open("cat") as peer:
            received, _ = await kit.together(
                partial(peer.exactly, len(data)), partial(send_all, peer)
            )
        same_bytes(received, data)

    @clause("HF-NOWAIT-2", see="Channel.send_nowait")
    async def test_send_nowait_hoards_nothing(self, kit: Kit) -> None:
        """send_nowait takes no more than the system takes at once: a stalled worker ends that."""
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            total, piece = 0, bytes(256 * 1024)
            while total < MUCH and (taken := peer.send_nowait(piece)):
                total += taken
            assert total < MUCH, f"it took {total:,} bytes for a worker that reads nothing"

    @clause("HF-RECV-1", see="Channel.receive")
    async def test_every_byte_value_is_received(self, kit: Kit) -> None:
        """All 256 byte values arrive from the worker unchanged."""
        assert await kit.probe(_PRINT_EVERY_BYTE) == EVERY_BYTE

    @clause("HF-RECV-2", see="Channel.receive")
    async def test_receive_keeps_to_its_bound(self, kit: Kit) -> None:
        """Receive gives 1 to max_bytes bytes, and what is left over comes next."""
        async with kit.open("printf 0123456789; exec cat") as peer:
            received = b""
            with kit.within("ten bytes, three at a time"):
                while len(received) < 10:
                    data = await peer.receive(3)
                    assert 1 <= len(data) <= 3
                    received += data
        assert received == b"0123456789"

    @clause("HF-RECV-3", see="Channel.receive")
    async def test_receive_lets_others_run(self, kit: Kit) -> None:
        """Receive lets other tasks run at least once, also when data lies ready."""
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with kit.open("head -c 60000 /dev/zero; exec cat") as peer:
            with kit.within("the first byte"):
                await peer.receive(1)
            await kit.pause()  # from here on, some of it lies ready
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                await anyio.lowlevel.checkpoint()
                begin = turns
                with kit.within("a hundred small receives"):
                    for _ in range(100):
                        await peer.receive(100)
                turns -= begin
                tasks.cancel_scope.cancel()
        assert turns >= 50, f"in 100 receives, another task got {turns} turns"

    @clause("HF-RECV-4", STDERR, see="Channel.receive")
    async def test_the_worker_feels_back_pressure(self, kit: Kit) -> None:
        """While nobody receives, the worker cannot write on for ever: no buffer of ours grows."""
        script = f"echo go >&2; head -c {MUCH} /dev/zero; echo finished >&2; exec cat"
        async with kit.open(script) as peer:
            seen = b""

            async def finished() -> None:
                nonlocal seen
                while b"finished" not in seen:
                    seen += await peer.receive_stderr()

            assert await kit.stays_pending(finished), (
                f"the worker wrote {MUCH:,} bytes that nobody received"
            )

    @clause("HF-RECV-5", see="Channel.receive")
    async def test_what_arrived_is_given_at_once(self, kit: Kit) -> None:
        """Receive gives what is there: it waits neither for max_bytes nor for a newline."""
        async with kit.open("printf x; exec cat") as peer:
            with kit.within("a single byte without a newline"):
                assert await peer.receive() == b"x"

    @clause("HF-DUPLEX-1", see="Channel")
    async def test_long_lines_both_ways_at_once(self, kit: Kit) -> None:
        """Lines of 1 MiB go both ways at once, exactly."""
        line = pattern(MIB).replace(b"\n", b".")[:-1] + b"\n"
        async with kit.open("cat") as peer:
            received, _ = await kit.together(
                partial(peer.exactly, 4 * len(line), 3 * PROMPT),
                partial(send_in_pieces, peer, 4 * line, len(line)),
            )
        same_bytes(received, 4 * line)

    @clause("HF-DUPLEX-2", see="Channel")
    async def test_a_pending_receive_holds_up_no_send(self, kit: Kit) -> None:
        """A pending receive does not hold up a send, nor a send that waits a receive."""
        async with kit.open("read -r line; echo $line; echo ready; exec sleep 1000") as peer:
            async with anyio.create_task_group() as tasks:
                lines: list[bytes] = []

                async def read() -> None:
                    lines.append(await peer.line())

                tasks.start_soon(read)
                await anyio.sleep(0.05)
                with kit.within("a send beside a pending receive"):
                    await peer.send(b"hello\n")
            assert lines == [b"hello"]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.send, bytes(MUCH))
                await anyio.sleep(0.05)
                assert await peer.line() == b"ready"
                tasks.cancel_scope.cancel()

    @clause("HF-STDERR-1", STDERR, see="Channel.receive_stderr")
    async def test_stderr_apart_from_stdout(self, kit: Kit) -> None:
        """Stderr and stdout arrive apart, both exactly."""
        async with kit.open(f"echo out; {{ {_PRINT_EVERY_BYTE}; }} >&2") as peer:
            out, err = await kit.together(peer.to_end, peer.stderr_to_end)
        assert out == b"out\n"
        assert err == EVERY_BYTE

    @clause("HF-STDERR-2", STDERR, see="Channel.receive_stderr")
    async def test_stderr_ends_like_stdout(self, kit: Kit) -> None:
        """At the end of stderr, receive_stderr returns b"", again and again."""
        async with kit.open("echo err >&2") as peer:
            assert await peer.stderr_to_end() == b"err\n"
            with kit.within("the end of stderr, a second time"):
                assert await peer.receive_stderr() == b""

    @clause("HF-STDERR-3", STDERR, see="Channel.receive_stderr")
    async def test_a_flood_on_stderr(self, kit: Kit) -> None:
        """10 MiB on stderr beside 10 MiB on stdout arrive whole, where both are read."""
        flood = f"head -c {10 * MIB} /dev/zero"
        async with kit.open(f"{flood} >&2 & {flood}; wait") as peer:
            out, err = await kit.together(
                partial(peer.to_end, 3 * PROMPT), partial(peer.stderr_to_end, 3 * PROMPT)
            )
        assert (len(out), len(err)) == (10 * MIB, 10 * MIB)

    @clause("HF-STDERR-4", STDERR, see="Channel.receive_stderr")
    async def test_the_end_of_stderr_is_no_end_of_stdout(self, kit: Kit) -> None:
        """A worker that closes its stderr can still be spoken to."""
        async with kit.open("exec 2>&-; echo closed; exec cat") as peer:
            assert await peer.line() == b"closed"
            with anyio.move_on_after(0.1):
                assert await peer.receive_stderr() == b""
            await peer.send(b"still here\n")
            assert await peer.line() == b"still here"

    @clause("HF-STDERR-5", STDERR, see="Channel.receive_stderr")
    async def test_receive_stderr_keeps_to_its_bound(self, kit: Kit) -> None:
        """receive_stderr gives 1 to max_bytes bytes, and what is left over comes next."""
        async with kit.open("printf 0123456789 >&2; exec cat") as peer:
            received = b""
            with kit.within("ten bytes of stderr, three at a time"):
                while len(received) < 10:
                    data = await peer.receive_stderr(3)
                    assert 1 <= len(data) <= 3
                    received += data
        assert received == b"0123456789"
