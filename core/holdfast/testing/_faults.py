"""What can go wrong between a session and its worker, chosen by hand or drawn from a seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from random import Random
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

SEED_VARIABLE: Final = "HOLDFAST_SEED"
"""The environment variable that names the one seed to replay."""


class What(StrEnum):
    """What goes wrong."""

    # Before there is a channel; ``sent``, ``received`` and ``after`` say nothing here.
    REFUSE = "refuse"
    """``open`` raises ``TransportUnavailable``."""
    MISSING = "missing"
    """``open`` raises ``WorkerNotStarted``."""
    SLOW_OPEN = "slow_open"
    """``open`` takes ``amount`` seconds."""

    # Once, at the moment that ``sent``, ``received`` or ``after`` says.
    KILL = "kill"
    """The worker dies of SIGKILL."""
    EXIT = "exit"
    """The worker exits with the code ``amount``."""
    VANISH = "vanish"
    """The worker is over, and nobody says how it ended."""
    CUT = "cut"
    """The link is lost, and says so. The worker lives on, out of reach."""
    RESET = "reset"
    """As ``CUT``, and the transport cannot tell why."""
    RESET_SEND = "reset_send"
    """The link is lost, and only who sends notices."""
    SILENCE = "silence"
    """The link drops everything without a word. A transport that can (``DETECTS_SILENT_LINK``)
    notices after ``amount`` seconds."""
    FREEZE = "freeze"
    """The worker does nothing any more, as after SIGSTOP; SIGKILL still ends it."""
    DEAF = "deaf"
    """The worker lives and writes, and never again reads its stdin."""
    CLOSE_STDIN = "close_stdin"
    """The worker closes its stdin and lives."""
    CLOSE_STDOUT = "close_stdout"
    """The worker closes its stdout and lives."""

    # All the time.
    SLOW_READ = "slow_read"
    """What the worker writes arrives ``amount`` seconds later, and so several writes at once."""
    SPLIT_READ = "split_read"
    """What the worker writes arrives in pieces of at most ``amount`` bytes."""
    SPLIT_SEND = "split_send"
    """At most ``amount`` bytes are taken from us at once."""
    HOLD_STDOUT = "hold_stdout"
    """Something that the worker started holds its stdout for ``amount`` seconds after its end."""
    HOLD_STDERR = "hold_stderr"
    """The same for its stderr."""
    LATE_EXIT = "late_exit"
    """The exit is reported ``amount`` seconds after the end."""
    LATE_ERROR = "late_error"
    """``amount`` writes to a stdin that nobody reads any more still succeed."""
    IGNORE_TERM = "ignore_term"
    """The worker does not react to any signal but SIGKILL."""
    IGNORE_EOF = "ignore_eof"
    """The worker is not told that its stdin was closed."""


AT_OPEN: Final = frozenset({What.REFUSE, What.MISSING, What.SLOW_OPEN})
ONCE: Final = frozenset(
    {
        What.KILL,
        What.EXIT,
        What.VANISH,
        What.CUT,
        What.RESET,
        What.RESET_SEND,
        What.SILENCE,
        What.FREEZE,
        What.DEAF,
        What.CLOSE_STDIN,
        What.CLOSE_STDOUT,
    }
)


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that goes wrong, and when.

    Attributes:
        what: What happens.
        amount: How long, how many or how much, where ``what`` says so.
        sent: Happens once this many bytes were taken for the worker's stdin.
        received: Happens once this many bytes of its stdout were handed out.
        after: Happens this many seconds after the channel was opened. Where none of the three is
            given, it happens at once.
        channel: Only on this channel of the transport, counted from 0; ``None`` for each one.
    """

    what: What
    amount: float = 0
    sent: int | None = None
    received: int | None = None
    after: float | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "what", What(self.what))
        given = [each for each in (self.sent, self.received, self.after) if each is not None]
        if len(given) > 1:
            raise ValueError(f"a fault happens at one moment: sent, received or after, not {self}")
        if given and self.what not in ONCE:
            raise ValueError(f"{self.what} holds from the start; sent, received, after do not fit")
        if min(given, default=0) < 0 or self.amount < 0:
            raise ValueError(f"a fault counts from 0 up, not {self}")

    def __str__(self) -> str:
        given = msgspec.to_builtins(self)
        what = given.pop("what")
        return f"Fault({', '.join([repr(what), *(f'{k}={v!r}' for k, v in given.items())])})"


def draw(random: Random) -> tuple[Fault, ...]:
    """The faults of one channel, drawn at random: mostly one that ends it, and some that vex."""
    faults: list[Fault] = []
    if random.random() < 0.75:
        faults.append(_ending(random))
        if random.random() < 0.25:
            faults.append(_ending(random))
    while random.random() < 0.45:
        faults.append(_vexing(random))
    if random.random() < 0.12:
        faults.append(_opening(random))
    return tuple(faults)


def _ending(random: Random) -> Fault:
    what = random.choice(_ENDINGS)
    amount = 0.0
    if what is What.EXIT:
        amount = random.choice((0, 0, 1, 3, 255))
    elif what is What.SILENCE:
        amount = random.choice((1.0, 5.0))
    moment = random.random()
    if moment < 0.35:
        return Fault(what, amount, sent=random.choice((0, 1, 30, random.randrange(600))))
    if moment < 0.65:
        return Fault(what, amount, received=random.choice((0, 1, 30, random.randrange(600))))
    return Fault(what, amount, after=random.choice((0.0, round(random.random() * 0.2, 3), 1.0)))


def _vexing(random: Random) -> Fault:
    what = random.choice(tuple(_VEXING))
    return Fault(what, random.choice(_VEXING[what]))


def _opening(random: Random) -> Fault:
    what = random.choice((What.REFUSE, What.MISSING, What.SLOW_OPEN))
    return Fault(what, random.choice((0.0, 0.01, 0.3)) if what is What.SLOW_OPEN else 0)


_ENDINGS: Final = [*sorted(ONCE), What.KILL, What.EXIT, What.CUT, What.CLOSE_STDIN]

_VEXING: Final[dict[What, tuple[float, ...]]] = {
    What.SLOW_READ: (0.001, 0.05, 0.4),
    What.SPLIT_READ: (1, 7, 100),
    What.SPLIT_SEND: (1, 20, 300),
    What.HOLD_STDOUT: (0.05, 3.0, 60.0),
    What.HOLD_STDERR: (0.05, 60.0),
    What.LATE_EXIT: (0.01, 0.7, 3.0),
    What.LATE_ERROR: (1, 2, 1000),
    What.IGNORE_TERM: (0,),
    What.IGNORE_EOF: (0,),
}


def seeds(count: int, first: int = 0) -> Sequence[int]:
    """The seeds to run: ``count`` of them, or the one that ``HOLDFAST_SEED`` names.

    Raises:
        ValueError: ``HOLDFAST_SEED`` is no number.
    """
    chosen = os.environ.get(SEED_VARIABLE, "").strip()
    if not chosen:
        return range(first, first + count)
    try:
        return [int(chosen, 0)]
    except ValueError:
        raise ValueError(f"{SEED_VARIABLE} is the number of one schedule, not {chosen!r}") from None


def shrink(parts: Iterable[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """The parts without which it does not fail: each is left out in turn, while it still fails.

    Args:
        parts: What makes up a failing schedule: operations, faults.
        fails: Whether a schedule of these parts fails, in the same way.
    """
    kept = list(parts)
    size = max(len(kept) // 2, 1)
    while True:
        shrunk = False
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept, shrunk = fewer, True
            else:
                start += size
        if size > 1:
            size //= 2
        elif not shrunk:
            return kept
