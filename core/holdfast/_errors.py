"""Every exception of holdfast, and the operations that a transport's errors name."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from ._status import Cause, Delivery, Exit, Fate, Status

if TYPE_CHECKING:
    from collections.abc import Sequence


class Operation(StrEnum):
    """What a channel was doing when its transport broke."""

    OPEN = "open"
    SEND = "send"
    SEND_EOF = "send_eof"
    RECEIVE = "receive"
    RECEIVE_STDERR = "receive_stderr"
    SIGNAL = "signal"
    WAIT = "wait"

    @property
    def is_write(self) -> bool:
        """Whether it writes to the worker's stdin."""
        return self in (Operation.SEND, Operation.SEND_EOF)


class HoldfastError(Exception):
    """The base of every exception that holdfast raises."""


class TransportError(HoldfastError):
    """The base of what a transport raises."""


class TransportUnavailable(TransportError):
    """The place where the worker should run cannot be reached or used."""


class WorkerNotStarted(TransportError):
    """The place was reached, and the command could not be started there."""


class ChannelClosed(TransportError):
    """An operation on a channel that we closed ourselves: a mistake in the calling program."""


class Unsupported(TransportError):
    """An operation that this transport has no capability for."""


class TransportBroken(TransportError):
    """The peer or the link failed under an open channel.

    Args:
        operation: The operation that met the failure.
        native: The innermost exception that says something, or a text where there is none.
        cause: What is known of the loss.
        worker: What is known of the worker.
        exit: How the worker ended, if that is known already.

    Attributes:
        detail: ``"{type(native).__name__}: {native}"``, or the text.
    """

    def __init__(
        self,
        operation: Operation,
        native: BaseException | str,
        *,
        cause: Cause = Cause.UNKNOWN,
        worker: Fate = Fate.UNKNOWN,
        exit: Exit | None = None,
    ) -> None:
        self.operation = operation
        self.native = native
        self.cause = cause
        self.worker = worker
        self.exit = exit
        self.detail: str = native if isinstance(native, str) else _described(native)
        if isinstance(native, BaseException):
            _chain(self, native)
        super().__init__(f"{operation}: {self.detail}")

    def during(self, operation: Operation) -> TransportBroken:
        """The same loss, as met again by another operation: what a sticky error raises."""
        return TransportBroken(
            operation, self.native, cause=self.cause, worker=self.worker, exit=self.exit
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_broken, (self.operation, self.native, self.cause, self.worker, self.exit))


def _chain(error: BaseException, cause: BaseException) -> None:
    """What ``raise error from cause`` does, for an error that is raised more than once."""
    error.__cause__ = cause


def _described(native: BaseException) -> str:
    return f"{type(native).__name__}: {native}"


def _broken(
    operation: Operation,
    native: BaseException | str,
    cause: Cause,
    worker: Fate,
    exit: Exit | None,
) -> TransportBroken:
    return TransportBroken(operation, native, cause=cause, worker=worker, exit=exit)


class WorkerLost(HoldfastError):
    """The worker was lost, or could not be reached, before it answered a call.

    Attributes:
        status: The session's status that says why.
        delivery: How far the request came.
    """

    def __init__(self, status: Status, delivery: Delivery) -> None:
        self.status = status
        self.delivery = delivery
        why = status.detail or status.reason or "no reason given"
        super().__init__(
            f"session {status.session_id} is {status.state} ({why}); the request's delivery is "
            f"{delivery}: send it again after a restart if it may run twice"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkerLost, (self.status, self.delivery))


class CallError(HoldfastError):
    """A call was answered with a JSON-RPC error, or with what is no answer that can be read.

    Attributes:
        code: The error's code; 0 if it has none.
        message: The error's message.
        data: The error's data, ``None`` if it has none.
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        super().__init__(f"{message} (code {code})")

    def __reduce__(self) -> tuple[Any, ...]:
        return (CallError, (self.code, self.message, self.data))


class SessionBusy(HoldfastError):
    """The session is answering a request; pass ``force=True`` to restart it all the same."""


class SessionClosed(HoldfastError):
    """The session was forgotten, or its manager was left."""


class UnknownSession(HoldfastError, KeyError):
    """No session has this id."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StoreError(HoldfastError):
    """A store must not be used: another program has it, or it is not ours."""


class StoreUnavailable(StoreError):
    """A store cannot be written or read at present: sessions go on in memory meanwhile."""


class InvalidMessage(HoldfastError, ValueError):
    """A message that cannot be sent: refused at the edge, nothing was written."""


class InvalidTarget(HoldfastError, ValueError):
    """A target that cannot be read, or an option that its transport does not know."""


class PluginError(HoldfastError):
    """The base of what goes wrong with plugins."""


class UnknownTransport(PluginError):
    """No plugin provides this scheme.

    Attributes:
        scheme: What was asked for.
        known: The schemes that would have worked.
    """

    def __init__(self, scheme: str, known: Sequence[str] = (), hint: str = "") -> None:
        self.scheme = scheme
        self.known: tuple[str, ...] = tuple(known)
        self.hint = hint
        names = ", ".join(self.known) or "none"
        super().__init__(
            f"no transport named {scheme!r}{hint}; known: {names} (see: holdfast transports)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (UnknownTransport, (self.scheme, self.known, self.hint))


class DuplicateTransport(PluginError):
    """Two plugins provide the same scheme."""


class PluginLoadError(PluginError):
    """A plugin could not be loaded; the others work on.

    Attributes:
        plugin: The entry point's name.
        distribution: The distribution that brings it.
    """

    def __init__(self, plugin: str, distribution: str, why: BaseException | str) -> None:
        self.plugin = plugin
        self.distribution = distribution
        self.why = why
        text = why if isinstance(why, str) else f"{type(why).__name__}: {why}"
        super().__init__(
            f"plugin {plugin!r} of {distribution} cannot be loaded: {text}; "
            f"update or uninstall {distribution}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (PluginLoadError, (self.plugin, self.distribution, self.why))
