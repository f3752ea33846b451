"""Run a line-JSON worker anywhere, and never be lied to about its state."""

from __future__ import annotations

from ._dialect import Dialect
from ._errors import (
    CallError,
    ChannelClosed,
    DuplicateTransport,
    HoldfastError,
    InvalidMessage,
    InvalidTarget,
    Operation,
    PluginError,
    PluginLoadError,
    SessionBusy,
    SessionClosed,
    StoreError,
    StoreUnavailable,
    TransportBroken,
    TransportError,
    TransportUnavailable,
    UnknownSession,
    UnknownTransport,
    Unsupported,
    WorkerLost,
    WorkerNotStarted,
)
from ._events import (
    Event,
    Kind,
    Lagged,
    Line,
    LineTooLong,
    Origin,
    RequestId,
    Sent,
    StatusChanged,
    Stderr,
)
from ._framing import ContentLength, Framing, Lines
from ._hookspecs import hookimpl, hookspec
from ._limits import Limits
from ._manager import RestartSummary, SessionManager
from ._registry import Registry, TransportSpec
from ._session import Receipt, Session
from ._status import Cause, Delivery, Exit, Fate, Reason, State, Status
from ._store import (
    Durability,
    SessionHead,
    SessionSpec,
    Store,
    StoredSession,
    StoreEntry,
    StoreSpec,
    pack_event,
    unpack_event,
)
from ._subscription import Subscription
from ._target import Target
from ._transport import Capability, Channel, Command, Signal, Transport

__all__ = [
    "CallError",
    "Capability",
    "Cause",
    "Channel",
    "ChannelClosed",
    "Command",
    "ContentLength",
    "Delivery",
    "Dialect",
    "DuplicateTransport",
    "Durability",
    "Event",
    "Exit",
    "Fate",
    "Framing",
    "HoldfastError",
    "InvalidMessage",
    "InvalidTarget",
    "Kind",
    "Lagged",
    "Limits",
    "Line",
    "LineTooLong",
    "Lines",
    "Operation",
    "Origin",
    "PluginError",
    "PluginLoadError",
    "Reason",
    "Receipt",
    "Registry",
    "RequestId",
    "RestartSummary",
    "Sent",
    "Session",
    "SessionBusy",
    "SessionClosed",
    "SessionHead",
    "SessionManager",
    "SessionSpec",
    "Signal",
    "State",
    "Status",
    "StatusChanged",
    "Stderr",
    "Store",
    "StoreEntry",
    "StoreError",
    "StoreSpec",
    "StoreUnavailable",
    "StoredSession",
    "Subscription",
    "Target",
    "Transport",
    "TransportBroken",
    "TransportError",
    "TransportSpec",
    "TransportUnavailable",
    "UnknownSession",
    "UnknownTransport",
    "Unsupported",
    "WorkerLost",
    "WorkerNotStarted",
    "hookimpl",
    "hookspec",
    "pack_event",
    "unpack_event",
]


def _as_public() -> None:
    """Let messages and documentation name the public place of a class, not its file."""
    for name in __all__:
        each = globals()[name]
        if isinstance(each, type):
            each.__module__ = __name__


_as_public()
