"""An ``ssh`` program that holds a connection for us, and what it says when it cannot.

All of this blocks, and runs in threads.
"""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast import Cause, Fate, InvalidTarget, Operation, TransportBroken, TransportUnavailable

from . import _mux
from ._words import last_words, loss, unavailable

if TYPE_CHECKING:
    from ._settings import Settings

_WORDS: Final = 8 * 1024
"""Bytes to keep of what ssh says: its last words, and no flood of a ProxyCommand."""

_LOOK: Final = 0.01
"""Seconds between looks for the control socket, which ssh makes when it has logged in."""

_LAST_WORDS: Final = 2.0
"""Seconds for ssh to end after its control socket was closed; it does so at once."""

_POLITE: Final = 1.0
"""Seconds for ssh to say goodbye to the server; over a silent link it never could."""

_REAPED: Final = "it is over"
"""All that is known if somebody else in this program took its exit: its number may be another's."""

_SOCKET_PATH: Final = 103
"""Bytes of a Unix socket's path on the strictest system (macOS)."""

# The program takes the shell's place. The reader beside it holds the other end of a pipe of ours:
# should we be killed, no ssh without an owner stays connected for ever.
_WITH_US: Final = (
    "exec 3<&0; "
    '(read -r hf_x; kill $$; sleep 1; rm -f "$0/s"; rmdir "$0") <&3 >/dev/null 2>&1 & '
    'exec "$@" </dev/null 3<&-'
)

# -- the command line --------------------------------------------------------------------------


def _option(name: str, value: object) -> str:
    return f"-o{name}={value}"


def _path(path: Path) -> str:
    """A path as the value of an option: ssh expands ``%``, and splits at blanks."""
    return '"' + str(path.expanduser()).replace("%", "%%") + '"'


def destination(settings: Settings) -> list[str]:
    """The arguments that say which host, and how it is configured.

    Raises:
        InvalidTarget: The name could be taken for something else.
    """
    for name in (settings.host, settings.user or ""):
        if name.startswith("-") or not name.isprintable() or any(map(str.isspace, name)):
            raise InvalidTarget(f"not a name of a host or a user: {name!r}")
    arguments = []
    if settings.config is not None:
        arguments += ["-F", str(settings.config.expanduser())]
    if settings.port is not None:
        arguments += ["-p", str(settings.port)]
    if settings.user is not None:
        arguments += ["-l", settings.user]
    for path in settings.identity:
        arguments.append(_option("IdentityFile", _path(path)))
    if settings.identity:
        arguments.append(_option("IdentitiesOnly", "yes"))
    if settings.known_hosts is not None:
        arguments.append(_option("UserKnownHostsFile", _path(settings.known_hosts)))
        arguments.append(_option("GlobalKnownHostsFile", "/dev/null"))
    if settings.host_keys is not None:
        known = {"strict": "yes", "accept-new": "accept-new"}
        arguments.append(_option("StrictHostKeyChecking", known[settings.host_keys]))
    return arguments


def _patience(settings: Settings) -> list[str]:
    """How ssh is to see that the link is silent: in whole seconds, as it counts them.

    It asks after an interval of silence, again after each further one, and gives up at the end of
    the interval in which the count was used up.
    """
    interval = math.ceil(settings.heartbeat)
    count = math.ceil(settings.deadline / interval) if interval else 1
    return [_option("ServerAliveInterval", interval), _option("ServerAliveCountMax", count)]


_NOTHING_ELSE: Final = [
    "-M", "-N", "-T", "-a", "-x",
    *(
        _option(name, value)
        for name, value in {
            "BatchMode": "yes",  # whom could it ask?
            "ClearAllForwardings": "yes",
            "ControlPersist": "no",
            "EscapeChar": "none",
            "ForkAfterAuthentication": "no",
            "LogLevel": "INFO",  # its failures are read from what it says
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "Tunnel": "no",
        }.items()
    ),
]  # fmt: skip
"""The connection and nothing beside it, whatever the user's configuration adds for terminals."""


