"""What ``holdfast demo`` does: the same worker killed in mid-answer, on a pipe and in a session.

Nothing here is staged: the process is killed with SIGKILL, and what is told is what was seen.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import msgspec

from holdfast._events import Event, Lagged, RequestId, StatusChanged
from holdfast._hookspecs import hookimpl
from holdfast._manager import SessionManager
from holdfast._registry import Registry
from holdfast._session import Session
from holdfast._status import Delivery, Reason, State, Status
from holdfast._subscription import Subscription
from holdfast.demo import WORKER

PROMPTS: Final = ("What do you do?", "Will you live?", "Are you there?")

WORDS_BEFORE_KILL: Final = 6

_ENOUGH: Final = 20.0
"""Seconds that one act may take; it takes two."""


def prompt(id: str, text: str) -> dict[str, Any]:
    """A prompt as kimi-wire has it."""
    return {"jsonrpc": "2.0", "id": id, "method": "prompt", "params": {"user_input": text}}


# -- on a pipe -----------------------------------------------------------------------------------


class Unguarded(msgspec.Struct):
    """What a program sees that holds nothing but the worker's pipes.

    Attributes:
        pid: The worker.
        words: What it had said when it was killed.
        answered: Whether the prompt that it was killed in got an answer.
        error: What writing the next prompt raised, as Python prints it; ``None`` if nothing.
    """

    pid: int
    words: str
    answered: bool
    error: str | None


def unguarded() -> Unguarded:
    """Prompt a worker on a raw pipe, kill it in mid-answer, and prompt it again."""
    words: list[str] = []
    answered = False
    error = None
    with subprocess.Popen(
        WORKER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # a terminal's Ctrl-C is for us, who end it
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(_ENOUGH, process.kill)
        watchdog.start()
        try:
            with suppress(BrokenPipeError):  # a worker that ended at once is told by its stdout
                process.stdin.write(_line(prompt("p-1", PROMPTS[1])))
            for line in process.stdout:
                message = json.loads(line)
                answered = answered or message.get("id") == "p-1"
                if (text := word_in(message)) is not None:
                    words.append(text)
                    if len(words) == WORDS_BEFORE_KILL:
                        process.kill()
            # Its stdout may end a moment before its stdin is closed: a write in between succeeds.
            process.wait()
            try:
                process.stdin.write(_line(prompt("p-2", PROMPTS[2])))
            except OSError:
                error = traceback.format_exc()
        finally:
            watchdog.cancel()
            process.kill()
    return Unguarded(process.pid, "".join(words), answered, error)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def word_in(message: Any) -> str | None:
    """The word that a message streams, if it does that."""
    payload = _payload(message, "ContentPart")
    return payload["text"] if payload is not None else None


def pid_in(message: Any) -> int | None:
    """The process id that a message tells, if it does that."""
    payload = _payload(message, "Started")
    return payload["pid"] if payload is not None else None


def _payload(message: Any, kind: str) -> Any:
    """The payload of a worker's event, if ``message`` is one of this kind."""
    if not isinstance(message, dict) or message.get("method") != "event":
        return None
    return message["params"]["payload"] if message["params"]["type"] == kind else None


# -- in a session --------------------------------------------------------------------------------


class Seen(msgspec.Struct):
    """One entry of the log.

    Attributes:
        at: Seconds since the session began.
        event: The journal's event.
        message: What the event holds, if it is a message from or to the worker.
        in_flight: What was in flight when a status was announced.
        busy: Whether the session was busy at that moment.
    """

    at: float
    event: Event
    message: Any = None
    in_flight: frozenset[RequestId] | None = None
    busy: bool | None = None


class Killed(msgspec.Struct):
    """The worker was sent SIGKILL, by us."""

    at: float
    pid: int


class Logged(msgspec.Struct):
    """holdfast wrote a line to its log."""

    at: float
    level: str
    text: str


