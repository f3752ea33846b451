"""What a command prints when a person looks: it has a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import subprocess


def on_terminal(*command: str, columns: int = 100, **environment: str) -> str:
    """What a command that must end well prints on a terminal with colours, stderr too."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        output = b""
        try:
            while data := os.read(ours, 65536):
                output += data
        except OSError:  # how a Linux terminal ends
            pass
        os.close(ours)
    shown = output.decode().replace("\r\n", "\n")
    assert process.returncode == 0, shown
    return shown


def plain(shown: str) -> str:
    """The text alone: no colours, and no moves of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
