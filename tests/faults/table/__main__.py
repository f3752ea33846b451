"""Measures the table, or a part of it, and writes it down; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from . import measured, pages
from .measure import measure, measure_peer, versions
from .measured import Heard, Told
from .peers import peer_cases
from .places import cases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table")
    parser.add_argument("--rounds", type=int, default=20, help="how often each fault is provoked")
    parser.add_argument("--jobs", type=int, default=3, help="how many at the same time")
    parser.add_argument("--only", default="", help="places, or peers, whose name has this")
    parser.add_argument("--fault", default="", help="faults whose words have this")
    parser.add_argument("--peers", action="store_true", help="measure peers, not holdfast")
    parser.add_argument("--write", action="store_true", help="only write the pages anew")
    asked = parser.parse_args()
    if asked.write:
        return pages.write(measured.load())
    run: Callable[[str, str, int], Told | Heard] = measure_peer if asked.peers else measure
    wanted = [
        (name, fault.what)
        for name, fault in (peer_cases() if asked.peers else cases())
        if asked.only in name and asked.fault in fault.what
    ]
    began, failed = time.monotonic(), 0
    with ProcessPoolExecutor(asked.jobs, get_context("spawn")) as pool:
        jobs = {pool.submit(run, *each, asked.rounds): each for each in wanted}
        for job in as_completed(jobs):
            name, what = jobs[job]
            try:
                found = job.result()
            except Exception as error:  # noqa: BLE001 - the others are worth having
                print(f"{name}: {what}: {error!r}", file=sys.stderr)
                failed += 1
                continue
            print(f"{name}: {what}: {found}", file=sys.stderr)
            measured.add(name, what, found, versions())
    print(f"{len(wanted)} in {time.monotonic() - began:.0f} s, {failed} failed", file=sys.stderr)
    pages.write(measured.load())
    if failed:
        raise SystemExit(1)
    return None


if __name__ == "__main__":
    main()
