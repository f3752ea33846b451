"""The command ``docker`` as a subprocess of asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tests.ssh.machine import command

from ..container import BUSYBOX, SMALL, Container
from ..faults import Fault
from ..place import Place
from .by_asyncio import Asyncio


class DockerRun(Asyncio):
    """A container for the worker."""

    name = "asyncio + docker run -i"
    place = "docker"
    tells = "the same with the command `docker run --rm -i IMAGE COMMAND`"
    verb: ClassVar[Sequence[str]] = ("run", "--rm", "--network", "none")

    def command(self, place: Place, fault: Fault) -> Sequence[str]:
        assert isinstance(place, Container)
        marks = [word for each in place.env.items() for word in ("-e", "=".join(each))]
        docker = [command("docker", "docker.io"), "-H", place.host(fault)]
        where = self.where(place, fault)
        return [*docker, *self.verb, "-i", *marks, *where, *fault.argv()]

    def where(self, place: Container, fault: Fault) -> Sequence[str]:
        """The image."""
        place.target(fault)
        limits = ["--memory", str(SMALL)] if fault.hand == "exhaust_memory" else []
        return [*limits, BUSYBOX]


class DockerExec(DockerRun):
    """A container that is there."""

    name = "asyncio + docker exec -i"
    place = "docker+exec"
    tells = "the same with the command `docker exec -i CONTAINER COMMAND`"
    verb = ("exec",)

    def where(self, place: Container, fault: Fault) -> Sequence[str]:
        """The container that was made for this."""
        return [place.target(fault).partition("://")[2].partition("?")[0]]
