"""``holdfast transports``: what is installed, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from holdfast._errors import PluginError, PluginLoadError
from holdfast._registry import Provided, Registry

from ._printing import console, on_terminal, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """List the transports that are installed, and what they can do.

    A plugin that cannot be loaded is named with the reason; the others work without it.
    """
    registry = Registry()
    broken = registry.load_all()
    offers = [_offer(each) for each in registry.transports]
    if as_json:
        print_json({"transports": offers, "broken": [_failure(error) for error in broken]})
    elif on_terminal():
        _print_tables(offers)
    else:
        _print_text(offers)
    for error in broken:
        click.echo(f"holdfast: {error}", err=True)
    return 0


def _offer(provided: Provided) -> dict[str, Any]:
    """A transport in plain types; ``None`` for what is not known before a target is."""
    spec = provided.spec
    can = spec.capabilities
    return {
        "scheme": spec.scheme,
        "summary": spec.summary,
        "example": spec.example,
        "capabilities": None if can is None else [(each.name or "").lower() for each in can],
        "options": dict(spec.options),
        "plugin": provided.plugin,
        "distribution": provided.distribution,
        "version": _version(provided.distribution),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _failure(error: PluginError) -> dict[str, Any]:
    known = error if isinstance(error, PluginLoadError) else None
    return {
        "plugin": known.plugin if known else None,
        "distribution": known.distribution if known else None,
        "reason": str(error),
    }


def _origin(offer: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (offer["distribution"], offer["version"])))


def _abilities(offer: Mapping[str, Any]) -> str:
    names = offer["capabilities"]
    if names is None:
        return "depends on the target"
    return ", ".join(name.replace("_", " ") for name in names) or "none"


def _print_text(offers: Sequence[Mapping[str, Any]]) -> None:
    """One paragraph for each transport, for pipes and files."""
    for offer in offers:
        click.echo(f"{offer['scheme']}  {offer['summary']}  ({_origin(offer)})")
        click.echo(f"    example: {offer['example']}")
        click.echo(f"    can: {_abilities(offer)}")
        for name, meaning in offer["options"].items():
            click.echo(f"    ?{name}={meaning}")


def _print_tables(offers: Sequence[Mapping[str, Any]]) -> None:
    """A table of the transports, and one of their options, for people."""
    out = console()
    out.print(_transports(offers))
    if any(offer["options"] for offer in offers):
        out.print(_options(offers))


def _transports(offers: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Scheme", "Summary", "Example", "Can", "From"):
        table.add_column(heading, no_wrap=heading == "Scheme")
    for offer in offers:
        table.add_row(
            Text(offer["scheme"], "bold"),
            Text(offer["summary"]),
            Text(offer["example"], "cyan"),
            Text(_abilities(offer)),
            Text(_origin(offer), "dim"),
        )
    return table


def _options(offers: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("Scheme", "Option behind ?", "Meaning"):
        table.add_column(heading, no_wrap=heading != "Meaning")
    for offer in offers:
        for name, meaning in offer["options"].items():
            table.add_row(Text(offer["scheme"], "bold"), Text(name, "cyan"), Text(meaning))
    return table
