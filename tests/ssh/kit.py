"""The transport's contract over SSH, for whichever client carries it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import ClassVar

import pytest

from holdfast import Channel, Registry, Transport
from holdfast.testing import TransportContract

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
