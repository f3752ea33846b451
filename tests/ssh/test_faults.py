"""The table of faults in docs/ssh.md is what happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.ssh.faults import CLIENTS, FAULTS, HEARTBEAT, Fault, Place, provoke, written
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

pytestmark = pytest.mark.anyio

SLOWEST = HEARTBEAT["heartbeat"] + HEARTBEAT["deadline"] + 3


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
async def test_each_fault_is_told_as_the_table_says(
    make_sshd: Callable[..., Sshd], relay: Callable[..., Relay], client: str, fault: Fault
) -> None:
    """Status, cause, worker, exit and delivery are the table's, and in time."""
    server = make_sshd()
    row, took = await provoke(fault, Place(server, relay(server)), client)
    print(f"{client}, {fault.what}: {row.cells()}, {took:.2f} s")
    assert row.cells() == written(client).get(fault.what)
    assert took < SLOWEST or "not noticed" in row.cells()
