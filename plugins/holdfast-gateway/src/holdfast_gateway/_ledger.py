"""What the gateway itself reads in a session's journal.

Whose turn it is to answer a worker's own requests, the demo worker's process id, and the figures.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any, Final

import msgspec

from holdfast import (
    Event,
    Kind,
    Lagged,
    Line,
    Origin,
    RequestId,
    Sent,
    Session,
    State,
    StatusChanged,
)
from holdfast.wakeup import bell

from ._metrics import Metrics

_REMEMBERED: Final = 1024
"""Requests of a worker that are remembered, of the open and of the answered ones each."""


class Answered(msgspec.Struct, frozen=True):
    """A worker's request that is answered, or that nobody can answer any more.

    Attributes:
        client: Who answered it, if anybody did.
    """

    client: str | None = None


class Ledger:
    """One session's.

    Args:
        session: Whose.
        metrics: Where the figures go.
        reads_pid: Whether this worker says its process id, as the demo worker does.
    """

    def __init__(self, session: Session, metrics: Metrics, *, reads_pid: bool = False) -> None:
        self._session = session
        self._metrics = metrics
        self._reads_pid = reads_pid
        self._cursor = session.last_seq
        self._moved = bell()
        self._open: dict[RequestId, None] = {}
        self._answered: dict[RequestId, Answered] = {}
        self._sent: dict[RequestId, float] = {}
        self._state = session.status.state
        self._pid: int | None = None

    async def run(self) -> None:
        """Read until the session is forgotten."""
        async with self._session.subscribe(after=self._cursor) as subscription:
            async for batch in subscription.batches():
                for event in batch:
                    if isinstance(event, Lagged):
                        self._cursor = event.resume_from - 1
                        continue
                    self._read(event)
                    self._cursor = event.seq
                self._metrics.count(batch)
                self._moved.ring()

    async def catch_up(self) -> None:
        """Wait until all that stands in the journal now is read."""
        goal = self._session.last_seq
        while self._cursor < goal:
            await self._moved.wait()

    # -- the worker's own requests -----------------------------------------------------------

    def answer(self, id: RequestId, client: str) -> Answered | None:
        """A client answers a request of the worker.

        Returns:
            ``None`` if it is the first to do so. An answer to what the worker never asked is
            passed on too: it is for the worker to judge.
        """
        late = self._answered.get(id)
        if late is None and id in self._open:
            del self._open[id]
            self._close(id, Answered(client))
        return late

    def who_answered(self, id: RequestId | None) -> str | None:
        """The client that answered a request of the worker."""
        answered = self._answered.get(id) if id is not None else None
        return answered.client if answered is not None else None

    def _close(self, id: RequestId, answered: Answered) -> None:
        self._answered[id] = answered
        _forget_oldest(self._answered)

    # -- reading -----------------------------------------------------------------------------

    def _read(self, event: Event) -> None:
        match event:
            case Line(kind=Kind.REQUEST, id=id) if id is not None:
                self._open[id] = None
                self._answered.pop(id, None)
                _forget_oldest(self._open)
            case Line(kind=Kind.ANSWER, id=id) if id is not None:
                began = self._sent.pop(id, None)
                if began is not None:
                    self._metrics.latency(time.monotonic() - began)
            case Line() if self._reads_pid and self._pid is None and event.origin is Origin.WORKER:
                self._pid = _pid_in(event.data)
            case Sent(kind=Kind.REQUEST, id=id) if id is not None:
                self._sent[id] = time.monotonic()
            case StatusChanged(status=status):
                if status.state is State.ERROR and self._state is not State.ERROR:
                    self._metrics.loss(status)
                if status.state not in (State.IDLE, State.BUSY):
                    self._worker_is_gone()
                self._state = status.state
            case _:
                pass

    def _worker_is_gone(self) -> None:
        for id in self._open:
            self._close(id, Answered())
        self._open.clear()
        self._sent.clear()
        self._pid = None

    # -- the demo worker ---------------------------------------------------------------------

    async def kill(self) -> bool:
        """Kill the demo worker, as an accident would; ``False`` if none runs."""
        await self.catch_up()
        if self._pid is None:
            return False
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def _pid_in(data: bytes) -> int | None:
    """The process id that the demo worker says in its first event."""
    try:
        pid = json.loads(data)["params"]["payload"]["pid"]
    except (ValueError, KeyError, TypeError):
        return None
    return pid if isinstance(pid, int) and pid > 1 else None


def _forget_oldest(requests: dict[RequestId, Any]) -> None:
    if len(requests) > _REMEMBERED:
        del requests[next(iter(requests))]
