"""``ssh:``, by either client: a private sshd on a loopback port."""

from __future__ import annotations

from contextlib import ExitStack
from typing import ClassVar

from tests.ssh.network import Drop, destroy
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

from .faults import Fault
from .link import HEARTBEAT, RELAYED, Linked


class Ssh(Linked):
    """A server, and one of holdfast's two clients."""

    client: ClassVar[str]

    def open(self, stack: ExitStack) -> None:
        super().open(stack)
        self.server = stack.enter_context(Sshd())
        self.relay = stack.enter_context(Relay(self.server.port))
        self.server.trust(self.relay.port)

    def port(self, fault: Fault) -> int:
        """Where to connect to for this fault."""
        return self.relay.port if fault.hand in RELAYED else self.server.port

    def target(self, fault: Fault) -> str:
        options: dict[str, object] = {"client": self.client, **HEARTBEAT}
        if fault.hand == "drop_connections":
            options["timeout"] = 2
        return self.server.target(port=self.port(fault), **options)

    def mend(self) -> None:
        super().mend()
        self.server.thaw()
        self.server.kill_sessions()  # those of lost links: TCP would keep them for minutes
        if self.server.pid is None:
            self.server.start()

    def left(self) -> list[str]:
        return [each.command for each in self.server.commands()]

    def servers(self) -> set[int]:
        return {self.server.pid or 0}

    @property
    def link_port(self) -> int:
        return self.server.port

    # -- hands ---------------------------------------------------------------------------------

    def destroy_sockets(self) -> None:
        destroy(self.server.port)

    def freeze_server(self) -> None:
        self.server.freeze()

    def kill_server(self) -> None:
        self.server.kill_sessions()

    def shut_server_down(self) -> None:
        self.server.kill_listener()
        self.server.kill_sessions()

    def refuse_connections(self) -> None:
        self.server.kill_listener()

    def drop_connections(self) -> None:
        self.undone_by(Drop(self.server.port).start().stop)

    def forget_host_key(self) -> None:
        self._know("")

    def change_host_key(self) -> None:
        kind, key, *_ = self.server.authorized_keys.read_text().split()
        self._know(f"[{self.server.host}]:{self.server.port} {kind} {key}\n")

    def _know(self, text: str) -> None:
        known = self.server.known_hosts.read_text()
        self.undone_by(lambda: self.server.known_hosts.write_text(known))
        self.server.known_hosts.write_text(text)

    def refuse_login(self) -> None:
        keys = self.server.authorized_keys.read_text()
        self.undone_by(lambda: self.server.authorized_keys.write_text(keys))
        self.server.authorized_keys.write_text("")


class SshParamiko(Ssh):
    """By paramiko."""

    name = "ssh (paramiko)"
    example = "ssh://host?config=none"
    client = "paramiko"


class SshOpenssh(Ssh):
    """By the system's ``ssh``."""

    name = "ssh (openssh)"
    example = "ssh://host?config=none&client=openssh"
    client = "openssh"
