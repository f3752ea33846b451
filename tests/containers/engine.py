"""A private Docker engine: its own socket, data and containerd, and its processes at our mercy."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from tests.ssh.machine import (
    command,
    command_line,
    owner,
    owner_lives,
    running,
    send_signal,
    until,
)

START_WITHIN = 40.0
"""Seconds until an engine answers; it takes one."""
STOP_WITHIN = 15.0
"""Seconds for SIGTERM to do its work."""

PREFIX = "hf-docker-"
BUSYBOX = "holdfast-tests/busybox:1"
PYTHON = "holdfast-tests/python:1"
PACKAGES = Path(sysconfig.get_path("purelib"))
"""What is installed for the Python that runs the tests."""

numbers = count(1)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Dockerd:
    """A dockerd of our own.

    Attributes:
        folder: All its files; a short path, since a socket's is bounded.
        socket: Where it listens.
        log: What it says.
        kept: Containers that outlive a test.
    """

    def __init__(self, *arguments: str) -> None:
        self._dockerd = command("dockerd", "docker.io")
        self._arguments = arguments
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"{PREFIX}{owner()}-{next(numbers)}-", dir="/tmp")
        )
        self.socket = self.folder / "sock"
        self.log = self.folder / "log"
        self.kept: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._driver: str | None = None

    @property
    def host(self) -> str:
        """Its address, as DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    def target(self, image: str = BUSYBOX, scheme: str = "docker", **options: object) -> str:
        """A target of this engine."""
        query = urlencode({"host": self.host, **options})
        return f"{scheme}://{image}?{query}"

    # Its life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """Its process; None if it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Run it, and wait until it answers."""
        for driver in [self._driver] if self._process else [None, "vfs"]:
            self._driver = driver
            if self._run():
                return
        raise AssertionError(f"dockerd did not start:\n{self.tail()}")

    def _run(self) -> bool:
        # Its containerd may be ending: two at once spoil each other. What it runs lives on.
        self._end_containerd()
        for left in (self.folder / "pid", self.folder / "exec" / "containerd" / "containerd.pid"):
            left.unlink(missing_ok=True)  # a SIGKILL leaves them
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._dockerd,
                    f"--host={self.host}",
                    f"--data-root={self.folder}/data",
                    f"--exec-root={self.folder}/exec",
                    f"--pidfile={self.folder}/pid",
                    "--bridge=none",
                    "--iptables=false",
                    "--shutdown-timeout=2",
                    *([f"--storage-driver={self._driver}"] if self._driver else []),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for pytest, which stops it in its time
            )
        process = self._process
        until(lambda: self.answers() or process.poll() is not None, self.tail(), START_WITHIN)
        return process.poll() is None

    def answers(self) -> bool:
        """Whether it does."""
        with suppress(OSError, http.client.HTTPException):
            return self.api("GET", "/_ping")[0] == 200
        return False

    def kill(self) -> None:
        """End it as a crash would; what it ran lives on, as its containerd does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(STOP_WITHIN)

    def freeze(self) -> None:
        """Hold it still: it answers nobody, and nobody is told."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and all that runs in it, and remove its files."""
        self.thaw()
        if self.pid is not None:
            with suppress(OSError, http.client.HTTPException):
                self.remove_all()
            assert self._process is not None
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self.kill()
        self._end_children()
        unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_containerd(self) -> None:
        def pids() -> list[int]:
            start = "containerd --config "
            named = {pid: command_line(pid) for pid in running()}
            return [pid for pid, line in named.items() if f"{start}{self.folder}/" in line]

        send_signal(pids(), signal.SIGKILL)
        until(lambda: not pids(), "its containerd is gone")

    def _end_children(self) -> None:
        end_all(self.folder)

    def tail(self, size: int = 4000) -> str:
        """The end of its log."""
        with suppress(FileNotFoundError):
            return self.log.read_bytes()[-size:].decode(errors="replace")
        return ""

    # What is asked of it

    def api(
        self, method: str, path: str, body: Any = None, *, data: bytes | None = None
    ) -> tuple[int, Any]:
        """A request; gives the status, and the answer if it is JSON."""
        connection = UnixConnection(str(self.socket))
        try:
            headers = {"Content-Type": "application/json" if data is None else "application/x-tar"}
            if body is not None:
                data = json.dumps(body).encode()
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def containers(self) -> list[str]:
        """The ids of all containers, those that ended among them."""
        return [each["Id"] for each in self.api("GET", "/containers/json?all=1")[1]]

    def create(self, *argv: str, image: str = BUSYBOX, **settings: Any) -> str:
        """Run a container that is not holdfast's; gives its id."""
        body = {
            "Image": image,
            "Cmd": list(argv),
            "HostConfig": {"NetworkMode": "none"},
            **settings,
        }
        status, made = self.api("POST", "/containers/create", body)
        assert status == 201, made
        status, said = self.api("POST", f"/containers/{made['Id']}/start")
        assert status == 204, said
        return str(made["Id"])

    def remove(self, container: str) -> None:
        """What ``docker rm -f`` does."""
        self.api("DELETE", f"/containers/{container}?force=1&v=1")

    def remove_all(self) -> list[str]:
        """Remove every container; gives those that there were."""
        found = self.containers()
        for each in found:
            self.remove(each)
        return found

    def images(self) -> None:
        """Bring in the image that every test needs."""
        self.bring(BUSYBOX, busybox)

    def bring(self, name: str, make: Callable[[], bytes]) -> None:
        """Bring in an image, unless it is there."""
        if self.api("GET", f"/images/{name}/json")[0] == 200:
            return
        repo, _, tag = name.rpartition(":")
        path = f"/images/create?{urlencode({'fromSrc': '-', 'repo': repo, 'tag': tag})}"
        status, said = self.api("POST", path, data=make())
        assert status == 200, said


