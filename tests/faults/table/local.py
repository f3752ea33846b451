"""``local:``: a child process."""

from __future__ import annotations

from .faults import Fault
from .place import Place


class Local(Place):
    """This machine."""

    name = "local"
    example = "local:"

    def target(self, fault: Fault) -> str:
        return "local:"
