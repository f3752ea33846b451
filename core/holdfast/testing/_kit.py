"""What the clauses work with: workers to run, deadlines, and a record of what happened."""

from __future__ import annotations

import math
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from holdfast import Capability, Channel, ChannelClosed, Command, Transport, TransportBroken

from ._timeline import Recorded, Timeline

if TYPE_CHECKING:
    from ._clause import Clause

Sever = Callable[[Channel], Awaitable[object]]
Gone = Callable[[Channel, int], Awaitable[None]]

SCRIPT_WORKER: Final = ("sh", "-c", 'IFS= read -r script && eval "$script"')
"""The worker that a transport without ``ANY_COMMAND`` must lead to, for its clauses to be tried.

It runs the first line of its stdin as a shell script, with all that follows as its input.
"""

PROMPT: Final = 10.0
"""Seconds for what must happen "at once": a slow machine's worst, far below a person's patience."""

QUIET: Final = 0.4
"""Seconds in which something must *not* happen: long enough for what would come at once."""

WHOLE: Final = 90.0
"""Seconds for a whole clause; the largest moves tens of MiB or starts 50 workers."""

MUCH: Final = 64 * 1024 * 1024
"""More than the pipes, windows and socket buffers between us and a worker can hold."""

AWAIT_DEATH: Final = (
    "while kill -0 $1 2>/dev/null; do "
    "case $(sed 's/^.*) //' /proc/$1/stat 2>/dev/null) in Z*|X*) break;; esac; "
    "sleep 0.1; done; echo gone"
)
"""Waits until a process is gone. A zombie is, though ``kill -0`` finds it."""


NAMESPACE: Final = "readlink /proc/self/ns/pid 2>/dev/null || echo unknown"
"""Says which processes a worker can see: namespaces(7), where the system has them."""


class Peer(Recorded):
    """An open channel, with ways to read whole lines and whole streams."""

    def __init__(self, wrapped: Channel, name: str, kit: Kit) -> None:
        super().__init__(wrapped, name, kit.timeline)
        self._kit = kit
        self._rest = b""

    async def line(self) -> bytes:
        """The next line of its stdout, without the newline."""
        with self._kit.within("a line from the worker"):
            while b"\n" not in self._rest:
                data = await self.receive()
                assert data, f"the worker's stdout ended; left over: {self._rest!r}"
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def exactly(self, size: int, seconds: float = PROMPT) -> bytes:
        """The next ``size`` bytes of its stdout."""
        parts, have = [self._rest], len(self._rest)
        with self._kit.within(f"{size:,} bytes from the worker", seconds):
            while have < size:
                data = await self.receive()
                assert data, f"the worker's stdout ended after {have:,} of {size:,} bytes"
                parts.append(data)
                have += len(data)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]

    async def to_end(self, seconds: float = PROMPT) -> bytes:
        """All that is left of its stdout."""
        parts = [self._rest]
        self._rest = b""
        with self._kit.within("the end of the worker's stdout", seconds):
            while data := await self.receive():
                parts.append(data)
        return b"".join(parts)

    async def until_broken(self) -> tuple[bytes, TransportBroken | None]:
        """All that is left of its stdout, and the loss it ended with; ``None`` for a plain end."""
        parts = [self._rest]
        self._rest = b""
        with self._kit.within("the end of stdout, or TransportBroken"):
            try:
                while data := await self.receive():
                    parts.append(data)
            except TransportBroken as broken:
                return b"".join(parts), broken
        return b"".join(parts), None

    async def stderr_to_end(self, seconds: float = PROMPT) -> bytes:
        """All that is left of its stderr."""
        parts = []
        with self._kit.within("the end of the worker's stderr", seconds):
            while data := await self.receive_stderr():
                parts.append(data)
        return b"".join(parts)

    async def broken_send(self) -> TransportBroken:
        """Send until the transport finds that it is broken: the first writes may succeed."""
        with self._kit.within("a send to raise TransportBroken"):
            while True:
                try:
                    await self.send(b"anybody there?\n")
                except TransportBroken as broken:
                    return broken
                await anyio.sleep(0.02)


