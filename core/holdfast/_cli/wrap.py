"""``holdfast wrap``: a client's entry of a server, changed so that the server runs at a target."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import click

from holdfast._errors import HoldfastError, UnknownTransport
from holdfast._registry import Registry

from ._clients import ConfigurationError, Entry, find_entry
from ._printing import print_json
from ._targets import unknown


@click.command()
@click.option("--server", required=True, metavar="NAME", help="Which server of that file.")
@click.option("--target", required=True, metavar="TARGET", help="Where it shall run.")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path, server: str, target: str) -> int:
    """Print a server's entry of FILE, changed so that the server runs at TARGET.

    FILE is the configuration of an MCP or ACP client: of Claude, Cursor, VS Code or Zed. Put what
    is printed in the place of the server's entry; FILE itself is left alone.

    The server's environment variables stay where they are, and only their names become arguments:
    a secret among the arguments could be read by every user of the machine.
    """
    entry = find_entry(file, server)
    registry = Registry()
    try:
        registry.transport(target)
    except UnknownTransport as error:
        raise ConfigurationError(f"--target: {unknown(registry, error.scheme)}") from error
    except HoldfastError as error:
        raise ConfigurationError(f"--target: {error}") from error
    print_json(wrapped(entry, target))
    return 0


def wrapped(entry: Entry, target: str) -> dict[str, Any]:
    """The entry with ``holdfast run`` before its command, in the form that it had.

    Variables such as ``${input:token}`` stay: the client replaces them in the new entry, too.

    Raises:
        ConfigurationError: It begins with ``holdfast run`` already, or its ``envFile`` cannot be
            read.
    """
    if PurePath(entry.argv[0]).name == "holdfast" and entry.argv[1:2] == ("run",):
        raise ConfigurationError(f"{entry.where} runs by holdfast already: change its args")
    set_by_entry = [name for name, value in entry.env.items() if value is not None]
    arguments = ["run"]
    if entry.cwd is not None:  # the directory lies where the worker runs, not where the client does
        arguments += ["--cwd", entry.cwd]
    for name in dict.fromkeys([*entry.variables_of_file(), *set_by_entry]):
        arguments += ["--env", name]
    arguments += [target, "--", *entry.argv]
    command = entry.fields["command"]
    if isinstance(command, dict):
        before = {key: value for key, value in entry.fields.items() if key != "cwd"}
        return {**before, "command": {**command, "path": "holdfast", "args": arguments}}
    after = {
        key: value for key, value in entry.fields.items() if key not in ("command", "args", "cwd")
    }
    return {"command": "holdfast", "args": arguments, **after}
