"""What was measured, as ``measured.json`` keeps it; the pages are written from this."""

from __future__ import annotations

import fcntl
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from holdfast import Cause, Reason

from .runner import Row, Sample

FILE = Path(__file__).with_name("measured.json")

SLOWER = 3.0
"""How many times as slow as ever measured a fault may be told on a loaded machine."""
SLACK = 2.0
"""Seconds that may come on top of that."""

EITHER_END: dict[str, str] = {
    Reason.PROCESS_EXIT: Reason.STDIN_BROKEN,
    Reason.STDIN_BROKEN: Reason.PROCESS_EXIT,
}
"""Where a worker ends in the middle of a message, its stdin tells of it, or its exit does."""


class Told(msgspec.Struct, frozen=True):
    """What was said of one fault in one place.

    Attributes:
        row: What most runs said.
        also: What others said, where it is decided by chance what is noticed first.
        median: Seconds until it was said; None if it was not.
        worst: The most seconds of any run.
        left: What ran on afterwards, and goes on to.
        left_for: The most seconds that anything ran on.
        runs: How often it was provoked.
    """

    row: Row
    median: float | None
    worst: float | None
    left: tuple[str, ...]
    left_for: float
    runs: int
    also: tuple[Row, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All that was said."""
        return (self.row, *self.also)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Told:
        """Sum up some runs."""
        (row, _), *others = Counter(each.row for each in samples).most_common()
        times = [each.seconds for each in samples if each.seconds is not None]
        told = len(times) == len(samples)
        return cls(
            row=row,
            also=tuple(other for other, _ in others),
            median=round(statistics.median(times), 4) if told else None,
            worst=round(max(times), 4) if told else None,
            left=max((each.left for each in samples), key=len),
            left_for=round(max(each.left_for for each in samples), 2),
            runs=len(samples),
        )

    @property
    def may_stay(self) -> int:
        """How many processes a test need not wait for: they stay, or for longer than it waits."""
        return max(len(self.left), int(self.row.cause == Cause.LINK_LOST and self.left_for > 4))

    def worse(self, sample: Sample, *, either_end: bool = False) -> list[str]:
        """What a run shows that is not as good as this.

        Args:
            sample: The run.
            either_end: Whether its stdin may have told of the loss or not, by chance, though all
                the runs that were measured agree.
        """
        found = []
        row = sample.row
        good = {row}
        if either_end:
            good.add(msgspec.structs.replace(row, reason=EITHER_END.get(row.reason, row.reason)))
        if good.isdisjoint(self.rows):
            found.append(f"said {row}, not {self.rows}")
        if len(sample.left) > self.may_stay:
            found.append(f"left {sample.left}, not {self.left}")
        if self.worst is not None:
            bound = self.worst * SLOWER + SLACK
            if sample.seconds is None or sample.seconds > bound:
                found.append(f"said after {sample.seconds} s, not within {bound:.1f} s")
        return found


class Heard(msgspec.Struct, frozen=True):
    """What a peer said of one fault.

    Attributes:
        said: Its own words, shortened; more than one where it did not always say the same.
        seconds: The median; None if nothing was said.
        runs: How often it was asked.
    """

    said: tuple[str, ...]
    seconds: float | None
    runs: int


class Measured(msgspec.Struct):
    """Everything: by place or peer, and then by fault."""

    places: dict[str, dict[str, Told]] = {}
    peers: dict[str, dict[str, Heard]] = {}
    versions: dict[str, str] = {}


def load() -> Measured:
    """What was measured last."""
    if not FILE.exists():
        return Measured()
    return msgspec.json.decode(FILE.read_bytes(), type=Measured)


def add(name: str, what: str, found: Told | Heard, versions: dict[str, str]) -> None:
    """Keep what was found; other processes may do the same meanwhile."""
    with FILE.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        measured = load()
        if isinstance(found, Told):
            measured.places.setdefault(name, {})[what] = found
        else:
            measured.peers.setdefault(name, {})[what] = found
        measured.versions = versions
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(measured), indent=1) + b"\n")
