"""``docker:``, ``podman:`` and the same with ``+exec``: a private engine, reached by a relay."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from http.client import HTTPException
from typing import ClassVar
from urllib.parse import urlencode

from tests.containers.engine import BUSYBOX, Dockerd, sweep
from tests.containers.podman import Podman
from tests.ssh.machine import until
from tests.ssh.relay import Relay

from .faults import Fault
from .link import HEARTBEAT, Linked

SMALL = 16 * 1024**2
"""Bytes of memory where it is to run out."""

IDLE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
"""What a container does that is there for others."""


class Container(Linked):
    """An engine, and a container for each worker.

    Attributes:
        container: The worker's.
    """

    scheme: ClassVar[str]
    image: ClassVar[str] = BUSYBOX

    def open(self, stack: ExitStack) -> None:
        super().open(stack)
        sweep()
        self.engine = stack.enter_context(self.make_engine())
        self.engine.images()
        self.relay = stack.enter_context(Relay(str(self.engine.socket)))
        self.frozen = False
        self._before: set[str] = set()

    def make_engine(self) -> Dockerd:
        """One whose containers outlive it."""
        return Dockerd("--live-restore")

    @property
    def container(self) -> str:
        """The worker's: the one that was not there before."""
        (found,) = {*self.engine.containers()} - self._before
        return found

    def target(self, fault: Fault) -> str:
        self._before = {*self.engine.containers()}
        options: dict[str, object] = {"host": self.host(fault), **HEARTBEAT}
        if fault.hand == "exhaust_memory":
            options["memory"] = SMALL
        image = "holdfast-tests/missing:1" if fault.hand == "lose_image" else self.image
        return f"{self.scheme}://{image}?{urlencode(options)}"

    def host(self, fault: Fault) -> str:
        """Where the engine is: by the relay, unless that would hide what is wrong."""
        if fault.hand == "stop_engine":
            return self.engine.host
        return f"tcp://{self.relay.host}:{self.relay.port}"

    def mend(self) -> None:
        super().mend()
        self.relay.heal()
        self.engine.thaw()
        self.frozen = False
        if self.engine.pid is None:
            self.engine.start()

    def heal(self) -> None:
        self.mend()
        self.engine.remove_all()
        super().heal()

    def left(self) -> list[str]:
        found = super().left()
        if not self.frozen:
            with suppress(OSError, HTTPException):  # it may be down
                found += [
                    f"container {each}"
                    for each in self.engine.containers()
                    if each not in self.own()
                ]
        return found

    def own(self) -> set[str]:
        """Containers that are the place's own, not a session's."""
        return set()

    def servers(self) -> set[int]:
        return {self.engine.pid or 0}

    @property
    def link_port(self) -> int:
        return self.relay.port

    # -- hands ---------------------------------------------------------------------------------

    def exhaust_memory(self) -> None:
        """The container was given little memory, and the worker is using it up."""

    def kill_container(self) -> None:
        self._do("POST", "kill")

    def stop_container(self) -> None:
        self._do("POST", "stop?t=1")

    def remove_container(self) -> None:
        self._do("DELETE", "?force=1")

    def pause_container(self) -> None:
        container = self.container
        # Docker hangs for ever over a container that is paused while a process is started there.
        until(lambda: not self._starting(), "nothing is being started in the container")
        self._do("POST", "pause")
        self.undone_by(lambda: self.engine.api("POST", f"/containers/{container}/unpause"))

    def _starting(self) -> list[str]:
        found = self.engine.api("GET", f"/containers/{self.container}/json")[1]
        return [
            each
            for each in found["ExecIDs"] or ()
            if not self.engine.api("GET", f"/exec/{each}/json")[1]["Pid"]
        ]

    def _do(self, method: str, what: str) -> None:
        path = f"/containers/{self.container}"
        status, said = self.engine.api(method, path + (what if what[:1] == "?" else f"/{what}"))
        assert status < 400, said

    def freeze_server(self) -> None:
        self.engine.freeze()
        self.frozen = True

    def kill_server(self) -> None:
        self.engine.kill()

    def restart_engine(self) -> None:
        """As an update does: killed, and up again, with the containers living on."""
        self.engine.kill()
        self.engine.start()

    def stop_engine(self) -> None:
        self.engine.kill()

    def refuse_connections(self) -> None:
        self.relay.refuse()


class Docker(Container):
    """A container for each worker."""

    name = scheme = "docker"
    example = "docker://image"

    def lose_image(self) -> None:
        """The target names an image that is not there."""


class DockerExec(Container):
    """Workers in a container that is there."""

    name = scheme = "docker+exec"
    example = "docker+exec://container"

    def target(self, fault: Fault) -> str:
        limits = {"Memory": SMALL, "MemorySwap": SMALL} if fault.hand == "exhaust_memory" else {}
        self._before = {*self.engine.containers()}
        host = {"NetworkMode": "none", **limits}
        made = self.engine.create(*IDLE, image=self.image, HostConfig=host)
        container = "no-such-container" if fault.hand == "lose_container" else made
        options = urlencode({"host": self.host(fault), **HEARTBEAT})
        return f"{self.scheme}://{container}?{options}"

    def own(self) -> set[str]:
        return {*self.engine.containers()} - self._before

    def lose_container(self) -> None:
        """The target names a container that is not there."""


class OfPodman(Docker):
    """The same with Podman's service."""

    name = scheme = "podman"
    example = "podman://image"
    image = f"localhost/{BUSYBOX}"

    def make_engine(self) -> Dockerd:
        return Podman()


class OfPodmanExec(DockerExec):
    """Workers in a container of Podman's that is there."""

    name = scheme = "podman+exec"
    example = "podman+exec://container"
    image = f"localhost/{BUSYBOX}"

    def make_engine(self) -> Dockerd:
        return Podman()
