"""The web gateway: sessions for browsers and services, as a plugin of holdfast."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast import Store, StoreSpec, hookimpl


def _sqlite(url: str) -> Store:
    from ._sqlite import SQLiteStore

    directory = url.removeprefix("sqlite:")
    if not directory:
        raise ValueError("sqlite: needs a directory, such as sqlite:/var/lib/holdfast")
    return SQLiteStore(directory)


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
