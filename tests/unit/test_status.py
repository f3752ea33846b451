"""What is said of a session: names that stay, and exits that claim no more than is known."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from holdfast import Cause, Delivery, Exit, Fate, Reason, State, Status

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC)
STATUS = Status(
    "s",
    State.ERROR,
    7,
    "s/1",
    Reason.STDIN_BROKEN,
    "BrokenPipeError: [Errno 32] Broken pipe",
    NOW,
    Cause.WORKER_EXITED,
    Fate.GONE,
    Exit(signal="SIGKILL"),
)


def test_the_json_of_a_status_keeps_its_names() -> None:
    """``to_dict`` gives plain JSON types under the names of the design."""
    assert json.loads(json.dumps(STATUS.to_dict())) == {
        "session_id": "s",
        "state": "error",
        "seq": 7,
        "worker_id": "s/1",
        "reason": "stdin_broken",
        "detail": "BrokenPipeError: [Errno 32] Broken pipe",
        "updated_at": "2026-01-02T03:04:05.000678Z",
        "cause": "worker_exited",
        "worker": "gone",
        "exit": {"code": None, "signal": "SIGKILL", "detail": None},
    }


def test_what_is_not_known_is_null() -> None:
    """A status without a worker keeps every name."""
    status = Status("s", State.STOPPED, 0, None, None, None, NOW)
    content = status.to_dict()
    assert list(content) == list(STATUS.to_dict())
    assert {name for name, value in content.items() if value is None} == {
        "worker_id",
        "reason",
        "detail",
        "cause",
        "worker",
        "exit",
    }


@pytest.mark.parametrize(
    ("exit", "reported", "text"),
    [
        (Exit(), False, "exit not reported"),
        (Exit(0), True, "exited with code 0"),
        (Exit(255), True, "exited with code 255"),
        (Exit(signal="SIGTERM"), True, "killed by SIGTERM"),
        (Exit(signal="SIGKILL", detail="out of memory"), True, "killed by SIGKILL (out of memory)"),
        (Exit(1, detail="no"), True, "exited with code 1 (no)"),
        (Exit(detail="the engine is gone"), False, "exit not reported (the engine is gone)"),
    ],
)
def test_an_exit_in_words(exit: Exit, reported: bool, text: str) -> None:
    """An exit says how the worker ended, and one that nobody reported says that."""
    assert exit.reported is reported
    assert str(exit) == text


def test_the_words_are_those_of_the_design() -> None:
    """States, reasons, causes, fates and deliveries are fixed words."""
    assert list(State) == ["stopped", "idle", "busy", "restarting", "error"]
    assert list(Reason) == [
        "start",
        "prompt",
        "prompt_complete",
        "prompt_error",
        "process_exit",
        "read_loop_error",
        "stdin_broken",
        "restart",
        "stop",
        "initialization_failed",
        "config_update",
    ]
    assert list(Cause) == (
        ["worker_exited", "link_lost", "link_silent", "stdin_closed", "stuck", "unknown"]
    )
    assert list(Fate) == ["gone", "maybe_alive", "alive", "unknown"]
    assert list(Delivery) == ["written", "refused", "unknown"]
