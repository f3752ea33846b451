"""A short soak in every run of the tests; ``python -m tests.soak`` makes a long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("HOLDFAST_SOAK_SECONDS", "40"))
SEED = os.environ.get("HOLDFAST_SEED", "1")
ENDING = 400.0
"""Seconds beyond those: the last round is played to its end, each of whose deadlines bears a
machine that is busy with other things."""


@pytest.mark.timeout(SECONDS + ENDING + 20)
def test_sessions_on_every_transport_survive_a_soak(capsys: pytest.CaptureFixture[str]) -> None:
    """Under random faults no history breaks a rule, and memory, threads and the like stay flat."""
    command = [sys.executable, "-m", "tests.soak", "--minutes", f"{SECONDS / 60}"]
    done = subprocess.run(
        [*command, "--seconds", "5", "--seed", SEED],
        cwd=ROOT,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + ENDING,
    )
    with capsys.disabled():
        print(f"\n{done.stdout[done.stdout.rfind(chr(10) * 2) :].strip()}")
    assert done.returncode == 0, done.stdout
