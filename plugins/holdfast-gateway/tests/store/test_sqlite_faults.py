"""What the disk can do to the log: sessions go on, and everybody can see what is not kept."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from holdfast import Durability, Event, Lagged, Limits, Session, SessionManager, State, StoreError
from holdfast_gateway._sqlite import SQLiteStore

from .kit import WORKER, entry, everything, lines, stored, until

pytestmark = pytest.mark.anyio


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """A file system of its own, in memory."""
    path.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))
    try:
        yield
    finally:
        run("umount", str(path))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def remount(path: Path, options: str) -> None:
    run("mount", "-o", f"remount,{options}", str(path))


def fill(path: Path) -> None:
    """Write into a file until the disk is full, to the last page."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def moved_aside(path: Path) -> list[Path]:
    return list(path.glob("events.sqlite3.corrupt-*"))


async def seen(session: Session, durability: Durability) -> str | None:
    await until(lambda: session.durability is durability)
    return session.durability_detail


# -- full -------------------------------------------------------------------------------------


async def test_a_disk_of_64_kib(tmp_path: Path) -> None:
    """On a disk that holds next to nothing sessions work in memory, and say why."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=64k,mode=700"):
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            assert await manager.restore() == []
            session = await manager.start("local:", WORKER)
            await session.call("prompt", {"lines": 100, "size": 1000})
            detail = await seen(session, Durability.MEMORY)
            assert detail is not None
            assert "full" in detail or "No space left" in detail
            await session.call("prompt", {"lines": 100, "size": 1000})
            assert [each.seq for each in await everything(session) if isinstance(each, Event)] == [
                *range(1, session.last_seq + 1)
            ]
        assert session.status.state is State.STOPPED


async def test_a_disk_that_fills_up_and_has_space_again(tmp_path: Path) -> None:
    """What came while the disk was full is stored once there is space, as memory still has it."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=2m,mode=700"):
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            session = await manager.start("local:", WORKER, session_id="s")
            await session.call("prompt")
            await stored(session)
            assert await seen(session, Durability.DURABLE) is None
            for _ in range(4):
                await session.call("prompt", {"lines": 20, "size": 50_000})
            detail = await seen(session, Durability.MEMORY)
            assert detail is not None
            assert "full" in detail
            await session.call("prompt")
            remount(disk, "size=64m")
            assert await seen(session, Durability.DURABLE) is None
            await stored(session)
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            (again,) = await manager.restore()
            events = await everything(again)
            assert [each.seq for each in events if isinstance(each, Event)] == [
                *range(1, session.last_seq + 1)
            ]


async def test_what_memory_lost_meanwhile_is_a_gap_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be kept nowhere is named, and a reader is told where to go on: never skipped."""
    monkeypatch.setattr("holdfast._session.BACKLOG_BYTES", 200_000)
    disk = tmp_path / "disk"
    with mounted(disk, "size=2m,mode=700"):
        limits = Limits(retained_bytes=100_000)
        async with SessionManager(store=SQLiteStore(disk / "data"), limits=limits) as manager:
            session = await manager.start("local:", WORKER, session_id="s")
            await session.call("prompt")
            await stored(session)
            fill(disk / "filler")
            while session.durability is Durability.DURABLE:
                await session.call("prompt", {"lines": 1, "size": 1000})
            for _ in range(5):
                await session.call("prompt", {"lines": 20, "size": 50_000})
            (disk / "filler").unlink()
            detail = await seen(session, Durability.DURABLE)
            assert detail is not None
            assert "are not kept" in detail
            await session.call("prompt")
            await stored(session)
            events = await everything(session)
            (at,) = [n for n, each in enumerate(events) if isinstance(each, Lagged)]
            lagged = events.pop(at)
            assert isinstance(lagged, Lagged)
            seqs = [each.seq for each in events if isinstance(each, Event)]
            assert seqs[:at] == [*range(1, at + 1)]
            assert seqs[at:] == [*range(lagged.resume_from, session.last_seq + 1)]
            assert f"events {at + 1} to {lagged.resume_from - 1} are not kept" in detail


# -- read-only --------------------------------------------------------------------------------


async def test_a_read_only_disk(tmp_path: Path) -> None:
    """On a disk that cannot be written sessions work in memory, and say why."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m,mode=700"):
        (disk / "data").mkdir(mode=0o700)
        remount(disk, "ro")
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            session = await manager.start("local:", WORKER)
            await session.call("prompt")
            detail = await seen(session, Durability.MEMORY)
            assert detail is not None
            assert "Read-only file system" in detail
            remount(disk, "rw")
            await seen(session, Durability.DURABLE)
            await stored(session)


