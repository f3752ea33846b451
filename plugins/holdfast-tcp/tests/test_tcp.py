"""What ``tcp:`` says when it cannot connect, and what it reads in a target."""

from __future__ import annotations

import socket

import anyio
import pytest

from holdfast import (
    Capability,
    Cause,
    Command,
    Exit,
    SessionManager,
    State,
    Target,
    TransportBroken,
    TransportUnavailable,
)
from holdfast_tcp import TcpTransport, holdfast_transports

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


async def unavailable(transport: TcpTransport) -> str:
    with pytest.raises(TransportUnavailable) as caught:
        async with transport.open(Command(("worker",))):
            pass
    return str(caught.value)


async def test_refused(free_port):
    """A refused connection says so, and what to check."""
    text = await unavailable(TcpTransport("127.0.0.1", free_port))
    assert f"tcp://127.0.0.1:{free_port} cannot be reached" in text
    assert "Connection refused" in text
    assert "listening" in text


NOWHERE = "255.255.255.255"
"""A connection there fails at once, and not when it would be answered."""


async def test_no_way():
    """An address that the system has no way to is told, and not opened."""
    assert f"tcp://{NOWHERE}:9 cannot be reached" in await unavailable(TcpTransport(NOWHERE, 9))


async def test_the_next_address(monkeypatch):
    """A host's first address may be one that the system has no way to: the next is tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        addresses = [(NOWHERE, 9), server.getsockname()]

        async def getaddrinfo(*_, **__):
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each) for each in addresses]

        monkeypatch.setattr(anyio, "getaddrinfo", getaddrinfo)
        async with TcpTransport("host", 9).open(Command(("worker",))) as channel:
            await channel.send(b"x")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(1) == b"x"


async def test_unknown_host():
    """A host without an address is named."""
    assert "'no-such-host.invalid' cannot be resolved" in await unavailable(
        TcpTransport("no-such-host.invalid", 1)
    )


async def test_no_answer():
    """A place that does not answer is given up after ``connect_timeout``."""
    with socket.socket() as full:  # a full backlog drops what asks to connect
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address):
            text = await unavailable(TcpTransport(*address, connect_timeout=0.2))
    assert "did not answer within 0.2 s" in text
    assert "connect_timeout" in text


def test_a_target():
    """Host, port and option are taken from the target."""
    (spec,) = holdfast_transports()
    transport = spec.factory(Target.parse("tcp://[::1]:7000?connect_timeout=2.5&deadline=9"))
    options = {"_timeout": 2.5, "_heartbeat": 5.0, "_deadline": 9.0}
    assert vars(transport) == {"_host": "::1", "_port": 7000, **options}


def test_no_heartbeat():
    """With ``heartbeat=0`` nothing is asked, and nothing claimed."""
    (spec,) = holdfast_transports()
    transport = spec.factory(Target.parse("tcp://host:7000?heartbeat=0"))
    assert transport.capabilities == spec.capabilities & ~Capability.DETECTS_SILENT_LINK
    assert Capability.DETECTS_SILENT_LINK in spec.capabilities


@pytest.mark.parametrize(
    "text",
    [
        "tcp://host",
        "tcp:7000",
        "tcp://host:1/path",
        "tcp://host:1?connect_timeout=soon",
        "tcp://host:1?connect_timeout=0",
        "tcp://host:1?deadline=0",
        "tcp://host:1?heartbeat=-1",
    ],
)
def test_no_target(text):
    """What is no such target is refused with words."""
    (spec,) = holdfast_transports()
    with pytest.raises(ValueError, match=r"tcp://host:port|a number of seconds"):
        spec.factory(Target.parse(text))


QUICK = {"heartbeat": 1, "deadline": 1}


async def test_a_silent_link_with_data_on_the_way(server, drops):
    """Nothing is probed while data waits for its acknowledgement: that this stays away counts."""
    transport = TcpTransport("127.0.0.1", server.port, **QUICK)
    async with transport.open(Command(("worker",))) as channel:
        await channel.send(b"echo ready; exec cat\n")
        assert await channel.receive() == b"ready\n"
        drops(server.port)
        await channel.send(b"into the void\n")
        with anyio.fail_after(30), pytest.raises(TransportBroken) as caught:
            await channel.receive()
    assert caught.value.cause is Cause.LINK_SILENT
    assert caught.value.detail.startswith("TimeoutError: [Errno 110] no acknowledgement for ")


async def test_a_worker_that_does_not_read_is_no_silent_link(server):
    """Its system answers every probe: the link is given up by no one, far beyond the deadline."""
    transport = TcpTransport("127.0.0.1", server.port, **QUICK)
    async with transport.open(Command(("worker",))) as channel:
        await channel.send(b"echo ready; exec sleep 1000\n")
        assert await channel.receive() == b"ready\n"
        with anyio.move_on_after(4 * sum(QUICK.values())) as bound:
            while True:  # until its pipe, the server and both sockets are full; then it waits
                await channel.send(bytes(65536))
        assert bound.cancelled_caught


async def test_an_end_of_which_nothing_is_known(server):
    """Whichever task notices it first: the exit is "not reported", and never unknown by chance."""
    transport = TcpTransport("127.0.0.1", server.port)
    async with SessionManager() as manager:
        for script in ("exit 3", "exec >&-", "kill -9 $$"):
            session = await manager.start(transport, ["worker"], dialect="lines")
            await session.send(script)
            status = await session.wait_for(State.ERROR)
            assert (status.detail, status.exit) == ("worker closed its stdout", Exit())
