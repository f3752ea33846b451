"""The web gateway: sessions for browsers and services, as a plugin of holdfast.

``holdfast serve`` starts it. Importing this package imports neither the web framework nor the
server: ``holdfast --help`` loads it, too.
"""

from __future__ import annotations

from typing import Any

from holdfast import hookimpl

__all__ = ["holdfast_commands"]


@hookimpl
def holdfast_commands(cli: Any) -> None:
    """``holdfast serve``, and what speaks to it."""
    from ._commands import attach, logs, ls, stop
    from ._serve import command as serve

    for command in (serve, ls, logs, attach, stop):
        cli.add_command(command)
