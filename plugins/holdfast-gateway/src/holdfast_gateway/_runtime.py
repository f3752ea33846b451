"""Where running gateways are found: one file for each, which only their user can read.

The file holds the URL and the token, and its gateway holds a lock on it for as long as it runs: a
file without a lock was left behind by a gateway that was killed, and means nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import platformdirs

_SUFFIX: Final = ".json"


class Running(msgspec.Struct, frozen=True):
    """A gateway that runs on this machine.

    Attributes:
        url: Where, without the token.
        token: Its token.
        pid: Its process id.
        started_at: When, as seconds since 1970.
    """

    url: str
    token: str
    pid: int
    started_at: float


class UnsafeDirectory(Exception):
    """The runtime directory is not ours alone."""


def directory() -> Path:
    """The runtime directory; it may not exist yet."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    # Without one, platformdirs falls back to a well-known name in /tmp, where anybody may be first.
    return Path(base, "holdfast") if base else platformdirs.user_data_path("holdfast") / "runtime"


def prepare() -> Path:
    """The runtime directory, made if need be.

    Raises:
        UnsafeDirectory: Others can read or change it, or it cannot be made.
    """
    path = directory()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise UnsafeDirectory(f"{path} cannot be used: {error}") from error
    if path.is_symlink() or found.st_uid != os.getuid():
        raise UnsafeDirectory(f"{path} does not belong to this user, or is a link: remove it")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


@contextmanager
def announced(running: Running) -> Iterator[Path]:
    """Let others find a gateway while it runs.

    Raises:
        UnsafeDirectory: There is no place for that.
    """
    path = prepare() / f"gateway-{running.pid}{_SUFFIX}"
    new = path.with_suffix(".new")  # whoever finds it under its name finds it locked, and whole
    new.unlink(missing_ok=True)  # of another process that had our id
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW
    with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(msgspec.json.encode(running))
        file.flush()
        new.rename(path)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def running() -> list[Running]:
    """The gateways of this user that run, the latest first; files left behind are removed."""
    found = []
    for path in directory().glob(f"gateway-*{_SUFFIX}"):
        try:
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(msgspec.json.decode(file.read(), type=Running))
                else:
                    path.unlink(missing_ok=True)
        except (OSError, msgspec.MsgspecError):
            continue  # it ended meanwhile
    return sorted(found, key=lambda each: each.started_at, reverse=True)


@contextmanager
def opener(url: str) -> Iterator[str]:
    """A page that leads to ``url``, for a browser to open.

    On a browser's command line anybody could read the token; this file only its user can.
    """
    path = prepare() / f"open-{os.getpid()}.html"
    path.unlink(missing_ok=True)
    onward = f'<meta http-equiv="refresh" content="0;url={url}">'
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"<!doctype html><title>holdfast</title>{onward}")
    try:
        yield path.as_uri()
    finally:
        path.unlink(missing_ok=True)
