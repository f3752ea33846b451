"""``ssh:``: workers on other machines, over SSH.

Read it in this order: ``_settings`` (what can be said of a host), ``_pool`` (the connections of a
transport), ``_channel`` and ``.._shell`` (how a worker is run on the far side and ended there),
then the clients that carry the bytes: ``_paramiko`` (with ``_dial``, ``_config``, ``_known_hosts``
to get there, and ``_wire`` below it) and ``_openssh`` (with ``_master`` and ``_words`` to get
there, ``_mux`` to speak to it, and ``_piped`` for a channel).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast import (
    Capability,
    Channel,
    Command,
    Target,
    Transport,
    TransportSpec,
    TransportUnavailable,
    hookimpl,
)

from ._config import HostKeys
from ._job import Job
from ._pool import Connection, Pool
from ._settings import OPTIONS, ClientKind, Settings, from_target

if TYPE_CHECKING:
    from ._openssh import Opener

__all__ = ["ClientKind", "HostKeys", "SSHTransport"]


class SSHTransport(Transport):
    """Workers on a host that is reached over SSH.

    All channels share one connection, or a few where the server allows only so many sessions on
    each. If a connection is lost, the next channel opens a new one, and the far side ends the
    workers of the old one by itself.

    Args:
        host: A host name, an address, or an alias of the SSH configuration.
        user: Whom to log in as; by default what the configuration says.
        port: The server's port; by default what the configuration says.
        identity: Private keys to use, and no others.
        config: An ``ssh_config`` to read, ``"none"`` for none; by default what ``ssh`` reads.
        known_hosts: A ``known_hosts`` to use in place of the configured ones.
        host_keys: What to do about a host key that is not known.
        password: Log in with it if no key does.
        passphrase: Of the private keys. Without it, they are asked for on a terminal only.
        heartbeat: Seconds without a sign of life before one is asked for; 0 for never.
        deadline: Seconds that the answer may take before the link is given up.
        timeout: Seconds to connect and log in, and again to start a worker.
        connections: How many connections to have at most.
        client: Who speaks the protocol.
    """

    capabilities: Capability = (
        Capability.ANY_COMMAND
        | Capability.STDERR
        | Capability.EXIT_STATUS
        | Capability.SIGNALS
        | Capability.HALF_CLOSE
        | Capability.REAPS_WORKER
        | Capability.DETECTS_SILENT_LINK
        | Capability.EARLY_EOF
    )

    def __init__(
        self,
        host: str,
        *,
        user: str | None = None,
        port: int | None = None,
        identity: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        config: str | os.PathLike[str] | None = None,
        known_hosts: str | os.PathLike[str] | None = None,
        host_keys: HostKeys | str | None = None,
        password: str | None = None,
        passphrase: str | None = None,
        heartbeat: float = 5.0,
        deadline: float = 15.0,
        timeout: float = 30.0,
        connections: int = 32,
        client: ClientKind | str = ClientKind.PARAMIKO,
    ) -> None:
        if isinstance(identity, str | os.PathLike):
            identity = (identity,)
        self._use(
            Settings(
                host=host,
                user=user,
                port=port,
                identity=tuple(map(Path, identity)),
                config=None if config is None else Path(config),
                known_hosts=None if known_hosts is None else Path(known_hosts),
                host_keys=None if host_keys is None else HostKeys(host_keys),
                password=password,
                passphrase=passphrase,
                heartbeat=heartbeat,
                deadline=deadline,
                timeout=timeout,
                connections=connections,
                client=ClientKind(client),
            )
        )

    @classmethod
    def from_target(cls, target: Target) -> SSHTransport:
        """The transport for ``ssh://[user@]host[:port][?options]``.

        Raises:
            InvalidTarget: It cannot be read.
        """
        transport = cls.__new__(cls)
        transport._use(from_target(target))
        return transport

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: Pool | None = None
        self._opener: Opener | None = None
        if not settings.heartbeat:
            self.capabilities &= ~Capability.DETECTS_SILENT_LINK

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        """Start ``command`` on the host, over the connection that is there or a new one."""
        if self._pool is None:
            settings = self._settings
            self._pool = Pool(settings.where, self._dial, settings.connections, settings.timeout)
        channel = await self._pool.open(command)
        try:
            yield channel
        finally:
            await channel.aclose()

    def _dial(self) -> Job[Connection]:
        settings = self._settings
        if settings.client is ClientKind.OPENSSH:
            from ._openssh import Opener

            if self._opener is None:
                self._opener = Opener(settings)
            return self._opener.dial()
        try:
            from ._dial import dial
            from ._paramiko import ParamikoConnection, Ringer
        except ModuleNotFoundError as error:
            raise TransportUnavailable(
                f"ssh: needs {error.name}, which is not installed: "
                f"pip install 'holdfast[ssh]' (or use ?client=openssh)"
            ) from error

        ringer = Ringer()
        return Job(
            lambda: ParamikoConnection(dial(settings, ringer), settings),
            name="connect",
            unwanted=lambda connection: connection.close(),
        )

    async def aclose(self) -> None:
        """Close the connections; the far side ends what still runs on them."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.aclose()


@hookimpl
def holdfast_transports() -> list[TransportSpec]:
    """``ssh:``."""
    return [
        TransportSpec(
            scheme="ssh",
            factory=SSHTransport.from_target,
            summary="a process on another machine, over SSH",
            example="ssh://user@host",
            options=OPTIONS,
            capabilities=SSHTransport.capabilities,
        )
    ]