Entry = Seen | Killed | Logged
Report = Callable[[Entry], None]


class Story(msgspec.Struct):
    """Everything that happened in the session, in its order."""

    entries: list[Entry]
    deliveries: list[Delivery]


async def guarded(report: Report) -> Story:
    """Prompt a worker in a session, kill it in mid-answer, and prompt it again."""
    act = _Act(report)
    handler = _LogLines(act)
    logger = logging.getLogger("holdfast")
    logger.addHandler(handler)
    try:
        await act.play()
    finally:
        logger.removeHandler(handler)
    return act.story


class _LogLines(logging.Handler):
    def __init__(self, act: _Act) -> None:
        super().__init__(logging.WARNING)
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        logged = Logged(self._act.now(), record.levelname.lower(), record.getMessage())
        self._act.logged.append(logged)  # and told later: printing may fail, logging must not


class _Astray(Exception):
    """The story took another course than it should: what was seen so far is judged."""


class _Act:
    """The one session, and who watches it."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._began = time.perf_counter()
        self._at_status: dict[int, tuple[frozenset[RequestId], bool]] = {}
        self.logged: list[Logged] = []
        self.story = Story([], [])

    def now(self) -> float:
        return time.perf_counter() - self._began

    def tell(self, entry: Entry) -> None:
        while self.logged:
            self._tell(self.logged.pop(0))
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        self.story.entries.append(entry)
        self._report(entry)

    @hookimpl
    def holdfast_status_changed(self, session: Session, status: Status) -> None:
        """Look at the session at the very moment of each status, as an observer can."""
        self._at_status[status.seq] = session.in_flight, session.is_busy

    async def watch(self, events: Subscription, until: Callable[[Seen], bool]) -> Seen:
        """Tell events until one is found.

        Raises:
            _Astray: The worker was lost before it came.
        """
        async for event in events:
            if isinstance(event, Lagged):
                continue
            in_flight, busy = self._at_status.get(event.seq, (None, None))
            data = getattr(event, "data", None)
            seen = Seen(self.now(), event, _decoded(data) if data else None, in_flight, busy)
            self.tell(seen)
            if until(seen):
                return seen
            if _is_error(seen):
                break
        raise _Astray

    async def play(self) -> None:
        registry = Registry()
        registry.register(self)
        with suppress(_Astray), anyio.move_on_after(_ENOUGH):
            async with SessionManager(registry=registry) as manager:
                session = manager.create("local:", WORKER, session_id="demo", dialect="kimi-wire")
                async with session.subscribe() as events:
                    await self._play(session, events)

    async def _play(self, session: Session, events: Subscription) -> None:
        await session.start()
        started = await self.watch(events, lambda seen: pid_in(seen.message) is not None)
        pid = pid_in(started.message)
        assert pid is not None
        await self._send(session, 1)
        await self.watch(events, _is_idle)

        await self._send(session, 2)
        for _ in range(WORDS_BEFORE_KILL):
            await self.watch(events, lambda seen: word_in(seen.message) is not None)
        os.kill(pid, signal.SIGKILL)
        self.tell(Killed(self.now(), pid))
        await self.watch(events, _is_error)

        await self._send(session, 3)
        await self.watch(events, _is_idle)

    async def _send(self, session: Session, number: int) -> None:
        receipt = await session.send(prompt(f"p-{number}", PROMPTS[number - 1]))
        self.story.deliveries.append(receipt.delivery)


def _is_idle(seen: Seen) -> bool:
    """Whether a prompt is over: the status after its answer, not the one after a start."""
    event = seen.event
    return isinstance(event, StatusChanged) and event.status.reason is Reason.PROMPT_COMPLETE


def _is_error(seen: Seen) -> bool:
    return isinstance(seen.event, StatusChanged) and seen.event.status.state is State.ERROR


def _decoded(data: bytes) -> Any:
    """A message as JSON, or else as the text that it is."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")
