"""``local:``: a child process of this one, its three standard streams as pipes.

The worker is started in a session and process group of its own, so that a signal reaches all it
started, and a terminal's interrupt none of it. Its exit is read without reaping it: until the
channel is closed the process id stays taken, and no signal can hit a stranger.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import anyio

from holdfast import (
    Capability,
    Channel,
    ChannelClosed,
    Command,
    Exit,
    Operation,
    Signal,
    Transport,
    TransportBroken,
    TransportSpec,
    TransportUnavailable,
    Unsupported,
    WorkerNotStarted,
    hookimpl,
)
from holdfast.pipes import PipeWriter, open_reader

_SIGNALS: Final = {
    Signal.INT: signal.SIGINT,
    Signal.TERM: signal.SIGTERM,
    Signal.KILL: signal.SIGKILL,
    Signal.HUP: signal.SIGHUP,
}

_POLL: Final = 0.02
"""Seconds between looks at the exit where the system has no pidfd."""

_REAP: Final = 2.0
"""Seconds to wait for the exit after SIGKILL: a process that hangs in the kernel is left to it."""


class LocalTransport(Transport):
    """Workers as child processes of this one."""

    capabilities: Capability = (
        Capability.ANY_COMMAND
        | Capability.STDERR
        | Capability.EXIT_STATUS
        | Capability.SIGNALS
        | Capability.HALF_CLOSE
        | Capability.REAPS_WORKER
        | Capability.DETECTS_SILENT_LINK
        | Capability.EARLY_EOF
    )

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        """Start ``command`` as a child process."""
        channel = _LocalChannel(*_spawn(command))
        try:
            yield channel
        finally:
            await channel.aclose()


def _spawn(command: Command) -> tuple[subprocess.Popen[bytes], int, int, int]:
    """Start a child process; gives it with our ends of its stdin, stdout and stderr."""
    env: dict[str, str] | None = None
    if command.env or not command.inherit_env:
        env = {**(os.environ if command.inherit_env else {}), **command.env}
    with ExitStack() as on_failure, ExitStack() as always:
        try:
            pipes = []
            for _ in range(3):
                pipes.append(os.pipe())
                on_failure.callback(os.close, pipes[-1][0])
                on_failure.callback(os.close, pipes[-1][1])
            (stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr) = pipes
            process = subprocess.Popen(
                command.argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=command.cwd,
                env=env,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise _not_started(command, error) from error
        on_failure.pop_all()
        for theirs in (stdin, stdout, stderr):
            always.callback(os.close, theirs)
        for ours in (our_stdin, our_stdout, our_stderr):
            os.set_blocking(ours, False)
    return process, our_stdin, our_stdout, our_stderr


def _not_started(
    command: Command, error: OSError | ValueError
) -> TransportUnavailable | WorkerNotStarted:
    """Why a child process could not be started, and what to do about it."""
    program = command.argv[0]
    if isinstance(error, ValueError):
        return WorkerNotStarted(f"{program!r} cannot be given these arguments: {error}")
    if command.cwd is not None and not Path(command.cwd).is_dir():
        return WorkerNotStarted(f"no such directory: {command.cwd!r}; create it or correct cwd")
    match error.errno:
        case errno.ENOENT if os.sep in program and Path(program).exists():
            text = f"{program!r} names an interpreter that is not there; look at its first line"
        case errno.ENOENT:
            text = f"no such command: {program!r}; install it, or give its path or a longer PATH"
        case errno.EACCES:
            text = f"{program!r} or its directory may not be used; check its mode (chmod +x)"
        case errno.ENOEXEC:
            text = f"{program!r} is no program for this machine; does its first line begin with #!?"
        case errno.E2BIG:
            text = "the arguments and the environment are too long for this system"
        case errno.EAGAIN | errno.ENOMEM | errno.EMFILE | errno.ENFILE:
            return TransportUnavailable(
                f"this system is out of processes, memory or descriptors ({error}): "
                f"stop some sessions or raise its limits (ulimit -a)"
            )
        case _:
            text = f"{program!r} could not be started: {error}"
    return WorkerNotStarted(text)


class _LocalChannel(Channel):
    def __init__(
        self, process: subprocess.Popen[bytes], stdin: int, stdout: int, stderr: int
    ) -> None:
        self._stdin = PipeWriter(stdin)
        self._stdout = open_reader(stdout)
        self._stderr = open_reader(stderr)
        self._process = _Process(process)
        self._broken: TransportBroken | None = None
        self._eof_sent = False
        self._closed = False

    # A pipe breaks in few ways. EPIPE: the worker closed its stdin or is over. The others are
    # said to happen on special files, and mean the same: nobody is there to read.
    _MEANS_BROKEN: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.ENXIO})

    def _fail(self, operation: Operation, error: Exception) -> NoReturn:
        """The one place that says what a native error means."""
        if self._closed or isinstance(error, anyio.ClosedResourceError):
            raise ChannelClosed("this channel was closed by our side") from None
        if not isinstance(error, OSError) or error.errno not in self._MEANS_BROKEN:
            raise error
        if self._broken is None:
            self._broken = TransportBroken(operation, error)
        raise self._broken from error

    def _check(self, operation: Operation) -> None:
        if self._closed:
            raise ChannelClosed("this channel was closed by our side")
        if self._broken is not None:
            raise self._broken.during(operation)

    async def send(self, data: bytes) -> None:
        self._check_stdin(Operation.SEND)
        try:
            await self._stdin.write(data)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.SEND, error)

    def send_nowait(self, data: bytes) -> int:
        if self._closed or self._broken is not None or self._eof_sent:
            self._check_stdin(Operation.SEND)
        try:
            return self._stdin.write_nowait(data)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.SEND, error)

    def _check_stdin(self, operation: Operation) -> None:
        self._check(operation)
        if self._eof_sent:
            raise ChannelClosed("the worker's stdin was closed by our side (send_eof)")

    async def send_eof(self) -> None:
        self._check(Operation.SEND_EOF)
        self._eof_sent = True
        self._stdin.close()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._closed:
            self._check(Operation.RECEIVE)
        try:
            return await self._stdout.read(max_bytes)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.RECEIVE, error)

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        if self._closed:
            self._check(Operation.RECEIVE)
        try:
            await self._stdout.forward(take, max_bytes)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.RECEIVE, error)

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        if self._closed:
            self._check(Operation.RECEIVE_STDERR)
        try:
            return await self._stderr.read(max_bytes)
        except (OSError, anyio.ClosedResourceError) as error:
            self._fail(Operation.RECEIVE_STDERR, error)

    async def signal(self, signal: Signal) -> None:
        if self._closed:
            self._check(Operation.SIGNAL)
        self._process.kill_group(_SIGNALS[signal])

    async def wait(self) -> Exit:
        return await self._process.wait()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with suppress(Unsupported):  # a worker that became somebody else is not ours to kill
                self._process.kill_group(signal.SIGKILL)
            for end in (self._stdin, self._stdout, self._stderr):
                end.close()
        with anyio.move_on_after(_REAP, shield=True):
            await self._process.wait()
        self._process.reap()


class _Process:
    """A child's exit, known before it is reaped."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pid = process.pid
        self._exit: Exit | None = None
        self._reaped = False
        self._one_waits = anyio.Lock()
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it
            self._pidfd = -1

    def kill_group(self, number: int) -> None:
        if self._reaped:
            return
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise Unsupported(
                f"process group {self._pid} belongs to another user now: {error}"
            ) from error

    async def wait(self) -> Exit:
        while True:
            if self._exit is not None:
                return self._exit
            async with self._one_waits:
                if not self._peek():
                    await self._changed()

    async def _changed(self) -> None:
        if self._pidfd >= 0:
            await anyio.wait_readable(self._pidfd)
        else:
            await anyio.sleep(_POLL)

    def _peek(self) -> bool:
        """Look for the exit, and leave the process to be reaped."""
        if self._exit is not None:
            return True
        try:
            result = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # somebody else in this program reaped it
            self._process.poll()  # sees it too, so that it warns of no child that still runs
            self._reaped = True
            self._exit = Exit()
            return True
        if result is None:
            return False
        if result.si_code == os.CLD_EXITED:
            self._exit = Exit(code=result.si_status)
        else:
            dumped = "core dumped" if result.si_code == os.CLD_DUMPED else None
            self._exit = Exit(signal=_signal_name(result.si_status), detail=dumped)
        return True

    def reap(self) -> None:
        if self._pidfd >= 0:
            anyio.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._exit is not None and not self._reaped:
            self._reaped = True
            self._process.wait()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


@hookimpl
def holdfast_transports() -> list[TransportSpec]:
    """``local:``."""
    return [
        TransportSpec(
            scheme="local",
            factory=lambda target: LocalTransport(),
            summary="a process on this machine",
            example="local:",
            capabilities=LocalTransport.capabilities,
        )
    ]
