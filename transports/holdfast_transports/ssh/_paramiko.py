"""SSH connections by paramiko, and the sessions on them, without a thread for each.

paramiko reads in one thread for each connection and lets callers wait on locks. Here that thread
rings (:class:`Ringer`) whenever something changed, and the event loop looks for itself; whatever
might wait on a lock is done in the event loop only if it will not (:meth:`Client.sending`).
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# (pyright brings types of an older paramiko, without its internals; mypy takes it as untyped)

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
import anyio.lowlevel
import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST
from paramiko.message import Message

from holdfast import (
    Cause,
    ChannelClosed,
    Exit,
    Fate,
    Operation,
    TransportBroken,
    TransportUnavailable,
)
from holdfast.wakeup import bell, caller

from .._shell import FOR_ANY_SHELL, PING, PING_EVERY
from ._channel import RemoteChannel
from ._job import Job
from ._pool import SessionRefused
from ._wire import LinkSilent, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._settings import Settings

_LOG: Final = "holdfast.ssh.paramiko"
logging.getLogger(_LOG).addHandler(logging.NullHandler())
# paramiko logs what it also raises as errors, with tracebacks; we say it once, where it belongs.
logging.getLogger(_LOG).setLevel(logging.CRITICAL + 1)

_WINDOW: Final = 2 * 1024 * 1024
"""Bytes that a worker may be ahead of its reader: OpenSSH's own figure."""

_BACKLOG: Final = 128 * 1024
"""Bytes that wait for a full socket before callers wait: enough to keep it busy."""

_AT_ONCE: Final = 16 * 1024
"""Bytes that surely fit into a socket that says it has room: a third of the smallest buffer."""

_PIECES: Final = 32
"""Pieces to hand on in one callback of the event loop, before others have their turn."""

# -- what a native error means: the one place that says it -------------------------------------

_MEANS: Final[tuple[tuple[type[BaseException], Cause], ...]] = (
    (LinkSilent, Cause.LINK_SILENT),  # our heartbeat's deadline, or TCP_USER_TIMEOUT
    (TimeoutError, Cause.LINK_SILENT),  # TCP's own patience
    (EOFError, Cause.LINK_LOST),  # the server's side closed the connection
    (OSError, Cause.LINK_LOST),  # ECONNRESET, EPIPE, EHOSTUNREACH, ...
    (paramiko.SSHException, Cause.LINK_LOST),  # a broken packet, or the server's DISCONNECT
)


def _loss(error: BaseException | None, said: str | None) -> TransportBroken:
    """What the end of a connection means for the workers on it."""
    if said is not None and (error is None or isinstance(error, EOFError)):
        error = paramiko.SSHException(f"the server disconnected: {said}")
    elif error is None or (isinstance(error, EOFError) and not error.args):
        error = EOFError("the SSH server closed the connection")
    cause = next((cause for kind, cause in _MEANS if isinstance(error, kind)), Cause.UNKNOWN)
    return TransportBroken(Operation.RECEIVE, error, cause=cause, worker=Fate.MAYBE_ALIVE)


