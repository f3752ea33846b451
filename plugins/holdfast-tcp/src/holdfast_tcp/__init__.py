"""``tcp://host:port``: a worker that already listens there, one connection a channel.

The connection is the worker's stdin and stdout. There is no more to it: no stderr, no signals, and
no exit status, so that the end of the stream is all that is ever known of the worker's end. The
command is not sent anywhere: what runs is what listens (no ``ANY_COMMAND``).
"""

from __future__ import annotations

from holdfast import Target, TransportSpec, hookimpl

from ._transport import CONNECT_TIMEOUT, TcpTransport

__all__ = ["TcpTransport", "holdfast_transports"]


def _from_target(target: Target) -> TcpTransport:
    if target.host is None or target.port is None or target.path not in ("", "/"):
        raise ValueError(f"not a TCP target: {target.text!r}; write tcp://host:port")
    return TcpTransport(target.host, target.port, connect_timeout=_seconds(target))


def _seconds(target: Target) -> float:
    text = target.options.get("connect_timeout", str(CONNECT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"connect_timeout is a number of seconds above 0, not {text!r}")
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
            options={"connect_timeout": f"seconds (float), default {CONNECT_TIMEOUT:g}"},
            capabilities=TcpTransport.capabilities,
        )
    ]
