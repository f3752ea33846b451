"""How ``holdfast check`` tells what it found: as text, as tables, and as plain types for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from holdfast._transport import Capability
from holdfast.testing._live import Outcome, Run, Trial, in_order

from ._printing import console, on_terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from holdfast.testing import Clause

COSTS: Final[Mapping[Capability, str]] = {
    Capability.ANY_COMMAND: "no choice of command: what is there is what runs, and no command, "
    "argument, variable or directory of ours reaches it",
    Capability.STDERR: "no stderr: the last words of a worker that failed are not heard",
    Capability.EXIT_STATUS: "no exit status: a crash and a clean end look alike",
    Capability.SIGNALS: "no signals: a worker that goes on after the end of its input is not asked "
    "to stop, but cut off",
    Capability.HALF_CLOSE: "no half close: a worker that works until the end of its input never "
    "sees that end and gives its answer",
    Capability.REAPS_WORKER: "no reaping: a worker may live on after its channel was closed, and "
    "nobody sees it",
    Capability.DETECTS_SILENT_LINK: "no watch on the link: one that drops everything without a "
    "word looks like a worker that thinks, for as long as nothing is sent",
    Capability.EARLY_EOF: "no early end: a worker that closes its stdout and lives looks like one "
    "that thinks",
}
"""What a missing capability costs who uses the transport."""

_FIXTURES: Final[Mapping[str, str]] = {
    "sever": "a way to cut the link: --sever COMMAND",
    "silence": "a way to silence the link, which only a test class can give",
    "unreachable": "a place that cannot be reached, which only a test class can give",
}
"""What a clause needs beside capabilities, and where it comes from."""

_STYLES: Final = {Outcome.PASSED: "green", Outcome.FAILED: "bold red", Outcome.SKIPPED: "dim"}


def summarise(target: str, trial: Trial, runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    """All that was found, in plain types."""
    tried = {run.clause for run in runs}
    clauses = [_clause(trial, each, runs) for each in in_order() if each.id in tried]
    counts = Counter(each["outcome"] for each in clauses)
    can = trial.capabilities
    return {
        "target": target,
        "ok": not counts[Outcome.FAILED] and bool(counts[Outcome.PASSED]),
        "backends": list(trial.backends),
        "capabilities": {name(each): each in can for each in Capability},
        "costs": {name(each): cost for each, cost in COSTS.items() if each not in can},
        "counts": {each.value: counts[each] for each in Outcome},
        "clauses": clauses,
        "seconds": round(seconds, 3),
    }


def name(capability: Capability) -> str:
    """A capability as users read it."""
    return (capability.name or "").lower()


def _clause(trial: Trial, clause: Clause, runs: Sequence[Run]) -> dict[str, Any]:
    """A clause; it failed if it failed on one event loop."""
    own = [run for run in runs if run.clause == clause.id]
    outcomes = {run.outcome for run in own}
    outcome = min(outcomes, key=[Outcome.FAILED, Outcome.PASSED, Outcome.SKIPPED].index)
    return {
        "id": clause.id,
        "rule": clause.rule,
        "outcome": outcome.value,
        "missing": trial.missing(clause) if outcome is Outcome.SKIPPED else [],
        "see": clause.anchor,
        "runs": [
            {
                "backend": run.backend,
                "outcome": run.outcome.value,
                "seconds": round(run.seconds, 3),
                "detail": run.detail,
            }
            for run in own
        ],
    }


def print_report(found: Mapping[str, Any]) -> None:
    """All that was found, for a person."""
    (_print_tables if on_terminal() else _print_text)(found)


def _note(clause: Mapping[str, Any]) -> str:
    """The rule; for a clause that was skipped, what is missing."""
    if clause["outcome"] != Outcome.SKIPPED:
        return str(clause["rule"])
    missing: list[str] = clause["missing"]
    if not missing:
        return str(clause["runs"][0]["detail"])
    return "needs " + ", ".join(_FIXTURES.get(each, each.upper()) for each in missing)


def _slow(clause: Mapping[str, Any]) -> str:
    return f"{max(run['seconds'] for run in clause['runs']):.1f} s"


def _failures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For each clause that failed, on which event loop and why; once where that is the same."""
    told = []
    for clause in found["clauses"]:
        failed = [run for run in clause["runs"] if run["outcome"] == Outcome.FAILED]
        if failed:
            where = " and ".join(run["backend"] for run in failed)
            again = f"holdfast check {found['target']} --clause"
            text = str(failed[0]["detail"]).replace("pytest --holdfast-clause", again)
            told.append((f"{clause['id']} failed on {where}:", text))
    return told


def _last_line(found: Mapping[str, Any]) -> str:
    counts = found["counts"]
    told = ", ".join(f"{counts[each]} {each}" for each in Outcome)
    loops = " and ".join(found["backends"])
    return f"{told} at {found['target']} (on {loops}, {found['seconds']:.0f} s)"


def _print_text(found: Mapping[str, Any]) -> None:
    """Lines, for pipes and files."""
    for clause in found["clauses"]:
        click.echo(f"{clause['outcome']:<8} {clause['id']:<12} {_slow(clause):>7}  {_note(clause)}")
    for heading, text in _failures(found):
        click.echo(f"\n{heading}\n{text}")
    click.echo("")
    for each, there in found["capabilities"].items():
        click.echo(
            f"{'yes' if there else 'no':<4} {each:<20} {found['costs'].get(each, '')}".rstrip()
        )
    click.echo(f"\n{_last_line(found)}")


def _print_tables(found: Mapping[str, Any]) -> None:
    from rich.text import Text

    out = console()
    out.print(_clauses(found))
    for heading, text in _failures(found):
        out.print(Text(f"{heading}", "bold red"))
        out.print(Text(f"{text}\n"))
    out.print(_capabilities(found))
    out.print(Text(_last_line(found), "bold"))


def _clauses(found: Mapping[str, Any]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("Clause", no_wrap=True)
    table.add_column("The rule, or what is missing", ratio=1)
    table.add_column("Took", justify="right", no_wrap=True)
    for clause in found["clauses"]:
        style = _STYLES[Outcome(clause["outcome"])]
        note = Text(_note(clause), "dim" if clause["outcome"] == Outcome.SKIPPED else "")
        table.add_row(Text(clause["outcome"], style), clause["id"], note, _slow(clause))
    return table


def _capabilities(found: Mapping[str, Any]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Capability", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("What its absence costs", ratio=1)
    for each, there in found["capabilities"].items():
        mark = Text("yes", "green") if there else Text("no", "yellow")
        table.add_row(each, mark, Text(found["costs"].get(each, "")))
    return table
