"""Workers in containers keep the transport's contract."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.containers.engine import BUSYBOX
from tests.containers.kit import FAST, EngineContract, empty

from holdfast import Channel


class TestDocker(EngineContract):
    """``docker://``: a container for each worker."""

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Path:
        tmp_path.chmod(0o777)
        return tmp_path

    @pytest.fixture(autouse=True)
    def _needs(self, shared: Path) -> None:
        """Files that one worker makes are there for the next."""

    def target(self, host: str, request: pytest.FixtureRequest) -> str:
        shared = request.getfixturevalue("shared")
        query = urlencode({"host": host, "mount": f"{shared}:/tmp", **FAST})
        return f"docker://{BUSYBOX}?{query}"

    @pytest.fixture
    def gone(self):
        async def gone(channel: Channel, pid: int) -> None:
            await empty(channel._container)

        return gone


class TestDockerExec(EngineContract):
    """``docker+exec://``: workers beside each other in one container that runs."""

    def target(self, host: str, request: pytest.FixtureRequest) -> str:
        container = request.getfixturevalue("container")
        return f"docker+exec://{container}?{urlencode({'host': host, **FAST})}"
