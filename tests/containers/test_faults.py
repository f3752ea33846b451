"""The table of faults in docs/containers.md is what happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.containers.engine import Dockerd
from tests.containers.faults import FAULTS, HEARTBEAT, SCHEMES, Fault, Place, provoke, tidy, written
from tests.ssh.relay import Relay

pytestmark = pytest.mark.anyio

SLOWEST = HEARTBEAT["heartbeat"] + HEARTBEAT["deadline"] + 3


@pytest.fixture
def engine(
    fault: Fault, request: pytest.FixtureRequest, make_dockerd: Callable[..., Dockerd]
) -> Dockerd:
    """An engine that may be killed, where the fault needs one."""
    if fault.own:
        return make_dockerd(*fault.arguments)
    shared: Dockerd = request.getfixturevalue("dockerd")
    return shared


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_each_fault_is_told_as_the_table_says(
    engine: Dockerd,
    relay: Callable[[Dockerd], Relay],
    scheme: str,
    fault: Fault,
) -> None:
    """Status, cause, worker, exit and delivery are the table's, and in time."""
    place = Place(engine, relay(engine))
    row, took = await provoke(fault, place, scheme)
    print(f"{scheme}, {fault.what}: {row.cells()}, {took:.2f} s")
    if fault.own:
        tidy(engine)  # without live-restore it ends, when it starts again, what had lived on
    elif scheme.endswith("+exec"):
        engine.remove(place.container)
    assert row.cells() == written(scheme).get(fault.what)
    assert took < SLOWEST or "not noticed" in row.cells()
