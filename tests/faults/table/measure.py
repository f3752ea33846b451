"""The runs behind one cell of the tables; in a module of its own, for the processes of a pool."""

from __future__ import annotations

import logging
import statistics
import warnings
from importlib.metadata import version

import anyio

from .faults import FAULTS, Fault
from .measured import Heard, Told
from .peers import PEERS
from .peers.peer import HANGS, provoke
from .places import PLACES
from .runner import sample


def measure(name: str, what: str, rounds: int) -> Told:
    """Provoke one fault some times; the first time, wait for all that it leaves."""
    logging.disable(logging.WARNING)  # every loss warns once, and here there are many
    fault = named(what)
    with PLACES[name]() as place:
        return Told.of([sample(fault, place, thorough=not round) for round in range(rounds)])


def measure_peer(name: str, what: str, rounds: int) -> Heard:
    """The same with something else than holdfast; what hangs once is not asked again."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    peer, fault = PEERS[name](), named(what)
    said, times = [], []
    with PLACES[peer.place]() as place:
        while len(said) < rounds and HANGS not in said:
            text, seconds = anyio.run(provoke, peer, fault, place)
            said.append(text)
            times += [] if seconds is None else [seconds]
            place.heal()
    median = None if HANGS in said else round(statistics.median(times), 4)
    return Heard(said=tuple(dict.fromkeys(said)), seconds=median, runs=len(said))


def named(what: str) -> Fault:
    """A fault, by its words."""
    return next(fault for fault in FAULTS if fault.what == what)


def versions() -> dict[str, str]:
    """Of what the peers are made of."""
    packages = {package for peer in PEERS.values() for package in peer.packages}
    return {package: version(package) for package in sorted(packages)}
