"""The process of one worker, in the soak's hands."""

from __future__ import annotations

import math
import os
import select
import signal
import time
from pathlib import Path

from tests.ssh.machine import command_line


class Body:
    """The process of one worker, held by a descriptor, so that no other is taken for it."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self.killed = math.inf
        self.fd = -1
        if not pid:  # nobody found it any more
            return
        try:
            self.fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        if str(folder) not in command_line(pid):  # it is over, and its number is another's
            self.close()

    @property
    def lives(self) -> bool:
        """Whether it runs; a zombie does not."""
        return self.fd >= 0 and not select.select([self.fd], [], [], 0)[0]

    def send(self, number: signal.Signals) -> bool:
        """Signal it; ``False`` if it is over."""
        if not self.lives:
            return False
        signal.pidfd_send_signal(self.fd, number)
        if number is signal.SIGKILL:
            self.killed = min(self.killed, time.monotonic())
        return True

    def send_group(self, number: signal.Signals) -> bool:
        """Signal all of its process group."""
        if not self.lives:
            return False
        group = os.getpgid(self.pid)
        if group in (0, 1, os.getpgid(0)):
            return False
        os.killpg(group, number)
        if number is signal.SIGKILL:
            self.killed = min(self.killed, time.monotonic())
        return True

    def close(self) -> None:
        """Let it go."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
