"""The event log in SQLite: sessions and their events in one file, for the next gateway to go on.

**Commits.** The log is in WAL mode with ``synchronous=NORMAL``. A commit is then a write to the
operating system and no ``fsync``: what was committed outlives this process however that ends, and a
power cut may take the last commits, never the file. With ``FULL`` each commit would wait for the
disk, and a slow disk would put all sessions into memory. Core hands over what has come since the
last write, so a commit is a group by itself.

**Threads.** One thread at a time writes, a few others read, each on a connection of its own; in WAL
mode neither waits for the other.

Source: https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from holdfast import (
    Event,
    Lagged,
    SessionHead,
    SessionSpec,
    Store,
    StoredSession,
    StoreEntry,
    StoreError,
    StoreUnavailable,
    pack_event,
    unpack_event,
)

from . import _sqlite_files as files
from ._sqlite_shown import Shown, load, remove
from ._sqlite_tidy import OVERHEAD, Kept, Retention, Tidier, transaction

_log = logging.getLogger("holdfast.gateway")

_APPLICATION_ID: Final = 0x486F6C64
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    spec BLOB NOT NULL,
    head BLOB NOT NULL,
    clean INTEGER NOT NULL,
    size INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE events (
    key INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    text BLOB NOT NULL,
    data BLOB
);
CREATE TABLE forgotten (number INTEGER PRIMARY KEY);
CREATE TABLE shown (token TEXT NOT NULL);
"""

_CHECK: Final = 10.0
"""Seconds that the check at the start may take; a log of some GiB is then checked in part."""

_TIDY: Final = 0.05
"""Seconds that a write may spend on dropping what is old."""

_READERS: Final = 4
"""Reads at the same time: each lasts about a millisecond, and more would only share the cores."""

_READ_BYTES: Final = 1024 * 1024
"""From this size on, a read is at its end: who gets it may be slow, and must hold it."""

_PATIENCE: Final = 2.0
"""Seconds to wait for a write that an earlier call left behind when it was cancelled."""

_WAL_BYTES: Final = 16 * 1024 * 1024
"""To this size the write-ahead log is cut once its content is in the database."""

_MANY: Final = 64
"""Rows in one statement. Each step of one gives the interpreter's lock away, and must get it back
again; with many rows in one, half as much again to twice as many go in beside a busy loop."""


def _insert(rows: int) -> str:
    return "INSERT OR IGNORE INTO events VALUES " + ", ".join(["(?, ?, ?, ?)"] * rows)


_INSERT_MANY: Final = _insert(_MANY)

_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_T = TypeVar("_T")


