"""What the listing commands share in the way they print."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

_ROOM: Final = 60
"""Columns below which a table would cut its words: lines that wrap can be read."""


def on_terminal() -> bool:
    """Whether a person looks, with room for a table: only then is rich imported."""
    if sys.stdout is None:  # it was closed before the start
        return False
    return sys.stdout.isatty() and _columns() >= _ROOM


def console() -> Console:
    """Where tables are printed; rich itself takes COLUMNS=0 at its word and prints nothing."""
    from rich.console import Console

    return Console(width=_columns(), highlight=False)


def _columns() -> int:
    return shutil.get_terminal_size().columns


def print_json(value: object) -> None:
    """Print a value as JSON, for programs; readable all the same."""
    click.echo(json.dumps(value, indent=2))
