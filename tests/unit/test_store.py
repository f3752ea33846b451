"""What a store is given: records that come back equal, and nothing that must not be kept."""

from __future__ import annotations

import datetime as dt

import pytest

from holdfast import (
    Cause,
    Command,
    Event,
    Exit,
    Fate,
    Kind,
    Lagged,
    Limits,
    Line,
    LineTooLong,
    Origin,
    Reason,
    Sent,
    SessionHead,
    SessionSpec,
    State,
    Status,
    StatusChanged,
    Stderr,
    pack_event,
    unpack_event,
)

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)
STATUS = Status(
    "s",
    State.ERROR,
    7,
    "s/2",
    Reason.STDIN_BROKEN,
    "a lone surrogate \ud800",
    NOW,
    Cause.LINK_LOST,
    Fate.MAYBE_ALIVE,
    Exit(None, "SIGKILL", "out of memory"),
)
EVENTS: list[Event] = [
    Line(1, b"\xff\x00", Kind.NOTIFICATION),
    Line(2, b"", Kind.NOTIFICATION, "id"),
    Line(3, b"{}", Kind.ANSWER, 1, Origin.HOLDFAST, False),
    Line(4, b"x", Kind.REQUEST, 1.0),
    Line(5, b"x", Kind.OPAQUE, None, terminated=False),
    Sent(6, b"x", Kind.REQUEST, 2**70),
    Sent(7, b"x", Kind.REQUEST, "\udcff"),
    StatusChanged(8, STATUS),
    StatusChanged(9, Status("s", State.STOPPED, 0, None, None, None, NOW)),
    Stderr(10, b"\x1b[31m"),
    LineTooLong(11, 10**13, b"head"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: f"{type(event).__name__}-{event.seq}")
def test_an_event_comes_back_equal(event: Event) -> None:
    """What is unpacked is what was packed, down to the type of its id; bytes stay as they are."""
    text, data = pack_event(event)
    again = unpack_event(event.seq, text, data)
    assert again == event
    assert type(getattr(again, "id", None)) is type(getattr(event, "id", None))
    assert data == getattr(event, "data", getattr(event, "head", None))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'["later",1]',
        b'["line","no such kind",null,"worker",true]',
        b'["status_changed",{}]',
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_an_error(text: bytes) -> None:
    """A text that nobody packed is a ``ValueError``, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        unpack_event(1, text, b"")


def test_only_events_are_packed() -> None:
    """``Lagged`` stands in no journal, so it cannot be kept."""
    with pytest.raises(TypeError, match="not an event"):
        pack_event(Lagged(1))  # type: ignore[arg-type]


def test_a_head_comes_back_equal() -> None:
    """Ids of all types among what is in flight keep their type."""
    ids = (1, 2.5, "1", "\ud800", -(2**70))
    head = SessionHead(STATUS, 9, 2, ids, clean=True)
    again = SessionHead.unpack(head.pack())
    assert again == head
    assert [type(each) for each in again.in_flight] == [type(each) for each in ids]


def test_a_spec_comes_back_equal() -> None:
    """Limits without a bound and arguments that are no Unicode are kept as they are."""
    command = Command(("worker", "\udcff"), "/tmp", {}, False)
    limits = Limits(eof_grace=float("inf"), send_timeout=2.5)
    record = {"name": "build", "tags": [1, None, {"a": 2.5}]}
    spec = SessionSpec("s", "local:", command, ("TOKEN",), "mcp", limits, NOW, record)
    assert SessionSpec.unpack(spec.pack()) == spec


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"nothing", b'{"id": 1}'])
def test_what_is_no_record_is_an_error(data: bytes) -> None:
    """A damaged spec or head is a ``ValueError``."""
    with pytest.raises(ValueError, match="not what a store was given"):
        SessionSpec.unpack(data)
    with pytest.raises(ValueError, match="not what a store was given"):
        SessionHead.unpack(data)
