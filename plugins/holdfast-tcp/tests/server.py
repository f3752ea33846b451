"""A server as a program: whoever connects gets a worker of his own, and a link that can be cut.

Its arguments are the worker's command. It prints its port; then each line on its stdin cuts every
connection, and the end of its stdin ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger for 0 s: the last close sends a reset


class Connection:
    """One connection and its worker: two threads copy between the socket and its pipes."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._cut = False
        self._worker = subprocess.Popen(
            sys.argv[1:],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._stdin, self._stdout = self._worker.stdin, self._worker.stdout
        self._up = threading.Thread(target=self._copy_up)
        self._down = threading.Thread(target=self._copy_down)
        self._up.start()
        self._down.start()

    def _copy_up(self) -> None:
        with suppress(OSError):
            while data := self._socket.recv(65536):
                view = memoryview(data)
                while view:
                    view = view[os.write(self._stdin.fileno(), view) :]
        self._stdin.close()

    def _copy_down(self) -> None:
        with suppress(OSError):
            while data := os.read(self._stdout.fileno(), 65536):
                self._socket.sendall(data)
        self._stdout.close()
        if self._cut:
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._worker.wait()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)  # wakes the other thread
        self._up.join()
        self._socket.close()

    def cut(self) -> None:
        """End the connection by a reset, as a router does that forgot it."""
        self._cut = True
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._socket.shutdown(socket.SHUT_RD)
        with suppress(ProcessLookupError):
            os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()
        self._up.join()
        self._down.join()
        self._socket.close()


class Server:
    """Listens on a port of this machine."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._connections: list[Connection] = []
        self._lock = threading.Lock()  # a connection is listed before anybody can cut it
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                with self._lock:
                    self._connections.append(Connection(sock))

    def cut_all(self) -> None:
        with self._lock:
            while self._connections:
                self._connections.pop().cut()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self.cut_all()


def main() -> None:
    server = Server()
    print(server.port, flush=True)
    for _ in sys.stdin:
        server.cut_all()
        print("cut", flush=True)
    server.close()


if __name__ == "__main__":
    main()
