"""Writes the history of running sessions, whichever transport carries them.

``Tap`` sees each event when it enters a session's journal, before anybody can react to it.
``watching`` puts one on every session that anybody makes, with what clients ask of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

import anyio

from holdfast import Event, Line, RequestId, Session, SessionManager, State, StatusChanged
from holdfast._machine import Verdict

from .history import MARK, Accepted, Asked, History

_ASKING: ContextVar[Asked | None] = ContextVar("asking", default=None)


class Tap:
    """Sees what becomes of one session, from its making on.

    Args:
        session: The session.
        history: Where it is written down.
        told: Who else wants to hear of each event, and of the generation that it belongs to.
        marked: Whether each message holds a mark of its own.

    Attributes:
        history: What was seen.
        answers: How often each id was answered so far.
    """

    def __init__(
        self,
        session: Session,
        history: History,
        *,
        told: Callable[[Event, int], None] | None = None,
        marked: bool = False,
    ) -> None:
        self.history = history
        self.answers: Counter[RequestId | None] = Counter()
        self._session = session
        self._told = told
        self._marked = marked
        self._occupying: set[RequestId] = set()  # what makes it busy, by our own count
        self._append = session._journal.append
        self._admit = session._machine.admit
        history.dialect = session.dialect
        history.framed = session._dialect.framing.encode
        history.send_timeout = session.limits.send_timeout
        session._journal.append = self._appended  # type: ignore[method-assign]
        session._machine.admit = self._admitted  # type: ignore[method-assign]

    def _appended(self, events: Any) -> None:
        session, history = self._session, self.history
        history.log += events
        history.generations += [session.generation] * len(events)
        self._append(events)
        for event in events:
            if (
                isinstance(event, StatusChanged)
                and event.status.state in (State.ERROR, State.STOPPED)
                and (session.is_busy or session.in_flight)
            ):
                history.trouble.append(
                    f"at {brief(event)} the session is busy: {session.is_busy}, in flight: "
                    f"{sorted(map(str, session.in_flight))}"
                )
            elif isinstance(event, Line) and event.kind == "answer":
                self._occupying.discard(event.id)  # type: ignore[arg-type]
                self.answers[event.id] += 1
            if self._told is not None:
                self._told(event, session.generation)
        state, occupying = session.status.state, self._occupying
        if (state is State.IDLE and occupying) or (state is State.BUSY and not occupying):
            history.trouble.append(
                f"at {history.log[-1].seq} the session is {state}, and what makes it busy is "
                f"{sorted(map(str, occupying))}"
            )

    def _admitted(self, message: Any) -> Any:
        if (asked := _ASKING.get()) is not None:
            asked.data = message.data
            asked.id, asked.request = message.envelope.id, message.envelope.kind == "request"
            if self._marked and (found := MARK.search(message.data)):
                asked.mark = found[0]
        verdict, events = self._admit(message)
        if verdict is Verdict.SEND and message.envelope.id in self._session.in_flight:
            self.history.accepted.append(
                Accepted(message.envelope.id, self._session.generation, len(self.history.log))
            )
            if message.busy:
                self._occupying.add(message.envelope.id)
        return verdict, events


def follow(session: Session, tap: Tap) -> None:
    """Write down what clients ask of a session, and what they are told."""
    for name in ("send", "call", "start", "restart", "stop"):
        _follow(session, tap, name)


def _follow(session: Session, tap: Tap, name: str) -> None:
    method = getattr(session, name)

    async def followed(*args: Any, **named: Any) -> Any:
        what = (
            f"{name}({', '.join([*map(_short, args), *(f'{k}={v!r}' for k, v in named.items())])})"
        )
        asked = Asked(what, name, timeout=named.get("timeout"), may_be_invalid=True)
        asked.began = anyio.current_time()
        tap.history.asked.append(asked)
        token = _ASKING.set(asked)
        try:
            result = await method(*args, **named)
            asked.result = deepcopy(result)  # it is the test's own, and may be changed
        except Exception as error:
            asked.result = error
            raise
        except BaseException:
            asked.cancelled = True
            raise
        finally:
            _ASKING.reset(token)
            asked.ended = anyio.current_time()
            asked.answered = tap.answers[asked.id] if asked.request else None
        return result

    setattr(session, name, followed)


@contextmanager
def watching() -> Iterator[list[History]]:
    """Write the history of every session that is made meanwhile."""
    histories: list[History] = []
    create = SessionManager.create

    def tapped(manager: SessionManager, *args: Any, **named: Any) -> Session:
        session = create(manager, *args, **named)
        history = History(log=[], faithful=False, patience=10.0, slack=60.0, retains_all=False)
        follow(session, Tap(session, history))
        histories.append(history)
        return session

    SessionManager.create = tapped  # type: ignore[method-assign]
    try:
        yield histories
    finally:
        SessionManager.create = create  # type: ignore[method-assign]


def tasks_living() -> int:
    """How many tasks the event loop has."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return int(trio.lowlevel.current_statistics().tasks_living)
    import asyncio

    return len(asyncio.all_tasks())


def brief(event: StatusChanged) -> str:
    """A status in a few words."""
    return f"{event.seq} {event.status.state}/{event.status.reason}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"