class Kit:
    """Everything a clause needs, for one transport.

    Args:
        transport: The transport to try.
        patience: A factor for every deadline.
        sever: Cuts the link of an open channel, where there is one.
        silence: Lets the link of an open channel drop everything.
        unreachable: A transport whose place cannot be reached.
        gone: Waits until a process of a channel's worker is gone, where no other worker can see it.
        script_worker: The transport has one fixed worker, and that is ``SCRIPT_WORKER``.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        patience: float = 1.0,
        sever: Sever | None = None,
        silence: Sever | None = None,
        unreachable: Transport | None = None,
        gone: Gone | None = None,
        script_worker: bool = False,
    ) -> None:
        self.transport = transport
        self.patience = patience
        self.timeline: Timeline = Timeline()
        self._sever = sever
        self._silence = silence
        self._unreachable = unreachable
        self._gone = gone
        self._script_worker = script_worker
        self._opened = 0

    # -- running a clause --------------------------------------------------------------------

    async def run(self, clause: Clause, body: Callable[[Kit], Awaitable[None]]) -> None:
        """Try one clause; what it raises says what the rule is and what the transport did."""
        __tracebackhide__ = True
        if reason := self.missing(clause):
            pytest.skip(f"capability: {reason}")
        self.timeline = Timeline()
        try:
            try:
                with self.within("the whole clause", WHOLE):
                    await body(self)
            finally:
                with anyio.move_on_after(PROMPT * self.patience, shield=True):
                    await self.transport.aclose()
        except Exception as error:
            broken = _single(error)
            broken.add_note(self._explain(clause))
            if broken is error:
                raise
            raise broken from None

    def missing(self, clause: Clause) -> str | None:
        """The name of what the transport lacks for a clause."""
        lacking = clause.needs & ~self.transport.capabilities
        if lacking:
            return ", ".join(str(each.name) for each in lacking)
        if clause.fixture is not None and getattr(self, f"_{clause.fixture}") is None:
            return f"{clause.fixture} (the test class has no such fixture)"
        can_run = self.can(Capability.ANY_COMMAND) or self._script_worker
        if not can_run and clause.fixture != "unreachable":
            return "ANY_COMMAND (and the test class does not say `script_worker = True`)"
        return None

    def _explain(self, clause: Clause) -> str:
        return (
            f"\nclause {clause.id} of the transport contract is broken\n"
            f"  the rule:  {clause.rule}\n"
            f"  look at:   {clause.anchor}, and: python -m pydoc holdfast.{clause.see}\n"
            f"  once more: pytest --holdfast-clause {clause.id}\n"
            f"  what the transport did (seconds since the clause began):\n"
            + "\n".join(f"    {line}" for line in self.timeline.render().splitlines())
        )

    # -- the transport -----------------------------------------------------------------------

    def can(self, capability: Capability) -> bool:
        """Whether the transport has this capability."""
        return capability in self.transport.capabilities

    @property
    def unreachable(self) -> Transport:
        """A transport whose place cannot be reached."""
        assert self._unreachable is not None
        return self._unreachable

    async def sever(self, peer: Peer) -> None:
        """Cut a channel's link."""
        await self._to_the_link("sever", self._sever, peer)

    async def silence(self, peer: Peer) -> None:
        """Let a channel's link drop everything."""
        await self._to_the_link("silence", self._silence, peer)

    async def _to_the_link(self, what: str, act: Sever | None, peer: Peer) -> None:
        assert act is not None
        await self.timeline.record(
            f"{what}({peer.name})", partial(act, peer.wrapped), lambda _: "done"
        )

    @asynccontextmanager
    async def open(
        self,
        script: str,
        *args: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        inherit_env: bool = True,
    ) -> AsyncIterator[Peer]:
        """Run a shell script of one line as a worker."""
        assert "\n" not in script
        if self.can(Capability.ANY_COMMAND):
            argv = ("sh", "-c", script, "sh", *args)
            async with self.start(Command(argv, cwd, env or {}, inherit_env)) as peer:
                yield peer
        else:
            line = f"set -- {shlex.join(args)}; {script}\n" if args else f"{script}\n"
            async with self.start(Command(SCRIPT_WORKER)) as peer:
                with self.within("the script to be sent to the worker"):
                    await peer.wrapped.send(line.encode())
                yield peer

    @asynccontextmanager
    async def start(self, command: Command) -> AsyncIterator[Peer]:
        """Run a command as a worker."""
        name = _letter(self._opened)
        self._opened += 1
        doing = f"open({shlex.join(command.argv)}) as {name}"
        entry = self.timeline.begin(doing)
        bodys: BaseException | None = None
        # One scope around it all, since the transport may open a task group of its own: scopes
        # must be left in the reverse order, so none may be left while the channel is open.
        with anyio.CancelScope() as scope:
            scope.deadline = self._deadline(3 * PROMPT)
            try:
                async with self.transport.open(command) as channel:
                    self.timeline.end(entry, "opened")
                    scope.deadline = math.inf
                    try:
                        yield Peer(channel, name, self)
                    except BaseException as error:
                        bodys = error
                        raise
                    finally:
                        doing = f"leave the context of {name}"
                        entry = self.timeline.begin(doing)
                        scope.deadline = self._deadline(2 * PROMPT)
            except BaseException as error:
                text = "left" if error is bodys else f"raised {type(error).__name__}: {error}"
                self.timeline.end(entry, text)
                raise
            self.timeline.end(entry, "left")
        if scope.cancelled_caught:
            raise AssertionError(f"waited in vain to {doing}")

    def _deadline(self, seconds: float) -> float:
        return anyio.current_time() + seconds * self.patience

    async def probe(self, script: str, *args: str) -> bytes:
        """Run a script to its end and give what it printed."""
        async with self.open(script, *args) as peer:
            return await peer.to_end()

    async def sees_workers(self) -> bool:
        """Whether it can be found out if a closed channel's worker is gone.

        Workers that each have a machine of their own do not see each other's processes: a number
        is another process there.
        """
        if self._gone is not None:
            return True
        async with self.open(f"{NAMESPACE}; exec cat") as peer:
            namespace = await peer.line()
            return await self.probe(NAMESPACE) == namespace + b"\n"

    async def need_sight(self) -> None:
        """Skip a clause that is about processes which nobody can see."""
        if not await self.sees_workers():
            pytest.skip(
                "capability: gone (workers do not see each other's processes, and the test class "
                "has no such fixture)"
            )

    async def gone(self, peer: Peer, pid: bytes) -> None:
        """See that a process of a closed channel's worker is gone, where the workers run."""
        with self.within(f"process {pid.decode()} to be gone", PROMPT / 2):
            if self._gone is not None:
                return await self._gone(peer.wrapped, int(pid))
            assert await self.probe(AWAIT_DEATH, pid.decode()) == b"gone\n"

    # -- time --------------------------------------------------------------------------------

    @contextmanager
    def within(self, what: str, seconds: float = PROMPT) -> Iterator[None]:
        """Fail if this takes too long."""
        limit = seconds * self.patience
        with anyio.move_on_after(limit) as scope:
            yield
        if scope.cancelled_caught:
            raise AssertionError(f"waited {limit:g} s in vain for {what}")

    async def stays_pending(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Whether an operation is still waiting after a while; it is cancelled then."""
        with anyio.move_on_after(QUIET * self.patience):
            await call()
            return False
        return True

    async def pause(self) -> None:
        """Give the worker and the wire time for what they have begun."""
        await anyio.sleep(QUIET * self.patience)

    async def together(self, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Run several operations at once; results in their order, errors as they are."""
        results: list[Any] = [None] * len(calls)

        async def run(index: int) -> None:
            results[index] = await calls[index]()

        try:
            async with anyio.create_task_group() as tasks:
                for index in range(len(calls)):
                    tasks.start_soon(run, index)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return results

    async def expect(
        self, error: type[Exception], what: str, call: Callable[[], Awaitable[object]]
    ) -> None:
        """See that an operation raises this, in time, and nothing else."""
        with raises(error, what), self.within(f"{what} to raise {error.__name__}"):
            await call()


async def outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """What an operation returned, or the transport error that it raised."""
    try:
        return await call()
    except (TransportBroken, ChannelClosed) as error:
        return error


@contextmanager
def raises(expected: type[Exception], what: str, naming: str = "") -> Iterator[None]:
    """See that this is raised, with a message that names something."""
    try:
        yield
    except expected as error:
        text = str(error)
    else:
        raise AssertionError(f"{what} did not raise {expected.__name__}")
    assert naming in text, f"{text!r} does not name {naming!r}"


def _single(error: Exception) -> Exception:
    """What went wrong, where task groups have wrapped it up."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"channel {number + 1}"


def same_bytes(got: bytes, wanted: bytes) -> None:
    """See that these are the same; pytest would compare long ones for minutes."""
    if got == wanted:
        return
    pairs = enumerate(zip(got, wanted, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(got), len(wanted)))
    raise AssertionError(
        f"{len(got):,} bytes instead of {len(wanted):,}, and from byte {at:,} on "
        f"{got[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"
    )
