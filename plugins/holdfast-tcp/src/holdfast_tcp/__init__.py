"""``tcp://host:port``: a worker that already listens there, one connection a channel.

The connection is the worker's stdin and stdout. There is no more to it: no stderr, no signals, and
no exit status, so that the end of the stream is all that is ever known of the worker's end. The
command is not sent anywhere: what runs is what listens (no ``ANY_COMMAND``).
"""

from __future__ import annotations

from holdfast import Target, TransportSpec, hookimpl

from ._transport import CONNECT_TIMEOUT, DEADLINE, HEARTBEAT, TcpTransport

__all__ = ["TcpTransport", "holdfast_transports"]


def _from_target(target: Target) -> TcpTransport:
    if target.host is None or target.port is None or target.path not in ("", "/"):
        raise ValueError(f"not a TCP target: {target.text!r}; write tcp://host:port")
    return TcpTransport(
        target.host,
        target.port,
        connect_timeout=_seconds(target, "connect_timeout", CONNECT_TIMEOUT),
        heartbeat=_seconds(target, "heartbeat", HEARTBEAT, may_be_0=True),
        deadline=_seconds(target, "deadline", DEADLINE),
    )


def _seconds(target: Target, name: str, default: float, *, may_be_0: bool = False) -> float:
    text = target.options.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf") or (seconds == 0 and not may_be_0):
        least = "from 0" if may_be_0 else "above 0"
        raise ValueError(f"{name} is a number of seconds {least}, not {text!r}")
    return seconds


@hookimpl
def holdfast_transports() -> list[TransportSpec]:
    """``tcp:``."""
    return [
        TransportSpec(
            scheme="tcp",
            factory=_from_target,
            summary="a worker that listens on a TCP port (its command is not ours to choose)",
            example="tcp://localhost:7000",
            options={
                "connect_timeout": f"seconds (float), default {CONNECT_TIMEOUT:g}",
                "deadline": f"seconds (float) for a sign of life, default {DEADLINE:g}",
                "heartbeat": f"seconds (float) of silence before one is asked for, default "
                f"{HEARTBEAT:g}; 0: never",
            },
            capabilities=TcpTransport.capabilities,
        )
    ]