# -- images ----------------------------------------------------------------------------------------


def busybox() -> bytes:
    """A root with busybox alone, all its commands, and a user."""
    with packed() as (tar, out):
        base(tar)
        commands(tar)
    return out.getvalue()


def python() -> bytes:
    """The same, and the Python that runs the tests; its packages are for a mount at /site."""
    real = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "idlelib", "ensurepip", "site-packages", "lib2to3"}

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(info.name).name
        unwanted = name in skip or name.startswith("config-") or name.endswith((".a", ".pyc"))
        return None if unwanted else info

    with packed() as (tar, out):
        base(tar)
        commands(tar)
        tar.add(real, str(real)[1:])
        tar.add(standard, str(standard)[1:], filter=wanted)
        link(tar, "bin/python3", str(real))
        loaded = [*standard.glob("lib-dynload/*.so"), *PACKAGES.glob("pydantic_core/*.so")]
        for library in libraries([real, *loaded, *PACKAGES.glob("rpds/*.so")]):
            tar.add(library.resolve(), str(library)[1:])
    return out.getvalue()


def libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries that these need, by ldd(1)."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    found = set()
    for line in done.stdout.splitlines():
        words = line.split("=>")[-1].split()
        if words and words[0].startswith("/") and not words[0].endswith(":"):
            found.add(Path(os.path.normpath(words[0])))
    return found


@contextmanager
def packed() -> Iterator[tuple[tarfile.TarFile, io.BytesIO]]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        yield tar, out


def commands(tar: tarfile.TarFile) -> None:
    binary = command("busybox", "busybox-static")
    names = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout
    tar.add(binary, "bin/busybox")
    for name in names.split():
        if name != "busybox":
            link(tar, f"bin/{name}", "busybox")


def base(tar: tarfile.TarFile) -> None:
    for name, mode in (("tmp", 0o1777), ("root", 0o700), ("etc", 0o755), ("home", 0o755)):
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        tar.addfile(info)
    text = b"root:x:0:0:root:/root:/bin/sh\nsomebody:x:1000:1000::/home:/bin/sh\n"
    info = tarfile.TarInfo("etc/passwd")
    info.size = len(text)
    tar.addfile(info, io.BytesIO(text))


def link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)


# -- tidying up ------------------------------------------------------------------------------------


def end_all(folder: Path) -> None:
    """Kill what runs with files of an engine, or in its containers, but for the engine itself."""

    def theirs() -> list[int]:
        found = [pid for pid in running() if f"{folder}/" in command_line(pid)]
        return [pid for pid in found if pid != os.getpid()]

    deadline = time.monotonic() + STOP_WITHIN
    while (pids := theirs()) and time.monotonic() < deadline:
        for pid in pids:
            send_signal([*descendants_of(pid), pid], signal.SIGKILL)
        time.sleep(0.02)


def descendants_of(pid: int) -> list[int]:
    table = running()
    found: list[int] = []
    level = {pid}
    while level:
        level = {other for other, each in table.items() if each.ppid in level}
        found += level
    return found


def unmount(folder: Path) -> None:
    """Unmount all below a folder."""
    with suppress(FileNotFoundError):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        for line in reversed(lines):
            where = line.split()[4]
            if where.startswith(f"{folder}/"):
                subprocess.run(["umount", "-l", where], check=False, capture_output=True)


def sweep() -> None:
    """Remove what earlier runs left that were ended by force."""
    for folder in Path("/tmp").glob("hf-*-*-*-*"):  # hf-docker-PID-STARTED-NUMBER-…
        name = "-".join(folder.name.split("-")[2:4])
        with suppress(ValueError):
            if not owner_lives(name):
                end_all(folder)
                unmount(folder)
                shutil.rmtree(folder, ignore_errors=True)
