"""Whether an engine is still there, and still the same one.

A stream from an engine ends alike when the worker closed its stdout, when the engine died, and when
it was started anew; and an engine that hangs says nothing at all. So each transport keeps one more
connection on which the engine is asked for a sign of life: at times, and whenever a stream ends. An
answer on that connection says that the engine which we began with is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import anyio

from holdfast import Cause, Fate, Operation, TransportBroken

from ._http import BadAnswer, HttpConnection

_GUARDS: Final = 15.0
"""Seconds between two words to guards, which give us up after a minute of silence."""


class Listener(Protocol):
    """Who is told of the engine's loss."""

    def engine_lost(self, loss: TransportBroken) -> None:
        """It is gone, or silent."""


class Heart:
    """A connection on which the engine is asked whether it is there.

    Attributes:
        loss: How it was lost, once it is.
        listeners: Who is told of that.
        on_beat: Called at each beat.
    """

    def __init__(
        self, connection: HttpConnection, where: str, interval: float, deadline: float
    ) -> None:
        self.loss: TransportBroken | None = None
        self.listeners: set[Listener] = set()
        self.on_beat: list[Callable[[], object]] = []
        self._connection = connection
        self._where = where
        self._interval = interval
        self._deadline = deadline
        self._one_asks = anyio.Lock()
        self._one_keeps = anyio.Lock()
        self._asked = False  # who asked was cancelled: the answer is still to come

    async def keep(self) -> None:
        """Ask at times, until it is lost; every channel offers its task for this, one is used."""
        async with self._one_keeps:
            while self.loss is None:
                await anyio.sleep(min(self._interval or _GUARDS, _GUARDS))
                for each in self.on_beat:
                    each()
                if self._interval:
                    await self.beat()

    async def beat(self) -> None:
        """Ask once; ``loss`` says what came of it."""
        async with self._one_asks:
            if self.loss is not None:
                return
            try:
                with anyio.fail_after(self._deadline):
                    if self._asked:
                        await self._hear()
                    self._asked = True
                    await self._connection.request("GET", "/_ping", keep=True)
                    await self._hear()
            except TimeoutError:
                silence = TimeoutError(f"no answer from {self._where} within {self._deadline:g} s")
                self._lose(silence, Cause.LINK_SILENT)
            except (OSError, BadAnswer, anyio.ClosedResourceError) as error:
                self._lose(error, Cause.LINK_LOST)

    async def _hear(self) -> None:
        answer = await self._connection.answer()
        self._asked = False
        if not answer.ok:
            raise BadAnswer(answer.message)
        self._connection.next_request()

    def _lose(self, native: Exception, cause: Cause) -> None:
        self.loss = TransportBroken(Operation.RECEIVE, native, cause=cause, worker=Fate.MAYBE_ALIVE)
        for each in [*self.listeners]:
            each.engine_lost(self.loss)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
