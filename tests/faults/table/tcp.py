"""``tcp:``: a server that gives each connection a worker; it is the plugin's tests' own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.ssh.machine import send_signal, until
from tests.ssh.network import Drop, destroy, unused_port
from tests.ssh.relay import Relay
from tests.ssh.sshd import all_stopped

from .faults import Fault
from .link import RELAYED, Linked

PROGRAM = Path(__file__).parents[3] / "plugins" / "holdfast-tcp" / "tests" / "server.py"


class Tcp(Linked):
    """A server on a loopback port."""

    name = "tcp"
    example = "tcp://127.0.0.1:1"

    def open(self, stack: ExitStack) -> None:
        super().open(stack)
        self._server: subprocess.Popen[str] | None = None
        self.port = 0
        stack.callback(self.heal)

    def target(self, fault: Fault) -> str:
        """Of a server of its own, since that runs one command only."""
        self._server = subprocess.Popen(
            [sys.executable, str(PROGRAM), *fault.argv()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.env},
        )
        self._ours.add(self._server.pid)
        assert self._server.stdout is not None
        self.port = port = int(self._server.stdout.readline())
        if fault.hand in RELAYED:
            self.relay = Relay(port).start()
            self.undone_by(self.relay.stop)
            port = self.relay.port
        if fault.hand == "refuse_connections":
            port = unused_port()
        return f"tcp://127.0.0.1:{port}?connect_timeout=2&heartbeat=1&deadline=2"

    def mend(self) -> None:
        super().mend()
        if self._server is not None:
            self._server.kill()
            self._server.communicate()
            self._ours.discard(self._server.pid)
            self._server = None

    @property
    def link_port(self) -> int:
        return self.port

    # -- hands ---------------------------------------------------------------------------------

    def destroy_sockets(self) -> None:
        destroy(self.port)

    def freeze_server(self) -> None:
        assert self._server is not None
        pid = self._server.pid
        send_signal([pid], signal.SIGSTOP)
        until(lambda: all_stopped([pid]), "the server holds still")

    def kill_server(self) -> None:
        assert self._server is not None
        self._server.kill()

    def refuse_connections(self) -> None:
        """The target names a port where nobody listens."""

    def drop_connections(self) -> None:
        self.undone_by(Drop(self.port).start().stop)
