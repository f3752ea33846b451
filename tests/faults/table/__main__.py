"""Measures the table, or a part of it, and writes it down; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from . import measured, pages
from .measure import measure
from .places import cases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.table")
    parser.add_argument("--rounds", type=int, default=20, help="how often each fault is provoked")
    parser.add_argument("--jobs", type=int, default=3, help="how many at the same time")
    parser.add_argument("--only", default="", help="places whose name has this")
    parser.add_argument("--fault", default="", help="faults whose words have this")
    parser.add_argument("--write", action="store_true", help="only write the pages anew")
    asked = parser.parse_args()
    known = measured.load()
    if asked.write:
        return pages.write(known)
    wanted = [
        (name, fault.what)
        for name, fault in cases()
        if asked.only in name and asked.fault in fault.what
    ]
    began = time.monotonic()
    failed = 0
    with ProcessPoolExecutor(asked.jobs, max_tasks_per_child=8) as pool:
        jobs = {pool.submit(measure, *each, asked.rounds): each for each in wanted}
        for job in as_completed(jobs):
            name, what = jobs[job]
            try:
                told = job.result()
            except Exception as error:  # noqa: BLE001 - the others are worth having
                print(f"{name}: {what}: {error!r}", file=sys.stderr)
                failed += 1
                continue
            print(f"{name}: {what}: {told}", file=sys.stderr)
            known.places.setdefault(name, {})[what] = told
            measured.save(known)
    print(f"{len(wanted)} in {time.monotonic() - began:.0f} s, {failed} failed", file=sys.stderr)
    pages.write(known)
    if failed:
        raise SystemExit(1)
    return None


if __name__ == "__main__":
    main()
