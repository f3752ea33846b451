"""Podman's service: what can go wrong with a link to it, and what a client of ``run`` sees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from urllib.parse import urlencode

import pytest
from tests.containers.conftest import run
from tests.containers.engine import BUSYBOX, Dockerd
from tests.containers.kit import FAST, transport_to
from tests.containers.podman import Podman
from tests.ssh.relay import Relay

from holdfast import Channel, Transport
from holdfast.testing import TransportContract
from holdfast.testing._clauses_link import LinkClauses

IMAGE = f"localhost/{BUSYBOX}"
SCHEMES = ("podman", "podman+exec")


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with run(Podman()) as engine:
        assert isinstance(engine, Podman)
        yield engine


@pytest.fixture(scope="session")
def idle(podman: Podman) -> Iterator[str]:
    """A container that runs."""
    made = podman.create("sh", "-c", "while :; do sleep 1 & wait $!; done", image=IMAGE)
    podman.kept.add(made)
    yield made
    podman.kept.discard(made)
    podman.remove(made)


@pytest.fixture(params=SCHEMES)
def place(request: pytest.FixtureRequest, idle: str) -> str:
    """What stands before the options of a target."""
    return f"{request.param}://{IMAGE if request.param == 'podman' else idle}"


def test_what_a_client_sees(podman: Podman, place: str) -> None:
    """The worker's streams and its exit code, in a container made for it and in one that runs."""
    target = f"{place}?{urlencode({'host': podman.host})}"
    worker = ("sh", "-c", 'cat; echo "$0" >&2; exit 7', "it's $HOME")
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "run", target, "--", *worker],
        input=b"in\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\n", b"it's $HOME\n")


@pytest.mark.anyio
class TestLink(LinkClauses):
    """The contract's clauses on lost links; the whole contract holds there, too, and takes long."""

    script_worker = False
    backends = TransportContract.backends[:1]
    kit = TransportContract.kit
    pytest_generate_tests = TransportContract.pytest_generate_tests

    @pytest.fixture
    def link(self, podman: Podman, relay: Callable[[Dockerd], Relay]) -> Relay:
        return relay(podman)

    @pytest.fixture
    async def transport(
        self, place: str, link: Relay, anyio_backend: object
    ) -> AsyncIterator[Transport]:
        host = f"tcp://{link.host}:{link.port}"
        transport = transport_to(f"{place}?{urlencode({'host': host, **FAST})}")
        yield transport
        await transport.aclose()

    @pytest.fixture
    def sever(self, link: Relay):
        async def cut(channel: Channel) -> None:
            link.reset()

        return cut

    @pytest.fixture
    def silence(self, podman: Podman) -> Iterator[object]:
        async def freeze(channel: Channel) -> None:
            podman.freeze()

        yield freeze
        podman.thaw()
