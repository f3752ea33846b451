"""The runs behind one cell of the tables; in a module of its own, for the processes of a pool."""

from __future__ import annotations

import logging

from .faults import FAULTS
from .measured import Told
from .places import PLACES
from .runner import sample


def measure(name: str, what: str, rounds: int) -> Told:
    """Provoke one fault some times; the first time, wait for all that it leaves."""
    logging.disable(logging.WARNING)  # every loss warns once, and here there are many
    fault = next(fault for fault in FAULTS if fault.what == what)
    with PLACES[name]() as place:
        return Told.of([sample(fault, place, thorough=not round) for round in range(rounds)])
