"""The servers that a client's configuration names: Claude's, Cursor's, VS Code's and Zed's.

Where the facts come from: the schema in VS Code's ``mcpConfiguration.ts``, and how it starts a
server in ``extHostMcpNode.ts``; Cursor's and Claude Code's pages on MCP; Zed's
``settings_content`` and, for the form that it wrote until July 2025, its migration of that month.
Both editors write JSON with comments and trailing commas, so these are taken in every file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from holdfast._registry import nearest


class ConfigurationError(click.ClickException):
    """A configuration that cannot be used; the message says what to do about it."""

    exit_code = 64  # EX_USAGE of sysexits.h


class Server(msgspec.Struct, frozen=True):
    """What a client would start.

    Attributes:
        argv: The program and its arguments.
        env: The environment variables that are set for it.
        cwd: The directory that it is run in, ``None`` if the entry names none.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None


class Client(msgspec.Struct, frozen=True):
    """Where a client keeps its servers, and what it replaces in their entries.

    Attributes:
        name: What to call it in a message.
        section: The keys that lead to the servers.
        variables: Whether it replaces ``${env:NAME}``, ``${workspaceFolder}`` and the like.
        shell_variables: Whether it replaces ``${NAME}`` and ``${NAME:-default}``.
        tilde_everywhere: Whether it takes ``~`` as the home directory in arguments, too.
    """

    name: str
    section: tuple[str, ...]
    variables: bool = False
    shell_variables: bool = False
    tilde_everywhere: bool = False


CLIENTS: Final = (
    Client("Claude or Cursor", ("mcpServers",), variables=True, shell_variables=True),
    Client("VS Code", ("servers",), variables=True, tilde_everywhere=True),
    Client("VS Code", ("mcp", "servers"), variables=True, tilde_everywhere=True),
    Client("Zed", ("agent_servers",)),
    Client("Zed", ("context_servers",)),
)


