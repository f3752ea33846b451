"""The hooks that a plugin may implement, all of them optional.

A plugin is a module or an object with functions marked ``@holdfast.hookimpl``. A distribution
brings it by an entry point in the group ``holdfast``; for a transport the entry point's name is
the scheme, so that opening ``tcp://…`` imports the plugin ``tcp`` and no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from ._dialect import Dialect
    from ._registry import TransportSpec
    from ._session import Session
    from ._status import Status

PROJECT = "holdfast"

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker(PROJECT)
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker(PROJECT)


@hookspec
def holdfast_transports() -> Sequence[TransportSpec]:  # type: ignore[empty-body]
    """The transports that this plugin brings."""


@hookspec
def holdfast_dialects() -> Sequence[Dialect]:  # type: ignore[empty-body]
    """The dialects that this plugin brings."""


@hookspec
def holdfast_status_changed(session: Session, status: Status) -> None:
    """A session's status changed; the journal and its readers know already.

    Called in the event loop, so it must not wait. What it raises is logged and changes nothing.
    """


@hookspec
def holdfast_reap() -> Sequence[str]:  # type: ignore[empty-body]
    """Remove what the workers of programs that were killed have left, and never anything else.

    ``holdfast doctor --reap`` calls it. It may block, for a bounded time; no event loop runs. What
    belongs to a program that lives, or may live, stays.

    Returns:
        One line for each thing that was removed.
    """


@hookspec
def holdfast_commands(cli: Any) -> None:
    """Add sub-commands to the ``holdfast`` command line.

    Args:
        cli: The ``click.Group``.
    """
