"""What the listing commands share in the way they print."""

from __future__ import annotations

import json
import sys

import click


def on_terminal() -> bool:
    """Whether a person looks: only then is rich imported."""
    return sys.stdout is not None and sys.stdout.isatty()  # None: it was closed before the start


def print_json(value: object) -> None:
    """Print a value as JSON, for programs; readable all the same."""
    click.echo(json.dumps(value, indent=2))