async def test_sessions_kept_on_a_read_only_disk_can_be_had_later(tmp_path: Path) -> None:
    """``restore`` may be called again once the log can be opened."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m,mode=700"):
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            manager.create("local:", WORKER, session_id="old")
        remount(disk, "ro")
        async with SessionManager(store=SQLiteStore(disk / "data")) as manager:
            assert await manager.restore() == []
            session = await manager.start("local:", WORKER)
            assert await seen(session, Durability.MEMORY)
            remount(disk, "rw")
            await seen(session, Durability.DURABLE)
            assert [each.id for each in await manager.restore()] == ["old"]
            assert await manager.restore() == []


# -- damaged, deleted, of another kind ---------------------------------------------------------


@pytest.mark.parametrize("where", ["header", "page", "all"])
async def test_a_damaged_log_is_moved_aside(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A log that fails its check is kept under another name, and a new one begun and told of."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.write([entry(lines(1, 2000, 100), new=True)])
    await store.close()
    database = tmp_path / "events.sqlite3"
    with database.open("r+b") as file:
        file.seek({"header": 0, "page": 4096 * 6, "all": 0}[where])
        file.write(
            b"\xff" * {"header": 100, "page": 4096 * 3, "all": database.stat().st_size}[where]
        )
    with caplog.at_level(logging.WARNING):
        async with SessionManager(store=SQLiteStore(tmp_path)) as manager:
            assert await manager.restore() == []
            session = await manager.start("local:", WORKER)
            await stored(session)
            assert session.durability is Durability.DURABLE
            assert session.durability_detail is not None
            assert "damaged" in session.durability_detail
    (aside,) = moved_aside(tmp_path)
    assert str(aside) in session.durability_detail
    assert str(aside) in caplog.text
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


async def test_a_log_damaged_while_it_is_used_begins_anew(tmp_path: Path) -> None:
    """Damage that shows in the middle of the work ends as one at the start does; sessions stay."""
    store = SQLiteStore(tmp_path)
    async with SessionManager(store=store) as manager:
        session = await manager.start("local:", WORKER, session_id="s")
        await session.call("prompt", {"lines": 100, "size": 1000})
        await stored(session)
        assert store._writer is not None
        store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with (tmp_path / "events.sqlite3").open("r+b") as file:
            file.write(b"\xff" * (tmp_path / "events.sqlite3").stat().st_size)
        store._writer.execute("PRAGMA shrink_memory")
        with anyio.fail_after(30):
            while not moved_aside(tmp_path):
                await session.call("prompt")
        await stored(session)
        assert session.durability is Durability.DURABLE
    async with SessionManager(store=SQLiteStore(tmp_path)) as manager:
        assert [each.id for each in await manager.restore()] == ["s"]


async def test_a_log_that_was_deleted_begins_anew(tmp_path: Path) -> None:
    """Who deletes the directory under a running program loses the past, and nothing that comes."""
    data = tmp_path / "data"
    async with SessionManager(store=SQLiteStore(data)) as manager:
        session = await manager.start("local:", WORKER, session_id="s")
        await stored(session)
        before = session.last_seq
        run("rm", "-r", str(data))
        await session.call("prompt")
        await stored(session)
        assert session.durability is Durability.DURABLE
        assert session.durability_detail is not None
        assert "deleted" in session.durability_detail
    async with SessionManager(store=SQLiteStore(data)) as manager:
        (again,) = await manager.restore()
        assert again.first_seq == before + 1
        assert (await everything(again))[0] == Lagged(before + 1)


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """A database that is not ours is refused, and not changed."""
    with sqlite3.connect(tmp_path / "events.sqlite3") as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    os.chmod(tmp_path / "events.sqlite3", 0o600)
    before = (tmp_path / "events.sqlite3").read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        await SQLiteStore(tmp_path).open()
    assert (tmp_path / "events.sqlite3").read_bytes() == before


async def test_a_later_version_is_left_alone(tmp_path: Path) -> None:
    """A log in a format to come is refused, and the message says what to do."""
    store = SQLiteStore(tmp_path)
    await store.open()
    await store.close()
    with sqlite3.connect(tmp_path / "events.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match=r"later version.*update holdfast-gateway"):
        async with SessionManager(store=SQLiteStore(tmp_path)):
            pass


# -- whose it is ------------------------------------------------------------------------------


async def test_one_program_at_a_time(tmp_path: Path) -> None:
    """The second who wants the directory is told who has it; once it is free, it can be had."""
    store = SQLiteStore(tmp_path)
    await store.open()
    with pytest.raises(StoreError, match=f"in use by another program .process {os.getpid()}"):
        async with SessionManager(store=SQLiteStore(tmp_path)):
            pass
    other = [sys.executable, "-c", OPEN, str(tmp_path)]
    assert "in use" in run(*other)
    await store.close()
    assert run(*other) == "opened\n"


OPEN = """
import sys, anyio
from holdfast_gateway._sqlite import SQLiteStore
async def main():
    store = SQLiteStore(sys.argv[1])
    try:
        await store.open()
    except Exception as error:
        print(error)
    else:
        print("opened")
        await store.close()
anyio.run(main)
"""


async def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """The directory has mode 0700, and its files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = SQLiteStore(tmp_path / "a" / "data")
        await store.open()
        await store.write([entry(lines(1, 1), new=True)])
        await store.read("s", 0, 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
    files = {
        each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "a/data").iterdir()
    }
    assert {"events.sqlite3", "events.sqlite3-wal", "lock"} <= files.keys()
    assert set(files.values()) == {0o600}
    await store.close()


@pytest.mark.parametrize("name", ["link", "theirs", "open", "file", "database", "lock"])
async def test_a_place_that_is_not_ours_is_refused(tmp_path: Path, name: str) -> None:
    """A symbolic link, another user's directory, one that others write in: none is used."""
    place = tmp_path / name
    if name == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "real")
    elif name == "file":
        place.write_text("")
    else:
        place.mkdir(mode=0o700)
    if name == "theirs":
        os.chown(place, 12345, -1)
    elif name == "open":
        place.chmod(0o777)
    elif name == "database":
        (place / "events.sqlite3").symlink_to(tmp_path / "elsewhere")
    elif name == "lock":
        (place / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError) as caught:
        async with SessionManager(store=SQLiteStore(place)):
            pass
    assert str(place) in str(caught.value)
    assert not (tmp_path / "elsewhere").exists()
    assert not list((tmp_path / "real").iterdir()) if name == "link" else True
