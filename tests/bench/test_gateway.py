"""The load on a gateway runs, on a small scale, and what must hold at any scale holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import gateway

pytestmark = [pytest.mark.serial, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    """The clients' library runs on asyncio."""
    return "asyncio"


@pytest.mark.timeout(300)
async def test_a_small_load(tmp_path: Path) -> None:
    """Clients that never read cost little memory and nobody's answers; the stop leaves nothing."""
    with gateway.gateway(str(tmp_path)) as (process, url, token):
        found = await gateway.measure(
            process.pid, url, token, sessions=10, clients=3, deaf=5, seconds=1.0
        )
        assert process.wait() == 0
    assert found["workers"] == 10
    assert found["workers_left"] == 0
    assert found["stop_s"] < 30
    # Each of 5 clients that never read may hold a batch; beside them 10 sessions of 1 MiB.
    assert found["memory_most"] - found["memory_streams"] < 5 + 10 + 40
