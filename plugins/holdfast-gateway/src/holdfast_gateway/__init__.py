"""The web gateway: sessions for browsers and services, as a plugin of holdfast.

``holdfast serve`` starts it. Importing this package imports neither the web framework nor the
server: ``holdfast --help`` loads it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast import Store, StoreSpec, hookimpl

__all__ = ["holdfast_commands", "holdfast_store"]


@hookimpl
def holdfast_commands(cli: Any) -> None:
    """``holdfast serve``."""
    from ._serve import command

    cli.add_command(command, "serve")


@hookimpl
def holdfast_store() -> Sequence[StoreSpec]:
    """The event log in SQLite."""
    return [
        StoreSpec(
            "sqlite",
            _sqlite,
            "sessions and events in one SQLite file",
            "sqlite:/var/lib/holdfast",
        )
    ]


def _sqlite(url: str) -> Store:
    from ._sqlite import SQLiteStore

    directory = url.removeprefix("sqlite:")
    if not directory:
        raise ValueError("sqlite: needs a directory, such as sqlite:/var/lib/holdfast")
    return SQLiteStore(directory)
