"""``tcp:`` keeps holdfast's transport contract."""

from __future__ import annotations

import pytest

from holdfast.testing import TransportContract
from holdfast_tcp import TcpTransport


class TestTcp(TransportContract):
    script_worker = True

    @pytest.fixture
    def transport(self, server):
        return TcpTransport("127.0.0.1", server.port, heartbeat=1, deadline=2)

    @pytest.fixture
    def unreachable(self, free_port):
        return TcpTransport("127.0.0.1", free_port)

    @pytest.fixture
    def sever(self, server):
        async def cut(channel):
            server.cut()

        return cut

    @pytest.fixture
    def silence(self, server, drops):
        async def drop(channel):
            drops(server.port)

        return drop
