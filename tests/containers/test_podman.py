"""Podman's service keeps the transport's contract, as far as it runs on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.containers.conftest import run
from tests.containers.engine import BUSYBOX, Dockerd
from tests.containers.kit import FAST, EngineContract, empty
from tests.containers.podman import Podman

from holdfast import Channel

IMAGE = f"localhost/{BUSYBOX}"


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    with run(Podman()) as engine:
        yield engine


@pytest.fixture(scope="session")
def container(dockerd: Dockerd) -> Iterator[str]:
    made = dockerd.create("sh", "-c", "while :; do sleep 1 & wait $!; done", image=IMAGE)
    dockerd.kept.add(made)
    yield made
    dockerd.kept.discard(made)
    dockerd.remove(made)


class TestPodman(EngineContract):
    @pytest.fixture(autouse=True)
    def shared(self, tmp_path: Path) -> Path:
        tmp_path.chmod(0o777)
        return tmp_path

    def target(self, engine: Dockerd, host: str, request: pytest.FixtureRequest) -> str:
        shared = request.getfixturevalue("shared")
        query = urlencode({"host": host, "mount": f"{shared}:/tmp", **FAST})
        return f"podman://{IMAGE}?{query}"

    @pytest.fixture
    def gone(self):
        async def gone(channel: Channel, pid: int) -> None:
            await empty(channel._container)

        return gone


class TestPodmanExec(EngineContract):
    def target(self, engine: Dockerd, host: str, request: pytest.FixtureRequest) -> str:
        container = request.getfixturevalue("container")
        return f"podman+exec://{container}?{urlencode({'host': host, **FAST})}"
