"""A connection that ends while a session is opened on it: the event loop waits for no thread."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest

from holdfast import Operation, TransportBroken
from holdfast_transports.ssh._paramiko import ParamikoConnection
from holdfast_transports.ssh._settings import Settings

pytestmark = pytest.mark.anyio

SECONDS = 10.0


class Ending:
    """A connection that is over, and whose thread takes its time to say why."""

    def __init__(self) -> None:
        self.loss: TransportBroken | None = None
        self.waited_for = threading.Event()
        self.goes_on = threading.Event()

    def open_session(self, timeout: float) -> None:
        raise EOFError

    def is_active(self) -> bool:
        return False

    def join(self, timeout: float) -> None:
        self.waited_for.set()
        assert self.goes_on.wait(SECONDS), "the event loop stands still meanwhile"
        self.loss = TransportBroken(Operation.RECEIVE, ConnectionResetError("by the test"))


async def test_the_reason_is_waited_for_in_a_thread() -> None:
    """Other sessions go on until the reason is known, which the error then gives."""
    client = Ending()
    connection = ParamikoConnection(client, Settings(host="there"))  # type: ignore[arg-type]

    async def elsewhere() -> None:
        await anyio.to_thread.run_sync(client.waited_for.wait, SECONDS)
        client.goes_on.set()

    with anyio.fail_after(SECONDS * 2):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elsewhere)
            with pytest.raises(TransportBroken, match="by the test") as caught:
                await connection.session()
    assert caught.value.operation is Operation.OPEN
