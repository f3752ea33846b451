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
from ._session import Receipt, Session, Subscription
from ._status import Cause, Delivery, Exit, Fate, Reason, State, Status
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
    "SessionManager",
    "Signal",
    "State",
    "Status",
    "StatusChanged",
    "Stderr",
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
]

for _name in __all__:
    _public = globals()[_name]
    if isinstance(_public, type):
        _public.__module__ = "holdfast"
del _name, _public
