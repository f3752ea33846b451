"""What holds for the tests of holdfast itself: each async test runs on asyncio and on trio.

A module of async tests says ``pytestmark = pytest.mark.anyio``; ``@pytest.mark.uvloop`` adds
asyncio with uvloop for those where the loop makes a difference. Test ids hold the backend's name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:  # the tests' own modules find each other as ``tests.…``
    sys.path.insert(0, ROOT)

if TYPE_CHECKING:
    from tests.faults.history import History

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


@pytest.fixture
def histories(request: pytest.FixtureRequest) -> Iterator[list[History]]:
    """Every session that the test makes is watched, and held against all rules at the end."""
    from tests.faults.rules import broken_rules
    from tests.faults.tap import watching

    if request.node.get_closest_marker("unwatched"):
        yield []
        return
    with watching() as seen:
        yield seen
    broken = [each for history in seen for each in broken_rules(history)]
    assert not broken, "\n".join(["the sessions of this test break rules:", *broken])
