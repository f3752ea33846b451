"""The store runs on both event loops, unlike the gateway's server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_gateway import _sqlite_shown


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test runs on."""
    return request.param


@pytest.fixture(autouse=True)
def shown(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process notes what it has shown: a test may end without a proper end."""
    place = tmp_path_factory.mktemp("shm")
    monkeypatch.setattr(_sqlite_shown, "_PLACE", place)
    return place
