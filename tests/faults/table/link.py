"""A place at the other end of a link, and the hands that break it."""

from __future__ import annotations

from abc import abstractmethod

from tests.ssh.network import Direction, drops_of
from tests.ssh.relay import Relay

from .place import Place

HEARTBEAT = {"heartbeat": 1, "deadline": 2}
"""What the table is measured with; the defaults are 5 and 15 s."""

RELAYED = {"reset_link", "half_close_link"}
"""The hands that need a relay in the link."""


class Linked(Place):
    """Reached over a port of this machine.

    Attributes:
        relay: What stands in the link, if anything does.
    """

    relay: Relay

    @property
    @abstractmethod
    def link_port(self) -> int:
        """The port whose packets are those of the link."""

    def reset_link(self) -> None:
        self.relay.reset()

    def half_close_link(self) -> None:
        self.relay.half_close()

    def drop_packets(self, direction: Direction = Direction.BOTH) -> None:
        for drop in drops_of(self.link_port, direction):
            self.undone_by(drop.start().stop)

    def drop_packets_to_server(self) -> None:
        self.drop_packets(Direction.TO_SERVER)

    def drop_packets_to_us(self) -> None:
        self.drop_packets(Direction.TO_CLIENT)
