"""The same faults with what people use without holdfast: what that says, and when."""

from __future__ import annotations

from ..faults import FAULTS, Fault
from ..places import PLACES
from .by_asyncio import Asyncio, AsyncioSsh, AsyncioSshAlive, AsyncioTcp
from .by_asyncssh import Asyncssh, AsyncsshAlive
from .by_docker import DockerExec, DockerRun
from .by_mcp import Mcp, McpSsh
from .by_paramiko import Paramiko, ParamikoAlive
from .peer import Peer

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Asyncio,
        Mcp,
        Paramiko,
        ParamikoAlive,
        Asyncssh,
        AsyncsshAlive,
        AsyncioSsh,
        AsyncioSshAlive,
        McpSsh,
        DockerRun,
        DockerExec,
        AsyncioTcp,
    )
}


def peer_cases() -> list[tuple[str, Fault]]:
    """Each peer's name, with each fault that it is tried with."""
    return [
        (name, fault)
        for name, peer in PEERS.items()
        for fault in FAULTS
        if peer.can(fault, PLACES[peer.place])
    ]