class Ringer:
    """Lets paramiko's thread tell channels in the event loop that something changed.

    What that thread rings is passed on when it pauses: it holds the interpreter until then, so that
    the event loop would wake up only to wait for it.
    """

    def __init__(self) -> None:
        self._call = caller()
        self._rung: deque[ParamikoChannel] = deque()
        self._called = False
        self.thread: threading.Thread | None = None

    def ring(self, *channels: ParamikoChannel) -> None:
        """Have these channels look again, soon. For any thread."""
        self._rung.extend(channels)
        if threading.current_thread() is not self.thread:
            self.flush()

    def flush(self) -> None:
        """Pass on what was rung."""
        if self._rung and not self._called:
            self._called = True
            with suppress(RuntimeError):  # the event loop is over, and nobody looks any more
                self._call(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # first: what comes from here on calls again
        if len(self._rung) == 1:
            self._rung.popleft().rung()
            return
        rung: dict[ParamikoChannel, None] = {}
        while self._rung:
            rung[self._rung.popleft()] = None
        for channel in rung:
            channel.rung()


# -- what is put into paramiko -----------------------------------------------------------------


class _Inbox(BufferedPipe):
    """What arrived on a channel and is not yet read: the pieces themselves, and no copies."""

    def __init__(self, ring: Callable[[], None]) -> None:
        super().__init__()
        self._ring = ring
        self.pieces: deque[bytes] = deque()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come. Look at this first, and then at the pieces."""
        return bool(self._closed)

    def feed(self, data: bytes) -> None:
        if data:
            self.pieces.append(data)
            self._ring()

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.popleft()
        if len(piece) > nbytes:
            self.pieces.appendleft(piece[nbytes:])
            piece = piece[:nbytes]
        return piece

    def close(self) -> None:
        super().close()
        self._ring()

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


class _RingingCondition(threading.Condition):
    """paramiko's word that the send window grew, or that the channel is closed."""

    def __init__(self, lock: Any, ring: Callable[[], None]) -> None:
        super().__init__(lock)
        self._ring = ring

    def notify_all(self) -> None:
        super().notify_all()
        self._ring()


class _ClearToSend(threading.Event):
    """paramiko's word that no key exchange is going on."""

    def __init__(self, at_set: Callable[[], None]) -> None:
        super().__init__()
        self._at_set = at_set

    def set(self) -> None:
        super().set()
        self._at_set()

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or super().wait(timeout)  # the first is a lock less


class Client(paramiko.Transport):
    """One SSH connection: a heartbeat of our own, signals by name, and no waiting in key exchange.

    Attributes:
        channels: The sessions that are open, by paramiko's channel id.
        loss: Why the connection is gone; ``None`` while it is not.
        under: What carries this connection and ends with it: the hops before, a proxy command.
    """

    def __init__(self, wire: Wire, ringer: Ringer) -> None:
        super().__init__(wire, default_window_size=_WINDOW)
        self.wire = wire
        self.ringer = ringer
        self.channels: dict[int, ParamikoChannel] = {}
        self.loss: TransportBroken | None = None
        self.under: list[Callable[[], object]] = []
        self.set_log_channel(_LOG)
        self._disconnect: str | None = None
        self._late: list[Message] = []
        # Reentrant, so that we can hold it around a look at clear_to_send and a send.
        self.clear_to_send_lock = threading.RLock()
        self.clear_to_send = _ClearToSend(self._keys_exchanged)
        self._channel_handler_table = {
            **paramiko.Transport._channel_handler_table,
            MSG_CHANNEL_REQUEST: self._on_request,
            MSG_CHANNEL_CLOSE: self._on_close,
        }
        self._interval = self._deadline = 0.0
        self._asked: float | None = None
        self._next_ping = 0.0
        self._ping: Callable[[], None] | None = None
        wire.on_drained = self._ring_all
        wire.on_pause = ringer.flush

    def _ring_all(self) -> None:
        self.ringer.ring(*list(self.channels.values()))

    # -- sending without waiting -------------------------------------------------------------

    @contextmanager
    def sending(self) -> Iterator[bool]:
        """Whether a message can be sent now without waiting; it stays so within this context."""
        with self.clear_to_send_lock:
            yield self.clear_to_send.is_set() or not self.active

    def _send_user_message(self, data: Message) -> None:
        # paramiko's own thread must not wait for a key exchange, which it would have to perform.
        if threading.current_thread() is self and not self.clear_to_send.is_set():
            self._late.append(data)
        else:
            super()._send_user_message(data)

    def _keys_exchanged(self) -> None:
        late, self._late = self._late, []
        for message in late:
            self._send_message(message)
        self._ring_all()

    # -- the heartbeat, in paramiko's thread -------------------------------------------------

    def watch(self, interval: float, deadline: float, ping: Callable[[], None]) -> None:
        """Ask for a sign of life where there is none.

        Args:
            interval: Seconds without one before we ask; 0 for never.
            deadline: Seconds that the answer may take.
            ping: Called every ``PING_EVERY`` seconds, to tell the guard that we are there.
        """
        self._interval, self._deadline, self._ping = interval, deadline, ping
        if interval:
            self.wire.settimeout(min(0.5, interval / 2, deadline / 2))
        self.wire.on_tick = self._tick

    def _tick(self) -> None:
        now = time.monotonic()
        if self._ping is not None and now >= self._next_ping:
            self._next_ping = now + PING_EVERY
            self._ping()
        if self._asked is not None:
            if self.wire.heard > self._asked:
                self._asked = None
            elif now - self._asked >= self._deadline:
                raise LinkSilent(f"no sign of life from the server for {self._deadline:g} s")
        elif self._interval and now - self.wire.heard >= self._interval:
            self._asked = now
            # A request that nobody knows: servers answer it with a refusal, which is an answer.
            request = Message()
            request.add_byte(cMSG_GLOBAL_REQUEST)
            request.add_string("keepalive@openssh.com")
            request.add_boolean(True)
            self._send_user_message(request)

    # -- what the server says ----------------------------------------------------------------

    def _on_request(self, chan: paramiko.Channel, message: Message) -> None:
        if (ours := self.channels.get(chan.chanid)) is not None:
            request = Message(message.get_remainder())
            kind = request.get_text()
            request.get_boolean()
            if kind == "exit-status":
                ours.exited(Exit(code=request.get_int()))
            elif kind == "exit-signal":  # paramiko itself has no ear for it (RFC 4254, 6.10)
                name = request.get_text()
                dumped = "core dumped" if request.get_boolean() else None
                ours.exited(Exit(signal=f"SIG{name.partition('@')[0]}", detail=dumped))
        chan._handle_request(message)

    def _on_close(self, chan: paramiko.Channel, message: Message) -> None:
        ours = self.channels.pop(chan.chanid, None)
        if ours is not None:
            ours.closed_by_server = True
        chan._handle_close(message)
        if ours is not None:
            self.ringer.ring(ours)

    def _parse_disconnect(self, message: Message) -> None:
        message.get_int()
        self._disconnect = message.get_text()

    def run(self) -> None:
        """Read until the connection ends, and say why it did."""
        self.ringer.thread = self
        try:
            super().run()
        finally:
            self.loss = _loss(self.saved_exception, self._disconnect)
            self.ringer.thread = None
            self._ring_all()
            for close in reversed(self.under):
                close()

    def hang_up(self) -> None:
        """Close the connection and wait for its thread. Not for the event loop."""
        self.close()
        self.wire.close()
        if self.is_alive():
            self.join(2)


# -- a session ---------------------------------------------------------------------------------


class ParamikoChannel(RemoteChannel):
    """One session of a :class:`Client`."""

    _chan: paramiko.Channel
    _out: _Inbox
    _err: _Inbox

    def __init__(self, client: Client, where: str) -> None:
        super().__init__(where, keeps_shell=False)
        self.closed_by_server = False
        self._client = client
        self._bell = bell()
        self._exit: Exit | None = None
        self._broken: TransportBroken | None = None
        self._eof_sent = False
        self._take: Callable[[bytes], Awaitable[None] | None] | None = None
        self._max_bytes = 0
        self._slow: Awaitable[None] | None = None

    def open(self, timeout: float) -> ParamikoChannel:
        """Open the session and run the bootstrap in it. Not for the event loop.

        Raises:
            paramiko.ChannelException: The server opens no more sessions on this connection.
            paramiko.SSHException: It runs no commands, or the connection is lost.
        """
        chan = self._client.open_session(timeout=timeout)
        chan.settimeout(0.0)
        self._chan = chan
        self._out = chan.in_buffer = _Inbox(self._ring)
        self._err = chan.in_stderr_buffer = _Inbox(self._ring)
        chan.out_buffer_cv = _RingingCondition(chan.lock, self._ring)
        self._client.channels[chan.chanid] = self
        chan.exec_command(FOR_ANY_SHELL)
        return self

    def drop(self) -> None:
        """Close a session that nobody wants any more. Not for the event loop."""
        self._chan.close()

    # -- told by paramiko's thread -----------------------------------------------------------

    def _ring(self) -> None:
        self._client.ringer.ring(self)

    def exited(self, exit: Exit) -> None:
        """How the worker ended."""
        self._exit = exit
        self._ring()

    def ping(self) -> None:
        """Tell the guard at the other end that we are there; it may be too early or too late."""
        if self.is_guard and not self._chan.closed and self._chan.out_window_size > len(PING):
            self._chan.send(PING)

    # -- looking, in the event loop ----------------------------------------------------------

    def rung(self) -> None:
        """Something changed."""
        if self._take is not None and self._slow is None:
            self._hand_on()
        self._bell.ring()

    def wake(self) -> None:
        self._bell.ring()

    @property
    def lost(self) -> bool:
        return self._client.loss is not None

    @property
    def finished(self) -> bool:
        return self._exit is not None or self._chan.closed

    def _fail(self, operation: Operation) -> NoReturn:
        """Raise what became of the worker or the link, the same each time."""
        if self._broken is None:
            self._broken = self._why(operation)
            raise self._broken from self._broken.__cause__
        raise self._broken.during(operation) from self._broken.__cause__

    def _why(self, operation: Operation) -> TransportBroken:
        if self._exit is not None:
            return TransportBroken(
                operation,
                BrokenPipeError(f"the worker on {self.where} is over: {self._exit}"),
                cause=Cause.WORKER_EXITED,
                worker=Fate.GONE,
                exit=self._exit,
            )
        if self.closed_by_server:
            text = f"the SSH server of {self.where} closed the session without saying why"
            return TransportBroken(operation, ConnectionAbortedError(text))
        assert self._client.loss is not None
        return self._client.loss.during(operation)

    def _check(self, operation: Operation) -> None:
        self._check_open()
        if self._broken is not None:
            self._fail(operation)

    # -- writing -----------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        self._check_stdin(Operation.SEND)
        left = memoryview(data)
        while True:
            left = left[self._write(left, Operation.SEND) :]
            if not left:
                break
            await self._bell.wait()
        wire = self._client.wire
        mark = wire.queued
        while wire.taken < mark:
            self._check_stdin(Operation.SEND)
            if self.finished and not self._may_be_lost:
                self._fail(Operation.SEND)
            await self._bell.wait()

    def send_nowait(self, data: bytes) -> int:
        self._check_stdin(Operation.SEND)
        if not self._client.wire.has_room():
            return 0
        return self._write(memoryview(data)[:_AT_ONCE], Operation.SEND)

    async def send_eof(self) -> None:
        self._check(Operation.SEND_EOF)
        while not self._eof_sent:
            if self.finished and not self._may_be_lost:
                self._fail(Operation.SEND_EOF)
            with self._client.sending() as possible:
                if possible and not self._may_be_lost:
                    self._chan.shutdown_write()
                    self._eof_sent = True
                    return
            await self._bell.wait()
            self._check(Operation.SEND_EOF)

    def _check_stdin(self, operation: Operation) -> None:
        if self._closed or self._broken is not None:
            self._check(operation)
        if self._eof_sent:
            raise ChannelClosed("the worker's stdin was closed by our side (send_eof)")

    @property
    def _may_be_lost(self) -> bool:
        """Whether paramiko closed the channel and has not yet said why: it does so next."""
        return self._chan.closed and not self.closed_by_server and self._client.loss is None

    def _write(self, data: memoryview, operation: Operation) -> int:
        """Hand paramiko what can go out without waiting for anybody."""
        self._check_stdin(operation)
        taken = 0
        client, chan = self._client, self._chan
        with client.clear_to_send_lock:  # as Client.sending() does, without its cost
            while taken < len(data) and (client.clear_to_send.is_set() or not client.active):
                if self.finished:
                    if taken or self._may_be_lost:
                        break
                    self._fail(operation)
                room = min(chan.out_window_size, chan.out_max_packet_size - 64)
                if room <= 0 or client.wire.backlog > _BACKLOG:
                    break
                try:
                    taken += chan.send(bytes(data[taken : taken + room]))
                except (OSError, EOFError):
                    break  # it was closed in this moment; we are rung, and look why
        return taken

    # -- reading -----------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._read(self._out, max_bytes, Operation.RECEIVE)

    async def receive_stderr(self, max_bytes: int = 65536) -> bytes:
        return await self._read(self._err, max_bytes, Operation.RECEIVE_STDERR)

    async def _read(self, inbox: _Inbox, max_bytes: int, operation: Operation) -> bytes:
        if inbox.pieces or inbox.ended:
            await anyio.lowlevel.checkpoint()
        while True:
            self._check_open()
            if (data := self._pull(inbox, max_bytes, operation)) is not None:
                return data
            await self._bell.wait()

    def _pull(self, inbox: _Inbox, max_bytes: int, operation: Operation) -> bytes | None:
        """What lies ready; ``b""`` for the worker's end of it; ``None`` if one has to wait."""
        ended = inbox.ended
        if inbox.pieces:
            client, chan = self._client, self._chan
            with client.clear_to_send_lock:  # since reading may send word of a wider window
                if not (client.clear_to_send.is_set() or not client.active or chan.closed):
                    return None
                read = chan.recv if inbox is self._out else chan.recv_stderr
                data: bytes = read(max_bytes)
                return data
        if not ended:
            return None
        if self._chan.eof_received or (self.closed_by_server and self._exit is not None):
            return b""
        if not self.closed_by_server and self._client.loss is None:
            return None
        self._fail(operation)

    def unread(self, data: bytes) -> None:
        if data:
            self._out.pieces.appendleft(data)

    async def forward(
        self, take: Callable[[bytes], Awaitable[None] | None], max_bytes: int = 65536
    ) -> None:
        self._max_bytes = max_bytes
        try:
            while True:
                self._check_open()
                self._take = take
                if self._slow is None:
                    self._hand_on()
                if (slow := self._slow) is not None:
                    self._take = self._slow = None  # nothing more until it is done
                    await slow
                elif self._pull_ended():
                    return
                else:
                    await self._bell.wait()
        finally:
            self._take = None
            slow, self._slow = self._slow, None
            if isinstance(slow, Coroutine):  # made in the moment in which we were cancelled
                slow.close()

    def _pull_ended(self) -> bool:
        """Whether stdout is at its end, or broken, with nothing left to hand on."""
        return not self._out.pieces and self._pull(self._out, 1, Operation.RECEIVE) == b""

    def _hand_on(self) -> None:
        """Give ``take`` what lies ready, in the callback that was told of it."""
        assert self._take is not None
        for _ in range(_PIECES):
            if not self._out.pieces or self._closed:
                return
            data = self._pull(self._out, self._max_bytes, Operation.RECEIVE)
            if not data:
                return
            self._slow = self._take(data)
            if self._slow is not None:
                return
        self._ring()

    # -- the end -----------------------------------------------------------------------------

    async def wait(self) -> Exit:
        await anyio.lowlevel.checkpoint()
        while self._exit is None:
            if self.closed_by_server or self.lost or self._hung_up:
                return Exit()
            await self._bell.wait()
        return self._exit

    _hung_up = False

    async def hang_up(self) -> None:
        with anyio.move_on_after(2):
            while not self._chan.closed:
                with self._client.sending() as possible:
                    if possible:
                        self._chan.close()
                        break
                await self._bell.wait()
        self._hung_up = True
        self._bell.ring()


class ParamikoConnection:
    """A :class:`Client` for the pool."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    @property
    def lost(self) -> bool:
        return self._client.loss is not None

    async def session(self) -> ParamikoChannel:
        channel = ParamikoChannel(self._client, self._settings.where)
        job = Job(
            lambda: self._open(channel),
            name="open",
            unwanted=lambda channel: channel.drop(),
        )
        try:
            return await job.result()
        except paramiko.ChannelException as error:
            raise SessionRefused from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            if self._client.is_active():
                raise TransportUnavailable(
                    f"{self._settings.where} runs no commands: {error}; does the server's "
                    f"configuration force something else (ForceCommand, a restricted shell)?"
                ) from error
            raise (self._client.loss or _loss(error, None)).during(Operation.OPEN) from error

    def _open(self, channel: ParamikoChannel) -> ParamikoChannel:
        """Open a session. Not for the event loop."""
        try:
            return channel.open(self._settings.timeout)
        except (paramiko.SSHException, OSError, EOFError):
            if not self._client.is_active():
                self._client.join(2)  # its thread is about to say why
            raise

    def guarded_by(self, guard: RemoteChannel) -> None:
        assert isinstance(guard, ParamikoChannel)
        self._client.watch(self._settings.heartbeat, self._settings.deadline, guard.ping)

    def close(self) -> None:
        self._client.hang_up()
