"""``holdfast doctor``: what works on this machine, and what to install."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from ._checks import CHECKS, Check, Finding, State, reaped
from ._printing import console, on_terminal, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = {
    State.OK: "green",
    State.MISSING: "yellow",
    State.BROKEN: "bold red",
    State.UNCHECKED: "dim",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--reap", is_flag=True, help="First remove what was left by programs that were killed."
)
def command(as_json: bool, reap: bool) -> int:
    """Say what works on this machine, and what to install for the rest.

    The exit code is 0 if workers can be run on this machine (local:), else 1. What a single kind
    of target needs is told, and changes nothing in that.
    """
    findings = examine((reaped, *CHECKS) if reap else CHECKS)
    works = all(each.state is State.OK for each in findings if each.essential)
    if as_json:
        print_json({"ok": works, "checks": [msgspec.to_builtins(each) for each in findings]})
    elif on_terminal():
        _print_table(findings)
    else:
        _print_text(findings)
    return 0 if works else 1


def examine(checks: Iterable[Check]) -> list[Finding]:
    """Run each check; one that fails is a finding itself."""
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # noqa: BLE001 - a doctor that falls ill tells nothing
            findings.append(
                Finding(
                    check.__name__.replace("_", " "),
                    State.BROKEN,
                    f"could not be checked: {type(error).__name__}: {error}",
                    "nothing, if all else works",
                    "report this to holdfast",
                )
            )
    return findings


def _print_text(findings: Sequence[Finding]) -> None:
    """One line for each finding, and one for what to do about it."""
    for each in findings:
        click.echo(f"{each.state:<10} {each.name}: {each.found}")
        if each.next_step is not None:
            click.echo(f"{'':<10} needed for {each.needed_for}: {each.next_step}")


def _print_table(findings: Sequence[Finding]) -> None:
    console().print(_table(findings))


def _table(findings: Sequence[Finding]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("Checked")
    table.add_column("Found, and what to do", ratio=1)
    for each in findings:
        found = Text(each.found)
        if each.next_step is not None:
            found.append(f"\nneeded for {each.needed_for}: ", "dim")
            found.append(each.next_step, "cyan")
        table.add_row(Text(each.state, _STYLES[each.state]), each.name, found)
    return table
