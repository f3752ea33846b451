"""Podman's service: what can go wrong with a link to it, and what a client of ``run`` sees."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from tests.containers import conftest
from tests.containers.engine import BUSYBOX
from tests.containers.kit import FAST, EngineLink
from tests.containers.podman import Podman
from tests.e2e.servers.driving import finished, run, sh

from holdfast.testing import TransportContract
from holdfast.testing._clauses_link import LinkClauses

IMAGE = f"localhost/{BUSYBOX}"
SCHEMES = ("podman", "podman+exec")


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with conftest.run(Podman()) as engine:
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
    worker = (*sh('cat; echo "$0" >&2; exit 7'), "it's $HOME")
    told = finished(run(*worker, target=target), b"in\n", 60)
    assert told == (7, b"in\n", b"it's $HOME\n")


@pytest.mark.anyio
class TestLink(EngineLink, LinkClauses):
    """The contract's clauses on lost links; the whole contract holds there, too, and takes long."""

    script_worker = False
    backends = TransportContract.backends[:1]
    kit = TransportContract.kit
    pytest_generate_tests = TransportContract.pytest_generate_tests

    @pytest.fixture
    def engine(self, podman: Podman, place: str) -> Podman:
        return podman

    def target(self, host: str, request: pytest.FixtureRequest) -> str:
        place = request.getfixturevalue("place")
        return f"{place}?{urlencode({'host': host, **FAST})}"
