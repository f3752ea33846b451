"""Podman's service: the contract as far as engines differ, and what a client of ``run`` sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.containers import conftest
from tests.containers.engine import BUSYBOX
from tests.containers.kit import FAST, EngineLink, empty
from tests.containers.podman import Podman
from tests.e2e.servers.driving import finished, run, sh

from holdfast import Channel
from holdfast.testing import TransportContract
from holdfast.testing._clauses_close import CloseClauses
from holdfast.testing._clauses_end import EndClauses
from holdfast.testing._clauses_link import LinkClauses
from holdfast.testing._clauses_start import StartClauses

IMAGE = f"localhost/{BUSYBOX}"
IDLE = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
SCHEMES = ("podman", "podman+exec")


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with conftest.run(Podman()) as engine:
        assert isinstance(engine, Podman)
        yield engine


@pytest.fixture(scope="session")
def idle(podman: Podman) -> Iterator[str]:
    """A container that runs."""
    made = podman.create("sh", "-c", IDLE, image=IMAGE)
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
class PodmanClauses(StartClauses, EndClauses, LinkClauses, CloseClauses, EngineLink):
    """The contract but for bytes, forwarding and many channels, where engines do not differ.

    Nor what is broken: Podman 4.3 may cut the output of a worker that has closed its stdin. Each
    kind of worker is tried on one event loop: all of it on both takes five minutes.
    """

    script_worker = False
    backends = TransportContract.backends
    kit = TransportContract.kit
    pytest_generate_tests = TransportContract.pytest_generate_tests

    @pytest.fixture
    def engine(self, podman: Podman) -> Podman:
        return podman


class TestPodman(PodmanClauses):
    """``podman://``: a container for each worker."""

    backends = TransportContract.backends[:1]

    @pytest.fixture(autouse=True)
    def shared(self, tmp_path: Path) -> Path:
        """Files that one worker makes are there for the next."""
        tmp_path.chmod(0o777)
        return tmp_path

    def target(self, host: str, request: pytest.FixtureRequest) -> str:
        shared = request.getfixturevalue("shared")
        query = urlencode({"host": host, "mount": f"{shared}:/tmp", **FAST})
        return f"podman://{IMAGE}?{query}"

    @pytest.fixture
    def gone(self):
        async def gone(channel: Channel, pid: int) -> None:
            await empty(channel._container)

        return gone


class TestPodmanExec(PodmanClauses):
    """``podman+exec://``: workers beside each other in one container that runs."""

    backends = TransportContract.backends[1:]

    def target(self, host: str, request: pytest.FixtureRequest) -> str:
        container = request.getfixturevalue("idle")
        return f"podman+exec://{container}?{urlencode({'host': host, **FAST})}"
