"""Clients' configurations: what is read from them, and what ``holdfast wrap`` makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast._cli import main
from holdfast._cli._clients import ConfigurationError, Server, load_server

MCP = {"command": "npx", "args": ["-y", "server"], "env": {"TOKEN": "secret"}}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as exit:
        main([str(each) for each in arguments])
    return exit.value.code, *capsys.readouterr()


def wrap(capsys: pytest.CaptureFixture[str], file: Path, target: str = "local:") -> dict:
    code, out, err = run(capsys, "wrap", file, "--server", "it", "--target", target)
    assert (code, err) == (0, "")
    return json.loads(out)


# -- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"mcpServers": {"it": MCP}}, id="Claude, Cursor"),
        pytest.param({"servers": {"it": {"type": "stdio", **MCP}}, "inputs": []}, id="VS Code"),
        pytest.param({"mcp": {"servers": {"it": MCP}}, "editor.tabSize": 2}, id="VS Code settings"),
        pytest.param({"agent_servers": {"it": {"type": "custom", **MCP}}}, id="Zed agent"),
        pytest.param({"context_servers": {"it": {"source": "custom", **MCP}}}, id="Zed context"),
        pytest.param(
            {
                "context_servers": {
                    "it": {
                        "source": "custom",
                        "command": {"path": "npx", "args": MCP["args"], "env": MCP["env"]},
                    }
                }
            },
            id="Zed until July 2025",
        ),
    ],
)
def test_every_client_s_form_gives_the_same_server(tmp_path: Path, content: object) -> None:
    """Command, arguments and environment are found wherever a client keeps them."""
    server = load_server(write(tmp_path / "settings.json", content), "it")
    assert server == Server(("npx", "-y", "server"), {"TOKEN": "secret"}, None)


def test_only_the_command_is_needed(tmp_path: Path) -> None:
    """An entry without arguments and environment is a whole one; nulls stand for nothing."""
    content = {"mcpServers": {"it": {"command": "serve", "args": None, "env": None, "cwd": "/srv"}}}
    assert load_server(write(tmp_path / "c.json", content), "it") == Server(("serve",), {}, "/srv")


def test_comments_and_trailing_commas_are_taken(tmp_path: Path) -> None:
    """What editors write is read, and what only looks like a comment in a text stays."""
    text = """\ufeff// mine
    {
      /* two
         lines */
      "context_servers": {
        "it": {"command": "a", "args": ["http://x/*y*/", "// no", "a,]", "\\"//",],}, // end
      },
    }"""
    server = load_server(write(tmp_path / "settings.json", text), "it")
    assert server.argv == ("a", "http://x/*y*/", "// no", "a,]", '"//')


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{\n  // ok\n  /* ok\n ok */ oops\n}", "line 4, column 8"),
        ('{\n  "a": 1,, "b": 2}', "line 2, column 10"),
        ("", "line 1, column 1"),
        ("{ /* open", "line 1, column 3"),
    ],
)
def test_what_is_no_json_is_told_by_its_place(tmp_path: Path, text: str, place: str) -> None:
    """The line and the column are those of the file, comments counted."""
    with pytest.raises(ConfigurationError, match=f"c.json, {place}: not JSON"):
        load_server(write(tmp_path / "c.json", text), "it")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"mcpServers": {"item": MCP}},
            r"no server 'it' in .* \(did you mean 'item'\?\); .*: item",
        ),
        ({"servers": {"zz": MCP, "b": MCP}}, "no server 'it' in .*c.json; it has: b, zz"),
        ({"other": 1}, "has no servers: looked for mcpServers, servers, mcp.servers, agent_serv"),
        ([1], "has no servers"),
        ({"mcpServers": {"it": {"url": "https://x/mcp"}}}, "is reached at https://x/mcp: it runs"),
        ({"servers": {"it": {"type": "http", "url": "https://x"}}}, "no command to run"),
        ({"agent_servers": {"it": {"type": "registry"}}}, 'no "command": Zed brings'),
        ({"context_servers": {"it": {"source": "extension", "settings": {}}}}, "Zed brings"),
        ({"mcpServers": {"it": "npx"}}, "is 'npx', and not an object"),
        ({"mcpServers": {"it": {"command": ["npx"]}}}, "and not a program"),
        ({"mcpServers": {"it": {"command": "a", "args": "b"}}}, "and not a list of texts"),
        ({"mcpServers": {"it": {"command": "a", "args": [1]}}}, "and not a list of texts"),
        ({"mcpServers": {"it": {"command": "a", "env": ["A=1"]}}}, '"env" is .* not an object'),
        ({"mcpServers": {"it": {"command": "a", "env": {"A": True}}}}, 'A in its "env".*quotes'),
        ({"mcpServers": {"it": {"command": "a", "cwd": 1}}}, "'cwd' is 1, and not a text"),
        (
            {"agent_servers": {"it": MCP}, "context_servers": {"it": MCP}},
            "in agent_servers and in context_servers: rename one",
        ),
    ],
)
def test_what_cannot_be_used_says_why(tmp_path: Path, content: object, says: str) -> None:
    """An error names the file and the server, and what to do about it."""
    file = write(tmp_path / "c.json", content)
    with pytest.raises(ConfigurationError, match=says) as error:
        load_server(file, "it")
    assert str(file) in str(error.value)


def test_a_file_that_cannot_be_read_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file, a directory and what is no text give exit code 64, and no traceback."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{}")
    for name, says in [
        ("none", "no such file"),
        (".", "directory"),
        ("bytes", "not a text in UTF"),
    ]:
        code, out, err = run(
            capsys, "wrap", tmp_path / name, "--server", "it", "--target", "local:"
        )
        assert (code, out) == (64, "")
        assert says in err


# -- what the client would have replaced ---------------------------------------------------------


def argument(tmp_path: Path, section: str, text: str, name: str = "c.json") -> str:
    """What becomes of one argument."""
    file = write(tmp_path / name, {section: {"it": {"command": "a", "args": [text]}}})
    return load_server(file, "it").argv[1]


@pytest.mark.parametrize("section", ["mcpServers", "servers"])
def test_variables_of_vs_code_and_cursor_are_replaced(
    tmp_path: Path, section: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In arguments, environment and directory: holdfast stands in the client's place."""
    monkeypatch.setenv("HF_TOKEN", "t0p")
    monkeypatch.setenv("HOME", "/home/me")
    folder = tmp_path / "project"
    entry = {
        "command": "${workspaceFolder}/bin/serve",
        "args": ["--name=${workspaceFolderBasename}", "${userHome}${/}x", "${pathSeparator}"],
        "env": {"TOKEN": "Bearer ${env:HF_TOKEN}"},
        "cwd": "${workspaceFolder}",
    }
    file = write(folder / ".vscode" / "mcp.json", {section: {"it": entry}})
    assert load_server(file, "it") == Server(
        (f"{folder}/bin/serve", "--name=project", "/home/me/x", "/"),
        {"TOKEN": "Bearer t0p"},
        str(folder),
    )


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("p/.vscode/mcp.json", "p"),
        ("p/.cursor/mcp.json", "p"),
        ("p/.mcp.json", "p"),
        (".cursor/mcp.json", "here"),  # the user's own, in the home directory
        ("Claude/claude_desktop_config.json", "here"),
    ],
)
def test_the_workspace_folder_is_the_one_that_the_file_belongs_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    """A user's configuration belongs to no folder: there it is the present one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = argument(tmp_path, "mcpServers", "${workspaceFolder}", name)
    assert found == str(tmp_path / folder)


def test_an_unset_variable_is_an_error_not_an_empty_text(tmp_path: Path) -> None:
    """An empty token would fail much later, and say nothing of its cause."""
    assert "HF_NOT_SET" not in os.environ
    with pytest.raises(ConfigurationError, match="set HF_NOT_SET for holdfast"):
        argument(tmp_path, "servers", "${env:HF_NOT_SET}")


@pytest.mark.parametrize("text", ["${input:key}", "${command:x.y}", "${config:a}", "${file}"])
def test_what_only_the_client_knows_is_an_error_that_offers_wrap(tmp_path: Path, text: str) -> None:
    """VS Code asks a person for ``${input:…}``; holdfast does not pass the text on as it is."""
    with pytest.raises(ConfigurationError, match=r"only VS Code can fill in: .*holdfast wrap"):
        argument(tmp_path, "servers", text)


def test_shell_variables_are_replaced_where_the_client_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claude Code takes ``${NAME}`` and ``${NAME:-default}``, and leaves an unset one as it is."""
    monkeypatch.setenv("HF_SET", "v")
    for text, wanted in {
        "${HF_SET}": "v",
        "${HF_SET:-d}": "v",
        "${HF_NOT_SET:-d}": "d",
        "${HF_NOT_SET:-}": "",
        "${HF_NOT_SET}": "${HF_NOT_SET}",
        "$HF_SET": "$HF_SET",
        "${#array[@]}": "${#array[@]}",
    }.items():
        assert argument(tmp_path, "mcpServers", text) == wanted
    assert argument(tmp_path, "servers", "${HF_SET}") == "${HF_SET}"


