"""The directory of an event log: ours alone, and one program's at a time."""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from holdfast import StoreError, StoreUnavailable

DATABASE: Final = "events.sqlite3"
LOCK: Final = "lock"
_SUFFIXES: Final = ("", "-wal", "-shm")


def prepare(directory: Path) -> None:
    """Make the directory, or see that nobody else can put anything into the one there is.

    Raises:
        StoreError: It is a symbolic link, somebody else's, or open to others.
        OSError: It can be neither made nor read.
    """
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise StoreError(f"{directory} is a symbolic link: name the directory that it leads to")
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{directory} is no directory: name another one")
    _check_owner(directory, found)
    if found.st_mode & 0o022:
        raise StoreError(
            f"others may write in {directory}: name a directory of your own, or chmod go-w it"
        )


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {found.st_uid}, and this program runs as user "
            f"{os.geteuid()}: name a directory of your own"
        )


def open_private(path: Path) -> int:
    """Open, or make, a file that is ours and that nobody else may read.

    Raises:
        StoreError: It is a symbolic link, no regular file, or somebody else's.
        OSError: It cannot be opened.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise StoreError(f"{path} is no regular file: move it away") from error
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is no regular file: move it away")
        _check_owner(path, found)
        if stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(file, 0o600)
    except BaseException:
        os.close(file)
        raise
    return file


def lock(directory: Path) -> int:
    """Take the directory for this program, until the file that this gives is closed.

    Raises:
        StoreError: Another program has it.
        OSError: The file cannot be opened.
    """
    file = open_private(directory / LOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(file, 32).decode("ascii", "replace").strip()
        os.close(file)
        raise StoreError(
            f"{directory} is in use by another program{f' (process {owner})' if owner else ''}: "
            f"stop that one, or name another directory"
        ) from None
    except BaseException:
        os.close(file)
        raise
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        pass  # the disk is full; the number only helps whoever comes second
    return file


def identity(path: Path) -> tuple[int, int] | None:
    """Which file stands under a name at present."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def move_aside(database: Path) -> Path:
    """Give a damaged database another name, so that nothing of it is lost for whoever can read it.

    Raises:
        OSError: It cannot be renamed.
    """
    when = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = database.with_name(f"{database.name}.corrupt-{when}")
    for suffix in _SUFFIXES:
        part = database.with_name(database.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def unavailable(path: Path, error: Exception) -> StoreUnavailable:
    """What an error of the system or of SQLite means for the store."""
    return StoreUnavailable(f"the event log {path} cannot be used: {error}")
