"""For each clause of the contract, a transport that is broken in just that way.

Most are the local transport with one operation changed. What a mutant leaves behind on purpose is
put into ``LEFTOVERS``, for the test to clear away.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import msgspec
import sniffio
import trio
from tests.contract.linked import LinkedTransport, Wrapped

from holdfast import (
    Capability,
    Channel,
    ChannelClosed,
    Command,
    Exit,
    Fate,
    Operation,
    Signal,
    Transport,
    TransportBroken,
    TransportUnavailable,
    WorkerNotStarted,
)
from holdfast_transports.local import LocalTransport

LEFTOVERS: list[Callable[[], object]] = []

NEED_A_LINK = ("HF-STDERR-6", "HF-SILENT-1", "HF-FORWARD-5")


@dataclass
class Mutant:
    """A broken transport and the clause that must say so."""

    clause: str
    name: str
    transport: Callable[[], Transport]
    patience: float


MUTANTS: list[Mutant] = []


class Changed(Transport):
    """The local transport, changed."""

    capabilities = LocalTransport.capabilities

    def __init__(self) -> None:
        self.base: Transport = LocalTransport()

    def command(self, command: Command) -> Command:
        return command

    def wrap(self, channel: Channel) -> Channel:
        return Wrapped(channel, self)

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.base.open(self.command(command)) as inner:
            yield self.wrap(inner)


def breaks(clause: str, *, patience: float = 0.3) -> Callable[[type], type]:
    """Enter a class, of a channel or of a transport, as the mutant of a clause."""

    def enter(cls: type) -> type:
        if issubclass(cls, Transport):
            make: Callable[[], Transport] = cls
        else:
            members = {"wrap": lambda self, channel: cls(channel, self)}
            wrapping = type(cls.__name__, (Changed,), members)

            def make() -> Transport:
                transport = wrapping()
                if clause in NEED_A_LINK or clause.startswith("HF-LINK"):
                    transport.base = LinkedTransport()
                return transport

        MUTANTS.append(Mutant(clause, cls.__name__, make, patience))
        return cls

    return enter


# -- start -----------------------------------------------------------------------------------


@breaks("HF-START-1")
class RaisesTheNativeError(Changed):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        try:
            async with self.base.open(command) as inner:
                yield inner
        except WorkerNotStarted as error:
            raise error.__cause__ from None


@breaks("HF-START-2")
class GoesElsewhere(Changed):
    def command(self, command):
        there = command.cwd is not None and os.path.isdir(command.cwd)
        return msgspec.structs.replace(command, cwd=command.cwd if there else None)


@breaks("HF-START-3")
class StartsThroughAShell(Changed):
    def command(self, command):
        return Command(("sh", "-c", '"$@"', "sh", *command.argv))


@breaks("HF-START-4")
class GivesUpForEver(Changed):
    failed = False

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        if self.failed:
            raise TransportUnavailable("it failed once")
        try:
            async with self.base.open(command) as inner:
                yield inner
        except WorkerNotStarted:
            self.failed = True
            raise


@breaks("HF-START-5")
class RaisesAnOSError(Changed):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        raise ConnectionRefusedError(111, "Connection refused")
        yield


@breaks("HF-START-6")
class SharesOneWorker(Changed):
    first: Channel | None = None

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        if self.first is not None:
            yield Wrapped(self.first, self)
            return
        async with self.base.open(command) as self.first:
            yield self.first


class ChangedArguments(Changed):
    """Those behind ``sh -c script sh``."""

    def command(self, command):
        return msgspec.structs.replace(
            command, argv=(*command.argv[:4], *self.arguments(command.argv[4:]))
        )


@breaks("HF-ARGV-1")
class SplitsArguments(ChangedArguments):
    def arguments(self, args):
        return " ".join(args).split()


@breaks("HF-ARGV-2")
class JoinsLines(ChangedArguments):
    def arguments(self, args):
        return [arg.replace("\n", " ") for arg in args]


@breaks("HF-ARGV-3")
class SpeaksAscii(ChangedArguments):
    def arguments(self, args):
        return [arg.encode("ascii", "replace").decode() for arg in args]


@breaks("HF-ARGV-4")
class DropsEmptyArguments(ChangedArguments):
    def arguments(self, args):
        return filter(None, args)


@breaks("HF-ARGV-5")
class ExpandsArguments(ChangedArguments):
    def arguments(self, args):
        return [os.path.expandvars(arg) for arg in args]


@breaks("HF-ARGV-6")
class CutsArguments(ChangedArguments):
    def arguments(self, args):
        return [arg[:4096] for arg in args]


@breaks("HF-ENV-1")
class ForgetsTheEnvironment(Changed):
    def command(self, command):
        return msgspec.structs.replace(command, env={})


@breaks("HF-ENV-2")
class AlwaysInherits(Changed):
    def command(self, command):
        return msgspec.structs.replace(command, inherit_env=True)


@breaks("HF-ENV-3")
class CutsValuesAtTheNewline(Changed):
    def command(self, command):
        env = {name: value.partition("\n")[0] for name, value in command.env.items()}
        return msgspec.structs.replace(command, env=env)


@breaks("HF-ENV-4")
class DropsEmptyValues(Changed):
    def command(self, command):
        env = {name: value for name, value in command.env.items() if value}
        return msgspec.structs.replace(command, env=env)


@breaks("HF-ENV-5")
class OnlyAddsVariables(Changed):
    def command(self, command):
        env = {name: value for name, value in command.env.items() if name not in os.environ}
        return msgspec.structs.replace(command, env=env)


@breaks("HF-CWD-1")
class StaysWhereItIs(Changed):
    def command(self, command):
        return msgspec.structs.replace(command, cwd=None)


@breaks("HF-CWD-2")
class DoesNotQuoteTheDirectory(Changed):
    def command(self, command):
        return msgspec.structs.replace(command, cwd=command.cwd and command.cwd.split()[0])


# -- bytes -----------------------------------------------------------------------------------


@breaks("HF-SEND-1")
class SendsAsATerminal(Wrapped):
    async def send(self, data):
        await self.inner.send(data.replace(b"\r", b"\n"))


@breaks("HF-SEND-2", patience=0.1)
class SendsWhatFits(Wrapped):
    async def send(self, data):
        await self.inner.send(data[: 1024 * 1024])


@breaks("HF-SEND-3")
class Overtakes(Wrapped):
    held = b""

    async def send(self, data):
        if self.held:
            held, self.held = self.held, b""
            await self.inner.send(data + held)
        else:
            self.held = data
            await anyio.lowlevel.checkpoint()


@breaks("HF-SEND-4")
class TakesNothingForTheEnd(Wrapped):
    async def send(self, data):
        await (self.inner.send(data) if data else self.inner.send_eof())


@breaks("HF-SEND-5")
class Hoards(Wrapped):
    def __init__(self, inner, transport):
        super().__init__(inner, transport)
        self.hoard = []

    async def send(self, data):
        self.hoard.append(data[self.inner.send_nowait(data) :])
        await anyio.lowlevel.checkpoint()


@breaks("HF-SEND-6")
class GivesUpOnAStalledReader(Wrapped):
    async def send(self, data):
        with anyio.move_on_after(0.2):
            await self.inner.send(data)


@breaks("HF-SEND-7")
class WaitsForMore(Wrapped):
    held = b""

    async def send(self, data):
        self.held += data
        if len(self.held) > 10:
            await self.inner.send(self.held)
            self.held = b""


@breaks("HF-NOWAIT-1")
class SaysItTookAll(Wrapped):
    def send_nowait(self, data):
        self.inner.send_nowait(data)
        return len(data)


@breaks("HF-NOWAIT-2")
class TakesAllIntoABuffer(Wrapped):
    def send_nowait(self, data):
        return len(data)


@breaks("HF-NOWAIT-3")
class RaisesTheNativeErrorAtOnce(Wrapped):
    def send_nowait(self, data):
        try:
            return self.inner.send_nowait(data)
        except TransportBroken as broken:
            raise broken.native from None


@breaks("HF-RECV-1")
class ReceivesText(Wrapped):
    async def receive(self, max_bytes=65536):
        return (await self.inner.receive(max_bytes)).decode("utf-8", "replace").encode()


@breaks("HF-RECV-2")
class IgnoresTheBound(Wrapped):
    async def receive(self, max_bytes=65536):
        return await self.inner.receive()


@breaks("HF-RECV-3")
class GivesAtOnceWhatItHas(Wrapped):
    has = b""

    async def receive(self, max_bytes=65536):
        self.has = self.has or await self.inner.receive()
        data, self.has = self.has[:max_bytes], self.has[max_bytes:]
        return data


@breaks("HF-RECV-4", patience=10)
class ReadsAhead(Wrapped):
    async def receive_stderr(self, max_bytes=65536):
        async def read_ahead():
            while await self.inner.receive():
                pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_ahead)
            data = await self.inner.receive_stderr(max_bytes)
            tasks.cancel_scope.cancel()
        return data


@breaks("HF-RECV-5")
class WaitsForANewline(Wrapped):
    async def receive(self, max_bytes=65536):
        data = await self.inner.receive(max_bytes)
        while data and b"\n" not in data:
            more = await self.inner.receive(max_bytes)
            if not more:
                break
            data += more
        return data


@breaks("HF-FORWARD-1")
class ForwardsWholePieces(Wrapped):
    async def forward(self, take, max_bytes=65536):
        await self.inner.forward(take, 65536)


@breaks("HF-FORWARD-2", patience=0.2)
class ForwardsToWhoeverIsBusy(Wrapped):
    async def forward(self, take, max_bytes=65536):
        async with anyio.create_task_group() as tasks:
            while data := await self.inner.receive(max_bytes):
                if (slow := take(data)) is not None:
                    tasks.start_soon(_wait_for, slow)


async def _wait_for(slow):
    await slow


@breaks("HF-FORWARD-3")
class ForgetsWhatItReadForTheTaker(Wrapped):
    async def forward(self, take, max_bytes=65536):
        while data := await self.inner.receive(max_bytes):
            await anyio.lowlevel.checkpoint()
            take(data)


@breaks("HF-FORWARD-4", patience=0.2)
class ForwardEndsAtOurClose(Wrapped):
    async def forward(self, take, max_bytes=65536):
        with suppress(ChannelClosed):
            await self.inner.forward(take, max_bytes)


@breaks("HF-DUPLEX-1", patience=0.1)
class CutsLongLines(Wrapped):
    size = 0

    async def receive(self, max_bytes=65536):
        while data := await self.inner.receive(max_bytes):
            kept = b""
            for piece in data.splitlines(keepends=True):
                kept += piece if self.size < 256 * 1024 or piece == b"\n" else b""
                self.size = 0 if piece.endswith(b"\n") else self.size + len(piece)
            if kept:
                return kept
        return data


@breaks("HF-DUPLEX-2")
class OneAtATime(Wrapped):
    def __init__(self, inner, transport):
        super().__init__(inner, transport)
        self.lock = anyio.Lock()

    async def send(self, data):
        async with self.lock:
            await self.inner.send(data)

    async def receive(self, max_bytes=65536):
        async with self.lock:
            return await self.inner.receive(max_bytes)


@breaks("HF-STDERR-1")
class MixesStderrIn(Changed):
    def command(self, command):
        sh, c, script, *rest = command.argv
        return Command((sh, c, f"exec 2>&1; {script}", *rest))


@breaks("HF-STDERR-2")
class EndsStderrOnce(Wrapped):
    ended = False

    async def receive_stderr(self, max_bytes=65536):
        if self.ended:
            raise anyio.EndOfStream
        data = await self.inner.receive_stderr(max_bytes)
        self.ended = not data
        return data


@breaks("HF-STDERR-3", patience=0.1)
class KeepsTheBeginningOfStderr(Wrapped):
    size = 0

    async def receive_stderr(self, max_bytes=65536):
        data = await self.inner.receive_stderr(max_bytes)
        self.size += len(data)
        return data if self.size < 1024 * 1024 else b""


@breaks("HF-STDERR-4")
class TakesTheEndOfStderrForTheEnd(Wrapped):
    ended = False

    async def receive_stderr(self, max_bytes=65536):
        data = await self.inner.receive_stderr(max_bytes)
        self.ended = not data
        return data

    async def receive(self, max_bytes=65536):
        return b"" if self.ended else await self.inner.receive(max_bytes)


@breaks("HF-STDERR-5")
class IgnoresTheBoundOfStderr(Wrapped):
    async def receive_stderr(self, max_bytes=65536):
        return await self.inner.receive_stderr()


# -- end -------------------------------------------------------------------------------------


@breaks("HF-EOF-1")
class SendsNoEnd(Wrapped):
    async def send_eof(self):
        await anyio.lowlevel.checkpoint()


@breaks("HF-EOF-2")
class ClosesBothWays(Wrapped):
    ended = False

    async def send_eof(self):
        await self.inner.send_eof()
        self.ended = True

    async def receive(self, max_bytes=65536):
        if self.ended:
            with anyio.move_on_after(0.2):
                return await self.inner.receive(max_bytes)
            return b""
        return await self.inner.receive(max_bytes)


@breaks("HF-EOF-3")
class EndsOnlyOnce(Wrapped):
    ended = False

    async def send_eof(self):
        if self.ended:
            raise ChannelClosed("it was ended already")
        self.ended = True
        await self.inner.send_eof()


@breaks("HF-EOF-4")
class TakesOurOwnEndForALoss(Wrapped):
    async def send(self, data):
        try:
            await self.inner.send(data)
        except ChannelClosed:
            raise TransportBroken(Operation.SEND, OSError(9, "Bad file descriptor")) from None


@breaks("HF-EOF-5")
class RaisesTheNativeErrorAtTheEnd(Wrapped):
    async def send_eof(self):
        await self.inner.wait()
        raise BrokenPipeError(32, "Broken pipe")


class SendEofDoesNothing(Wrapped):
    async def send_eof(self):
        await anyio.lowlevel.checkpoint()


@breaks("HF-CAP-1")
class IgnoresWhatItCannotDo(Changed):
    capabilities = LocalTransport.capabilities & ~Capability.HALF_CLOSE

    def wrap(self, channel):
        return SendEofDoesNothing(channel, self)


@breaks("HF-END-1")
class DropsTheLastWords(Wrapped):
    async def receive(self, max_bytes=65536):
        with anyio.move_on_after(0.02):
            await self.inner.wait()
            return b""
        return await self.inner.receive(max_bytes)


@breaks("HF-END-2")
class EndsOnceOnly(Wrapped):
    ended = False

    async def receive(self, max_bytes=65536):
        if self.ended:
            raise anyio.EndOfStream
        data = await self.inner.receive(max_bytes)
        self.ended = not data
        return data


@breaks("HF-END-3")
class EndsWithTheProcess(Wrapped):
    async def receive(self, max_bytes=65536):
        data = await self.inner.receive(max_bytes)
        if not data:
            await self.inner.wait()
        return data


@breaks("HF-END-4")
class TakesSilenceForTheEnd(Wrapped):
    async def receive(self, max_bytes=65536):
        with anyio.move_on_after(0.05):
            return await self.inner.receive(max_bytes)
        return b""


@breaks("HF-END-5")
class EndsStderrWithTheProcess(Wrapped):
    async def receive_stderr(self, max_bytes=65536):
        data = await self.inner.receive_stderr(max_bytes)
        if not data:
            await self.inner.wait()
        return data


@breaks("HF-EXIT-1")
class ReturncodeOrMinusOne(Wrapped):
    async def wait(self):
        return Exit(code=(await self.inner.wait()).code or -1)


@breaks("HF-EXIT-2")
class ReportsSignalsAsNegativeCodes(Wrapped):
    async def wait(self):
        exit = await self.inner.wait()
        return Exit(code={"SIGKILL": -9, "SIGTERM": -15}[exit.signal])


class AlwaysSucceeds(Wrapped):
    async def wait(self):
        await self.inner.wait()
        return Exit(code=0)


@breaks("HF-EXIT-3")
class TakesNoReportForSuccess(Changed):
    capabilities = LocalTransport.capabilities & ~Capability.EXIT_STATUS

    def wrap(self, channel):
        return AlwaysSucceeds(channel, self)


@breaks("HF-WAIT-1")
class TellsTheExitOnce(Wrapped):
    told = False

    async def wait(self):
        exit = await self.inner.wait()
        if self.told:
            return Exit()
        self.told = True
        return exit


@breaks("HF-WAIT-2")
class CannotWaitAfterTheClose(Wrapped):
    closed = False

    async def aclose(self):
        self.closed = True
        await self.inner.aclose()

    async def wait(self):
        if self.closed:
            raise ChannelClosed("this channel was closed by our side")
        return await self.inner.wait()


@breaks("HF-WAIT-3")
class WaitsForTheEndOfStdout(Wrapped):
    async def wait(self):
        while await self.inner.receive():
            pass
        return await self.inner.wait()


@breaks("HF-WAIT-4")
class WaitsForAReader(Wrapped):
    def __init__(self, inner, transport):
        super().__init__(inner, transport)
        self.read = anyio.Event()

    async def receive(self, max_bytes=65536):
        data = await self.inner.receive(max_bytes)
        if not data:
            self.read.set()
        return data

    async def wait(self):
        await self.read.wait()
        return await self.inner.wait()


@breaks("HF-WAIT-5")
class ClosesWhenAWaitIsCancelled(Wrapped):
    async def wait(self):
        try:
            return await self.inner.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.inner.aclose()
            raise


@breaks("HF-SIGNAL-1")
class KnowsOneSignal(Wrapped):
    async def signal(self, signal):
        await self.inner.signal(Signal.TERM)


@breaks("HF-SIGNAL-2")
class IsTooPolite(Wrapped):
    async def signal(self, signal):
        await self.inner.signal(Signal.TERM if signal is Signal.KILL else signal)


@breaks("HF-SIGNAL-3")
class SignalsOneProcess(Wrapped):
    async def signal(self, signal):
        os.kill(self.inner._process._pid, 15)


@breaks("HF-SIGNAL-4")
class MissesTheProcess(Wrapped):
    async def signal(self, signal):
        await self.inner.wait()
        raise TransportBroken(Operation.SIGNAL, ProcessLookupError(3, "No such process"))


# -- broken ----------------------------------------------------------------------------------


@breaks("HF-BROKEN-1")
class SwallowsTheLoss(Wrapped):
    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken:
            await anyio.lowlevel.checkpoint()


class ChangedLoss(Wrapped):
    """Raises another error than the first TransportBroken."""

    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken as broken:
            raise self.loss(broken) from broken.native


@breaks("HF-BROKEN-2")
class SaysItInItsOwnWords(ChangedLoss):
    def loss(self, broken):
        broken.detail = "the pipe is broken"
        return broken


@breaks("HF-BROKEN-3")
class ShowsTheWrapper(Wrapped):
    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken as broken:
            wrapper = anyio.BrokenResourceError()
            wrapper.__cause__ = broken.native
            raise TransportBroken(Operation.SEND, wrapper) from wrapper


@breaks("HF-BROKEN-4")
class TellsAnotherCauseLater(Wrapped):
    met = False

    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken:
            if self.met:
                other = OSError(9, "Bad file descriptor")
                raise TransportBroken(Operation.SEND, other) from other
            self.met = True
            raise


@breaks("HF-BROKEN-5")
class NamesTheFirstOperation(Wrapped):
    async def send_eof(self):
        try:
            await self.inner.send_eof()
        except TransportBroken as broken:
            raise broken.during(Operation.SEND) from broken.native


class StopsReceiving(Wrapped):
    met: TransportBroken | None = None

    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken as broken:
            self.met = broken
            raise


@breaks("HF-BROKEN-6")
class ForgetsWhatArrived(StopsReceiving):
    async def receive(self, max_bytes=65536):
        if self.met:
            raise self.met.during(Operation.RECEIVE)
        return await self.inner.receive(max_bytes)


@breaks("HF-BROKEN-7")
class CannotWaitAfterALoss(StopsReceiving):
    async def wait(self):
        if self.met:
            raise self.met.during(Operation.WAIT)
        return await self.inner.wait()


@breaks("HF-BROKEN-8")
class TakesItForDead(ChangedLoss):
    def loss(self, broken):
        return TransportBroken(Operation.SEND, broken.native, worker=Fate.GONE, exit=Exit(code=0))


@breaks("HF-BROKEN-9", patience=0.4)
class HangsInASend(Wrapped):
    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken:
            await anyio.sleep_forever()


# -- link ------------------------------------------------------------------------------------


@breaks("HF-LINK-1")
class TakesTheLossForTheEnd(Wrapped):
    async def receive(self, max_bytes=65536):
        try:
            return await self.inner.receive(max_bytes)
        except TransportBroken:
            return b""


@breaks("HF-FORWARD-5")
class ForwardTakesTheLossForTheEnd(Wrapped):
    async def forward(self, take, max_bytes=65536):
        with suppress(TransportBroken):
            await self.inner.forward(take, max_bytes)


@breaks("HF-LINK-2")
class ForgetsWhatCameOverTheLink(Wrapped):
    async def receive(self, max_bytes=65536):
        if self.inner.lost:
            self.inner.arrived = b""
        return await self.inner.receive(max_bytes)


@breaks("HF-LINK-3")
class LeavesAPendingReceiveAlone(Wrapped):
    async def receive(self, max_bytes=65536):
        linked = not self.inner.lost
        try:
            return await self.inner.receive(max_bytes)
        except TransportBroken:
            if linked:
                await anyio.sleep_forever()
            raise


@breaks("HF-LINK-4")
class SendsIntoTheVoid(SwallowsTheLoss):
    pass


@breaks("HF-LINK-5")
class FindsAnotherCauseForASend(Wrapped):
    async def send(self, data):
        try:
            await self.inner.send(data)
        except TransportBroken:
            other = BrokenPipeError(32, "Broken pipe")
            raise TransportBroken(Operation.SEND, other) from other


@breaks("HF-LINK-6")
class KnowsTheWorkerIsGone(Wrapped):
    async def receive(self, max_bytes=65536):
        try:
            return await self.inner.receive(max_bytes)
        except TransportBroken as broken:
            raise TransportBroken(
                Operation.RECEIVE, broken.native, cause=broken.cause, worker=Fate.GONE
            ) from broken.native


@breaks("HF-LINK-7")
class ReportsMinusOne(Wrapped):
    async def wait(self):
        exit = await self.inner.wait()
        return exit if exit.reported else Exit(code=-1)


@breaks("HF-LINK-8")
class SaysGoodbyeOverTheLink(Wrapped):
    async def aclose(self):
        if self.inner.lost:
            with anyio.move_on_after(8):
                await anyio.sleep_forever()
        await self.inner.aclose()


@breaks("HF-LINK-9")
class NeverConnectsAgain(Changed):
    used = False

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        if self.used:
            raise TransportUnavailable("the connection is gone")
        self.used = True
        async with LinkedTransport().open(command) as channel:
            yield channel


@breaks("HF-STDERR-6")
class TakesTheLossForTheEndOfStderr(Wrapped):
    async def receive_stderr(self, max_bytes=65536):
        try:
            return await self.inner.receive_stderr(max_bytes)
        except TransportBroken:
            return b""


@breaks("HF-SILENT-1", patience=0.1)
class HearsNoSilence(Wrapped):
    async def receive(self, max_bytes=65536):
        try:
            return await self.inner.receive(max_bytes)
        except TransportBroken:
            await anyio.sleep_forever()


# -- cancelling and closing ------------------------------------------------------------------


@breaks("HF-CANCEL-1")
class LosesWhatItRead(Wrapped):
    async def receive(self, max_bytes=65536):
        data = await self.inner.receive(max_bytes)
        await anyio.lowlevel.checkpoint()
        return data


@breaks("HF-CANCEL-2")
class LosesWhatItReadOfStderr(Wrapped):
    async def receive_stderr(self, max_bytes=65536):
        data = await self.inner.receive_stderr(max_bytes)
        await anyio.lowlevel.checkpoint()
        return data


@breaks("HF-CANCEL-3")
class CannotBeCancelled(Wrapped):
    async def wait(self):
        with anyio.move_on_after(1, shield=True):
            return await self.inner.wait()
        return await self.inner.wait()


@breaks("HF-CANCEL-4")
class ClosesBehindTheSend(Wrapped):
    sending = False

    async def send(self, data):
        self.sending = True
        await self.inner.send(data)
        self.sending = False

    async def aclose(self):
        if self.sending:
            with anyio.move_on_after(8):
                await anyio.sleep_forever()
        await self.inner.aclose()


class LeavesItOpen(Changed):
    """Opens a channel that nothing but ``LEFTOVERS`` closes."""

    @asynccontextmanager
    async def leave_open(self, command: Command) -> AsyncIterator[Channel]:
        context = self.base.open(command)
        inner = await context.__aenter__()
        LEFTOVERS.append(lambda: context.__aexit__(None, None, None))
        yield inner


@breaks("HF-CANCEL-5")
class ClosesOnlyInPeace(LeavesItOpen):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.leave_open(command) as inner:
            yield inner
            await inner.aclose()


@breaks("HF-CANCEL-6", patience=0.1)
class KeepsItsLock(Changed):
    def __init__(self):
        super().__init__()
        self.free = anyio.Semaphore(1)

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        await self.free.acquire()
        await anyio.sleep(0.05)
        async with self.base.open(command) as inner:
            self.free.release()
            yield inner


@breaks("HF-CLOSE-1")
class ClosesOnce(Wrapped):
    closed = False

    async def aclose(self):
        if self.closed:
            raise ChannelClosed("it was closed already")
        self.closed = True
        await self.inner.aclose()


@breaks("HF-CLOSE-2")
class ClosesForOne(Wrapped):
    closing = False

    async def aclose(self):
        if self.closing:
            raise anyio.BusyResourceError("closing")
        self.closing = True
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            await self.inner.aclose()
            self.closing = False


@breaks("HF-CLOSE-3")
class AsksBeforeItCloses(Wrapped):
    async def aclose(self):
        try:
            await self.inner.signal(Signal.TERM)
            with anyio.move_on_after(8):
                await self.inner.wait()
        finally:
            await self.inner.aclose()


@breaks("HF-CLOSE-4")
class ClosesAfterACheckpoint(Wrapped):
    async def aclose(self):
        await anyio.lowlevel.checkpoint()
        await self.inner.aclose()


@breaks("HF-CLOSE-5")
class TakesOurCloseForTheEnd(Wrapped):
    closed = False

    async def aclose(self):
        self.closed = True
        await self.inner.aclose()

    async def receive(self, max_bytes=65536):
        pending = not self.closed
        try:
            return await self.inner.receive(max_bytes)
        except ChannelClosed:
            if pending:
                return b""
            raise


@breaks("HF-CLOSE-6")
class EndsAfterTheClose(Wrapped):
    async def receive(self, max_bytes=65536):
        try:
            return await self.inner.receive(max_bytes)
        except ChannelClosed:
            return b""


@breaks("HF-CLOSE-7")
class LeavesTheClosingToOthers(LeavesItOpen):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.leave_open(command) as inner:
            yield inner


@breaks("HF-CLOSE-8")
class SwallowsErrors(Changed):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.base.open(command) as inner:
            with suppress(Exception):
                yield inner


@breaks("HF-CLOSE-9")
class TransportClosesOnce(Changed):
    closed = False

    async def aclose(self):
        if self.closed:
            raise RuntimeError("it was closed already")
        self.closed = True


class ClosedInName(Wrapped):
    """Says that it is closed; the worker is left to ``LEFTOVERS``."""

    closed = False

    async def aclose(self):
        if not self.closed:
            self.closed = True
            await self.end()

    async def end(self):
        await self.inner.signal(Signal.TERM)


@breaks("HF-REAP-1")
class EndsByTerm(LeavesItOpen):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.leave_open(command) as inner:
            yield ClosedInName(inner, self)


class EndsTheLeader(ClosedInName):
    async def end(self):
        os.kill(self.inner._process._pid, 9)
        await self.inner.wait()


@breaks("HF-REAP-2")
class LeavesTheGroup(LeavesItOpen):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.leave_open(command) as inner:
            yield EndsTheLeader(inner, self)


# -- many ------------------------------------------------------------------------------------


class Leaks(Changed):
    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        self.leak()
        async with self.base.open(command) as inner:
            yield inner


@breaks("HF-LEAK-1")
class LeaksThreads(Leaks):
    def leak(self):
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        LEFTOVERS.extend([end.set, thread.join])


@breaks("HF-LEAK-2")
class LeaksDescriptors(Leaks):
    def leak(self):
        descriptor = os.open("/dev/null", os.O_RDONLY)
        LEFTOVERS.append(lambda: os.close(descriptor))


@breaks("HF-LEAK-3")
class LeaksTasks(Leaks):
    def leak(self):
        if sniffio.current_async_library() == "asyncio":
            LEFTOVERS.append(asyncio.create_task(asyncio.sleep(1000)).cancel)
        else:
            scope = trio.CancelScope()

            async def sleep():
                with scope:
                    await trio.sleep_forever()

            trio.lowlevel.spawn_system_task(sleep)
            LEFTOVERS.append(scope.cancel)


@breaks("HF-LEAK-4")
class LeaksProcesses(Leaks):
    def leak(self):
        process = subprocess.Popen(["sleep", "1000"])
        LEFTOVERS.extend([process.kill, process.wait])


@breaks("HF-LEAK-5")
class LeaksFiles(Leaks):
    def leak(self):
        tempfile.mkdtemp()


@breaks("HF-LEAK-6")
class NeverClosesItsConnection(Changed):
    connection: int | None = None

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        if self.connection is None:
            self.connection = descriptor = os.open("/dev/null", os.O_RDONLY)
            LEFTOVERS.append(lambda: os.close(descriptor))
        async with self.base.open(command) as inner:
            yield inner


@breaks("HF-MANY-1", patience=0.1)
class SendsOneAfterAnother(Changed):
    def __init__(self):
        super().__init__()
        self.lock = anyio.Lock()

    def wrap(self, channel):
        lock = self.lock

        class Locked(Wrapped):
            async def send(self, data):
                async with lock:
                    await self.inner.send(data)

        return Locked(channel, self)


@breaks("HF-MANY-2")
class ClosesThemAll(Changed):
    def __init__(self):
        super().__init__()
        self.channels = []

    def wrap(self, channel):
        self.channels.append(channel)
        everybody = self.channels

        class One(Wrapped):
            async def aclose(self):
                for each in everybody:
                    await each.aclose()

        return One(channel, self)


@breaks("HF-MANY-3", patience=0.1)
class TenAtMost(Changed):
    def __init__(self):
        super().__init__()
        self.free = anyio.Semaphore(10)

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self.free, self.base.open(command) as inner:
            yield inner
