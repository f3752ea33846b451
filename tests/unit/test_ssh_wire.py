"""The socket under an SSH connection: writing never waits, and nothing is lost or left open."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast_transports.ssh._wire import LinkSilent, Wire

SECONDS = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """A wire, and the other side of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(SECONDS)
    wire = Wire(ours)
    wire.settimeout(SECONDS)
    yield wire, theirs
    wire.close()
    theirs.close()


def test_bytes_go_both_ways(ends: tuple[Wire, socket.socket]) -> None:
    """What is sent arrives, and pieces are given in the sizes that are asked for."""
    wire, theirs = ends
    assert wire.has_room()
    assert wire.send(b"ping") == 4
    assert theirs.recv(100) == b"ping"
    theirs.sendall(b"0123456789")
    assert [wire.recv(4), wire.recv(4), wire.recv(4)] == [b"0123", b"4567", b"89"]
    theirs.close()
    assert wire.recv(4) == b""


def test_writing_never_waits(ends: tuple[Wire, socket.socket]) -> None:
    """More than the socket takes is kept; the reading thread writes it while it waits."""
    wire, theirs = ends
    drained = threading.Event()
    wire.on_drained = drained.set
    data = os.urandom(16 * 1024 * 1024)
    assert wire.send(data) == len(data)
    assert wire.backlog > 0
    assert not wire.has_room()
    assert wire.send(b"behind") == 6
    got = bytearray()

    def read() -> None:
        while len(got) < len(data) + 6:
            got.extend(theirs.recv(1 << 20))
        theirs.sendall(b"all")

    reader = threading.Thread(target=read)
    reader.start()
    assert wire.recv(3) == b"all"
    reader.join(SECONDS)
    assert bytes(got) == data + b"behind"
    assert drained.is_set()
    assert wire.backlog == 0


def test_a_write_wakes_a_reader_that_waits_already(ends: tuple[Wire, socket.socket]) -> None:
    """Bytes that are kept while the reading thread waits are written by it at once."""
    wire, theirs = ends
    answers: list[bytes] = []
    reading = threading.Thread(target=lambda: answers.append(wire.recv(3)))
    reading.start()
    data = bytes(16 * 1024 * 1024)
    wire.send(data)
    left = len(data)
    while left:
        left -= len(theirs.recv(min(left, 1 << 20)))
    theirs.sendall(b"yes")
    reading.join(SECONDS)
    assert answers == [b"yes"]


def test_a_timeout_is_no_error(ends: tuple[Wire, socket.socket]) -> None:
    """Where nothing comes in time, that is said, and reading goes on."""
    wire, theirs = ends
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    wire.on_tick = tick
    wire.settimeout(0.05)
    with pytest.raises(TimeoutError) as caught:
        wire.recv(1)
    assert not isinstance(caught.value, LinkSilent)
    assert ticks > 0
    theirs.sendall(b"x")
    wire.settimeout(SECONDS)
    assert wire.recv(1) == b"x"


def test_what_the_tick_raises_ends_the_reading(ends: tuple[Wire, socket.socket]) -> None:
    """A heartbeat without an answer comes out of ``recv``, as no mere timeout."""
    wire, _ = ends

    def tick() -> None:
        raise LinkSilent("no answer")

    wire.on_tick = tick
    wire.settimeout(0.05)
    with pytest.raises(LinkSilent) as caught:
        wire.recv(1)
    assert caught.value.errno == errno.ETIMEDOUT
    assert not isinstance(caught.value, TimeoutError), "paramiko would go on for ever"


def test_what_had_arrived_comes_before_an_error(ends: tuple[Wire, socket.socket]) -> None:
    """A connection that is reset gives what it had received first."""
    wire, theirs = ends
    theirs.sendall(b"last words")
    assert wire.recv(4) == b"last"
    assert wire.recv(6) == b" words"
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(ConnectionResetError):
        wire.recv(1)


def test_a_failed_write_is_told_by_the_reader(ends: tuple[Wire, socket.socket]) -> None:
    """Writing to a connection that is gone raises nothing; reading does, or ends."""
    wire, theirs = ends
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    for _ in range(3):
        assert wire.send(b"anybody?") == 8
    with suppress(ConnectionResetError, BrokenPipeError):
        assert wire.recv(1) == b""


def test_close_ends_a_reader(ends: tuple[Wire, socket.socket]) -> None:
    """Closing from another thread ends a pending ``recv``, again and again harmlessly."""
    wire, theirs = ends
    got: list[bytes] = []
    reading = threading.Thread(target=lambda: got.append(wire.recv(1)))
    reading.start()
    for _ in range(3):
        wire.close()
    reading.join(SECONDS)
    assert got == [b""]
    assert theirs.recv(1) == b""
    assert wire.recv(1) == b""


def test_nothing_is_left_open() -> None:
    """A closed wire holds no descriptor, whether somebody was reading or not."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for reads in (False, True):
        ours, theirs = socket.socketpair()
        wire = Wire(ours)
        reading = threading.Thread(target=lambda wire=wire: wire.recv(1))
        if reads:
            reading.start()
        wire.close()
        theirs.close()
        if reads:
            reading.join(SECONDS)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
