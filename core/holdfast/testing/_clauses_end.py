"""Clauses on the end: half close, the end of stdout, the exit, signals."""

from __future__ import annotations

from functools import partial

from holdfast import (
    Capability,
    ChannelClosed,
    Exit,
    Operation,
    Signal,
    TransportBroken,
    Unsupported,
)

from ._clause import clause
from ._clauses_bytes import MIB, pattern
from ._kit import Kit, outcome

EARLY_EOF = Capability.EARLY_EOF
EXIT_STATUS = Capability.EXIT_STATUS
HALF_CLOSE = Capability.HALF_CLOSE
SIGNALS = Capability.SIGNALS

_UNTIL_KILLED = "while :; do sleep 1 & wait $!; done"


class EndClauses:
    """How a worker ends."""

    @clause("HF-EOF-1", HALF_CLOSE, see="Channel.send_eof")
    async def test_the_worker_reads_the_end(self, kit: Kit) -> None:
        """After send_eof the worker reads the end of its input, behind everything that was sent."""
        async with kit.open("wc -c") as peer:
            with kit.within("1 MiB to be sent"):
                await peer.send(pattern(MIB))
            await peer.send_eof()
            assert int(await peer.to_end()) == MIB

    @clause("HF-EOF-2", HALF_CLOSE, see="Channel.send_eof")
    async def test_stdout_stays_open(self, kit: Kit) -> None:
        """After send_eof the worker's stdout stays open, for as long as it writes."""
        async with kit.open("cat; sleep 0.5; echo afterwards") as peer:
            await peer.send(b"before\n")
            await peer.send_eof()
            assert await peer.to_end() == b"before\nafterwards\n"

    @clause("HF-EOF-3", HALF_CLOSE, see="Channel.send_eof")
    async def test_send_eof_is_idempotent(self, kit: Kit) -> None:
        """A second send_eof does nothing."""
        async with kit.open("cat; echo the end") as peer:
            await peer.send_eof()
            await peer.send_eof()
            assert await peer.to_end() == b"the end\n"

    @clause("HF-EOF-4", HALF_CLOSE, see="Channel.send_eof")
    async def test_send_after_send_eof(self, kit: Kit) -> None:
        """A send after our own send_eof is our mistake: ChannelClosed, not TransportBroken."""
        async with kit.open("cat; exec sleep 1000") as peer:
            await peer.send_eof()
            await kit.expect(ChannelClosed, "send", partial(peer.send, b"too late\n"))

    @clause("HF-EOF-5", HALF_CLOSE, see="Channel.send_eof")
    async def test_send_eof_to_a_worker_that_is_over(self, kit: Kit) -> None:
        """To a worker that is over, send_eof returns or raises TransportBroken, and no other."""
        async with kit.open("exit 0") as peer:
            await peer.to_end()
            with kit.within("send_eof to a worker that is over"):
                met = await outcome(peer.send_eof)
        assert met is None or isinstance(met, TransportBroken), f"send_eof: {met!r}"
        if met is not None:
            assert met.operation is Operation.SEND_EOF

    @clause("HF-CAP-1", see="Capability")
    async def test_what_it_cannot_do_it_says(self, kit: Kit) -> None:
        """What a transport has no capability for is refused in words, never ignored."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            if not kit.can(HALF_CLOSE):
                await kit.expect(Unsupported, "send_eof without HALF_CLOSE", peer.send_eof)
            if not kit.can(SIGNALS):
                term = partial(peer.signal, Signal.TERM)
                await kit.expect(Unsupported, "signal without SIGNALS", term)
            if not kit.can(Capability.STDERR):
                with kit.within("receive_stderr without STDERR"):
                    assert await peer.receive_stderr() == b""
            await peer.send(b"unharmed\n")
            assert await peer.line() == b"unharmed"

    @clause("HF-END-1", see="Channel.receive")
    async def test_the_end_of_stdout(self, kit: Kit) -> None:
        """When the worker is over, receive returns b"" behind the last byte that it wrote."""
        async with kit.open("head -c 300000 /dev/zero; printf 'last words'; exit 3") as peer:
            data = await peer.to_end()
        assert len(data) == 300_010
        assert data.endswith(b"last words")

    @clause("HF-END-2", see="Channel.receive")
    async def test_the_end_stays_the_end(self, kit: Kit) -> None:
        """Behind the end, receive returns b"" again and again."""
        async with kit.open("echo only") as peer:
            assert await peer.to_end() == b"only\n"
            for _ in range(3):
                with kit.within("the end, once more"):
                    assert await peer.receive() == b""

    @clause("HF-END-3", EARLY_EOF, see="Channel.receive")
    async def test_a_worker_that_closes_its_stdout(self, kit: Kit) -> None:
        """The end of stdout is seen while the worker lives on, and is not taken for its exit."""
        # stderr goes, too: where both share one stream, such as in SSH, they have one end.
        async with kit.open("echo bye; exec <&- >&- 2>&-; exec sleep 1000") as peer:
            assert await peer.to_end() == b"bye\n"
            if kit.can(EXIT_STATUS):
                assert await kit.stays_pending(peer.wait), "wait() returned; the worker lives"

    @clause("HF-END-4", see="Channel.receive")
    async def test_a_silent_worker_is_not_over(self, kit: Kit) -> None:
        """While the worker lives and is silent, receive waits: silence is no end."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            assert await kit.stays_pending(peer.receive)
            await peer.send(b"still here\n")
            assert await peer.line() == b"still here"

    @clause("HF-END-5", Capability.STDERR | EARLY_EOF, see="Channel.receive_stderr")
    async def test_a_worker_that_closes_its_stderr(self, kit: Kit) -> None:
        """The end of stderr, too, is seen while the worker lives on."""
        # stdout goes, too, as above.
        async with kit.open("echo err >&2; exec >&- 2>&-; exec sleep 1000") as peer:
            assert await peer.stderr_to_end() == b"err\n"

    @clause("HF-EXIT-1", EXIT_STATUS, see="Channel.wait")
    async def test_exit_codes(self, kit: Kit) -> None:
        """The exit code is reported as it is: 0, 1, 7 and 255."""
        for code in (0, 1, 7, 255):
            async with kit.open(f"exit {code}") as peer:
                with kit.within("the exit"):
                    exit = await peer.wait()
            assert (exit.code, exit.signal) == (code, None)

    @clause("HF-EXIT-2", EXIT_STATUS, see="Exit")
    async def test_death_by_signal(self, kit: Kit) -> None:
        """Death by a signal is that signal's name, or 128+n where no more is known; never -n."""
        for name, number in (("KILL", 9), ("TERM", 15)):
            async with kit.open(f"kill -{name} $$; exec sleep 1000") as peer:
                with kit.within("the exit"):
                    exit = await peer.wait()
            assert (exit.code, exit.signal) in ((None, f"SIG{name}"), (128 + number, None))

    @clause("HF-EXIT-3", see="Exit")
    async def test_no_more_is_claimed_than_known(self, kit: Kit) -> None:
        """An exit is reported if and only if the transport has EXIT_STATUS; else it is Exit()."""
        async with kit.open("exit 0") as peer:
            await peer.to_end()
            with kit.within("the exit"):
                exit = await peer.wait()
        assert exit.reported == kit.can(EXIT_STATUS)
        assert exit.code in (0, None)

    @clause("HF-WAIT-1", see="Channel.wait")
    async def test_many_may_wait(self, kit: Kit) -> None:
        """Many may wait, before the end and after it, and all are told the same."""
        async with kit.open("read -r line; exit 5") as peer:

            async def end_it() -> Exit:
                await kit.pause()
                await peer.send(b"end\n")
                await peer.to_end()
                return await peer.wait()

            with kit.within("all who wait"):
                exits = await kit.together(end_it, *[peer.wait] * 10)
                exits.append(await peer.wait())
        assert len(set(map(str, exits))) == 1

    @clause("HF-WAIT-2", see="Channel.wait")
    async def test_wait_after_the_close(self, kit: Kit) -> None:
        """After our own close, wait returns: the same as before, or how the worker ended by it."""
        async with kit.open("exit 5") as peer:
            await peer.to_end()
            with kit.within("the exit"):
                before = await peer.wait()
            await peer.aclose()
            with kit.within("the exit, after the close"):
                assert await peer.wait() == before
        async with kit.open("echo ready; exec sleep 1000") as peer:
            await peer.line()
            await peer.aclose()
            with kit.within("the exit of a worker that our close ended"):
                assert (await peer.wait()).code != 0

    @clause("HF-WAIT-3", EXIT_STATUS, see="Channel.wait")
    async def test_a_grandchild_does_not_delay_the_exit(self, kit: Kit) -> None:
        """A process that the worker started and that holds its pipes does not delay wait."""
        async with kit.open("sleep 1000 & echo ready; exit 4") as peer:
            await peer.line()
            with kit.within("the exit, while a grandchild holds stdout"):
                assert (await peer.wait()).code == 4

    @clause("HF-WAIT-4", EXIT_STATUS, see="Channel.wait")
    async def test_wait_needs_no_reader(self, kit: Kit) -> None:
        """The exit is told although nobody reads the worker's output; that can be read later."""
        async with kit.open("echo unread; exit 6") as peer:
            with kit.within("the exit, with stdout unread"):
                assert (await peer.wait()).code == 6
            assert await peer.to_end() == b"unread\n"

    @clause("HF-WAIT-5", see="Channel.wait")
    async def test_a_cancelled_wait_harms_no_other(self, kit: Kit) -> None:
        """Cancelling one who waits disturbs neither the others nor the worker."""
        async with kit.open("cat; exit 5") as peer:

            async def after_a_cancelled_one() -> Exit:
                assert await kit.stays_pending(peer.wait)
                await peer.send(b"unharmed\n")
                assert await peer.line() == b"unharmed"
                await peer.aclose()
                return await peer.wait()

            with kit.within("those who were not cancelled"):
                exits = await kit.together(after_a_cancelled_one, peer.wait)
        assert exits[0] == exits[1]

    @clause("HF-SIGNAL-1", SIGNALS, see="Channel.signal")
    async def test_signals_arrive(self, kit: Kit) -> None:
        """INT, TERM and HUP reach the worker as what they are, and harm nothing else."""
        traps = " ".join(
            f"trap 'echo {s.name}' {s.name};" for s in (Signal.INT, Signal.TERM, Signal.HUP)
        )
        async with kit.open(f"{traps} echo ready; {_UNTIL_KILLED}") as peer:
            assert await peer.line() == b"ready"
            for signal in (Signal.INT, Signal.TERM, Signal.HUP):
                await peer.signal(signal)
                assert await peer.line() == signal.name.encode()

    @clause("HF-SIGNAL-2", SIGNALS, see="Channel.signal")
    async def test_kill_ends_the_worker(self, kit: Kit) -> None:
        """KILL ends a worker that ignores every other signal."""
        async with kit.open(f"trap '' INT TERM HUP; echo ready; {_UNTIL_KILLED}") as peer:
            await peer.line()
            await peer.signal(Signal.KILL)
            with kit.within("the exit after KILL"):
                await peer.wait()

    @clause("HF-SIGNAL-3", SIGNALS, see="Channel.signal")
    async def test_signals_reach_the_group(self, kit: Kit) -> None:
        """A signal reaches the whole process group: what the worker started, too."""
        async with kit.open("sleep 1000 & echo ready; wait") as peer:
            await peer.line()
            await peer.signal(Signal.TERM)
            # Whoever holds stdout keeps it open: it ends when the last of the group is gone.
            assert await peer.to_end() == b""

    @clause("HF-SIGNAL-4", SIGNALS, see="Channel.signal")
    async def test_a_signal_after_the_end(self, kit: Kit) -> None:
        """A signal to a worker that is over is no error."""
        async with kit.open("exit 0") as peer:
            await peer.to_end()
            with kit.within("the exit"):
                await peer.wait()
            with kit.within("a signal after the end"):
                assert await outcome(partial(peer.signal, Signal.TERM)) is None
