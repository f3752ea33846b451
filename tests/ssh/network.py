"""Faults of the network under a connection: packets that vanish, connections that are destroyed."""

from __future__ import annotations

import os
import random
import shlex
import socket
import subprocess
from enum import StrEnum
from itertools import count
from typing import Final, Self

from .machine import command, find, missing, owner, owner_lives

HOST: Final = "127.0.0.1"
PORTS: Final = range(20000, 32000)
"""Below what Linux gives to outgoing connections, so that none of those takes a server's port."""
COMMENT: Final = "holdfast-tests"
"""Begins the comment of each rule; the process that made it, and a number, follow."""

numbers = count(1)

ACTIVE: set[Drop] = set()
"""Those that drop now."""


class Direction(StrEnum):
    """Which packets, or bytes, of a connection."""

    BOTH = "both"
    TO_SERVER = "to_server"
    TO_CLIENT = "to_client"

    def covers(self, other: Direction) -> bool:
        """Whether the other, a single direction, is among these."""
        return self in (Direction.BOTH, other)


class Drop:
    """Lets the packets of a loopback port vanish between :meth:`start` and :meth:`stop`.

    They vanish on arrival, so that the sender is told nothing, as on a wire that was pulled. TCP
    sends them again later: a connection survives a drop that is shorter than its patience.
    """

    def __init__(self, port: int, direction: Direction | str = Direction.BOTH) -> None:
        direction = Direction(direction)
        ports = []
        if direction.covers(Direction.TO_SERVER):
            ports.append("--dport")
        if direction.covers(Direction.TO_CLIENT):
            ports.append("--sport")
        comment = f"{COMMENT}:{owner()}:{next(numbers)}"
        packets = ("INPUT", "-i", "lo", "-p", "tcp")
        fate = ("-m", "comment", "--comment", comment, "-j", "DROP")
        self._rules = [[*packets, which, str(port), *fate] for which in ports]
        self._made: list[list[str]] = []

    def start(self) -> Self:
        """Drop from now on."""
        ACTIVE.add(self)
        for rule in self._rules:
            self._made.append(rule)  # before it is: an interrupt must not lose it
            done = iptables("-I", *rule)
            if done.returncode != 0:
                self._made.remove(rule)
                self.stop()
                missing(f"iptables does not work: {done.stderr.strip()}")
        return self

    def stop(self) -> None:
        """Let packets pass again."""
        while self._made:
            iptables("-D", *self._made[-1])
            self._made.pop()
        ACTIVE.discard(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def listener_on(port: int | None = None) -> socket.socket:
    """A listener on a loopback port; on one of :data:`PORTS` that is free, if none is named."""
    for candidate in random.sample(PORTS, 200) if port is None else [port]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(128)  # here too it may be taken: listeners may bind the same one
        except OSError:
            listener.close()
            continue
        return listener
    raise AssertionError(f"no free port: {port or PORTS}")


def unused_port() -> int:
    """A port where nobody listens."""
    with listener_on() as listener:
        port: int = listener.getsockname()[1]
    return port


def drops_of(port: int, direction: Direction | str) -> list[Drop]:
    """To drop what a server's present connections carry: by the clients' ports, so that later
    connections pass."""
    mirror = {Direction.TO_SERVER: Direction.TO_CLIENT, Direction.TO_CLIENT: Direction.TO_SERVER}
    direction = Direction(direction)
    listed = subprocess.run(
        [command("ss", "iproute2"), "-Hnt", "state", "established", "dport", "=", f":{port}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    clients = [int(line.split()[2].rpartition(":")[2]) for line in listed.splitlines()]
    return [Drop(client, mirror.get(direction, direction)) for client in clients]


def drop(port: int, direction: Direction | str = Direction.BOTH) -> Drop:
    """Packets of a port to drop: ``with drop(port, "to_client"): ...``, or start() and stop()."""
    return Drop(port, direction)


def iptables(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run iptables; ``-w`` waits for whoever changes the rules at the same time."""
    return subprocess.run(
        [command("iptables", "iptables"), "-w", "10", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )


def remove_rules(*, dead_owners: bool = False) -> list[str]:
    """Remove the rules that this process made, or those of processes that are gone.

    Returns:
        The rules that were there.
    """
    if os.geteuid() != 0 or not find("iptables"):
        return []  # who cannot make rules has made none
    removed = []
    for rule in iptables("-S", "INPUT").stdout.splitlines():
        _, found, comment = rule.partition(f"{COMMENT}:")
        name = comment.partition(":")[0]
        if found and (not owner_lives(name) if dead_owners else name == owner()):
            removed.append(rule)
            iptables("-D", *shlex.split(rule)[1:])
    return removed


def destroy(port: int, end: str = "server") -> int:
    """Let the kernel end the established connections of a loopback port.

    The end named has its socket torn away (ECONNABORTED); it sends an RST to the other one
    (ECONNRESET).

    Returns:
        How many sockets were destroyed.
    """
    which = {"server": "sport", "client": "dport"}[end]
    done = subprocess.run(
        [command("ss", "iproute2"), "-KHnt", "state", "established", which, "=", f":{port}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    if done.returncode != 0 or "not supported" in done.stderr:
        missing(f"ss -K does not work: {done.stderr.strip()}")
    return len(done.stdout.splitlines())
