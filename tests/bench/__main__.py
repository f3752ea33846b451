"""Measure everything, peers in turn, and print a table of medians and ratios."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import anyio
import msgspec

from . import containers, measures, ssh

Sample = Callable[[], Coroutine[Any, Any, float]]


class Comparison(msgspec.Struct):
    """One row of the table.

    Attributes:
        what: What is measured.
        unit: Of the figures.
        ours: holdfast's sample.
        peers: The others', by name.
        reach: For each peer, the bound that the ratio ours/peer must keep.
        backend: Which event loop holdfast runs on.
        place: What must be there while it is measured: a server.
    """

    what: str
    unit: str
    ours: Sample
    peers: dict[str, Sample]
    reach: dict[str, tuple[str, float]]
    backend: str = "asyncio"
    place: Callable[[], AbstractContextManager[object]] = nullcontext


class Result(msgspec.Struct):
    """A comparison's medians."""

    row: Comparison
    ours: float
    peers: dict[str, float]

    def ratio(self, peer: str) -> float:
        return self.ours / self.peers[peer]

    def kept(self, peer: str) -> bool:
        relation, bound = self.row.reach[peer]
        return self.ratio(peer) <= bound if relation == "<=" else self.ratio(peer) >= bound


def _ssh(
    what: str, unit: str, name: str, reach: dict[str, tuple[str, float]], *args: int
) -> Comparison:
    """A row over SSH; the functions are named alike."""
    return Comparison(
        f"ssh: {what}",
        unit,
        partial(getattr(ssh, f"{name}_holdfast"), *args),
        {peer: partial(getattr(ssh, f"{name}_{peer}"), *args) for peer in reach},
        reach,
        place=ssh.server,
    )


def _container(
    what: str, unit: str, name: str, scheme: str, reach: dict[str, tuple[str, float]], *args: int
) -> Comparison:
    """A row in a container; peers are Docker's commands and aiodocker."""
    peers: dict[str, Sample] = {}
    for peer in reach:
        if peer == "aiodocker":
            peers[peer] = partial(getattr(containers, f"{name}_aiodocker"), *args)
        else:
            how = peer.split()[1]
            peers[peer] = partial(
                getattr(containers, f"{name.replace('second', 'first')}_cli"), *args, how
            )
    return Comparison(
        f"{scheme}: {what}",
        unit,
        partial(getattr(containers, f"{name}_holdfast"), *args, scheme),
        peers,
        reach,
        place=containers.engine,
    )