def test_zed_replaces_nothing(tmp_path: Path) -> None:
    """Zed has no variables: what looks like one is an argument like any other."""
    assert argument(tmp_path, "agent_servers", "${env:HF_NOT_SET}") == "${env:HF_NOT_SET}"


def test_the_home_directory_is_found_as_the_client_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` before the program is replaced for all, before arguments for VS Code only."""
    monkeypatch.setenv("HOME", "/home/me")
    entry = {"command": "~/bin/a", "args": ["~/x", "~bob", "a~"], "cwd": "~"}
    content = {"servers": {"code": entry}, "agent_servers": {"zed": entry}}
    file = write(tmp_path / "c.json", content)
    assert load_server(file, "code") == Server(
        ("/home/me/bin/a", "/home/me/x", "~bob", "a~"), {}, "/home/me"
    )
    assert load_server(file, "zed") == Server(("/home/me/bin/a", "~/x", "~bob", "a~"), {}, "~")


def test_an_env_file_is_read_and_the_entry_wins(tmp_path: Path) -> None:
    """``export``, quotes and comments are known; what the entry sets comes on top."""
    write(
        tmp_path / "p" / ".env",
        "# mine\n\nA=1\r\nexport B = two words # why\nC='q # q'\nD=\"\"\nE=x=y\nnot a line\n",
    )
    entry = {"command": "a", "envFile": "${workspaceFolder}/.env", "env": {"A": "2", "N": 5}}
    file = write(tmp_path / "p" / ".vscode" / "mcp.json", {"servers": {"it": entry}})
    assert load_server(file, "it").env == {
        "A": "2",
        "B": "two words",
        "C": "q # q",
        "D": "",
        "E": "x=y",
        "N": "5",
    }


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"command": "a", "envFile": "/nowhere/.env"}, "its envFile /nowhere/.env cannot be read"),
        ({"command": "a", "env": {"PATH": None}}, "takes the environment variable PATH away"),
        ({"command": "a", "sandboxEnabled": True}, "asks for VS Code's sandbox"),
    ],
)
def test_what_holdfast_cannot_honour_is_an_error(tmp_path: Path, entry: dict, says: str) -> None:
    """A sandbox that is silently left out, or a variable that stays, would be a lie."""
    file = write(tmp_path / "c.json", {"servers": {"it": entry}})
    with pytest.raises(ConfigurationError, match=says):
        load_server(file, "it")


# -- wrap ----------------------------------------------------------------------------------------


def test_wrap_puts_holdfast_before_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What else the entry holds stays; the directory goes to where the worker runs."""
    entry = {"type": "stdio", **MCP, "cwd": "/srv", "dev": {"watch": "*.ts"}}
    file = write(tmp_path / "mcp.json", {"servers": {"it": entry}})
    before = file.read_bytes()
    assert wrap(capsys, file) == {
        "command": "holdfast",
        "args": [
            *("run", "--cwd", "/srv", "--env", "TOKEN", "local:", "--", "npx", "-y", "server")
        ],
        "type": "stdio",
        "env": {"TOKEN": "secret"},
        "dev": {"watch": "*.ts"},
    }
    assert file.read_bytes() == before


def test_wrap_leaves_secrets_out_of_the_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arguments can be read by every user of the machine: only names stand there."""
    (tmp_path / ".env").write_text("FROM_FILE=hidden\n")
    entry = {**MCP, "envFile": str(tmp_path / ".env"), "env": {"TOKEN": "secret", "GONE": None}}
    made = wrap(capsys, write(tmp_path / "mcp.json", {"servers": {"it": entry}}))
    assert made["args"][:5] == ["run", "--env", "FROM_FILE", "--env", "TOKEN"]
    assert "GONE" not in made["args"]
    assert "secret" not in str(made["args"])
    assert made["env"] == entry["env"]
    assert made["envFile"] == entry["envFile"]


def test_wrap_leaves_variables_to_the_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client replaces ``${…}`` in the new entry as it did in the old one."""
    entry = {"command": "${workspaceFolder}/a", "args": ["${input:k}"], "cwd": "${env:NOPE}"}
    made = wrap(capsys, write(tmp_path / "mcp.json", {"servers": {"it": entry}}))
    assert made["args"] == [
        *("run", "--cwd", "${env:NOPE}", "local:", "--", "${workspaceFolder}/a", "${input:k}")
    ]


def test_wrap_keeps_the_form_that_zed_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that is an object stays one."""
    command = {"path": "npx", "args": ["x"], "env": {"A": "1"}}
    content = {"context_servers": {"it": {"source": "custom", "command": command}}}
    assert wrap(capsys, write(tmp_path / "settings.json", content)) == {
        "source": "custom",
        "command": {
            "path": "holdfast",
            "args": ["run", "--env", "A", "local:", "--", "npx", "x"],
            "env": {"A": "1"},
        },
    }


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("locl:", "no transport named 'locl' (did you mean 'local'?)"),
        ("here", "not a target: 'here'"),
        ("local:?fast=1", "local: has no option 'fast'"),
    ],
)
def test_wrap_refuses_a_target_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, says: str
) -> None:
    """A mistake in TARGET shows now, and not when the client starts."""
    file = write(tmp_path / "c.json", {"mcpServers": {"it": MCP}})
    code, out, err = run(capsys, "wrap", file, "--server", "it", "--target", target)
    assert (code, out) == (64, "")
    assert says in err


def test_wrap_does_not_wrap_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An entry that runs by holdfast is to be edited: holdfast need not be on the far side."""
    entry = {"command": "/usr/bin/holdfast", "args": ["run", "local:", "--", "a"]}
    file = write(tmp_path / "c.json", {"mcpServers": {"it": entry}})
    code, out, err = run(capsys, "wrap", file, "--server", "it", "--target", "local:")
    assert (code, out) == (64, "")
    assert "runs by holdfast already" in err


def test_a_wrapped_entry_runs_what_the_entry_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started as a client starts it, with its arguments, its environment and its directory."""
    code = "import os, sys; print(sys.argv[1:], os.environ['TOKEN'], os.getcwd())"
    entry = {
        "command": sys.executable,
        "args": ["-c", code, "--", "a b", "--env", "ü"],
        "env": {"TOKEN": "secret"},
        "cwd": str(tmp_path),
    }
    made = wrap(capsys, write(tmp_path / "c.json", {"mcpServers": {"it": entry}}))
    assert made["command"] == "holdfast"
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *made["args"]],
        env={**os.environ, **made["env"]},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"['--', 'a b', '--env', 'ü'] secret {tmp_path}\n"