def program() -> str:
    """The path of ssh.

    Raises:
        TransportUnavailable: There is none.
    """
    if (found := shutil.which("ssh")) is None:
        raise TransportUnavailable(
            "there is no ssh program here: apt install openssh-client (or use ?client=paramiko)"
        )
    return found


# -- the process -------------------------------------------------------------------------------


class Master:
    """An ``ssh`` of ours that listens on a control socket of its own.

    Attributes:
        path: The control socket.
        monitor: A connection to it, whose end is that of the master.
    """

    monitor: socket.socket

    def __init__(self, settings: Settings) -> None:
        """Connect and log in.

        Raises:
            TransportUnavailable: What went wrong, and what to do next.
            InvalidTarget: The host's name or the like cannot be used.
        """
        command = [program(), *_NOTHING_ELSE, *_patience(settings), *destination(settings)]
        # A second less than ours, so that it can say what it was that took so long.
        command.append(_option("ConnectTimeout", max(1, math.ceil(settings.timeout) - 1)))
        self._said = b""
        self._pidfd = -1
        self._folder = _private_folder()
        try:
            self.path = f"{self._folder}/s"
            command += ["-S", self.path.replace("%", "%%"), "--", settings.host]
            self._process = subprocess.Popen(
                ["sh", "-c", _WITH_US, self._folder, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        try:
            assert self._process.stderr is not None
            self._stderr = self._process.stderr.fileno()
            os.set_blocking(self._stderr, False)
            with suppress(AttributeError, OSError):  # not Linux, or a sandbox that forbids it
                self._pidfd = os.pidfd_open(self._process.pid)
            self._log_in(settings)
        except BaseException:
            self.close()
            raise

    def _log_in(self, settings: Settings) -> None:
        deadline = time.monotonic() + settings.timeout
        while not Path(self.path).exists():
            if self._ended() is not None:
                self._listen(0)
                raise unavailable(settings.where, self._text(), str(self._ended()))
            if time.monotonic() > deadline:
                raise TransportUnavailable(
                    f"{settings.where} did not let us in within {settings.timeout:g} s; does the "
                    f"login wait for somebody (a touch, a PIN), or a ProxyCommand for something? "
                    f"{last_words(self._text())} (?timeout=)"
                )
            self._listen(_LOOK)
        try:
            self.monitor = _mux.greet(self.path, max(0.1, deadline - time.monotonic()))
        except OSError as error:
            self._wait_for_the_end()
            raise unavailable(settings.where, self._text(), str(error)) from error
        self._said = b""  # a banner, say; from here on it speaks of the connection only

    def _text(self) -> str:
        return self._said.decode("utf-8", "replace")

    def _listen(self, seconds: float) -> None:
        """Take in what ssh says, for this time at most."""
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        if poll.poll(seconds * 1000):
            with suppress(BlockingIOError):
                while data := os.read(self._stderr, 65536):
                    self._said = (self._said + data)[-_WORDS:]
                time.sleep(seconds)  # it closed its stderr, and lives for a moment yet

    def _ended(self) -> str | None:
        """How it ended; it stays a zombie, so that no other process gets its number."""
        with suppress(ChildProcessError):
            result = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is None:
                return None
            if result.si_code == os.CLD_EXITED:
                return f"it exited with code {result.si_status}"
            return f"it was killed by {signal.Signals(result.si_status).name}"
        return _REAPED

    def _wait_for_the_end(self) -> str | None:
        until = time.monotonic() + _LAST_WORDS
        while (ended := self._ended()) is None and time.monotonic() < until:
            self._listen(_LOOK)
        self._listen(0)
        return ended

    def watch(self, seconds: float) -> bool:
        """Take in what it says, until it is gone or the time is over; whether it is gone."""
        poll = select.poll()
        for fd in (self.monitor.fileno(), self._stderr, self._pidfd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready = [fd for fd, _ in poll.poll(left * 1000)]
            if self._stderr in ready:
                self._listen(0)
                if len(ready) == 1 and self._stderr_closed():
                    poll.unregister(self._stderr)
            if self._pidfd in ready or _mux.hung_up(self.monitor):
                return True
        return False

    def _stderr_closed(self) -> bool:
        poll = select.poll()
        poll.register(self._stderr, 0)
        return bool(poll.poll(0))

    def why(self) -> TransportBroken:
        """What its end means for the workers."""
        ended = self._wait_for_the_end()
        return loss(self._text(), ended or "it closed its control socket and lives")

    def hang_up(self) -> None:
        """Have :meth:`watch` end."""
        with suppress(OSError):
            self.monitor.shutdown(socket.SHUT_RDWR)

    def _kill(self, kill: Callable[[int, int], None], number: int) -> None:
        if self._process.returncode is None and self._ended() != _REAPED:
            with suppress(ProcessLookupError, PermissionError):
                kill(self._process.pid, number)

    def close(self) -> None:
        """End it, at first politely, and leave nothing of it behind."""
        self._kill(os.kill, signal.SIGTERM)
        until = time.monotonic() + _POLITE
        while self._ended() is None and time.monotonic() < until:
            time.sleep(0.002)
        self._kill(os.killpg, signal.SIGKILL)  # a ProxyCommand, and our reader, too
        self._process.wait()
        for stream in (self._process.stdin, self._process.stderr):
            if stream is not None:
                stream.close()
        if hasattr(self, "monitor"):
            self.monitor.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        shutil.rmtree(self._folder, ignore_errors=True)


class Borrowed:
    """A master that the user started. It is neither ours to end, nor does it tell us why it ends.

    Attributes:
        path: The control socket.
        monitor: A connection to it, whose end is that of the master.
    """

    def __init__(self, path: str, monitor: socket.socket) -> None:
        self.path = path
        self.monitor = monitor

    def watch(self, seconds: float) -> bool:
        """Wait until it is gone or the time is over; whether it is gone."""
        poll = select.poll()
        poll.register(self.monitor, select.POLLIN)
        return bool(poll.poll(seconds * 1000)) and _mux.hung_up(self.monitor)

    def why(self) -> TransportBroken:
        """What its end means for the workers: it said why on the user's terminal, if at all."""
        words = f"the ControlMaster at {self.path}, which is not ours, is gone"
        return TransportBroken(
            Operation.RECEIVE,
            ConnectionResetError(words),
            cause=Cause.LINK_LOST,
            worker=Fate.MAYBE_ALIVE,
        )

    def hang_up(self) -> None:
        """Have :meth:`watch` end."""
        with suppress(OSError):
            self.monitor.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave it alone."""
        self.monitor.close()


def borrow(settings: Settings) -> Borrowed | None:
    """The master that the user runs for this host, if there is one that we may rely on.

    A login with a second factor is then not asked for again. Who expects silent links to be
    noticed (``heartbeat``) is given it only if the user's configuration says that it notices them
    (``ServerAliveInterval``): a master cannot be asked, nor can we look past it.
    """
    command = [program(), "-G", *destination(settings), "--", settings.host]
    try:
        printed = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=settings.timeout,
        ).stdout.decode("utf-8", "surrogateescape")
    except subprocess.TimeoutExpired:
        return None
    said: dict[str, str] = {}
    for line in printed.splitlines():
        setting, _, value = line.partition(" ")
        said[setting] = value
    path = said.get("controlpath", "none")
    if path == "none" or not Path(path).is_socket():
        return None
    if settings.heartbeat and said.get("serveraliveinterval", "0") == "0":
        return None
    try:
        return Borrowed(path, _mux.greet(path, min(5.0, settings.timeout)))
    except OSError:
        return None


def _private_folder() -> str:
    """A directory for a control socket; ssh needs 17 bytes more while it makes it."""
    folder = tempfile.mkdtemp(prefix="hf-ssh-")
    if len(os.fsencode(folder)) + len("/s.0123456789abcdef") > _SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="hf-ssh-", dir="/tmp")
    return folder
