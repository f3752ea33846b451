"""Which events were shown, in memory that outlives this process, but not the machine.

An event is shown before it is stored. A program that is killed may have shown some that the log
lacks, and the next one must not give out their seqs again: a reader's cursor would then stand
behind an event that it has not seen. So the latest seq of each session is also written here, at
once. The place is a file in ``/dev/shm``: no disk can make that wait, and after a crash of the
machine it is gone, which says that nothing is known. Source: shm_overview(7), tmpfs(5).
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_PLACE = Path("/dev/shm")
_SLOT: Final = struct.Struct("=QQ")  # the session's number, the seq of its latest event
_SEQ: Final = struct.Struct("=Q")
_SLOTS: Final = 256
"""How many sessions there is room for at first; it is doubled when more come."""


class Shown:
    """The latest seq of each session, by the session's number.

    Args:
        token: A name for this file that no other has; whoever knows it can ask :func:`load` later.
        known: What is known already.

    Raises:
        OSError: There is no such place, or no room in it.
    """

    def __init__(self, token: str, known: Mapping[int, int]) -> None:
        self._path = _path(token)
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._map = self._grow(max(_SLOTS, len(known) * 2))
        except BaseException:
            self.discard()
            raise
        for number, seq in known.items():
            self.mark(number, seq)

    def _grow(self, slots: int) -> mmap.mmap:
        size = slots * _SLOT.size
        os.posix_fallocate(self._file, 0, size)  # a page that cannot be had later is a SIGBUS
        self._room = slots
        return mmap.mmap(self._file, size)

    def mark(self, number: int, seq: int) -> None:
        """An event of this seq is shown.

        Raises:
            OSError: It is a session's first, and there is no room.
        """
        slot = self._slots.get(number)
        if slot is not None:
            _SEQ.pack_into(self._map, slot * _SLOT.size + _SEQ.size, seq)
            return
        if self._free:
            slot = self._free.pop()
        else:
            if self._used == self._room:
                self._map = self._grow(self._room * 2)
            slot = self._used
            self._used += 1
        self._slots[number] = slot
        _SEQ.pack_into(self._map, slot * _SLOT.size + _SEQ.size, seq)  # first: it may end here
        _SEQ.pack_into(self._map, slot * _SLOT.size, number)

    def drop(self, number: int) -> None:
        """A session is forgotten."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            _SLOT.pack_into(self._map, slot * _SLOT.size, 0, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Note no more. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def discard(self) -> None:
        """Nobody needs to ask for it any more."""
        self.close()
        with suppress(OSError):
            self._path.unlink()


def load(token: str) -> dict[int, int]:
    """What an earlier program has shown, as far as that is known."""
    path = _path(token)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return {}
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return {}
        data = os.pread(file, found.st_size, 0)
    except OSError:
        return {}
    finally:
        os.close(file)
    return {number: seq for number, seq in _SLOT.iter_unpack(data) if number}


def remove(token: str) -> None:
    """Delete what :func:`load` has read."""
    with suppress(OSError):
        _path(token).unlink()


def _path(token: str) -> Path:
    return _PLACE / f"holdfast-{token}"
