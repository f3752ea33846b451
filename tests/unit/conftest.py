"""What holds for the unit tests: Hypothesis has no deadline, since the machine is shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("holdfast", deadline=None)
settings.load_profile("holdfast")
