"""The ``holdfast`` command: sub-commands are imported when they are called, not before."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from holdfast._errors import PluginError

_COMMANDS: Final[Mapping[str, str]] = {
    "run": "Run a command at a target, as if it ran here.",
    "wrap": "Rewrite a client's configuration so that its server runs at a target.",
    "demo": "See a worker die, and what is said of it.",
    "transports": "List the transports and what they can do.",
    "doctor": "Say what works on this machine, and what to install.",
    "check": "Try a live target against the transport contract.",
    "new-transport": "Write a new transport: a plugin that passes its tests.",
}

_OF_THE_GATEWAY: Final = ("serve", "ls", "logs", "attach", "stop")

USAGE_ERROR: Final = 64
"""The exit code for a command line that cannot be understood (``EX_USAGE`` of sysexits.h)."""

NOT_PRINTED: Final = 74
"""The exit code if our output could not be written (``EX_IOERR`` of sysexits.h)."""

_NOBODY_READS: Final = 128 + 13
"""The exit code if whoever read our output has left: that of a program that SIGPIPE ended."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(self._unknown(args[0]))
        return super().resolve_command(ctx, args)

    def _unknown(self, name: str) -> str:
        """Why there is no such command, and what to do next."""
        from holdfast._registry import nearest

        broken = self._load_plugins()
        if name in _OF_THE_GATEWAY and not broken:
            return f"{name!r} comes with holdfast-gateway, which is not installed: pip install it"
        hint = nearest(name, [*_COMMANDS, *self.commands])
        text = f"no such command: {name!r}{hint}; see: holdfast --help"
        return "\n".join([text, *map(str, broken)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is buffered goes nowhere
            return _NOBODY_READS

    def _load_plugins(self) -> list[PluginError]:
        """Let plugins add their commands; gives what could not be loaded."""
        from holdfast._registry import Registry

        registry = Registry()
        broken = registry.load_all()
        registry.add_commands(self)
        return broken


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
    except (OSError, ExceptionGroup) as error:
        cause: Exception = error
        while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]
        if not isinstance(cause, OSError) or cause.errno not in _FULL or cause.filename is not None:
            raise
        click.echo(f"holdfast: the output cannot be written: {cause}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(NOT_PRINTED)
    sys.exit(code if isinstance(code, int) else 0)