class Entry(msgspec.Struct, frozen=True):
    """One server as its file has it: no variable in it is replaced.

    Attributes:
        file: The file it stands in.
        name: Its name there.
        client: Whose file that is.
        fields: The entry itself.
        argv: The program and its arguments; ``~`` before the program is the home already, since
            no client replaces it behind ``holdfast run``.
        env: The environment variables; ``None`` for one that the client takes away.
        cwd: The directory that it is run in.
        env_file: A file with more environment variables.
    """

    file: Path
    name: str
    client: Client
    fields: Mapping[str, Any]
    argv: tuple[str, ...]
    env: Mapping[str, str | None]
    cwd: str | None
    env_file: str | None

    @property
    def where(self) -> str:
        """The beginning of every message about it."""
        return f"server {self.name!r} of {self.file}"

    def variables_of_file(self) -> dict[str, str]:
        """What its ``envFile`` sets; nothing if it has none.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        if self.env_file is None:
            return {}
        path = workspace_folder(self.file) / _with_home(_replaced(self.env_file, self))
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self.where}: its envFile {path} cannot be read: {error}"
            ) from error
        return _parse_env_file(text)


def load_server(file: str | Path, name: str) -> Server:
    """The server ``name`` of a client's configuration, as that client would start it here.

    Raises:
        ConfigurationError: The file cannot be read, has no such server, or asks for something
            that only the client itself can do.
    """
    entry = find_entry(file, name)
    client = entry.client
    if entry.fields.get("sandboxEnabled"):
        raise ConfigurationError(
            f"{entry.where} asks for {client.name}'s sandbox, which holdfast has not: "
            f"wrap it (holdfast wrap), or set sandboxEnabled to false"
        )
    env = entry.variables_of_file()
    for variable, value in entry.env.items():
        if value is None:
            raise ConfigurationError(
                f"{entry.where} takes the environment variable {variable} away (null), which "
                f"holdfast cannot: delete it from the entry"
            )
        env[variable] = _replaced(value, entry)
    program, *arguments = (_replaced(text, entry) for text in entry.argv)
    cwd = _replaced(entry.cwd, entry) if entry.cwd is not None else None
    if client.tilde_everywhere:
        arguments = [_with_home(text) for text in arguments]
        cwd = _with_home(cwd) if cwd is not None else None
    return Server((program, *arguments), env, cwd)


def find_entry(file: str | Path, name: str) -> Entry:
    """The entry of the server ``name`` in a client's configuration.

    Raises:
        ConfigurationError: The file cannot be read, or has no such server that runs a command.
    """
    file = Path(file)
    sections = _sections(file)
    found = [(client, servers[name]) for client, servers in sections if name in servers]
    if not found:
        names = sorted({known for _, servers in sections for known in servers})
        raise ConfigurationError(
            f"no server {name!r} in {file}{nearest(name, names)}; it has: {', '.join(names)}"
        )
    if len(found) > 1:
        places = " and in ".join(".".join(client.section) for client, _ in found)
        raise ConfigurationError(
            f"{file} has a server {name!r} in {places}: rename one of them, to say which you mean"
        )
    return _entry(file, name, *found[0])


def workspace_folder(file: Path) -> Path:
    """The folder that an editor has open when it reads ``file``.

    A folder's own configuration lies in its ``.vscode`` or ``.cursor``, or is its ``.mcp.json``.
    A user's configuration belongs to no folder: there it is the present one.
    """
    folder = file.absolute().parent
    if file.name == ".mcp.json":
        return folder
    if folder.name in (".vscode", ".cursor") and folder.parent != Path.home():
        return folder.parent
    return Path.cwd()


# -- reading the file ----------------------------------------------------------------------------


def _sections(file: Path) -> list[tuple[Client, Mapping[str, Any]]]:
    """The sections with servers that ``file`` has; at least one server is among them."""
    content = _read(file)
    sections: list[tuple[Client, Mapping[str, Any]]] = []
    for client in CLIENTS:
        servers = content
        for key in client.section:
            servers = servers.get(key) if isinstance(servers, dict) else None
        if isinstance(servers, dict) and servers:
            sections.append((client, servers))
    if not sections:
        keys = ", ".join(".".join(client.section) for client in CLIENTS)
        raise ConfigurationError(f"{file} has no servers: looked for {keys}")
    return sections


def _read(file: Path) -> Any:
    try:
        text = file.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(
            f"no such file: {file}; give the path of the client's configuration, such as "
            f".cursor/mcp.json, .vscode/mcp.json or ~/.config/zed/settings.json"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not a text in UTF-8: {error}") from error
    try:
        return json.loads(_without_comments(text))
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{file}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        ) from error
    except RecursionError:
        raise ConfigurationError(f"{file} is nested too deep to be read") from None


_STRING: Final = r'"(?:[^"\\\n]|\\.)*"'
_COMMENT: Final = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING_COMMA: Final = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.DOTALL)


def _without_comments(text: str) -> str:
    """JSON from JSON with comments and trailing commas.

    They become spaces, so that every line and column in an error is that of the file.
    """

    def blank(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith('"') else re.sub(r"[^\n]", " ", match[0])

    return _TRAILING_COMMA.sub(blank, _COMMENT.sub(blank, text))


def _entry(file: Path, name: str, client: Client, fields: object) -> Entry:
    """Check the shape of one entry."""
    where = f"server {name!r} of {file}"
    if not isinstance(fields, dict):
        raise ConfigurationError(f"{where} is {fields!r}, and not an object")
    source = fields
    command = source.get("command")
    if isinstance(command, dict):  # Zed until July 2025
        source = command
        command = source.get("path")
    if command is None:
        raise ConfigurationError(f"{where} {_why_no_command(client, fields)}")
    if not isinstance(command, str) or not command:
        raise ConfigurationError(f'{where}: its "command" is {command!r}, and not a program')
    arguments = source.get("args") or []
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise ConfigurationError(f'{where}: its "args" are {arguments!r}, and not a list of texts')
    env = source.get("env") or {}
    if not isinstance(env, dict):
        raise ConfigurationError(f'{where}: its "env" is {env!r}, and not an object')
    return Entry(
        file,
        name,
        client,
        fields,
        (_with_home(command), *arguments),
        {variable: _value(f"{where}: {variable}", value) for variable, value in env.items()},
        _text(where, fields, "cwd"),
        _text(where, fields, "envFile"),
    )


def _why_no_command(client: Client, fields: Mapping[str, Any]) -> str:
    if "url" in fields or "serverUrl" in fields:
        url = fields.get("url") or fields.get("serverUrl")
        return f"is reached at {url}: it runs elsewhere already, and there is no command to run"
    return f'has no "command": {client.name} brings its program itself; write one into the entry'


def _value(where: str, value: object) -> str | None:
    """An environment variable's value: VS Code takes numbers, and null to take it away."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ConfigurationError(f'{where} in its "env" is {value!r}: put the value in quotes')


