"""What is said of a session: its state, why, and what is known of its worker."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Any

import msgspec


class State(StrEnum):
    """What a session is doing."""

    STOPPED = "stopped"
    IDLE = "idle"
    BUSY = "busy"
    RESTARTING = "restarting"
    ERROR = "error"


class Reason(StrEnum):
    """What brought a session into its state."""

    START = "start"
    PROMPT = "prompt"
    PROMPT_COMPLETE = "prompt_complete"
    PROMPT_ERROR = "prompt_error"
    PROCESS_EXIT = "process_exit"
    READ_LOOP_ERROR = "read_loop_error"
    STDIN_BROKEN = "stdin_broken"
    RESTART = "restart"
    STOP = "stop"
    INITIALIZATION_FAILED = "initialization_failed"
    CONFIG_UPDATE = "config_update"


class Cause(StrEnum):
    """What is known of a loss beyond the fact that it happened."""

    WORKER_EXITED = "worker_exited"
    LINK_LOST = "link_lost"
    LINK_SILENT = "link_silent"
    STDIN_CLOSED = "stdin_closed"
    STUCK = "stuck"
    UNKNOWN = "unknown"


class Fate(StrEnum):
    """What is known of the worker itself."""

    GONE = "gone"
    MAYBE_ALIVE = "maybe_alive"
    ALIVE = "alive"
    UNKNOWN = "unknown"


class Delivery(StrEnum):
    """How far a message came.

    ``WRITTEN``: the transport took every byte; no more is known.
    ``REFUSED``: not a byte reached the worker.
    ``UNKNOWN``: a part may have reached it.
    """

    WRITTEN = "written"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Exit(msgspec.Struct, frozen=True, gc=False):
    """How a worker ended, as far as it was reported.

    Attributes:
        code: The exit code, 0 to 255, or ``None`` if it did not exit by itself or nobody said.
        signal: The name of the signal that killed it, such as ``"SIGKILL"``.
        detail: What else the transport was told, such as ``"out of memory"``.
    """

    code: int | None = None
    signal: str | None = None
    detail: str | None = None

    @property
    def reported(self) -> bool:
        """Whether the transport was told how the worker ended. ``Exit()`` is "not reported"."""
        return self.code is not None or self.signal is not None

    def __str__(self) -> str:
        if self.signal is not None:
            text = f"killed by {self.signal}"
        elif self.code is not None:
            text = f"exited with code {self.code}"
        else:
            text = "exit not reported"
        return f"{text} ({self.detail})" if self.detail else text


class Status(msgspec.Struct, frozen=True, gc=False):
    """What a session says of itself at one moment.

    Attributes:
        session_id: The session.
        state: What it is doing.
        seq: The number of the event that announced this; 0 before the first event.
        worker_id: The worker that this is about, ``None`` before the first one.
        reason: What brought it here.
        detail: One line for a person; for a loss ``"BrokenPipeError: [Errno 32] Broken pipe"``.
        updated_at: When, in UTC.
        cause: What is known of a loss.
        worker: What is known of the worker after a loss.
        exit: How the worker ended. ``None`` while it runs, and after a loss that it survived: then
            one more status adds its exit. ``Exit()``, which is "not reported", where nobody will
            say: at every end on a transport without ``Capability.EXIT_STATUS``, and where the link
            to it failed.
    """

    session_id: str
    state: State
    seq: int
    worker_id: str | None
    reason: Reason | None
    detail: str | None
    updated_at: dt.datetime
    cause: Cause | None = None
    worker: Fate | None = None
    exit: Exit | None = None

    def to_dict(self) -> dict[str, Any]:
        """This status as plain JSON types, under the names of its fields."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result
