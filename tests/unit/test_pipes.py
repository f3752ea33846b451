"""Pipe ends: no byte is lost to a cancellation, and whoever waits feels the other side."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
import uvloop
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from holdfast.pipes import PipeReader, PipeWriter, open_reader

pytestmark = [pytest.mark.anyio, pytest.mark.uvloop]

MIB = 2**20


class Ends:
    """Pipes whose descriptors are closed after the test, unless somebody took them over."""

    def __init__(self) -> None:
        self.fds: set[int] = set()

    def pipe(self, *, blocking: bool = False) -> tuple[int, int]:
        ends = os.pipe()
        for fd in ends:
            os.set_blocking(fd, blocking)
        self.fds.update(ends)
        return ends

    def reader(self, fd: int) -> PipeReader:
        self.fds.discard(fd)
        return open_reader(fd)

    def writer(self, fd: int) -> PipeWriter:
        self.fds.discard(fd)
        return PipeWriter(fd)

    def close(self, fd: int) -> None:
        self.fds.discard(fd)
        os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    for fd in ends.fds:
        os.close(fd)


def fill(fd: int) -> int:
    """Write until nothing more is taken."""
    blocking = os.get_blocking(fd)
    os.set_blocking(fd, False)
    size = 0
    try:
        while True:
            size += os.write(fd, b"x" * 4096)
    except BlockingIOError:
        return size
    finally:
        os.set_blocking(fd, blocking)


def waiting_bytes(fd: int) -> int:
    buffer = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, buffer)
    return buffer[0]


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until this holds."""
    with anyio.fail_after(10):
        while not condition():
            await checkpoint()


async def turn() -> None:
    """Let the event loop turn often enough for whatever is ready to happen."""
    for _ in range(20):
        await checkpoint()


async def drain(reader: PipeReader, size: int, most: int = 65536) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < size:
            piece = await reader.read(most)
            assert piece, f"ended after {len(data)} bytes"
            data += piece
    return data


# -- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_reader_gives_what_comes_and_then_the_end(ends: Ends, blocking: bool) -> None:
    """Bytes come in order, at most so many at a time, and then ``b""``, again and again."""
    r, w = ends.pipe(blocking=blocking)
    reader = ends.reader(r)
    os.write(w, b"hello")
    assert await reader.read(2) == b"he"
    assert await reader.read() == b"llo"
    ends.close(w)
    assert await reader.read() == b""
    assert await reader.read() == b""
    reader.close()


async def test_a_reader_waits(ends: Ends) -> None:
    """A read of an empty pipe waits until something comes."""
    r, w = ends.pipe()
    reader, got = ends.reader(r), list[bytes]()

    async def read() -> None:
        got.append(await reader.read())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await wait_all_tasks_blocked()
        assert got == []
        os.write(w, b"now")
    assert got == [b"now"]
    reader.close()


@pytest.mark.parametrize("rounds", range(6))
@pytest.mark.parametrize("size", [1, 100])
async def test_a_cancelled_read_loses_no_byte(ends: Ends, rounds: int, size: int) -> None:
    """Wherever a cancellation meets a read, the next reads give every byte in order."""
    r, w = ends.pipe()
    reader, got = ends.reader(r), list[bytes]()
    scope = anyio.CancelScope()

    async def read() -> None:
        with scope:
            got.append(await reader.read(64))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await wait_all_tasks_blocked()
        os.write(w, bytes(range(size)))
        for _ in range(rounds):
            await checkpoint()
        scope.cancel()
    os.write(w, b"end")
    total = size + 3
    rest = await drain(reader, total - sum(map(len, got)), 7)
    assert b"".join(got) + rest == bytes(range(size)) + b"end"
    reader.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("rounds", range(6))
def test_a_task_that_asyncio_cancels_loses_no_byte(
    ends: Ends, loop: Callable[[], asyncio.AbstractEventLoop], rounds: int
) -> None:
    """``Task.cancel`` may come when the bytes are already on their way; anyio's scopes do not."""
    r, w = ends.pipe()

    async def main() -> None:
        reader = ends.reader(r)
        task = asyncio.create_task(reader.read(64))
        await asyncio.sleep(0)
        os.write(w, bytes(range(100)))
        for _ in range(rounds):
            await asyncio.sleep(0)
        task.cancel()
        got = b""
        with contextlib.suppress(asyncio.CancelledError):
            got = await task
        os.write(w, b"end")
        assert got + await drain(reader, 103 - len(got), 7) == bytes(range(100)) + b"end"
        reader.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_read_that_is_cancelled_at_once_loses_no_byte(ends: Ends) -> None:
    """A read under a cancelled scope leaves the data for the next one."""
    r, w = ends.pipe()
    reader = ends.reader(r)
    os.write(w, b"abc")
    got = b""
    for _ in range(3):
        with anyio.CancelScope() as scope:
            scope.cancel()
            got += await reader.read()
    got += await drain(reader, 3 - len(got))
    assert got == b"abc"
    reader.close()


