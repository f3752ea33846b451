"""Exceptions: what they carry, how they read, and that they survive a trip between processes."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
from collections.abc import Callable

import pytest

import holdfast
from holdfast import (
    CallError,
    Cause,
    Delivery,
    Exit,
    Fate,
    HoldfastError,
    InvalidMessage,
    InvalidTarget,
    Operation,
    PluginError,
    PluginLoadError,
    Reason,
    State,
    Status,
    TransportBroken,
    TransportError,
    UnknownSession,
    UnknownTransport,
    WorkerLost,
)

STATUS = Status(
    "s", State.ERROR, 3, "s/1", Reason.PROCESS_EXIT, "worker exited", dt.datetime.now(dt.UTC)
)
NATIVE = BrokenPipeError(32, "Broken pipe")


def test_the_detail_of_a_loss_is_its_native_error() -> None:
    """``detail`` is the native error's type and text, exactly."""
    error = TransportBroken(Operation.SEND, NATIVE)
    assert error.detail == "BrokenPipeError: [Errno 32] Broken pipe"
    assert str(error) == "send: BrokenPipeError: [Errno 32] Broken pipe"
    assert error.native is NATIVE
    assert error.__cause__ is NATIVE
    assert (error.cause, error.worker, error.exit) == (Cause.UNKNOWN, Fate.UNKNOWN, None)


def test_a_loss_without_a_native_error_says_a_text() -> None:
    """Where nothing was raised, the text is the detail, and there is no cause to chain."""
    error = TransportBroken(Operation.WAIT, "no answer for 15 s", cause=Cause.LINK_SILENT)
    assert error.detail == "no answer for 15 s"
    assert error.__cause__ is None


def test_a_loss_met_again_is_the_same_loss() -> None:
    """Another operation raises a new error with the same cause and its own name."""
    first = TransportBroken(
        Operation.SEND, NATIVE, cause=Cause.LINK_LOST, worker=Fate.MAYBE_ALIVE, exit=Exit()
    )
    again = first.during(Operation.RECEIVE)
    assert again is not first
    assert again.operation is Operation.RECEIVE
    assert again.__cause__ is NATIVE
    for name in ("detail", "native", "cause", "worker", "exit"):
        assert getattr(again, name) == getattr(first, name)


def test_which_operations_write() -> None:
    """Only those that touch the worker's stdin do."""
    assert {each for each in Operation if each.is_write} == {Operation.SEND, Operation.SEND_EOF}


FIELDS: dict[str, tuple[HoldfastError, tuple[str, ...]]] = {
    "broken": (
        TransportBroken(
            Operation.RECEIVE, NATIVE, cause=Cause.LINK_LOST, worker=Fate.UNKNOWN, exit=Exit(3)
        ),
        ("operation", "detail", "cause", "worker", "exit"),
    ),
    "broken by a text": (TransportBroken(Operation.OPEN, "cut"), ("operation", "detail", "native")),
    "lost": (WorkerLost(STATUS, Delivery.UNKNOWN), ("status", "delivery")),
    "call": (CallError(-32601, "no such method", {"a": 1}), ("code", "message", "data")),
    "unknown session": (UnknownSession("no session 'x'"), ("args",)),
    "unknown transport": (
        UnknownTransport("shh", ("local", "ssh"), " (did you mean 'ssh'?)"),
        ("scheme", "known", "hint"),
    ),
    "plugin": (PluginLoadError("tcp", "holdfast-tcp", "no"), ("plugin", "distribution", "why")),
    "invalid": (InvalidMessage("a newline"), ("args",)),
}


@pytest.mark.parametrize(
    "travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"]
)
@pytest.mark.parametrize("case", FIELDS)
def test_an_error_survives_a_trip(
    case: str, travel: Callable[[HoldfastError], HoldfastError]
) -> None:
    """Pickled or copied, an error has the same type, text and fields."""
    error, fields = FIELDS[case]
    back = travel(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    for name in fields:
        assert getattr(back, name) == getattr(error, name)


def test_what_an_error_is_besides() -> None:
    """Errors are what a program would catch that does not know holdfast."""
    assert issubclass(UnknownSession, KeyError)
    assert issubclass(InvalidMessage, ValueError)
    assert issubclass(InvalidTarget, ValueError)
    assert str(UnknownSession("no session 'x'")) == "no session 'x'", "not the repr of a KeyError"
    assert str(UnknownSession()) == ""


def test_the_families() -> None:
    """Transports, plugins and all of holdfast have one base each."""
    errors = {
        name: each
        for name in holdfast.__all__
        if isinstance(each := getattr(holdfast, name), type) and issubclass(each, Exception)
    }
    assert all(issubclass(each, HoldfastError) for each in errors.values())
    assert {name for name, each in errors.items() if issubclass(each, TransportError)} == {
        "TransportError",
        "TransportUnavailable",
        "WorkerNotStarted",
        "ChannelClosed",
        "Unsupported",
        "TransportBroken",
    }
    assert {name for name, each in errors.items() if issubclass(each, PluginError)} == {
        "PluginError",
        "UnknownTransport",
        "DuplicateTransport",
        "PluginLoadError",
    }


def test_a_lost_worker_in_words() -> None:
    """The message says the session, why, and how far the request came."""
    text = str(WorkerLost(STATUS, Delivery.WRITTEN))
    assert "session s is error" in text
    assert "worker exited" in text
    assert "written" in text


def test_an_unknown_transport_lists_the_known_ones() -> None:
    """The message names the schemes that would have worked, and the nearest."""
    text = str(UnknownTransport("shh", ["local", "ssh"], " (did you mean 'ssh'?)"))
    assert text.startswith("no transport named 'shh' (did you mean 'ssh'?); known: local, ssh")
    assert "known: none" in str(UnknownTransport("x"))


def test_a_broken_plugin_is_named_with_its_distribution() -> None:
    """The message says whose plugin it is, why, and what to do."""
    text = str(PluginLoadError("tcp", "holdfast-tcp", ImportError("no module named x")))
    assert text == (
        "plugin 'tcp' of holdfast-tcp cannot be loaded: ImportError: no module named x; "
        "update or uninstall holdfast-tcp"
    )
