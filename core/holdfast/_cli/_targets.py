"""What the commands that take a target share."""

from __future__ import annotations

from holdfast._errors import UnknownTransport
from holdfast._registry import Registry, nearest


def unknown(registry: Registry, scheme: str) -> UnknownTransport:
    """The error for a scheme that nobody provides; it lists those that would have worked.

    Which plugins bring a transport is known only when they are imported, which a typo may cost.
    """
    registry.load_all()
    return UnknownTransport(scheme, registry.schemes, nearest(scheme, registry.schemes))
