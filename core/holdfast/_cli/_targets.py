"""What the commands that take a target share."""

from __future__ import annotations

import click

from holdfast._errors import UnknownTransport
from holdfast._registry import Registry, nearest


def unknown(registry: Registry, scheme: str) -> click.UsageError:
    """The error for a scheme that nobody provides; it lists those that would have worked.

    Which plugins bring a transport is known only when they are imported, which a typo may cost.
    """
    registry.load_all()
    known = registry.schemes
    return click.UsageError(str(UnknownTransport(scheme, known, nearest(scheme, known))))