def _lines(size: int, count: int) -> Comparison:
    reach = {"asyncio readline": (">=", 0.5 if size < 1000 else 1.0)}
    peers: dict[str, Sample] = {"asyncio readline": lambda: measures.lines_raw(size, count)}
    if size < 1000:
        peers["MCP SDK"] = lambda: measures.lines_mcp(size, count // 20)
        reach["MCP SDK"] = (">=", 15)
    return Comparison(
        f"lines of {size} bytes",
        "lines/s",
        lambda: measures.lines_holdfast(size, count),
        peers,
        reach,
    )


ROWS = [
    Comparison(
        "round trip, 200-byte line",
        "s",
        measures.trip_holdfast,
        {"asyncio readline": measures.trip_raw, "MCP SDK": measures.trip_mcp},
        {"asyncio readline": ("<=", 1.8), "MCP SDK": ("<=", 0.25)},
    ),
    Comparison(
        "round trip with a timeout",
        "s",
        lambda: measures.trip_holdfast(5.0),
        {"asyncio readline": measures.trip_raw},
        {},
    ),
    Comparison(
        "round trip on uvloop",
        "s",
        measures.trip_holdfast,
        {"asyncio readline": measures.trip_raw},
        {},
        "uvloop",
    ),
    Comparison(
        "round trip on trio",
        "s",
        measures.trip_holdfast,
        {"asyncio readline": measures.trip_raw},
        {},
        "trio",
    ),
    Comparison(
        "round trip through `holdfast run`",
        "s",
        measures.trip_run,
        {"asyncio readline": measures.trip_raw},
        {"asyncio readline": ("<=", 3.0)},
    ),
    _lines(200, 200_000),
    _lines(100_000, 4_000),
    Comparison(
        "sessions of `cat` opened",
        "1/s",
        measures.open_holdfast,
        {"asyncio": measures.open_raw},
        {"asyncio": (">=", 0.5)},
    ),
    Comparison(
        "deliveries to 100 subscribers, one beside them slow",
        "1/s",
        lambda: measures.fan_out(100, 25_000, slow=True),
        {"without the slow one": lambda: measures.fan_out(100, 25_000, slow=False)},
        {"without the slow one": (">=", 0.8)},
    ),
    Comparison(
        "deliveries to 1,000 subscribers, one beside them slow",
        "1/s",
        lambda: measures.fan_out(1000, 2_620, slow=True),
        {"without the slow one": lambda: measures.fan_out(1000, 2_620, slow=False)},
        {"without the slow one": (">=", 0.8)},
    ),
    _ssh(
        "round trip, 200-byte line",
        "s",
        "trip",
        {"asyncssh": ("<=", 1.0), "openssh": ("<=", 1.8)},
    ),
    _ssh(
        "lines of 200 bytes",
        "lines/s",
        "lines",
        {"asyncssh": (">=", 0.55), "openssh": (">=", 1.3)},
        200,
        200_000,
    ),
    _ssh(
        "lines of 100000 bytes",
        "lines/s",
        "lines",
        {"asyncssh": (">=", 0.55), "openssh": (">=", 1.3)},
        100_000,
        2_000,
    ),
    _ssh(
        "first byte of the first session",
        "s",
        "first_byte",
        {"asyncssh": ("<=", 2.0), "openssh": ("<=", 1.0)},
    ),
    _container(
        "round trip, 200-byte line",
        "s",
        "trip",
        "docker",
        {"docker exec -i": ("<=", 0.85), "docker run -i": ("<=", 0.85), "aiodocker": ("<=", 1.0)},
    ),
    _container(
        "round trip, 200-byte line",
        "s",
        "trip",
        "docker+exec",
        {"docker exec -i": ("<=", 0.85), "aiodocker": ("<=", 1.0)},
    ),
    _container(
        "lines of 100000 bytes",
        "lines/s",
        "lines",
        "docker",
        {"docker exec -i": (">=", 1.2), "docker run -i": (">=", 1.2), "aiodocker": (">=", 1.0)},
        100_000,
        4_000,
    ),
    _container(
        "lines of 100000 bytes",
        "lines/s",
        "lines",
        "docker+exec",
        {"docker exec -i": (">=", 1.2), "aiodocker": (">=", 1.0)},
        100_000,
        4_000,
    ),
    _container(
        "first byte of a worker", "s", "first_byte", "docker", {"docker run -i": ("<=", 0.8)}
    ),
    _container(
        "first byte of a worker",
        "s",
        "first_byte",
        "docker+exec",
        {"docker exec -i": ("<=", 1.0), "aiodocker": ("<=", 1.5)},
    ),
    _container(
        "first byte of a second worker",
        "s",
        "second_byte",
        "docker+exec",
        {"docker exec -i": ("<=", 1.0)},
    ),
    _ssh("first byte of a second session", "s", "second_byte", {"asyncssh": ("<=", 5.0)}),
]


def sample(function: Sample, backend: str = "asyncio") -> float:
    """One sample, in an event loop of its own."""
    if backend == "uvloop":
        return anyio.run(function, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(function, backend=backend)


def measure(row: Comparison, rounds: int) -> Result:
    """Take turns, so that whatever slows the machine slows all of them."""
    ours: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in row.peers}
    with row.place():
        for _ in range(rounds):
            for name, function in row.peers.items():
                peers[name].append(sample(function))
            ours.append(sample(row.ours, row.backend))
    return Result(
        row,
        statistics.median(ours),
        {name: statistics.median(values) for name, values in peers.items()},
    )


def _figure(value: float, unit: str) -> str:
    return f"{value * 1e6:.0f} µs" if unit == "s" else f"{value:,.0f} {unit}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    print("| measured | holdfast | peer | its figure | ratio | to reach |")
    print("|---|---|---|---|---|---|")
    for row in ROWS:
        if options.only not in row.what:
            continue
        result = measure(row, options.rounds)
        for peer, value in result.peers.items():
            relation, bound = row.reach.get(peer, ("", ""))
            print(
                f"| {row.what} | {_figure(result.ours, row.unit)} | {peer} | "
                f"{_figure(value, row.unit)} | {result.ratio(peer):.2f} | {relation} {bound} |",
                flush=True,
            )
    if options.only:
        return
    memory, threads = anyio.run(measures.session_cost)
    print(f"| memory of an open session | {memory:.0f} KiB | | | | <= 60 KiB |")
    print(f"| threads of {measures.MANY} open sessions | {threads} | | | | 0 |")
    costs = [measures.start_up() for _ in range(options.rounds)]
    ours, alone = (statistics.median(column) for column in zip(*costs, strict=True))
    print(
        f"| start of `holdfast run local: -- true`, CPU | {(ours - alone) * 1e3:.0f} ms | | | | |"
    )


if __name__ == "__main__":
    main()
