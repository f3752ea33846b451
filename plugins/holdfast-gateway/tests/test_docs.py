"""What docs/gateway.md shows and lists is what there is."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_gateway import _hosting, _rest, _serve, _server, _stream
from holdfast_gateway._app import create_app

from .serving import ROOT, environment
from .test_commands import at, run
from .test_security import flat

PAGE = (ROOT / "docs" / "gateway.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_work(tmp_path):
    """The block for a shell, at a free port and with a home of its own; curl fails on an error."""
    (block,) = (each for each in BLOCKS if "curl" in each)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{environment(tmp_path)['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", block.replace("8377", str(port))],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(tmp_path, HOME=str(tmp_path), PATH=path),
        check=False,
    )
    errors = [line for line in done.stderr.splitlines() if "curl: (7)" not in line]  # tried again
    assert (done.returncode, errors) == (0, [])
    said, text = [], done.stdout.partition("\n")[2]  # behind the line that says the URL
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        said.append(value)
        text = text[end:].lstrip()
    health, created, receipt, page, restarted = said
    assert health["status"] == "ok"
    assert (created["name"], created["state"]) == ("echo", "idle")
    assert receipt["delivery"] == "written"
    assert "hello" in page["events"][1]["text"]
    assert restarted["generation"] == 2


def test_every_other_command_is_known():
    """The first block's command is one that this checkout has."""
    (block,) = (each for each in BLOCKS if "--open" in each)
    assert "holdfast serve --open\n" in block
    assert any("--open" in parameter.opts for parameter in _serve.command.params)


@pytest.mark.anyio
async def test_the_commands_on_a_session(gateway):
    """The block of ``ls``, ``attach``, ``logs`` and ``stop``, at a session of its name."""
    (block,) = (each for each in BLOCKS if "holdfast ls" in each)
    (made,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    session = await gateway.create(dialect="jsonrpc", **json.loads(made))
    done = run("sh", "-e", "-c", block, env=at(gateway), text=True)
    assert done.returncode == 0, done.stderr
    assert '"id": 1, "result": "pong"}\n' in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{session['id']}  stopped")


def test_every_option_is_explained():
    """The page speaks of each option of ``holdfast serve``, and of no other."""
    options = {name for each in _serve.command.params for name in each.opts} - {"--host"}
    assert options <= set(re.findall(r"--[a-z-]+", PAGE))


def test_every_route_is_listed(gateway):
    """The table names each route of OpenAPI, and no other."""
    table = PAGE.partition("| route | |")[2].partition("\n\n")[0]
    listed = set()
    for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
        listed |= set(re.findall(r"`([A-Z]+) ([^`?]+)", cell))
    routes = {
        (method, route.path.replace("session_id", "id"))
        for route in flat(create_app(gateway.gateway).routes)
        if getattr(route, "include_in_schema", False) and hasattr(route, "methods")
        for method in route.methods
        if method != "HEAD" and "openapi" not in route.path
    }
    assert listed == routes


def test_numbers():
    """Limits and codes are those of the code."""
    mib = 1024 * 1024
    assert (mib, 4 * mib) == (_hosting.MAX_MESSAGE, _hosting.MAX_WAITING)
    assert (_hosting.LIMITS.max_line, _hosting.LIMITS.retained_bytes) == (16 * mib, 8 * mib)
    assert 64 * mib == _hosting.LARGEST
    assert 8 * mib == _rest._EVENTS_BYTES
    assert (_server._PING_INTERVAL, _server._PING_TIMEOUT) == (20, 40)
    for code in (_stream.TOO_MUCH_WAITS, _stream.NOT_ALLOWED):
        assert re.search(rf"{code}\s+when", PAGE)
    for code in (_stream.GOING_AWAY, _stream.FORGOTTEN, _stream.TOO_MANY):
        assert f"| {code} |" in PAGE


def test_every_figure_is_listed(gateway):
    """The table names each of our metrics, and no other."""
    told = set(re.findall(r"`(holdfast_\w+)", PAGE.partition("## Metrics")[2]))
    text = gateway.gateway.metrics.text().decode()
    found = set(re.findall(r"^# TYPE (holdfast_\w+) ", text, re.MULTILINE))
    assert {name for name in found if not name.endswith("_created")} == told
