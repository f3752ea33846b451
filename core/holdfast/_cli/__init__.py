"""The ``holdfast`` command: sub-commands are imported when they are called, not before."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

_COMMANDS: Final[Mapping[str, str]] = {
    "run": "Run a command at a target, as if it ran here.",
    "wrap": "Rewrite a client's configuration so that its server runs at a target.",
    "demo": "See a worker die, and what is said of it.",
    "transports": "List the transports and what they can do.",
    "doctor": "Say what works on this machine, and what to install.",
    "check": "Try a live target against the transport contract.",
    "new-transport": "Write a new transport: a plugin that passes its tests.",
}

USAGE_ERROR: Final = 64
"""The exit code for a command line that cannot be understood (``EX_USAGE`` of sysexits.h)."""


class _Lazy(click.Group):
    """A group whose built-in commands lie in a module each, and whose others plugins bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load_plugins()
        return [*_COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        self._load_plugins()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._load_plugins()
        rows = list(_COMMANDS.items())
        rows += [(name, each.get_short_help_str()) for name, each in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _load_plugins(self) -> None:
        from holdfast._registry import Registry

        registry = Registry()
        registry.load_all()
        registry.add_commands(self)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="holdfast", message="%(prog)s %(version)s")
def cli() -> None:
    """Run a line-JSON worker anywhere, and never be lied to about its state."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; the entry point of the ``holdfast`` script."""
    try:
        code = cli.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE_ERROR if isinstance(error, click.UsageError) else error.exit_code)
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
