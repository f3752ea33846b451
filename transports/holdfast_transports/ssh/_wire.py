"""The socket under an SSH connection, as paramiko's threads see it: writing to it never blocks.

paramiko lets whoever sends write to the socket, under a lock. An event loop must not be that
somebody if the socket may be full. So here a write takes what the operating system takes at once
and keeps the rest, which paramiko's own thread writes while it waits for input. How much is kept is
for the callers to bound (:attr:`Wire.backlog`).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_READ: Final = 128 * 1024
"""Bytes to read at once: a few of the largest packets."""


class LinkSilent(OSError):
    """Nothing was heard of the other side for too long."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ETIMEDOUT, text)


class Wire:
    """A socket with the methods that ``paramiko.Transport`` asks for.

    Args:
        sock: A connected stream socket, which it owns from now on.

    Attributes:
        heard: When something last arrived (``time.monotonic``).
        queued: Bytes that were given to ``send``, in all.
        taken: Bytes that the operating system took, in all.
        on_tick: Called by the reading thread when data arrived, and when none did for the time
            that ``settimeout`` set. What it raises ends the connection.
        on_drained: Called when what was kept has been written.
        on_pause: Called by the reading thread when it has used up what it read.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._timeout: float | None = None
        self._lock = threading.Lock()
        self._input = b""
        self._at = 0
        self._maybe_more = False
        self._kept: deque[memoryview] = deque()
        self._closed = False  # paramiko looks at it, too
        self._reading = False
        self._failed: OSError | None = None
        self._wake_r, self._wake_w = os.pipe()
        for end in (self._wake_r, self._wake_w):
            os.set_blocking(end, False)
        self._events = select.poll()
        self._events.register(sock, select.POLLIN)
        self._events.register(self._wake_r, select.POLLIN)
        self._room = select.poll()
        self._room.register(sock, select.POLLOUT)
        self.heard = time.monotonic()
        self.queued = self.taken = 0
        self.on_tick: Callable[[], None] = lambda: None
        self.on_drained: Callable[[], None] = lambda: None
        self.on_pause: Callable[[], None] = lambda: None

    @property
    def backlog(self) -> int:
        """Bytes that were given to ``send`` and are not yet taken."""
        return self.queued - self.taken

    def has_room(self) -> bool:
        """Whether a small write would be taken at once: Linux says so with a third of it free."""
        return not self._kept and not self._closed and bool(self._room.poll(0))

    # -- what paramiko calls -----------------------------------------------------------------

    def settimeout(self, seconds: float | None) -> None:
        """How long ``recv`` waits."""
        self._timeout = seconds

    def getpeername(self) -> object:
        """The other side's address."""
        return self._sock.getpeername()

    def send(self, data: bytes) -> int:
        """Take all of ``data``, and write what can be written at once."""
        with self._lock:
            self.queued += len(data)
            sent = 0
            if not self._kept and not self._closed:
                try:
                    sent = self._sock.send(data)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as error:
                    self._failed = error  # for the reader, whose words are heard
            self.taken += sent
            if sent < len(data):
                self._kept.append(memoryview(data)[sent:])
                self._wake()
        return len(data)

    def recv(self, size: int) -> bytes:
        """Up to ``size`` bytes; ``b""`` at the end.

        Raises:
            TimeoutError: Nothing came in time; nothing is wrong with that.
            LinkSilent: Nothing came for so long that the link is given up.
            OSError: The connection broke.
        """
        if self._at >= len(self._input):
            self._input = b""
            self._input = self._fill()
            self._at = 0
        start = self._at
        self._at = min(start + size, len(self._input))
        return self._input[start : self._at]

    def close(self) -> None:
        """Close the connection, from whichever thread. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                with suppress(OSError):  # the other side may have been faster
                    self._sock.shutdown(socket.SHUT_RDWR)
            if self._wake_w < 0:
                return
            if self._reading:
                self._wake()  # a descriptor must not be closed under somebody who polls it
            else:
                self._release()

    # -- the reading thread ------------------------------------------------------------------

    def _fill(self) -> bytes:
        with self._lock:
            if self._closed:
                return b""
            self._reading = True
        try:
            return self._wait_and_read()
        except TimeoutError as error:
            if error.errno == errno.ETIMEDOUT:  # TCP gave up, and not our own patience
                raise LinkSilent(f"no acknowledgement from the other side ({error})") from error
            raise
        finally:
            with self._lock:
                self._reading = False
                if self._closed:
                    self._release()

    def _wait_and_read(self) -> bytes:
        give_up = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            self.on_pause()
            if not self._maybe_more:
                self._poll(give_up)
            if self._closed:
                return b""
            try:
                data = self._sock.recv(_READ)
            except (BlockingIOError, InterruptedError):
                self._maybe_more = False
                if self._failed is not None:
                    raise self._failed from None
                self.on_tick()
                if give_up is not None and time.monotonic() >= give_up:
                    raise TimeoutError("nothing to read") from None
                continue
            self._maybe_more = len(data) == _READ
            if data:
                self.heard = time.monotonic()
                self.on_tick()
            return data

    def _poll(self, give_up: float | None) -> None:
        """Wait for input, write what was kept, and leave when woken or out of time."""
        if self._kept:
            self._events.modify(self._sock, select.POLLIN | select.POLLOUT)
        wait = None if give_up is None else max(0.0, give_up - time.monotonic()) * 1000
        for fd, event in self._events.poll(wait):
            if fd == self._wake_r:
                os.read(self._wake_r, 4096)
            elif event & select.POLLOUT:
                self._flush()

    def _flush(self) -> None:
        with self._lock:
            self._events.modify(self._sock, select.POLLIN)
            while self._kept:
                try:
                    sent = self._sock.send(self._kept[0])
                except (BlockingIOError, InterruptedError):
                    return
                except OSError as error:
                    self._failed = error
                    return
                self.taken += sent
                if sent < len(self._kept[0]):
                    self._kept[0] = self._kept[0][sent:]
                else:
                    self._kept.popleft()
        self.on_drained()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # it was woken before, and has not looked yet
            os.write(self._wake_w, b"w")

    def _release(self) -> None:
        if self._wake_w >= 0:
            self._sock.close()
            os.close(self._wake_r)
            os.close(self._wake_w)
            self._wake_r = self._wake_w = -1
