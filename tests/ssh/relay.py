"""A relay on a TCP port of its own, whose link to the server can be broken in many ways."""

from __future__ import annotations

import errno
import fcntl
import queue
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Self, TypeVar

from .network import HOST, Direction, listener_on

T = TypeVar("T")

CHUNK = 65536
HELD = 4 * CHUNK
"""Bytes that wait in the relay, per direction; behind them TCP's windows fill."""
ANSWER_WITHIN = 5.0
"""Seconds for the thread to do what it is told; it takes less than a millisecond."""
POLL = 0.001
"""Seconds until a socket is asked again whether the other end has all its bytes."""


class End(Enum):
    """How the source of a direction has ended."""

    NOT_YET = "not yet"
    EOF = "eof"
    RESET = "reset"
    SILENT = "silent"
    """It is gone, and the sink shall not know."""


class Way:
    """One direction of one connection."""

    def __init__(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        self.direction = direction
        self.source = source
        self.sink = sink
        self.waiting: deque[tuple[float, bytes]] = deque()  # when it may go on, and what
        self.held = 0
        self.end = End.NOT_YET
        self.shut = False  # the sink has been told of the end
        self.left: int | None = None  # bytes until the cut
        self.next_write = 0.0

    def discard(self) -> None:
        """Forget what waits."""
        self.waiting.clear()
        self.held = 0


class Link:
    """One connection: a client, and the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.to_server = Way(Direction.TO_SERVER, client, server)
        self.to_client = Way(Direction.TO_CLIENT, server, client)
        self.ways = (self.to_server, self.to_client)

    def opposite(self, way: Way) -> Way:
        """The other direction."""
        return self.to_client if way is self.to_server else self.to_server


class Relay:
    """Stands between clients and a server; each method may be called from any thread.

    What is commanded holds for the connections that exist and for future ones, until
    :meth:`heal`; :meth:`reset` and :meth:`half_close` happen once unless ``future`` is set. When a
    method returns, it has taken effect.

    Attributes:
        host: The address that clients connect to.
        port: Its port.
        accepted: How many connections there have been.
        to_server: Bytes passed on to the server.
        to_client: Bytes passed on to clients.
        dropped: Bytes read, and passed on to nobody.
    """

    def __init__(self, server: int | str) -> None:
        """Make a relay to a loopback port or a Unix socket; :meth:`start` starts it."""
        self._server = (HOST, server) if isinstance(server, int) else server
        self.host = HOST
        self.port = 0
        self.accepted = self.to_server = self.to_client = self.dropped = 0
        self._listener: socket.socket | None = None
        self._links: list[Link] = []
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._normal()

    def _normal(self) -> None:
        self._blackhole: Direction | None = None
        self._stall: Direction | None = None
        self._delay = 0.0
        self._rate: float | None = None
        self._cut_after: int | None = None
        self._reset_new = self._half_close_new = False

    # Its life

    def start(self) -> Self:
        """Listen, on a port that is free."""
        self._listen()
        self._alarm, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"relay-{self.port}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all connections and the thread."""
        if self._thread is None:
            return
        self._order(lambda: setattr(self, "_stopping", True))
        self._thread.join(ANSWER_WITHIN)
        assert not self._thread.is_alive(), "the relay's thread does not end"
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # What it can be told

    def heal(self) -> None:
        """Be an ordinary link again; what was dropped is lost."""

        def do() -> None:
            self._normal()
            for link in self._links:
                link.to_client.left = None
            if self._listener is None:
                self._listen()

        self._order(do)

    def reset(self, *, server: bool = True, future: bool = False) -> int:
        """Send an RST to clients, and to the server.

        Args:
            server: Without it the server is not told: its connection stays, and nobody is there.
            future: New connections too get an RST as soon as they are made.

        Returns:
            How many connections it met.
        """

        def do() -> int:
            self._reset_new = future
            met = [*self._links]
            for link in met:
                self._reset(link, server=server)
            return len(met)

        return self._order(do)

    def half_close(self, *, future: bool = False) -> int:
        """Send a FIN to clients; what they send is still passed on.

        Returns:
            How many connections it met.
        """

        def do() -> int:
            self._half_close_new = future
            for link in self._links:
                self._half_close(link)
            return len(self._links)

        return self._order(do)

    def blackhole(self, direction: Direction | str = Direction.BOTH) -> None:
        """Read and drop, ends of streams too: nobody is told of anything."""
        self._order(lambda: setattr(self, "_blackhole", Direction(direction)))

    def stall(self, direction: Direction | str = Direction.BOTH) -> None:
        """Stop reading, so that the windows fill and those who write are held."""
        self._order(lambda: setattr(self, "_stall", Direction(direction)))

    def cut_after(self, n_bytes: int) -> None:
        """Pass this many more bytes on to each client, then reset the connection."""

        def do() -> None:
            self._cut_after = n_bytes
            for link in self._links:
                link.to_client.left = n_bytes

        self._order(do)

    def delay(self, seconds: float) -> None:
        """Hold each byte for this long, in each direction."""
        self._order(lambda: setattr(self, "_delay", seconds))

    def rate(self, bytes_per_second: float | None) -> None:
        """Pass no more than this on, for each direction of each connection; None: no limit."""
        self._order(lambda: setattr(self, "_rate", bytes_per_second))

    def refuse(self) -> None:
        """Shut the listener down: new connections are refused, those that exist live on."""

        def do() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        self._order(do)

    def open_links(self) -> int:
        """How many connections there are now."""
        return self._order(lambda: len(self._links))

    def _order(self, do: Callable[[], T]) -> T:
        """Let the thread do something, and wait for it."""
        assert self._thread is not None, "the relay does not run"
        answers: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()

        def carry_out() -> None:
            try:
                answers.put(do())
            except BaseException as error:  # noqa: BLE001 - it belongs to who gave the order
                answers.put(error)

        self._orders.put(carry_out)
        self._alarm.send(b"!")
        answer = answers.get(timeout=ANSWER_WITHIN)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    # What follows runs in the thread

    def _listen(self) -> None:
        self._listener = listener_on(self.port or None)  # the same again after refuse()
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            for link in [*self._links]:
                self._forget(link)
            for each in (self._listener, self._alarm, self._ear):
                if each is not None:
                    each.close()

    def _turn(self) -> None:
        """Do what can be done now, then wait until more can."""
        now = time.monotonic()
        wake = [self._settle(link) for link in [*self._links]]
        poll = select.poll()
        poll.register(self._ear, select.POLLIN)
        calls: dict[int, list[tuple[int, Callable[[], None]]]] = {}

        # Only sockets of which something is wanted: poll tells of hang-ups whatever was asked.
        def want(which: socket.socket, event: int, call: Callable[[], None]) -> None:
            calls.setdefault(which.fileno(), []).append((event, call))

        if self._listener is not None:
            want(self._listener, select.POLLIN, self._accept)
        for link in self._links:
            for way in link.ways:
                stalled = self._is(self._stall, way) or way.held >= HELD
                if way.end is End.NOT_YET and not stalled:
                    want(way.source, select.POLLIN, partial(self._read, link, way))
                if way.waiting:
                    due = max(way.waiting[0][0], way.next_write)
                    if due <= now:
                        want(way.sink, select.POLLOUT, partial(self._write, link, way))
                    else:
                        wake.append(due)
        for number, wanted in calls.items():
            poll.register(number, sum({event for event, _ in wanted}))
        soonest = min((each for each in wake if each is not None), default=None)
        timeout = None if soonest is None else max(0.0, soonest - time.monotonic()) * 1000
        ready = dict(poll.poll(timeout))
        if self._ear.fileno() in ready:
            self._obey()
            return  # nothing else: it was prepared under the old orders
        for number, happened in ready.items():
            for event, call in calls[number]:
                if happened & (event | select.POLLERR | select.POLLHUP | select.POLLNVAL):
                    call()

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            self._ear.recv(4096)
        while not self._orders.empty():
            self._orders.get()()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:  # it left before it was let in
            return
        self.accepted += 1
        family = socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET
        server = socket.socket(family)
        link = Link(client, server)
        link.to_client.left = self._cut_after
        for each in (client, server):
            each.setblocking(False)
            if each.family == socket.AF_INET:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(link)
        failed = server.connect_ex(self._server) not in (0, errno.EINPROGRESS)
        if failed or self._reset_new:
            self._reset(link)
        elif self._half_close_new:
            self._half_close(link)

    def _is(self, policy: Direction | None, way: Way) -> bool:
        return policy is not None and policy.covers(way.direction)

    def _read(self, link: Link, way: Way) -> None:
        if link not in self._links:
            return  # ended by something earlier in this turn
        try:
            data = way.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            way.end = End.RESET
            return
        if not data:
            way.end = End.EOF
        elif self._is(self._blackhole, way) or way.shut:
            self.dropped += len(data)
        else:
            way.waiting.append((time.monotonic() + self._delay, data))
            way.held += len(data)

    def _write(self, link: Link, way: Way) -> None:
        if link not in self._links or not way.waiting:
            return
        due, data = way.waiting.popleft()
        most = len(data)
        if self._rate is not None:
            most = min(most, max(1, int(self._rate / 20)))  # smooth to a twentieth of a second
        if way.left is not None:
            most = min(most, way.left)
        try:
            sent = way.sink.send(data[:most])
        except BlockingIOError:
            sent = 0
        except OSError:
            self.dropped += way.held
            way.discard()
            way.shut = True
            # The error is told once: who reads from there would see an ordinary end.
            link.opposite(way).end = End.RESET
            return
        way.held -= sent
        if rest := data[sent:]:
            way.waiting.appendleft((due, rest))
        if self._rate is not None:
            way.next_write = time.monotonic() + sent / self._rate
        if way.direction is Direction.TO_SERVER:
            self.to_server += sent
        else:
            self.to_client += sent
        if way.left is not None:
            way.left -= sent

    def _settle(self, link: Link) -> float | None:
        """Pass ends on, once all before them has gone.

        Returns:
            When to look again, if time alone changes something.
        """
        again = None
        for way in link.ways:
            if self._is(self._blackhole, way):
                self.dropped += way.held
                way.discard()
                continue
            if way.left == 0 and way.end is not End.RESET:
                way.end = End.RESET
                way.discard()
            if way.waiting or way.end in (End.NOT_YET, End.SILENT):
                continue
            if way.end is End.EOF:
                if not way.shut:
                    way.shut = True
                    with suppress(OSError):
                        way.sink.shutdown(socket.SHUT_WR)
            elif way.shut or _all_arrived(way.sink):
                self._reset(link)
                return None
            else:  # an RST would overtake what is on its way
                again = time.monotonic() + POLL
        if all(way.end is End.SILENT or (way.end is End.EOF and way.shut) for way in link.ways):
            self._forget(link)
            return None
        return again

    def _half_close(self, link: Link) -> None:
        link.to_client.discard()
        link.to_client.shut = True
        with suppress(OSError):
            link.client.shutdown(socket.SHUT_WR)

    def _reset(self, link: Link, *, server: bool = True) -> None:
        for each in (link.client, link.server) if server else (link.client,):
            # socket(7): with a linger time of nothing, close(2) sends an RST.
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if server:
            self._forget(link)
            return
        link.client.close()
        for way in link.ways:
            way.discard()
        link.to_server.end = End.SILENT
        link.to_client.shut = True  # what the server still says is read and dropped

    def _forget(self, link: Link) -> None:
        self._links.remove(link)
        link.client.close()
        link.server.close()


def _all_arrived(sink: socket.socket) -> bool:
    """Whether the other end has acknowledged every byte (tcp(7), SIOCOUTQ)."""
    try:
        queued = fcntl.ioctl(sink, termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return True
    return queued == b"\0" * 4
