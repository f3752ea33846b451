"""All places, in the order of the tables."""

from __future__ import annotations

from .container import Docker, DockerExec, OfPodman, OfPodmanExec
from .faults import FAULTS, Fault, Moment
from .local import Local
from .place import Place
from .ssh import SshOpenssh, SshParamiko
from .tcp import Tcp

PLACES: dict[str, type[Place]] = {
    place.name: place
    for place in (
        *(Local, SshParamiko, SshOpenssh, Docker, DockerExec, OfPodman, OfPodmanExec),
        Tcp,
    )
}


def cases() -> list[tuple[str, Fault]]:
    """What can happen where: each place's name, with each fault that it has the hand for."""
    return [(name, fault) for name, place in PLACES.items() for fault in FAULTS if place.can(fault)]


def at_start(fault: Fault) -> bool:
    """Whether it keeps a worker from being started, so that no session is lost."""
    return fault.at is Moment.START
