"""``holdfast run TARGET -- CMD …``: the command's streams as ours, wherever it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import anyio
import click
import msgspec

from holdfast._dialect import BUILT_IN
from holdfast._errors import HoldfastError, PluginError, UnknownTransport
from holdfast._limits import Limits
from holdfast._proxy import NOT_STARTED, Proxy, fill_standard_descriptors
from holdfast._registry import Registry
from holdfast._status import Status
from holdfast._transport import Command

_Say = Callable[[bytes], None]


def _text_status(status: Status, say: _Say) -> None:
    """One line for a person."""
    parts = [f"holdfast: {status.state}"]
    if status.reason is not None:
        parts.append(f" ({status.reason})")
    details = [status.detail, f"worker {status.worker}" if status.worker else None]
    details.append(str(status.exit) if status.exit is not None else None)
    if known := [each for each in details if each]:
        parts.append(": " + "; ".join(known))
    say("".join(parts).encode("utf-8", "replace") + b"\n")


def _json_status(status: Status, say: _Say) -> None:
    """One line for a program."""
    say(msgspec.json.encode(status) + b"\n")


_REPORTS: Final = {"text": _text_status, "json": _json_status}


class _OptionsFirst(click.Command):
    """Options stand before TARGET; ``--status`` may stand without a value.

    click would take the next word as the value of an option whose value may be left out, and here
    that word is TARGET.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {name for each in self.params if not _stands_alone(each) for name in each.opts}
        args = list(args)
        position = 0
        while position < len(args) and args[position].startswith("-") and args[position] != "--":
            if args[position] == "--status":
                args[position] = "--status=text"
            position += 2 if args[position] in valued else 1
        return super().parse_args(ctx, args)


def _stands_alone(parameter: click.Parameter) -> bool:
    """Whether the word behind this parameter's name is not its value."""
    return not isinstance(parameter, click.Option) or parameter.is_flag


def _environment(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    env: dict[str, str] = {}
    for text in values:
        name, given, value = text.partition("=")
        if not given:
            if name not in os.environ:
                raise click.BadParameter(f"{name} is not set in holdfast's own environment")
            value = os.environ[name]
        env[name] = value
    return env


@click.command(
    cls=_OptionsFirst,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
)
@click.option("--cwd", metavar="DIR", help="The directory to run it in.")
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    callback=_environment,
    help="Set a variable for it; without a value, the one that holdfast itself has.",
)
@click.option(
    "--dialect",
    default="jsonrpc",
    show_default=True,
    metavar="NAME",
    help=f"How to know its requests ({', '.join(BUILT_IN)}).",
)
@click.option(
    "--max-line",
    type=click.IntRange(1),
    default=Limits().max_line,
    show_default=True,
    metavar="BYTES",
    help="Look for requests in lines up to this long; longer ones pass unseen.",
)
@click.option(
    "--status",
    type=click.Choice(["text", "json"]),
    metavar="[=json]",
    help="Tell every change of state on stderr, for a person or as JSON lines.",
)
@click.option(
    "--from", "source", metavar="FILE", help="Take the command from a client's configuration."
)
@click.option("--server", metavar="NAME", help="Which server of that configuration.")
@click.argument("target")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD...")
def command(
    target: str,
    argv: tuple[str, ...],
    cwd: str | None,
    env: dict[str, str],
    dialect: str,
    max_line: int,
    status: str | None,
    source: str | None,
    server: str | None,
) -> int:
    """Run a command at TARGET, with its standard streams as ours.

    What it writes to stdout and stderr is passed on byte for byte, and so is our stdin. When it is
    lost, the JSON-RPC requests that it did not answer are answered with an error. SIGINT, SIGTERM,
    SIGHUP and a closed stdout stop it; a second one stops it at once.

    The exit code is the command's; 128+n if signal n killed it; 69 if it could not be started; 74
    if the link to it broke, nobody said how it ended, or stdout cannot be written; 64 for a command
    line that makes no sense.
    """
    if argv[:1] == ("--",):  # click leaves it in place behind an argument
        argv = argv[1:]
    elif argv and argv[0].startswith("-"):
        raise click.UsageError(
            f"options stand before TARGET, and {argv[0]!r} stands behind it: move it, or write -- "
            f"before a command of that name"
        )
    if source is not None or server is not None:
        argv, cwd, env = _configured(source, server, argv, cwd, env)
    if not argv:
        raise click.UsageError("no command: write it behind TARGET, after --")
    registry = Registry()
    try:
        transport = registry.transport(target)
        chosen = registry.dialect(dialect)
        what = Command(tuple(argv), cwd, env)
    except UnknownTransport as error:
        from ._targets import unknown

        raise click.UsageError(str(unknown(registry, error.scheme))) from error
    except PluginError as error:
        click.echo(f"holdfast: {error}", err=True)
        return NOT_STARTED
    except (HoldfastError, ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error
    report = _REPORTS[status] if status is not None else _silent

    async def run() -> int:
        proxy = Proxy(transport, what, chosen, report, max_line)
        code = await proxy.run()
        if proxy.failure is not None:
            _complain(_words(proxy.failure))
        elif proxy.unwritten is not None:
            _complain(f"stdout cannot be written: {proxy.unwritten}")
        elif proxy.lost is not None and status is None:
            _complain(proxy.lost)
        return code

    fill_standard_descriptors()
    return anyio.run(run)


def _configured(
    source: str | None,
    server: str | None,
    argv: tuple[str, ...],
    cwd: str | None,
    env: dict[str, str],
) -> tuple[tuple[str, ...], str | None, dict[str, str]]:
    from ._clients import load_server

    if source is None or server is None:
        raise click.UsageError("--from FILE and --server NAME belong together")
    if argv:
        raise click.UsageError("give a command, or --from FILE --server NAME, and not both")
    found = load_server(source, server)
    return found.argv, cwd or found.cwd, {**found.env, **env}


def _silent(status: Status, say: _Say) -> None:
    """Nothing is printed that was not asked for."""


def _words(failure: Exception) -> str:
    known = isinstance(failure, HoldfastError)
    return str(failure) if known else f"{type(failure).__name__}: {failure}"


def _complain(text: str) -> None:
    click.echo(f"holdfast: {' '.join(text.split())}", err=True)
