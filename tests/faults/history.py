"""What was seen of one session, from all sides: what ``rules.py`` is held against.

Three sides write it down, none of which trusts another: the journal, event by event as it enters;
the client, what it asked for and what it was told; and each worker, what it read and wrote by its
own account. Where the worker is a real process, that account is a file (``read_account``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast import Cause, Event, Lagged, Line, RequestId, StatusChanged

MARK: Final = re.compile(rb"<[a-z][a-z0-9 -]*>")
"""How a mark looks; nothing else in a message looks so."""


class Asked(msgspec.Struct):
    """Something that a client asked of the session, and what became of it.

    Attributes:
        what: It, in words.
        do: The method: ``send``, ``call``, ``start``, ``restart``, ``stop``, ``wait_for``.
        id: Of the request.
        request: Whether it is a request, which has to be answered.
        data: The message as it goes to the worker, where that is known.
        mark: Bytes that no other message holds, as ``b"<r1>"``; without it, equal messages are
            counted together.
        timeout: What was passed as ``timeout=``.
        cancel: Seconds until the caller was cancelled.
        may_be_invalid: Whether ``InvalidMessage`` is a right answer.
        result: A ``Receipt``, a ``Status``, the result of a call, or the exception.
        began: When.
        ended: When it returned; ``None`` if it has not.
        cancelled: Whether it ended by being cancelled.
        answered: How many answers of its id stood in the journal when it returned.
    """

    what: str
    do: str
    id: RequestId | None = None
    request: bool = False
    data: bytes | None = None
    mark: bytes = b""
    timeout: float | None = None
    cancel: float | None = None
    may_be_invalid: bool = False
    result: Any = None
    began: float = 0.0
    ended: float | None = None
    cancelled: bool = False
    answered: int | None = None

    def __str__(self) -> str:
        return self.what

    @property
    def sends(self) -> bool:
        """Whether it sends a message."""
        return bool(self.mark) or self.data is not None


class Accepted(msgspec.Struct):
    """A request that the machine took, and where the log stood then."""

    id: RequestId
    generation: int
    position: int


class Reader(msgspec.Struct):
    """What one subscriber saw, after which seq it began, and whether it came to the end."""

    name: str
    after: int
    events: list[Event | Lagged]
    ended: bool = False


class Account(msgspec.Struct):
    """One worker's own story.

    Attributes:
        name: What it calls itself.
        pid: Its process, where it is one.
        took: What came to its stdin, byte for byte.
        exact: Whether ``took`` is what the transport took for it; else it is what it has read,
            and of what was written before a loss it may have read less.
        wrote: What it wrote, message by message; the last one perhaps in part, or not at all.
        over: Whether it came to the end of its stdin.
        whole: Whether the last of ``wrote`` was written to its end, too.
    """

    name: str = ""
    pid: int | None = None
    took: bytes | bytearray = b""
    exact: bool = False
    wrote: list[bytes] = []
    over: bool = False
    whole: bool = False


class Deed(msgspec.Struct):
    """A fault that was done, to which generations, and what may be said of it.

    Attributes:
        what: It, in words.
        first: The generation that ran when it was done.
        last: The one that ran when it was over.
        ends: Whether the first of them cannot survive it.
        causes: What may be said to be the cause of a loss.
        exits: How a worker may be said to have ended: ``"SIGKILL"``, ``"3"``.
        link: Whether it is the link that it broke, so that bytes may be lost on the way.
        unnamed: Whether the transport is not told how such a worker ended.
    """

    what: str
    first: int
    last: int
    ends: bool = False
    causes: frozenset[Cause] = frozenset()
    exits: frozenset[str] = frozenset()
    link: bool = False
    unnamed: bool = False


class History(msgspec.Struct):
    """All that was seen of one session.

    Attributes:
        dialect: The session's.
        log: The journal, each event as it entered.
        generations: Which worker the session had then, one for each event of the log.
        asked: What clients asked.
        accepted: The requests that were taken.
        readers: The subscribers.
        accounts: The workers' own stories, by generation, as far as there are any.
        strangers: Stories of workers that no generation is known to have had.
        deeds: The faults that were done; ``None`` if nobody kept a list of them.
        trouble: What was seen to be wrong while it ran.
        framed: How a message stands on the wire.
        faithful: Whether the workers answer each request at most once, and nothing else.
        reports_exit: Whether the transport tells how a worker ended.
        retains_all: Whether the journal has room for everything.
        send_timeout: The session's default.
        patience: How much later than its bound something may end, in seconds.
        slack: How long a send may take beyond its timeouts: a start, and the declaring of a loss.
    """

    dialect: str = "jsonrpc"
    log: list[Event] = []
    generations: list[int] = []
    asked: list[Asked] = []
    accepted: list[Accepted] = []
    readers: list[Reader] = []
    accounts: dict[int, Account] = {}
    strangers: list[Account] = []
    deeds: list[Deed] | None = None
    trouble: list[str] = []
    framed: Callable[[bytes], bytes] = bytes
    faithful: bool = True
    reports_exit: bool = True
    retains_all: bool = True
    send_timeout: float | None = None
    patience: float = 0.001
    slack: float = 31.0


def of_events(events: Sequence[Event], *, faithful: bool = True) -> History:
    """The history of which only the journal is known."""
    generation, generations = 0, []
    for event in events:
        if isinstance(event, StatusChanged) and event.status.worker_id is not None:
            generation = int(event.status.worker_id.rpartition("/")[2])
        generations.append(generation)
    return History(log=[*events], generations=generations, faithful=faithful)


def read_account(path: Path) -> Account:
    """The account that a worker wrote into a file: records of a letter, a size, and as many bytes.

    ``h`` begins it, with the process id; ``r`` is a line that was read, ``t`` what stood before
    the end of the stream, ``e`` that end; ``w`` is a message about to be written, and any record
    behind it tells that it was. The last one may be torn: a worker is killed at any moment.
    """
    account = Account(name=path.name, took=bytearray(), wrote=[])
    assert isinstance(account.took, bytearray)
    data, place = path.read_bytes(), 0
    while (end := data.find(b"\n", place)) >= 0:
        letter, size = data[place : place + 1], int(data[place + 1 : end])
        body = data[end + 1 : end + 1 + size]
        if len(body) < size:
            break
        place = end + 1 + size
        account.whole = letter != b"w"
        if letter == b"h":
            account.pid = int(body)
        elif letter in b"rt":
            account.took += body
        elif letter == b"w":
            account.wrote.append(body)
        elif letter == b"e":
            account.over = True
    return account


def names_itself(event: Event) -> str | None:
    """The name of the worker's account, if this is the line by which it greets."""
    if isinstance(event, Line) and event.data.startswith(b'{"method":"hello"'):
        name: str = msgspec.json.decode(event.data)["params"]["log"]
        return name
    return None
