"""The transport's contract in containers: what is the same whether they are made or there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from tests.ssh.network import unused_port
from tests.ssh.relay import Relay

from holdfast import Channel, Registry, Transport
from holdfast.testing import TransportContract

from .engine import Dockerd

FAST = {"heartbeat": 0.5, "deadline": 1.5}
"""For a silent engine to be noticed in a test's time."""


def transport_to(target: str) -> Transport:
    """The transport for a target, found as every program finds it."""
    return Registry().transport(target)


class EngineFixtures:
    """What the contract needs to be tried: a link to an engine that can be cut, or fall silent."""

    def target(self, engine: Dockerd, host: str, request: pytest.FixtureRequest) -> str:
        """Where workers run."""
        raise NotImplementedError

    @pytest.fixture
    def link(self, dockerd: Dockerd, relay: Callable[[Dockerd], Relay]) -> Relay:
        return relay(dockerd)

    @pytest.fixture
    async def transport(
        self,
        dockerd: Dockerd,
        link: Relay,
        request: pytest.FixtureRequest,
        anyio_backend: object,
    ) -> AsyncIterator[Transport]:
        transport = transport_to(self.target(dockerd, f"tcp://{link.host}:{link.port}", request))
        yield transport
        await transport.aclose()

    @pytest.fixture
    def sever(self, link: Relay):
        async def cut(channel: Channel) -> None:
            link.reset()

        return cut

    @pytest.fixture
    def silence(self, dockerd: Dockerd) -> Iterator[object]:
        async def freeze(channel: Channel) -> None:
            dockerd.freeze()

        yield freeze
        dockerd.thaw()

    @pytest.fixture
    def unreachable(self, dockerd: Dockerd, request: pytest.FixtureRequest) -> Transport:
        return transport_to(self.target(dockerd, f"tcp://127.0.0.1:{unused_port()}", request))


class EngineContract(EngineFixtures, TransportContract):
    """The contract, on an engine."""


def in_container(container: str) -> list[int]:
    """The processes of this machine that run in a container, by their control groups."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if container in text:
            found.append(int(path.parent.name))
    return found


async def empty(container: str) -> None:
    """Wait until nothing runs in a container."""
    while in_container(container):  # noqa: ASYNC110 - a stranger's end is told by nobody
        await anyio.sleep(0.02)
