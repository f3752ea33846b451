"""The public surface: the names, parameters and fields of the design's section 10 stay."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import enum
import inspect
import itertools
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import (
    Cause,
    Command,
    Delivery,
    Exit,
    Fate,
    Kind,
    Lagged,
    Limits,
    Line,
    LineTooLong,
    Origin,
    Reason,
    Receipt,
    RestartSummary,
    Sent,
    Session,
    SessionManager,
    State,
    Status,
    StatusChanged,
    Stderr,
    Target,
    TransportSpec,
)

NAMES = [
    "SessionManager",
    "Session",
    "Subscription",
    "Receipt",
    "RestartSummary",
    "Limits",
    "Registry",
    "Status",
    "State",
    "Reason",
    "Cause",
    "Fate",
    "Delivery",
    "Exit",
    "Event",
    "Line",
    "Sent",
    "StatusChanged",
    "Stderr",
    "LineTooLong",
    "Lagged",
    "Kind",
    "Origin",
    "RequestId",
    "HoldfastError",
    "TransportError",
    "TransportUnavailable",
    "WorkerNotStarted",
    "ChannelClosed",
    "Unsupported",
    "TransportBroken",
    "WorkerLost",
    "CallError",
    "SessionBusy",
    "SessionClosed",
    "UnknownSession",
    "InvalidMessage",
    "PluginError",
    "UnknownTransport",
    "DuplicateTransport",
    "PluginLoadError",
    "Operation",
    "Transport",
    "Channel",
    "Command",
    "Target",
    "Signal",
    "Capability",
    "TransportSpec",
    "Dialect",
    "Store",
    "StoreSpec",
    "StoreEntry",
    "StoredSession",
    "SessionSpec",
    "SessionHead",
    "Durability",
    "StoreError",
    "StoreUnavailable",
    "hookimpl",
    "hookspec",
]

FIELDS: dict[str, str] = {
    "Status": "session_id state seq worker_id reason detail updated_at cause worker exit",
    "Exit": "code signal detail",
    "Receipt": "delivery status id",
    "RestartSummary": "restarted skipped_busy failed",
    "Line": "seq data kind id origin terminated",
    "Sent": "seq data kind id",
    "StatusChanged": "seq status",
    "Stderr": "seq data",
    "LineTooLong": "seq size head",
    "Lagged": "resume_from",
    "Command": "argv cwd env inherit_env",
    "Target": "scheme user host port path options text",
    "TransportSpec": "scheme factory summary example options",
    "StoreSpec": "scheme factory summary example",
    "StoreEntry": "spec head events new",
    "StoredSession": "spec head shown",
    "SessionSpec": "id target command env dialect limits created_at record",
    "SessionHead": "status last_seq generation in_flight clean",
    "Limits": "max_line retained_bytes stderr_tail send_timeout eof_grace term_grace",
}

MEMBERS: dict[str, str] = {
    "State": "STOPPED IDLE BUSY RESTARTING ERROR",
    "Reason": "START PROMPT PROMPT_COMPLETE PROMPT_ERROR PROCESS_EXIT READ_LOOP_ERROR "
    "STDIN_BROKEN RESTART STOP INITIALIZATION_FAILED CONFIG_UPDATE",
    "Delivery": "WRITTEN REFUSED UNKNOWN",
    "Cause": "WORKER_EXITED LINK_LOST LINK_SILENT STDIN_CLOSED STUCK UNKNOWN",
    "Fate": "GONE MAYBE_ALIVE ALIVE UNKNOWN",
    "Kind": "REQUEST NOTIFICATION ANSWER OPAQUE",
    "Origin": "WORKER HOLDFAST",
    "Operation": "OPEN SEND SEND_EOF RECEIVE RECEIVE_STDERR SIGNAL WAIT",
    "Signal": "INT TERM KILL HUP",
    "Durability": "DURABLE MEMORY",
    "Capability": "ANY_COMMAND STDERR EXIT_STATUS SIGNALS HALF_CLOSE REAPS_WORKER "
    "DETECTS_SILENT_LINK EARLY_EOF",
}

# name: its parameters as ``name=default``, ``*`` before those that are by keyword only
SIGNATURES: dict[str, str] = {
    "SessionManager.create": "target command * session_id=None dialect='jsonrpc' cwd=None env=None "
    "limits=None",
    "SessionManager.start": "target command * session_id=None dialect='jsonrpc' cwd=None env=None "
    "limits=None",
    "SessionManager.get": "session_id",
    "SessionManager.restart_all": "* force=False",
    "SessionManager.stop_all": "",
    "SessionManager.forget": "session_id",
    "SessionManager.restore": "",
    "Session.read": "* after=0 at_most=1024",
    "Store.open": "",
    "Store.sessions": "",
    "Store.write": "entries",
    "Store.read": "session_id after at_most",
    "Store.first_seq": "session_id",
    "Store.remove": "session_id",
    "Store.close": "",
    "Session.start": "",
    "Session.send": "message * timeout=None",
    "Session.call": "method params=None * id=None timeout=None",
    "Session.subscribe": "* after=0",
    "Session.restart": "* force=False",
    "Session.stop": "",
    "Transport.open": "command",
    "Transport.aclose": "",
    "Channel.send": "data",
    "Channel.receive": "max_bytes=65536",
    "Channel.receive_stderr": "max_bytes=65536",
    "Channel.wait": "",
    "Channel.aclose": "",
    "Channel.send_eof": "",
    "Channel.signal": "signal",
    "Target.parse": "text",
}


def parameters(name: str) -> list[inspect.Parameter]:
    owner, _, method = name.partition(".")
    function = getattr(getattr(holdfast, owner), method)
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    """Each pinned name is importable from ``holdfast``, and belongs there."""
    value = getattr(holdfast, name)
    assert name in holdfast.__all__
    if isinstance(value, type):
        assert value.__module__ == "holdfast"
        assert value.__doc__


def test_all_is_what_there_is() -> None:
    """``__all__`` is sorted, without repetition, and every name of it is there."""
    assert list(holdfast.__all__) == sorted(set(holdfast.__all__))
    assert all(hasattr(holdfast, name) for name in holdfast.__all__)


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    """A record's pinned fields stand first and in their order; more may follow."""
    fields = FIELDS[name].split()
    assert list(getattr(holdfast, name).__struct_fields__)[: len(fields)] == fields