async def test_closing_ends_a_pending_read(ends: Ends) -> None:
    """``close`` ends a read that waits, and every later one, with ``ClosedResourceError``."""
    r, _ = ends.pipe()
    reader, ended = ends.reader(r), list[int]()

    async def read() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await reader.read()
        ended.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await wait_all_tasks_blocked()
        reader.close()
        reader.close()
    assert ended
    with pytest.raises(anyio.ClosedResourceError):
        await reader.read()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(r)


async def test_closing_ends_a_pending_forward(ends: Ends) -> None:
    """``close`` ends a ``forward`` that waits, too."""
    r, w = ends.pipe()
    reader, got = ends.reader(r), list[bytes]()

    async def forward() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await reader.forward(got.append)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forward)
        os.write(w, b"abc")
        await until(lambda: got)
        await wait_all_tasks_blocked()
        reader.close()
    assert b"".join(got) == b"abc"


async def test_a_number_that_is_used_again_is_not_ours(ends: Ends) -> None:
    """After ``close`` the descriptor's number may belong to somebody else, and stays theirs."""
    r, w = ends.pipe()
    reader = ends.reader(r)
    os.write(w, b"a")
    assert await reader.read() == b"a"
    reader.close()
    again = os.dup(w)
    assert again == r
    ends.fds.add(again)
    reader.close()
    os.fstat(again)
    with pytest.raises(anyio.ClosedResourceError):
        await reader.read()


async def test_a_file_can_be_read(ends: Ends, tmp_path: Path) -> None:
    """A regular file never makes anybody wait, and comes to its end."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100_000)
    reader = ends.reader(os.open(path, os.O_RDONLY))
    assert await drain(reader, 100_000) == b"a" * 100_000
    assert await reader.read() == b""
    reader.close()
    reader.close()
    with pytest.raises(anyio.ClosedResourceError):
        await reader.read()


async def test_a_file_can_be_forwarded(ends: Ends, tmp_path: Path) -> None:
    """``forward`` of a file ends at its end."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100_000)
    reader, got = ends.reader(os.open(path, os.O_RDONLY)), list[bytes]()
    await reader.forward(got.append)
    assert b"".join(got) == b"a" * 100_000
    reader.close()


async def test_dev_null_is_empty(ends: Ends) -> None:
    """Reading ``/dev/null`` gives the end at once."""
    reader = ends.reader(os.open(os.devnull, os.O_RDONLY))
    with anyio.fail_after(5):
        assert await reader.read() == b""
    reader.close()


async def test_a_reader_raises_what_the_system_says(ends: Ends) -> None:
    """A terminal whose other side is gone is an ``OSError``, as plain as it comes."""
    master, slave = os.openpty()
    os.close(slave)
    reader = ends.reader(master)
    with anyio.fail_after(5), pytest.raises(OSError, match="Input/output error"):
        await reader.read()
    reader.close()


async def test_who_does_not_read_holds_the_writer_up(ends: Ends) -> None:
    """While nobody reads, nothing is taken out of the pipe."""
    r, w = ends.pipe()
    reader = ends.reader(r)
    os.write(w, b"a" * 10)
    assert await reader.read(4) == b"a" * 4
    await turn()
    assert waiting_bytes(r) == 6
    os.write(w, b"b" * 10)
    await turn()
    assert waiting_bytes(r) == 16
    reader.close()


async def test_forward_gives_each_piece_in_order(ends: Ends) -> None:
    """``forward`` gives all bytes to the function, and returns at the end."""
    r, w = ends.pipe()
    reader, writer, got = ends.reader(r), ends.writer(w), list[bytes]()
    data = bytes(range(256)) * 4096

    async def write() -> None:
        await writer.write(data)
        writer.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await reader.forward(got.append, 5000)
    assert b"".join(got) == data
    assert max(map(len, got)) <= 5000
    reader.close()


async def test_forward_waits_for_who_is_slow(ends: Ends) -> None:
    """Where the function gives an awaitable, nothing more is read until it is done."""
    r, w = ends.pipe()
    reader, got, go_on = ends.reader(r), [], anyio.Event()

    def take(data: bytes) -> Awaitable[None] | None:
        got.append(data)
        return go_on.wait() if len(got) == 1 else None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.forward, take, 65536)
        await wait_all_tasks_blocked()
        os.write(w, b"one")
        await until(lambda: got)
        os.write(w, b"two")
        await turn()
        assert got == [b"one"]
        assert waiting_bytes(r) == 3
        go_on.set()
        await until(lambda: len(got) > 1)
        ends.close(w)
    assert got == [b"one", b"two"]
    reader.close()


@pytest.mark.parametrize("rounds", range(5))
async def test_a_cancelled_forward_loses_no_byte(ends: Ends, rounds: int) -> None:
    """What the function did not get, the next read gives."""
    r, w = ends.pipe()
    reader, got = ends.reader(r), list[bytes]()
    scope = anyio.CancelScope()

    async def forward() -> None:
        with scope:
            await reader.forward(got.append, 64)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forward)
        await wait_all_tasks_blocked()
        os.write(w, bytes(range(200)))
        for _ in range(rounds):
            await checkpoint()
        scope.cancel()
    seen = b"".join(got)
    assert seen + await drain(reader, 200 - len(seen)) == bytes(range(200))
    reader.close()