def _text(where: str, fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigurationError(f"{where}: its {key!r} is {value!r}, and not a text")


def _parse_env_file(text: str) -> dict[str, str]:
    """``NAME=value`` lines, as editors read them: ``export``, quotes and comments are known."""
    variables = {}
    for line in text.splitlines():
        match = _ASSIGNMENT.fullmatch(line.strip())
        if match is not None:
            quoted = match["double"] if match["double"] is not None else match["single"]
            variables[match["name"]] = quoted if quoted is not None else match["plain"].strip()
    return variables


_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+)?(?P<name>[^\s=#]+)\s*=\s*"
    r"""(?:"(?P<double>[^"]*)"\s*(?:\#.*)?|'(?P<single>[^']*)'\s*(?:\#.*)?|(?P<plain>[^#]*)(?:\#.*)?)"""
)


# -- what the client replaces --------------------------------------------------------------------

_VARIABLE: Final = re.compile(r"\$\{([^{}]+)\}")
_SHELL_VARIABLE: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::-(?P<default>.*))?", re.DOTALL)
_ONLY_THE_CLIENT: Final = re.compile(
    r"(?:input|command|config|workspaceFolder|extensionInstallFolder):.*"
    r"|(?:file|relativeFile)\w*|lineNumber|columnNumber|selectedText|execPath|defaultBuildTask"
)


def _replaced(text: str, entry: Entry) -> str:
    """``text`` with its variables replaced, as the client would have done it."""
    client = entry.client
    if not client.variables:
        return text
    folder = workspace_folder(entry.file)
    known = {
        "workspaceFolder": str(folder),
        "workspaceFolderBasename": folder.name,
        "userHome": str(Path.home()),
        "pathSeparator": os.sep,
        "/": os.sep,
    }

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in known:
            return known[name]
        if name.startswith("env:"):
            variable = name.removeprefix("env:")
            if variable in os.environ:
                return os.environ[variable]
            raise ConfigurationError(
                f"{entry.where} takes {match[0]} from the environment, where it is not set: "
                f"set {variable} for holdfast"
            )
        if client.shell_variables and (shell := _SHELL_VARIABLE.fullmatch(name)):
            default = shell["default"] if shell["default"] is not None else match[0]
            return os.environ.get(shell["name"], default)
        if _ONLY_THE_CLIENT.fullmatch(name):
            raise ConfigurationError(
                f"{entry.where} uses {match[0]}, which only {client.name} can fill in: wrap it "
                f"(holdfast wrap), and {client.name} still does; or write the value into the entry"
            )
        return match[0]

    return _VARIABLE.sub(value, text)


def _with_home(path: str) -> str:
    """``~`` and ``~/…`` as the home directory; no client knows other users' homes."""
    return str(Path.home()) + path[1:] if path == "~" or path.startswith("~/") else path
