"""What holds for the tests of holdfast itself: each async test runs on asyncio and on trio.

A module of async tests says ``pytestmark = pytest.mark.anyio``; ``@pytest.mark.uvloop`` adds
asyncio with uvloop for those where the loop makes a difference. Test ids hold the backend's name.
"""

from __future__ import annotations

from typing import Any

import pytest

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
UVLOOP = pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop")


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test runs on, as anyio's pytest plugin takes it."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests marked ``uvloop`` their third backend."""
    if "anyio_backend" in metafunc.fixturenames and metafunc.definition.get_closest_marker(
        "uvloop"
    ):
        metafunc.definition.add_marker(
            pytest.mark.parametrize(
                "anyio_backend", [*BACKENDS, UVLOOP], indirect=True, scope="module"
            )
        )