# -- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_writer_writes_all(ends: Ends, blocking: bool) -> None:
    """Far more than a pipe holds arrives whole and in order."""
    r, w = ends.pipe(blocking=blocking)
    reader, writer = ends.reader(r), ends.writer(w)
    data = bytes(range(256)) * (2 * MIB // 256) + b"!"

    async def write() -> None:
        await writer.write(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        assert await drain(reader, len(data)) == data
    await writer.write(b"")
    writer.close()
    assert await reader.read() == b""
    reader.close()


async def test_a_standard_stream_keeps_its_mode(
    ends: Ends, request: pytest.FixtureRequest, anyio_backend_options: dict[str, object]
) -> None:
    """A descriptor that blocks is left so: other programs write to the same stream."""
    if anyio_backend_options.get("use_uvloop"):
        reason = "libuv makes every descriptor that it waits for non-blocking (uv_poll_init)"
        request.applymarker(pytest.mark.xfail(reason=reason))
    r, w = ends.pipe(blocking=True)
    writer = ends.writer(w)
    fill(w)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.write, b"y")
        await wait_all_tasks_blocked()
        os.read(r, 65536)
    assert os.get_blocking(w)
    writer.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_writer_feels_that_nobody_reads(ends: Ends, blocking: bool) -> None:
    """A write to a full pipe waits, without holding up the event loop, until there is room."""
    r, w = ends.pipe(blocking=blocking)
    writer, done = ends.writer(w), []
    full = fill(w)

    async def write() -> None:
        await writer.write(b"y" * 100_000)
        done.append(1)

    assert writer.write_nowait(b"z") == 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await wait_all_tasks_blocked()
        assert not done
        reader = ends.reader(r)
        assert await drain(reader, full + 100_000) == b"x" * full + b"y" * 100_000
    assert done
    writer.close()
    reader.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_write_nowait_says_how_much_it_took(ends: Ends, blocking: bool) -> None:
    """Of more than the pipe holds, just that much is taken."""
    r, w = ends.pipe(blocking=blocking)
    writer = ends.writer(w)
    data = bytes(range(256)) * 4096
    taken = writer.write_nowait(memoryview(data))
    assert 0 < taken < len(data)
    assert waiting_bytes(r) == taken
    assert os.read(r, MIB) == data[:taken]
    assert writer.write_nowait(b"") == 0
    writer.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_writing_to_nobody(ends: Ends, blocking: bool) -> None:
    """Without a reader a write is a ``BrokenPipeError``, at once or while it waits."""
    r, w = ends.pipe(blocking=blocking)
    writer, ended = ends.writer(w), []
    fill(w)

    async def write() -> None:
        with pytest.raises(BrokenPipeError):
            await writer.write(b"y" * 100_000)
        ended.append(1)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await wait_all_tasks_blocked()
            assert not ended
            ends.close(r)
    assert ended
    with pytest.raises(BrokenPipeError):
        writer.write_nowait(b"y")
    writer.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_closing_ends_a_pending_write(ends: Ends, blocking: bool) -> None:
    """``close`` ends a write that waits, and every later one, with ``ClosedResourceError``."""
    _, w = ends.pipe(blocking=blocking)
    writer, ended = ends.writer(w), []
    fill(w)

    async def write() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await writer.write(b"y")
        ended.append(1)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await wait_all_tasks_blocked()
            writer.close()
            writer.close()
    assert ended
    with pytest.raises(anyio.ClosedResourceError):
        await writer.write(b"y")
    with pytest.raises(anyio.ClosedResourceError):
        writer.write_nowait(b"y")


async def test_a_cancelled_write_wrote_a_beginning(ends: Ends) -> None:
    """What a cancelled write left in the pipe is the beginning of its data."""
    r, w = ends.pipe()
    writer = ends.writer(w)
    data = bytes(range(256)) * 4096
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.write, data)
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    writer.close()
    written = b""
    while piece := os.read(r, MIB):
        written += piece
    assert 0 < len(written) < len(data)
    assert data.startswith(written)


async def test_a_file_can_be_written(ends: Ends, tmp_path: Path) -> None:
    """A regular file, and ``/dev/null``, take everything at once."""
    path = tmp_path / "file"
    for fd in (os.open(path, os.O_WRONLY | os.O_CREAT), os.open(os.devnull, os.O_WRONLY)):
        writer = ends.writer(fd)
        with anyio.fail_after(10):
            await writer.write(b"a" * MIB)
        writer.close()
    assert path.read_bytes() == b"a" * MIB


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("prepare", [lambda w: None, fill], ids=["empty", "full"])
async def test_a_writer_can_wait_until_nobody_reads(
    ends: Ends, blocking: bool, prepare: Callable[[int], object]
) -> None:
    """``wait_closed`` returns when the last reader is gone, and not before."""
    r, w = ends.pipe(blocking=blocking)
    prepare(w)
    writer, closed = ends.writer(w), []

    async def wait() -> None:
        await writer.wait_closed()
        closed.append(1)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not closed
            ends.close(r)
    assert closed
    writer.close()
