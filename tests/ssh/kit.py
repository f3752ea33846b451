"""The transport's contract over SSH, for whichever client carries it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

import pytest

from holdfast import Cause, Channel, Exit, Fate, Registry, Transport
from holdfast.testing import TransportContract
from holdfast.testing._kit import Kit

from .network import unused_port
from .sshd import Sshd


def transport_to(target: str) -> Transport:
    """The transport for a target, found as every program finds it."""
    return Registry().transport(target)


class SSHContract(TransportContract):
    """What the contract needs to be tried: a server whose sessions are killed, or held still."""

    options: ClassVar[Mapping[str, object]]

    @pytest.fixture
    async def transport(self, sshd: Sshd, anyio_backend: object) -> AsyncIterator[Transport]:
        transport = transport_to(sshd.target(**self.options))
        yield transport
        await transport.aclose()

    @pytest.fixture
    def sever(self, sshd: Sshd):
        async def cut(channel: Channel) -> None:
            sshd.kill_sessions()

        return cut

    @pytest.fixture
    def silence(self, sshd: Sshd):
        async def freeze(channel: Channel) -> None:
            sshd.freeze()

        return freeze

    @pytest.fixture
    def unreachable(self, sshd: Sshd) -> Transport:
        return transport_to(sshd.target(port=unused_port(), **self.options))

    # Where the contract allows for wires that know less, SSH knows:

    async def test_sends_after_the_end_name_the_exit(self, kit: Kit) -> None:
        """A send to a worker that is over says how it ended, though a grandchild keeps stdout."""
        async with kit.open("sleep 1000 & exit 3") as peer:
            assert await peer.wait() == Exit(code=3)
            broken = await peer.broken_send()
        assert (broken.cause, broken.worker, broken.exit) == (
            Cause.WORKER_EXITED,
            Fate.GONE,
            Exit(code=3),
        )