@pytest.mark.parametrize("name", MEMBERS)
def test_members(name: str) -> None:
    """An enum has its pinned members, and a ``StrEnum``'s values are their names in lower case."""
    each = getattr(holdfast, name)
    assert set(MEMBERS[name].split()) <= set(each.__members__)
    if name == "Capability":
        assert issubclass(each, enum.Flag)
    else:
        assert issubclass(each, enum.StrEnum)
        assert all(member.value == member.name.lower() for member in each)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    """A pinned method takes its parameters as they were pinned; what is added has a default."""
    pinned = SIGNATURES[name].split()
    got = {p.name: p for p in parameters(name)}
    keyword_only = False
    positions = []
    for each in pinned:
        if each == "*":
            keyword_only = True
            continue
        argument, _, default = each.partition("=")
        parameter = got.pop(argument)
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) is keyword_only
        assert repr(parameter.default) == default or parameter.default is parameter.empty
        assert (parameter.default is parameter.empty) is (default == "")
        if not keyword_only:
            positions.append(argument)
    assert [p.name for p in parameters(name)][: len(positions)] == positions
    assert all(p.default is not p.empty for p in got.values())


def test_wait_for() -> None:
    """``wait_for`` takes any number of states and a timeout."""
    states, timeout = parameters("Session.wait_for")
    assert states.kind is inspect.Parameter.VAR_POSITIONAL
    assert (timeout.name, timeout.kind, timeout.default) == ("timeout", timeout.KEYWORD_ONLY, None)


