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
    """``holdfast serve``."""
    from ._serve import command

    cli.add_command(command, "serve")