class SQLiteStore(Store):
    """Sessions and events in a directory that belongs to this user alone, and to one program.

    A file that is found damaged is moved aside as ``events.sqlite3.corrupt-<time>``, and a new one
    is begun; ``notice`` tells of it.

    Args:
        directory: Where; it is made with mode 0700. A directory that others may write in, a
            symbolic link or somebody else's is refused.
        retention: How much is kept.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, retention: Retention | None = None
    ) -> None:
        self.notice: str | None = None
        self._directory = Path(directory)
        self._path = self._directory / files.DATABASE
        self._tidier = Tidier(retention if retention is not None else Retention())
        self._sessions: dict[str, Kept] = {}
        self._writing = threading.Lock()
        self._lock: int | None = None
        self._writer: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._damaged = False
        self._readers: list[sqlite3.Connection] = []
        self._shown: Shown | None = None
        self._known: dict[int, int] = {}  # what the last program has shown
        self._was_open = False  # once it was, events may have been shown without a note
        self._era = 0  # a reader of an earlier file is not used again

    # -- called in the event loop ------------------------------------------------------------

    async def open(self) -> None:
        """Take the directory, check what is there, or begin.

        Raises:
            StoreUnavailable: It cannot be written at present.
            StoreError: Another program has it, it is not ours, or of a later version.
        """
        self._limiter = anyio.CapacityLimiter(1)
        self._read_limiter = anyio.CapacityLimiter(_READERS)
        await self._in_thread(self._open)

    async def sessions(self) -> Sequence[StoredSession]:
        """Every session that is kept."""
        return await self._in_thread(self._list)

    async def write(self, entries: Sequence[StoreEntry]) -> None:
        """Commit all of this."""
        await self._in_thread(lambda: self._write(entries))

    async def read(self, session_id: str, after: int, at_most: int) -> Sequence[Event] | Lagged:
        """Events of a session, up to about a mebibyte of them."""
        kept = self._sessions.get(session_id)
        if kept is None:
            return ()
        return await anyio.to_thread.run_sync(
            self._read, kept, after, at_most, abandon_on_cancel=True, limiter=self._read_limiter
        )

    def first_seq(self, session_id: str) -> int | None:
        """The seq of the oldest event that is kept."""
        kept = self._sessions.get(session_id)
        return kept.first_seq if kept is not None else None

    def shown(self, session_id: str, seq: int) -> None:
        """An event of this seq may be seen by anybody from now on."""
        kept, shown = self._sessions.get(session_id), self._shown
        if kept is not None and shown is not None:
            try:
                shown.mark(kept.number, seq)
            except OSError as error:
                _log.warning("what is shown can no longer be noted: %s", error)
                self._shown = None
                shown.discard()

    async def remove(self, session_id: str) -> None:
        """Forget a session; its events are deleted little by little."""
        number = await self._in_thread(lambda: self._remove(session_id))
        if number is not None and self._shown is not None:
            self._shown.drop(number)

    async def close(self) -> None:
        """Give the directory free."""
        if self._lock is not None or self._writer is not None:
            await self._in_thread(self._close)

    async def _in_thread(self, act: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(
            self._alone, act, abandon_on_cancel=True, limiter=self._limiter
        )

    # -- in the writer's thread --------------------------------------------------------------

    def _alone(self, act: Callable[[], _T]) -> _T:
        if not self._writing.acquire(timeout=_PATIENCE):
            raise StoreUnavailable(f"the event log {self._path} still works on an earlier write")
        try:
            return act()
        except (OSError, sqlite3.Error) as error:
            if _code(error) in _DAMAGED:
                self._damaged = True
            raise files.unavailable(self._path, error) from error
        finally:
            self._writing.release()

    def _open(self) -> None:
        if self._shown is not None:  # the log is to be opened anew: nobody will ask for these
            self._shown.discard()
            self._shown = None
        self._close()
        try:
            files.prepare(self._directory)
            self._lock = files.lock(self._directory)
            os.close(files.open_private(self._path))
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                if _code(error) not in _DAMAGED:
                    raise
                self._begin_anew(str(error))
        except BaseException:
            self._close()
            raise

    def _connect(self) -> None:
        """Open the file, check it, and make the tables if it is new.

        Raises:
            sqlite3.DatabaseError: Among others, it is damaged.
        """
        writer = self._writer = self._connection("rw")
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        (application,) = writer.execute("PRAGMA application_id").fetchone()
        (tables,) = writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables and application != _APPLICATION_ID:
            raise StoreError(f"{self._path} is another program's database: move it away")
        if version > _VERSION:
            raise StoreError(
                f"{self._path} was written by a later version (format {version}, this one reads "
                f"{_VERSION}): update holdfast-gateway, or move the file away"
            )
        if not tables:
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        writer.execute("PRAGMA journal_mode = WAL").fetchone()
        writer.execute("PRAGMA synchronous = NORMAL")
        writer.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if not tables:
            with transaction(writer):
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    writer.execute(statement)
                writer.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                writer.execute(f"PRAGMA user_version = {_VERSION}")
        else:
            self._check(writer)
        self._identity = files.identity(self._path)
        self._damaged = False
        self._survey(writer)
        self._begin_showing(writer)

    def _begin_showing(self, writer: sqlite3.Connection) -> None:
        """Take over what was shown before, and note what will be under a new name.

        Whoever comes later looks for the name that stands here. If there is nothing under it, at
        whatever point this was cut off, then nothing is known, and never something that was.
        """
        old = [token for (token,) in writer.execute("SELECT token FROM shown")]
        known = load(old[-1]) if old and not self._was_open else {}
        numbers = {each.number for each in self._sessions.values()}
        self._known = {number: seq for number, seq in known.items() if number in numbers}
        self._was_open = True
        token = os.urandom(16).hex()
        with transaction(writer):
            writer.execute("DELETE FROM shown")
            writer.execute("INSERT INTO shown VALUES (?)", (token,))
        for each in old:
            remove(each)
        try:
            self._shown = Shown(token, self._known)
        except OSError as error:
            _log.info("what is shown cannot be noted, so seqs will be skipped: %s", error)

    def _connection(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self._path.absolute()))}?mode={mode}",
            uri=True,
            isolation_level=None,  # transactions begin and end where the code says so
            check_same_thread=False,  # threads take turns
            timeout=_PATIENCE,
        )

    def _check(self, writer: sqlite3.Connection) -> None:
        until = time.monotonic() + _CHECK
        writer.set_progress_handler(lambda: time.monotonic() > until, 100_000)
        try:
            found = writer.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_INTERRUPT:
                raise
            _log.info("%s was checked for %g s, and only in part", self._path, _CHECK)
            return
        finally:
            writer.set_progress_handler(None, 0)
        if found != [("ok",)]:
            damaged = sqlite3.DatabaseError(str(found[0][0]).splitlines()[0])
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged

    def _begin_anew(self, why: str) -> None:
        self._disconnect()
        aside = files.move_aside(self._path)
        self.notice = f"the event log was damaged ({why}): it is now {aside}, and a new one begun"
        _log.warning("%s", self.notice)
        os.close(files.open_private(self._path))
        self._connect()

    def _survey(self, writer: sqlite3.Connection) -> None:
        self._sessions.clear()
        for number, id, size in writer.execute("SELECT number, id, size FROM sessions").fetchall():
            kept = Kept(number, size)
            low, high = kept.keys
            for key, at in writer.execute(
                "SELECT key, at FROM events WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 1",
                (low, high),
            ):
                kept.first_seq, kept.first_at = key - low, at
            self._sessions[_text(id)] = kept

    def _list(self) -> list[StoredSession]:
        assert self._writer is not None
        rows = self._writer.execute("SELECT id, spec, head, number FROM sessions ORDER BY number")
        found = []
        for id, spec, head, number in rows.fetchall():
            shown = self._known.get(number)
            try:
                found.append(
                    StoredSession(SessionSpec.unpack(spec), SessionHead.unpack(head), shown)
                )
            except ValueError as error:
                _log.warning("session %s of %s cannot be read: %s", _text(id), self._path, error)
        return found

    def _write(self, entries: Sequence[StoreEntry]) -> None:
        writer = self._ready()
        at = int(time.time())
        fresh: dict[str, Kept] = {}
        with transaction(writer):
            for entry in entries:
                self._put(writer, entry, at, fresh)
        self._sessions.update(fresh)
        self._tidy(writer)

    def _tidy(self, writer: sqlite3.Connection) -> None:
        """Drop what is old; where that fails, what was written is written all the same."""
        try:
            self._tidier.tidy(writer, self._sessions, _TIDY)
        except sqlite3.Error as error:
            self._damaged = self._damaged or _code(error) in _DAMAGED
            _log.warning("%s: old events could not be deleted: %s", self._path, error)

    def _ready(self) -> sqlite3.Connection:
        """The connection for writing; on a new file where the old one was deleted or is damaged."""
        if self._writer is None or self._damaged or files.identity(self._path) != self._identity:
            if self._writer is not None and not self._damaged:
                self.notice = f"{self._path} was deleted or replaced, and a new one begun"
                _log.warning("%s", self.notice)
            self._open()
        assert self._writer is not None
        return self._writer

    def _put(
        self, writer: sqlite3.Connection, entry: StoreEntry, at: int, fresh: dict[str, Kept]
    ) -> None:
        id = entry.spec.id
        kept = fresh.get(id) or self._sessions.get(id)
        if kept is not None and entry.new:
            self._delete(writer, kept)
            kept = None
        if kept is None:
            number = writer.execute(
                "INSERT INTO sessions (id, spec, head, clean) VALUES (?, ?, ?, 0)",
                (_name(id), entry.spec.pack(), b""),
            ).lastrowid
            assert number is not None
            kept = Kept(number)
        low, _ = kept.keys
        values: list[object] = []
        size = 0
        for event in entry.events:
            text, data = pack_event(event)
            size += len(text) + OVERHEAD
            if data is not None:
                size += len(data)
            values += (low + event.seq, at, text, data)
        for start in range(0, len(values), _MANY * 4):
            part = values[start : start + _MANY * 4]
            writer.execute(
                _INSERT_MANY if len(part) == _MANY * 4 else _insert(len(part) // 4), part
            )
        writer.execute(
            "UPDATE sessions SET head = ?, clean = ?, size = size + ? WHERE number = ?",
            (entry.head.pack(), entry.head.clean, size, kept.number),
        )
        first_seq, first_at = kept.first_seq, kept.first_at
        if first_seq is None and entry.events:
            first_seq, first_at = entry.events[0].seq, at
        fresh[id] = Kept(kept.number, kept.size + size, first_seq, first_at)

    def _delete(self, writer: sqlite3.Connection, kept: Kept) -> None:
        writer.execute("DELETE FROM sessions WHERE number = ?", (kept.number,))
        writer.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (kept.number,))

    def _remove(self, session_id: str) -> int | None:
        writer = self._ready()
        kept = self._sessions.get(session_id)
        if kept is None:
            return None
        with transaction(writer):
            self._delete(writer, kept)
        self._sessions.pop(session_id, None)
        self._tidy(writer)
        return kept.number

    def _disconnect(self) -> None:
        self._era += 1
        shown, self._shown = self._shown, None
        while self._readers:
            self._readers.pop().close()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            if shown is not None:
                self._end_showing(writer, shown)
            writer.close()  # the last connection brings the write-ahead log home

    def _end_showing(self, writer: sqlite3.Connection, shown: Shown) -> None:
        """Leave the notes only if somebody will need them."""
        shown.close()
        with suppress(sqlite3.Error):  # then nobody knows, and they stay
            if writer.execute("SELECT 1 FROM sessions WHERE NOT clean LIMIT 1").fetchone() is None:
                shown.discard()

    def _close(self) -> None:
        try:
            self._disconnect()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    # -- in a reader's thread ----------------------------------------------------------------

    def _read(self, kept: Kept, after: int, at_most: int) -> Sequence[Event] | Lagged:
        era = self._era
        try:
            reader = self._reader()
            try:
                return _events(reader, kept, after, at_most)
            finally:
                if era == self._era and self._writer is not None:
                    self._readers.append(reader)
                else:
                    reader.close()
        except (OSError, sqlite3.Error, ValueError) as error:
            if isinstance(error, sqlite3.Error) and _code(error) in _DAMAGED:
                self._damaged = True
            raise files.unavailable(self._path, error) from error

    def _reader(self) -> sqlite3.Connection:
        if self._writer is None:
            raise StoreUnavailable(f"the event log {self._path} is not open")
        try:
            return self._readers.pop()
        except IndexError:
            return self._connection("ro")


def _events(
    reader: sqlite3.Connection, kept: Kept, after: int, at_most: int
) -> Sequence[Event] | Lagged:
    low, high = kept.keys
    found: list[Event] = []
    size = 0
    rows = reader.execute(
        "SELECT key, text, data FROM events WHERE key > ? AND key <= ? ORDER BY key LIMIT ?",
        (low + after, high, at_most),
    )
    try:
        for key, text, data in rows:
            seq = key - low
            if seq != after + len(found) + 1:
                return found or Lagged(seq)
            found.append(unpack_event(seq, text, data))
            size += len(data or b"")
            if size >= _READ_BYTES:
                break
    finally:
        rows.close()  # else it holds the log's past, which could not be reused
    return found


def _code(error: Exception) -> int | None:
    """SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _name(id: str) -> bytes:
    return id.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
