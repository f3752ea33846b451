"""SSH by paramiko keeps the transport's contract, with each way to lose a link made real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import ClassVar

import anyio
import pytest
from tests.ssh.kit import SSHContract, transport_to
from tests.ssh.network import Direction, destroy, drops_of
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

from holdfast import Cause, Channel, Fate, Transport
from holdfast.testing import TransportContract
from holdfast.testing._clauses_link import LinkClauses, lose
from holdfast.testing._kit import Kit

CLIENTS = ("paramiko", "openssh")
FAST = {"heartbeat": 0.3, "deadline": 0.9}


class TestParamiko(SSHContract):
    options: ClassVar = FAST

    # Where the contract allows for wires that know less, this one knows:

    async def test_a_signal_is_named(self, kit: Kit) -> None:
        """Death by a signal is reported by name, as sshd says it."""
        for name in ("KILL", "TERM", "SEGV"):
            async with kit.open(f"kill -{name} $$; exec sleep 1000") as peer:
                assert (await peer.wait()).signal == f"SIG{name}"


# -- each way to lose a link -----------------------------------------------------------------------


def drop(sshd: Sshd, direction: Direction) -> None:
    """Let the packets of the present connection vanish: by its own port, so that others pass."""
    for each in drops_of(sshd.port, direction):
        each.start()


def shut_down(sshd: Sshd) -> None:
    """What `systemctl stop ssh` and a reboot do: the listener and all sessions are asked to end."""
    sshd.kill_listener()
    sshd.kill_sessions()
    sshd.start()


LOST = (Cause.LINK_LOST,)
SILENT = (Cause.LINK_SILENT,)

WAYS: dict[str, tuple[Callable[[Sshd, Relay], object], tuple[Cause, ...]]] = {
    "session killed": (lambda sshd, relay: sshd.kill_sessions(), LOST),
    "session frozen": (lambda sshd, relay: sshd.freeze(), SILENT),
    "packets dropped": (lambda sshd, relay: drop(sshd, Direction.BOTH), SILENT),
    "packets to the server dropped": (lambda sshd, relay: drop(sshd, Direction.TO_SERVER), SILENT),
    "packets to the client dropped": (lambda sshd, relay: drop(sshd, Direction.TO_CLIENT), SILENT),
    "connection reset": (lambda sshd, relay: relay.reset(), LOST),
    "connection half closed": (lambda sshd, relay: relay.half_close(), LOST),
    "sockets destroyed": (lambda sshd, relay: destroy(sshd.port), LOST),
    "sshd shut down": (lambda sshd, relay: shut_down(sshd), LOST),
}


@pytest.mark.anyio
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
class TestEachLoss(LinkClauses):
    """The contract's clauses on lost links, for each way to lose one."""

    script_worker = False
    backends = TransportContract.backends[:1]  # the other loop runs the whole contract above
    kit = TransportContract.kit
    pytest_generate_tests = TransportContract.pytest_generate_tests

    @pytest.fixture
    def link(self, way: str, sshd: Sshd, relay: Callable[..., Relay]) -> Relay:
        return relay(sshd)

    @pytest.fixture
    def transport(self, way: str, client: str, sshd: Sshd, link: Relay) -> Transport:
        through = link.port if way.startswith("connection") else sshd.port
        return transport_to(sshd.target(port=through, client=client, **FAST))

    @pytest.fixture
    def sever(self, way: str, sshd: Sshd, link: Relay) -> Iterator[Callable[[Channel], object]]:
        async def cut(channel: Channel) -> None:
            WAYS[way][0](sshd, link)

        yield cut
        sshd.kill_sessions()  # what the server has not noticed it shall not keep

    @pytest.fixture(autouse=True)
    async def closed(self, transport: Transport) -> AsyncIterator[None]:
        """What the contract's own clauses do by themselves."""
        yield
        await transport.aclose()

    @pytest.fixture
    def silence(self, sever: Callable[[Channel], object], way: str):
        return sever if WAYS[way][1] == SILENT else None

    async def test_the_cause(self, kit: Kit, way: str) -> None:
        """The cause says whether the link was lost or silent, within the deadline."""
        async with kit.open("echo ready; exec cat") as peer:
            await peer.line()
            began = anyio.current_time()
            broken = await lose(kit, peer)
            took = anyio.current_time() - began
        assert broken.cause in WAYS[way][1], broken
        assert broken.worker is Fate.MAYBE_ALIVE
        limit = FAST["heartbeat"] + FAST["deadline"] + 2
        assert took < limit, f"{took:.1f} s"
        print(f"{way}: {broken.cause}, {broken.detail}, {took:.2f} s")

    async def test_the_far_side_ends_the_worker(self, kit: Kit, way: str, sshd: Sshd) -> None:
        """A worker whose link is lost is ended there, though it ignores all that can be ignored."""
        script = "trap '' HUP INT TERM PIPE; echo $$; while :; do sleep 0.1; done"
        async with kit.open(script) as peer:
            pid = int(await peer.line())
            await lose(kit, peer)
        if WAYS[way][1] == SILENT:
            sshd.thaw()
            sshd.kill_sessions()  # its own end is bounded, and tested, elsewhere: it takes a minute
        with anyio.fail_after(10 * kit.patience):
            while any(each.pid == pid for each in sshd.processes()):  # noqa: ASYNC110 - a stranger
                await anyio.sleep(0.05)
