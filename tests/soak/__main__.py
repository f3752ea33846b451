"""``python -m tests.soak --minutes 20 --seed 7``: rounds until the time is over, then a report.

A failed round names its seed: ``--seed N --rounds 1`` plays it again, as far as the machine's own
timing allows.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
from tests.faults.belongings import belongings, resident
from tests.ssh.sshd import sweep

from holdfast import Session

from .places import MAKERS, places
from .round import BACKENDS, Result, play

WARM = len(BACKENDS)
"""Rounds until each event loop and each client has been loaded and used once."""

GROWTH = 24 * 1024 * 1024
"""Bytes that the memory may grow by: the rounds' sessions hold tens of MiB while they are checked,
which leaves the allocator's free space in pieces; what leaks grows with each round."""


BLOCKS = 20_000
"""Blocks that Python's allocator may have handed out more at the end. A round leaves about twenty
behind, in the records kept here and in paramiko's, what is used for the first time up to some
thousands, and a session that is not given back as many in each round."""


class Measured(msgspec.Struct):
    """What the process held between two rounds."""

    memory: int
    blocks: int
    objects: int
    threads: int
    descriptors: int
    children: int

    def __str__(self) -> str:
        return (
            f"{self.memory / 2**20:.1f} MiB, {self.blocks} blocks, {self.objects} objects, "
            f"{self.threads} threads, {self.descriptors} descriptors, {self.children} children"
        )


def measure() -> Measured:
    """Look at this process, after all that is free was given back."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    mine = belongings()
    return Measured(
        resident(),
        sys.getallocatedblocks(),
        len(gc.get_objects()),
        len(mine.threads),
        len(mine.descriptors),
        len(mine.children),
    )


def use_one_arena() -> None:
    """Let all threads share one heap (mallopt(3), M_ARENA_MAX), where the C library has many.

    Each heap keeps free space in pieces. A thread for each SSH connection spreads what it takes
    over sixteen of them here, and the memory grows for an hour without any leak.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-8, 1)


def flat(measured: list[Measured]) -> list[str]:
    """What has grown since the rounds that warm up, in words."""
    if len(measured) < 2:
        return []
    first, last = measured[0], measured[-1]
    half = max(1, len(measured) // 3)
    early = statistics.median(each.memory for each in measured[:half])
    late = statistics.median(each.memory for each in measured[-half:])
    grown = [
        f"{what} from {before} to {after}"
        for what, before, after in (
            ("threads", first.threads, last.threads),
            ("descriptors", first.descriptors, last.descriptors),
            ("children", first.children, last.children),
        )
        if after > before
    ]
    if late - early > GROWTH:
        grown.append(f"memory from {early / 2**20:.1f} to {late / 2**20:.1f} MiB")
    blocks = [each.blocks for each in measured]
    more = int(statistics.median(blocks[-half:]) - statistics.median(blocks[:half]))
    if more > BLOCKS:
        grown.append(f"{more} blocks of memory, which nobody gave back")
    sessions = sum(isinstance(each, Session) for each in gc.get_objects())
    if sessions:
        grown.append(f"sessions from 0 to {sessions}, which nobody has any more")
    return grown


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("HOLDFAST_SEED", "1")))
    parser.add_argument("--rounds", type=int, default=sys.maxsize, help="at most so many")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round's faults")
    parser.add_argument("--on", action="append", choices=MAKERS, help="only there")
    parser.add_argument("--keep-going", action="store_true", help="after a failed round, too")
    options = parser.parse_args()
    use_one_arena()
    for each in (signal.SIGINT, signal.SIGTERM):  # what starts it may have them ignored
        signal.signal(each, signal.default_int_handler)
    sweep()
    began = time.monotonic()
    end = began + options.minutes * 60
    total, measured, failed = Result(broken=[]), [], []
    with places(options.on or list(MAKERS)) as available:
        print(f"soak: {', '.join(each.name for each in available)}; seed {options.seed}")
        for number in range(options.rounds):
            if time.monotonic() >= end:
                break
            seed, start = options.seed + number, time.monotonic()
            folder = Path(tempfile.mkdtemp(prefix="holdfast-soak-"))
            try:
                result = play(seed, available, folder, options.seconds)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            _add(total, result)
            now = measure()
            if number + 1 >= WARM:
                measured.append(now)
            print(
                f"round {seed}: {time.monotonic() - start:.1f} s, {result.sessions} sessions, "
                f"{result.workers} workers, {result.events} events; {now}",
                flush=True,
            )
            if result.broken:
                failed.append(seed)
                print("\n".join(result.broken), flush=True)
                print(f"replay: python -m tests.soak --seed {seed} --rounds 1", flush=True)
                if not options.keep_going:
                    break
    grown = flat(measured)
    _report(total, measured, time.monotonic() - began, failed, grown)
    return 1 if failed or grown else 0


def _add(total: Result, result: Result) -> None:
    total.done += result.done
    total.sessions += result.sessions
    total.workers += result.workers
    total.events += result.events


def _report(
    total: Result, measured: list[Measured], took: float, failed: list[int], grown: list[str]
) -> None:
    print(f"\n{took / 60:.1f} minutes: {total.sessions} sessions, {total.workers} workers, ")
    print(f"{total.events} events; {sum(total.done.values())} faults and other deeds:")
    print("  " + ", ".join(f"{what} {count}" for what, count in Counter(total.done).most_common()))
    if measured:
        middle = measured[len(measured) // 2]
        for when, each in (("warm", measured[0]), ("middle", middle), ("end", measured[-1])):
            print(f"  {when}: {each}")
    print(f"failed rounds: {', '.join(map(str, failed)) or 'none'}")
    print(f"grown: {'; '.join(grown) or 'nothing'}")


if __name__ == "__main__":
    sys.exit(main())
