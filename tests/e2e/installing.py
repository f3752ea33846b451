"""What the tests share that install holdfast as users do: away from this checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def _environment() -> dict[str, str]:
    """Ours without what leads to this checkout; installers trust what the machine trusts."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV", "UV_PROJECT"))
    }
    if CERTIFICATES.exists():  # as tests/run does: uv trusts no more than its own certificates
        inherited.setdefault("SSL_CERT_FILE", str(CERTIFICATES))
        inherited.setdefault("PIP_CERT", str(CERTIFICATES))
    return {**inherited, "PATH": "/usr/local/bin:/usr/bin:/bin"}


def run(*command: object, cwd: Path, input: str | None = None) -> str:
    """Run a command that must end well; gives its stdout."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=_environment(),
        input=input,
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