def test_constructors() -> None:
    """What an application or a plugin makes itself is made as the design says."""
    manager = inspect.signature(SessionManager).parameters
    assert {p.kind for p in manager.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert {"registry", "limits", "store"} <= manager.keys()
    broken = inspect.signature(holdfast.TransportBroken).parameters
    assert [p.name for p in broken.values()] == ["operation", "native", "cause", "worker", "exit"]
    assert {broken[n].kind for n in ("cause", "worker", "exit")} == {inspect.Parameter.KEYWORD_ONLY}
    assert (broken["cause"].default, broken["worker"].default) == (Cause.UNKNOWN, Fate.UNKNOWN)
    spec = TransportSpec("x", lambda target: None, "s", "x:")  # type: ignore[arg-type,return-value]
    assert spec.options == {}


@pytest.mark.parametrize(
    "name", ["status", "is_busy", "in_flight", "generation", "last_seq", "stderr_tail"]
)
def test_what_can_be_seen_of_a_session_cannot_be_set(name: str) -> None:
    """A session's state is read, never written."""
    attribute = getattr(Session, name)
    assert isinstance(attribute, property)
    assert attribute.fset is None


def test_what_is_awaited() -> None:
    """Methods that wait are coroutines; ``create``, ``get`` and ``open`` are not."""
    for name in SIGNATURES:
        owner, _, method = name.partition(".")
        waits = name not in (
            "SessionManager.create",
            "SessionManager.get",
            "Session.subscribe",
            "Store.first_seq",
            "Transport.open",
            "Target.parse",
        )
        assert inspect.iscoroutinefunction(getattr(getattr(holdfast, owner), method)) is waits, name


# -- records ----------------------------------------------------------------------------------

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
STATUS = Status("s", State.IDLE, 1, "s/1", Reason.START, None, NOW)


def factory(target: Target) -> Any:
    raise NotImplementedError


RECORDS: list[tuple[Any, Mapping[str, Any]]] = [
    (STATUS, {"seq": 2}),
    (Exit(3), {"code": 4}),
    (Receipt(Delivery.WRITTEN, STATUS, 1), {"delivery": Delivery.REFUSED}),
    (RestartSummary(("a",), (), ()), {"failed": ("b",)}),
    (Line(1, b"x", Kind.ANSWER, 1, Origin.HOLDFAST, False), {"terminated": True}),
    (Sent(1, b"x", Kind.REQUEST, "a"), {"id": "b"}),
    (StatusChanged(1, STATUS), {"seq": 2}),
    (Stderr(1, b"x"), {"data": b"y"}),
    (LineTooLong(1, 9, b"x"), {"size": 10}),
    (Lagged(3), {"resume_from": 4}),
    (Command(("cat",), env={"A": "b"}), {"cwd": "/"}),
    (Target.parse("ssh://me@h:1/p?a=b"), {"port": 2}),
    (TransportSpec("x", factory, "s", "x:"), {"scheme": "y"}),
    (Limits(), {"max_line": 1}),
]


@pytest.mark.parametrize(("record", "other"), RECORDS, ids=lambda x: type(x).__name__)
def test_a_record_is_a_value(record: Any, other: Mapping[str, Any]) -> None:
    """Records cannot be changed, compare by value, and are small."""
    twin = copy.copy(record)
    assert twin is not record
    assert twin == record
    assert msgspec.structs.replace(record, **other) != record
    for name, value in other.items():
        with pytest.raises(AttributeError):
            setattr(record, name, value)
    assert not hasattr(record, "__dict__")
    assert not dataclasses.is_dataclass(record)


def test_events_of_two_kinds_differ() -> None:
    """Two events with the same fields are equal only if they are of the same kind."""
    events: list[holdfast.Event] = [Sent(1, b"x"), Stderr(1, b"x"), Line(1, b"x")]
    assert all(one != other for one, other in itertools.combinations(events, 2))
    assert issubclass(Line, holdfast.Event)
    assert not issubclass(Lagged, holdfast.Event)


def test_the_defaults_say_nothing() -> None:
    """What is not given is not claimed."""
    assert Exit() == Exit(None, None, None)
    assert Line(1, b"") == Line(1, b"", Kind.OPAQUE, None, Origin.WORKER, True)
    assert (STATUS.cause, STATUS.worker, STATUS.exit) == (None, None, None)
    assert Command(("x",)) == Command(("x",), None, {}, True)


# -- importing --------------------------------------------------------------------------------


def test_importing_holdfast_imports_no_event_loop_but_asyncio_and_no_cli() -> None:
    """``import holdfast`` brings neither trio nor click, rich or any transport."""
    code = (
        "import sys, holdfast; "
        "print(*{'trio', 'uvloop', 'click', 'rich', 'pytest', 'holdfast_transports'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
