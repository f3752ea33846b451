"""A private service of Podman: its own socket and storage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.ssh.machine import command, owner, until

from .engine import Dockerd, end_all, numbers, unmount

PREFIX = "hf-podman-"

CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Podman asks for more open files than a small machine may give; and there may be no systemd."""

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/graph"
runroot = "{folder}/run"
"""


class Podman(Dockerd):
    """Podman's service; what it is asked is the same."""

    def __init__(self) -> None:
        self._podman = command("podman", "podman")
        self.kept = set()
        self.folder = Path(
            tempfile.mkdtemp(prefix=f"{PREFIX}{owner()}-{next(numbers)}-", dir="/tmp")
        )
        self.socket = self.folder / "sock"
        self.log = self.folder / "log"
        (self.folder / "containers.conf").write_text(CONTAINERS)
        (self.folder / "storage.conf").write_text(STORAGE.format(folder=self.folder))
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._podman,
                    f"--tmpdir={self.folder}/tmp",
                    *("system", "service", "--time=0", self.host),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,  # a container that ran out of memory leaves a file there
                start_new_session=True,
            )
        process = self._process
        until(lambda: self.answers() or process.poll() is not None, self.tail(), 40)
        assert process.poll() is None, self.tail()

    def stop(self) -> None:
        self.thaw()
        if self.pid is not None:
            with suppress(OSError):
                self.remove_all()
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
        end_all(self.folder)
        unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def bring(self, name: str, make: object) -> None:
        """Its import takes no tag, and names what it imports as local."""
        assert callable(make)
        repo, _, tag = name.rpartition(":")
        _, made = self.api("POST", f"/images/create?fromSrc=-&repo={repo}", data=make())
        status, said = self.api("POST", f"/images/{made['id']}/tag?repo=localhost/{repo}&tag={tag}")
        assert status == 201, said
