"""Figures for Prometheus: ``/metrics``."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast import Event, Lagged, Line, LineTooLong, Sent, State, Status, StatusChanged, Stderr

if TYPE_CHECKING:
    from ._hosting import Gateway, Hosted

_KINDS = {
    Line: "line",
    Sent: "sent",
    StatusChanged: "status_changed",
    Stderr: "stderr",
    LineTooLong: "line_too_long",
}


class Metrics(Collector):
    """What is counted as it happens, and what is looked at when somebody asks.

    Args:
        gateway: Whose.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._registry = CollectorRegistry()
        self._events = Counter(
            "holdfast_events",
            "Events in the journals of all sessions.",
            ["event"],
            registry=self._registry,
        )
        self._bytes = Counter(
            "holdfast_bytes",
            "Bytes of messages and of stderr in the journals of all sessions.",
            ["event"],
            registry=self._registry,
        )
        self._losses = Counter(
            "holdfast_broken",
            "Sessions that came into the state error.",
            ["reason", "cause"],
            registry=self._registry,
        )
        self.lagged = Counter(
            "holdfast_lagged",
            "Times that a client fell behind what is retained.",
            registry=self._registry,
        )
        self._latency = Histogram(
            "holdfast_request_seconds",
            "From handing a request to a worker until its answer.",
            registry=self._registry,
        )
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def count(self, events: Sequence[Event | Lagged]) -> None:
        """Count events and their bytes."""
        kinds: Count[str] = Count()
        sizes: Count[str] = Count()
        for event in events:
            kind = _KINDS.get(type(event))
            if kind is not None:
                kinds[kind] += 1
                data = getattr(event, "data", None)
                sizes[kind] += len(data) if data is not None else getattr(event, "size", 0)
        for kind, number in kinds.items():
            self._events.labels(kind).inc(number)
            if sizes[kind]:
                self._bytes.labels(kind).inc(sizes[kind])

    def loss(self, status: Status) -> None:
        """Count a session that came into the state ``error``."""
        self._losses.labels(status.reason or "none", status.cause or "none").inc()

    def latency(self, seconds: float) -> None:
        """Note how long a request took."""
        self._latency.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """What is looked at when somebody asks; called by prometheus-client."""
        states = Count(hosted.session.status.state for hosted in self._hosted)
        sessions = GaugeMetricFamily("holdfast_sessions", "Sessions by state.", labels=["state"])
        for state in State:
            sessions.add_metric([state], states[state])
        yield sessions
        yield GaugeMetricFamily(
            "holdfast_clients",
            "Clients that stream a session.",
            value=sum(len(hosted.streams) for hosted in self._hosted),
        )

    @property
    def _hosted(self) -> Iterable[Hosted]:
        return getattr(self._gateway, "hosted", {}).values()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)
