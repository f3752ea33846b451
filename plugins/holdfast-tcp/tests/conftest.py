"""A server in a process of its own, so that what it holds is not taken for a leak of ours."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.ssh.network import drops_of

from holdfast.testing import SCRIPT_WORKER

PROGRAM = Path(__file__).with_name("server.py")


class Server:
    """A server on this machine, whose worker is the kit's."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *SCRIPT_WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._ask(""))

    def cut(self) -> None:
        """Reset every connection."""
        self._ask("cut\n")

    def _ask(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server, for one test."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else will."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def drops() -> Iterator[Callable[..., None]]:
    """Lets the packets of the present connections to a port vanish, without a word to anybody."""
    with ExitStack() as stack:

        def start(port: int, direction: str = "both") -> None:
            for drop in drops_of(port, direction):
                stack.enter_context(drop)

        yield start
