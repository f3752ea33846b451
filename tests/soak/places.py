"""Where the soak runs workers: one small adapter for each transport.

A place says which target leads to it, which command runs its worker, and how its link is broken.
All of its sessions share it, as they share a host. The processes of its workers are found by the
folder of their accounts, which stands in their command line.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from tests.containers import engine as engines
from tests.containers.engine import PYTHON, Dockerd, python
from tests.containers.podman import Podman
from tests.ssh.machine import command_line, running
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

from holdfast import Cause

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
WORKER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("worker.py")))
TCP_SERVER = ROOT / "plugins" / "holdfast-tcp" / "tests" / "server.py"

Undo = Callable[[], object]


class Place:
    """Somewhere that workers run.

    Attributes:
        name: What it is called in the report.
        links: How its link may be broken: the act, and what it gives back to heal it.
        reports_exit: Whether its transport tells how a worker ended.
        names_group_kill: Whether it is told of a signal that ends all that it started.
        reaps: Whether its transport ends workers that it has lost.
        link_causes: What a broken link may be said to be.
    """

    name: str = "local"
    links: ClassVar[tuple[str, ...]] = ()
    reports_exit = True
    names_group_kill = True
    reaps = True
    link_causes: frozenset[Cause] = frozenset({Cause.LINK_LOST})

    def target(self, folder: Path) -> str:
        """The target for sessions whose workers keep their accounts in ``folder``."""
        return "local:"

    def command(self, folder: Path) -> list[str]:
        """The command of such a session."""
        return [*WORKER, str(folder)]

    def break_link(self, how: str) -> Undo:
        """Break the link in one of the ways of ``links``; gives what heals it."""
        raise NotImplementedError(how)

    def end_session(self, folder: Path) -> None:
        """No more session keeps its accounts there."""

    def process(self, folder: Path, pid: int) -> int:
        """The process that calls itself ``pid``."""
        return pid

    def let_go(self) -> None:
        """End what its link still holds of connections of which our side is closed."""

    def left(self) -> list[str]:
        """What there is beside processes that should not be, once all sessions have ended."""
        return []

    def servers(self) -> set[int]:
        """Child processes of ours that belong to it; they may be others than before."""
        return set()

    def processes(self, folder: Path) -> dict[int, str]:
        """The workers that still run."""
        found = {pid: command_line(pid) for pid in running()}
        return {pid: text for pid, text in found.items() if str(folder) in text}

    def close(self) -> None:
        """Leave nothing of it behind."""


class Tcp(Place):
    """The TCP plugin's test server, one for each session since it knows one command, by a relay."""

    name = "tcp"
    links = ("reset", "half_close", "cut")
    reports_exit = False
    reaps = False
    # A worker that ends with our message unread, and a link that is reset, look alike.
    link_causes = frozenset({Cause.LINK_LOST, Cause.UNKNOWN})

    def __init__(self) -> None:
        self._servers: dict[Path, tuple[subprocess.Popen[str], Relay]] = {}

    def target(self, folder: Path) -> str:
        server = subprocess.Popen(
            [sys.executable, str(TCP_SERVER), *self.command(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        relay = Relay(int(server.stdout.readline())).start()
        self._servers[folder] = server, relay
        return f"tcp://{relay.host}:{relay.port}"

    def break_link(self, how: str) -> Undo:
        for server, relay in self._servers.values():
            if how == "cut":
                assert server.stdin is not None
                assert server.stdout is not None
                server.stdin.write("cut\n")
                server.stdin.flush()
                server.stdout.readline()
            else:
                break_relay(relay, how)
        return lambda: None

    def end_session(self, folder: Path) -> None:
        server, relay = self._servers.pop(folder)
        relay.stop()
        server.communicate(timeout=30)

    def processes(self, folder: Path) -> dict[int, str]:
        found = super().processes(folder)
        return {pid: text for pid, text in found.items() if str(TCP_SERVER) not in text}

    def close(self) -> None:
        for folder in [*self._servers]:
            self.end_session(folder)


class Ssh(Place):
    """A private sshd behind a relay, by either client."""

    links = ("reset", "half_close", "blackhole", "freeze", "kill_sessions", "refuse")
    link_causes = frozenset({Cause.LINK_LOST, Cause.LINK_SILENT})

    def __init__(self, client: str) -> None:
        self.name = f"ssh-{client}"
        self._client = client
        # `ssh` tells of a signal only that there was one; else a shell beside the worker names it.
        self.names_group_kill = client != "openssh"
        with ExitStack() as stack:
            self._sshd = stack.enter_context(Sshd())
            self._relay = stack.enter_context(Relay(self._sshd.port))
            self._stack = stack.pop_all()
        self._sshd.trust(self._relay.port)

    def target(self, folder: Path) -> str:
        # The deadlines are short enough to be met, and such as a loaded machine keeps.
        return self._sshd.target(
            port=self._relay.port, client=self._client, heartbeat=1, deadline=6, timeout=20
        )

    def break_link(self, how: str) -> Undo:
        if how == "kill_sessions":
            self._sshd.kill_sessions()
        elif how == "freeze":
            self._sshd.freeze()
            return self._sshd.thaw
        return break_relay(self._relay, how)

    def let_go(self) -> None:
        self._relay.reset()

    def close(self) -> None:
        self._stack.close()


class Docker(Place):
    """A container for each worker, in a private engine behind a relay."""

    name = "docker"
    scheme = "docker"
    image = PYTHON
    links = ("reset", "half_close", "blackhole", "refuse", "freeze_engine", "kill_engine")
    link_causes = frozenset({Cause.LINK_LOST, Cause.LINK_SILENT})

    def __init__(self) -> None:
        with ExitStack() as stack:
            self._engine = stack.enter_context(self.make_engine())
            self._engine.bring(PYTHON, python)
            self._relay = stack.enter_context(Relay(str(self._engine.socket)))
            self._stack = stack.pop_all()

    def make_engine(self) -> Dockerd:
        """One whose containers outlive it, and whose loss is nobody's but this place's."""
        engines.sweep()
        return Dockerd("--live-restore")

    @property
    def _link(self) -> dict[str, object]:
        host = f"tcp://{self._relay.host}:{self._relay.port}"
        return {"host": host, "heartbeat": 1, "deadline": 6}

    def target(self, folder: Path) -> str:
        mount = f"{folder}:{folder},{HERE}:/soak:ro"
        return self._engine.target(self.image, self.scheme, mount=mount, **self._link)

    def command(self, folder: Path) -> list[str]:
        return ["python3", "-I", "-S", "/soak/worker.py", str(folder)]

    def break_link(self, how: str) -> Undo:
        if how == "freeze_engine":
            self._engine.freeze()
            return self._engine.thaw
        if how == "kill_engine":
            self._engine.kill()
            return self._engine.start
        return break_relay(self._relay, how)

    def process(self, folder: Path, pid: int) -> int:
        for here in self.processes(folder):
            if numbers_of(here)[-1:] == [pid]:
                return here
        return 0

    def left(self) -> list[str]:
        return [
            f"a container: {each}"
            for each in self._engine.containers()
            if each not in self._engine.kept
        ]

    def let_go(self) -> None:
        self._relay.reset()

    def servers(self) -> set[int]:
        return {pid} if (pid := self._engine.pid) is not None else set()

    def close(self) -> None:
        self._stack.close()


class OfPodman(Docker):
    """The same with Podman's service."""

    name = "podman"
    scheme = "podman"
    image = f"localhost/{PYTHON}"

    def make_engine(self) -> Dockerd:
        engines.sweep()
        return Podman()


class DockerExec(Docker):
    """A container for each session, there already, in which all its workers run."""

    name = "docker+exec"
    # Not `kill_engine`: nobody tells the guard, which ends the workers after a minute.
    links = ("reset", "half_close", "blackhole", "refuse", "freeze_engine")

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[Path, str] = {}

    def target(self, folder: Path) -> str:
        idle = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
        host = {"NetworkMode": "none", "Binds": [f"{folder}:{folder}", f"{HERE}:/soak:ro"]}
        made = self._engine.create("sh", "-c", idle, image=PYTHON, HostConfig=host)
        self._engine.kept.add(made)
        self._made[folder] = made
        return self._engine.target(made, scheme="docker+exec", **self._link)

    def end_session(self, folder: Path) -> None:
        made = self._made.pop(folder)
        self._engine.remove(made)
        self._engine.kept.discard(made)

    def close(self) -> None:
        for folder in [*self._made]:
            self.end_session(folder)
        super().close()


def break_relay(relay: Relay, how: str) -> Undo:
    """Break a link by its relay; gives what heals it."""

    def end_blackhole() -> None:
        relay.heal()
        relay.reset()  # what was dropped is missing: these connections can only break

    if how == "reset":
        relay.reset()
    elif how == "half_close":
        relay.half_close()
    elif how == "refuse":
        relay.refuse()
        relay.reset()
        return relay.heal
    elif how == "blackhole":
        relay.blackhole()
        return end_blackhole
    return lambda: None


def numbers_of(pid: int) -> list[int]:
    """A process's numbers, from this machine's down to its own (proc(5), NSpid)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    [line] = [each for each in text.splitlines() if each.startswith("NSpid:")]
    return [int(each) for each in line.split()[1:]]


MAKERS: dict[str, Callable[[], Place]] = {
    "local": Place,
    "tcp": Tcp,
    "ssh-paramiko": lambda: Ssh("paramiko"),
    "ssh-openssh": lambda: Ssh("openssh"),
    "docker": Docker,
    "docker+exec": DockerExec,
    "podman": OfPodman,
}


@contextmanager
def places(names: list[str]) -> Iterator[list[Place]]:
    """Those of some places that this machine has; says which it lacks."""
    made: list[Place] = []
    try:
        for name in names:
            try:
                made.append(MAKERS[name]())
            except (pytest.skip.Exception, pytest.fail.Exception) as missing:
                print(f"soak: {name} is left out: {missing}", file=sys.stderr)
        yield made
    finally:
        for place in made:
            place.close()
