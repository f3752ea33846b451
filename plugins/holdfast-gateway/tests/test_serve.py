"""``holdfast serve`` as a program: how it starts, how it is found, and how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import websockets

from holdfast import demo
from holdfast_gateway import _runtime

from .serving import DEADLINE, SCRIPTED, TOKEN, arguments, environment, program

pytestmark = pytest.mark.anyio


def refused(folder, *options, **env):
    """Run it with options that it refuses; gives the exit code and what it says."""
    done = subprocess.run(
        arguments(folder, *options),
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(folder, **env),
        check=False,
    )
    return done.returncode, done.stderr


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- starting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["run", "local:", "--", "true"]])
def test_other_commands_import_no_server(arguments):
    """``holdfast --help`` knows of ``serve``, and imports neither framework nor server for it."""
    code = (
        "import sys, holdfast._cli\n"
        "try: holdfast._cli.main(sys.argv[1:])\n"
        "finally: print(sorted({'fastapi', 'uvicorn', 'starlette', 'pydantic', 'websockets', "
        "'prometheus_client'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr == "[]\n"
    assert ("serve " in done.stdout) == (arguments == ["--help"])


async def test_it_prints_a_url_that_works(tmp_path):
    """With a random token; the log has neither it nor anything else of note."""
    env = environment(tmp_path)
    env.pop("HOLDFAST_TOKEN", None)
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        arguments(tmp_path, "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("holdfast serves ").strip()
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(url)).status_code in (303, 404)  # a checkout without the page
            health = await http.get(url.replace("/?", "/healthz?"))
            assert health.json()["status"] == "ok"
            assert health.json()["durability"] == "durable"
    finally:
        process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_a_url_that_cannot_be_printed(tmp_path):
    """Neither a full disk nor a reader that has left ends the gateway; it says so, once."""
    env = environment(tmp_path, HOLDFAST_TOKEN=TOKEN)
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            arguments(tmp_path, "--port", "0"), stdout=full, stderr=subprocess.PIPE, env=env
        ) as process,
    ):
        said = process.stderr.readline().decode()
        process.terminate()
        rest = process.stderr.read()
    assert "stdout cannot be written ([Errno 28] No space left on device); this serves h" in said
    assert (process.returncode, rest) == (0, b"")


def test_a_given_token_is_not_printed(tmp_path):
    """Who gave it knows it."""
    with program(tmp_path) as gateway:
        code, text = gateway.stop()
    assert code == 0
    assert TOKEN not in text


@pytest.mark.parametrize("token", ["short", "with space and more", "ünicode-ünicode-ünicode"])
def test_a_token_that_cannot_be_sent(tmp_path, token):
    """One that no cookie or subprotocol can carry, or that can be guessed, is refused."""
    code, text = refused(tmp_path, "--port", "0", HOLDFAST_TOKEN=token)
    assert code == 64
    assert "16 to 256 characters" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_remote_address_needs_tls(tmp_path, host):
    """It is refused with what to do, and the port is not even opened."""
    code, text = refused(tmp_path, "--port", "0", "--host", host)
    assert code == 64
    for word in ("--certfile", "ssh -L", "--allow-remote-plaintext"):
        assert word in text


async def test_a_remote_address_without_tls_by_an_explicit_option(tmp_path):
    """It works, under the address that was called, and other names are still foreign."""
    options = ("--port", "0", "--host", "0.0.0.0", "--allow-remote-plaintext")
    with program(tmp_path, *options) as gateway:
        async with gateway.http() as http:
            for host, code in [
                (gateway.host, 200),
                (f"127.0.0.2:{gateway.port}", 403),
                (f"evil.example:{gateway.port}", 403),
            ]:
                assert (await http.get("/healthz", headers={"host": host})).status_code == code
            other = f"http://127.0.0.2:{gateway.port}/healthz"
            assert (await http.get(other)).status_code == 200
        assert gateway.stop()[0] == 0


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that nobody signed, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_tls(tmp_path, certificate):
    """With a certificate it speaks TLS, under https origins, and its cookie is for TLS alone."""
    import ssl

    cert, key = certificate
    options = ("--port", "0", "--certfile", str(cert), "--keyfile", str(key))
    with program(tmp_path, *options) as gateway:
        url = f"https://{gateway.host}"
        context = ssl.create_default_context(cafile=cert)
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False) as http:
            answer = await http.get(f"/?token={TOKEN}")
            assert "Secure" in answer.headers["set-cookie"].split("; ")
            headers = {"authorization": f"Bearer {TOKEN}"}
            for origin, code in [(url, 200), (f"http://{gateway.host}", 403)]:
                answer = await http.get("/healthz", headers={**headers, "origin": origin})
                assert answer.status_code == code
        assert gateway.stop()[0] == 0


async def test_behind_a_proxy(tmp_path):
    """``--allow-origin`` names another origin, with its host; its neighbours stay foreign."""
    options = ("--port", "0", "--allow-origin", "https://holdfast.example")
    with program(tmp_path, *options) as gateway:
        async with gateway.http() as http:
            for host, origin, code in [
                ("holdfast.example", "https://holdfast.example", 200),
                ("holdfast.example", "http://holdfast.example", 403),
                ("holdfast.example:80", "https://holdfast.example", 403),
                ("holdfast.example.evil", "https://holdfast.example", 403),
            ]:
                headers = {"host": host, "origin": origin}
                assert (await http.get("/healthz", headers=headers)).status_code == code


def test_a_port_that_is_taken(tmp_path):
    """A port that was asked for is said to be taken, with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, text = refused(tmp_path, "--port", str(port))
    assert code == 69
    assert f"port {port}: Address already in use; choose another --port" in text


def test_a_data_directory_that_is_taken(tmp_path):
    """Two gateways do not share one, and the second says whose it is."""
    with program(tmp_path) as gateway:
        code, text = refused(tmp_path, "--port", "0")
        assert code == 69
        assert str(gateway.pid) in text
        assert text.startswith("holdfast: --data: ")
        assert "Traceback" not in text


def test_a_data_directory_that_is_a_link(tmp_path):
    """It is refused: somebody else may have laid it there."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    code, text = refused(tmp_path, "--port", "0")
    assert code == 69
    assert "Traceback" not in text


def test_open(tmp_path):
    """The browser is given a file that only this user can read, and not the token itself."""
    seen = tmp_path / "seen"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$@" > {seen}.new; mv {seen}.new {seen}\n')
    script.chmod(0o755)
    with program(tmp_path, "--port", "0", "--open", BROWSER=str(script)) as gateway:
        deadline = time.monotonic() + DEADLINE
        while not seen.exists() and time.monotonic() < deadline:
            os.sched_yield()
        url = seen.read_text().strip()
        assert TOKEN not in url
        page = Path(url.removeprefix("file://"))
        assert f"0;url={gateway.url}/?token={TOKEN}" in page.read_text()
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        gateway.stop()
        assert not page.exists()


# -- being found ---------------------------------------------------------------------------------


def test_the_runtime_file(tmp_path, monkeypatch):
    """It says URL, token and pid, to this user alone, for as long as the gateway runs."""
    with program(tmp_path) as gateway:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
        (found,) = _runtime.running()
        assert (found.url, found.token, found.pid) == (f"{gateway.url}/", TOKEN, gateway.pid)
        folder = tmp_path / "run" / "holdfast"
        (file,) = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert set(json.loads(file.read_bytes())) == {"url", "token", "pid", "started_at"}
        assert gateway.stop()[0] == 0
        assert list(folder.iterdir()) == []
        assert _runtime.running() == []


def test_who_looks_while_a_gateway_announces_itself(tmp_path, monkeypatch):
    """It is not found yet, and its file is not taken for one that was left behind."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    flock, looked = _runtime.fcntl.flock, []

    def look_first(file, how):
        if how & _runtime.fcntl.LOCK_EX:
            looked.append(_runtime.running())
        flock(file, how)

    monkeypatch.setattr(_runtime.fcntl, "flock", look_first)
    me = _runtime.Running("http://127.0.0.1:1/", TOKEN, os.getpid(), 0.0)
    with _runtime.announced(me):
        assert looked == [[]]
        assert _runtime.running() == [me]


def test_a_runtime_file_that_was_left_behind(tmp_path, monkeypatch):
    """Where its gateway was killed it means nothing, and is removed, whoever has its pid now."""
    with program(tmp_path) as gateway:
        gateway.stop(signal.SIGKILL)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    folder = tmp_path / "run" / "holdfast"
    (file,) = folder.iterdir()
    file.rename(folder / f"gateway-{os.getpid()}.json")
    assert _runtime.running() == []
    assert list(folder.iterdir()) == []


def test_a_runtime_directory_of_somebody_else(tmp_path, monkeypatch):
    """A link is not followed: the gateway runs, and says that it cannot be found."""
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "holdfast").symlink_to(tmp_path / "elsewhere")
    with program(tmp_path) as gateway:
        code, text = gateway.stop()
    assert code == 0
    assert "will not find this gateway" in text
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_stop_is_bounded(tmp_path, how):
    """Clients are told 1001, those that never read hold nothing up, and no worker is left."""
    with program(tmp_path) as gateway:
        session = await gateway.create(dialect="jsonrpc")
        stubborn = await gateway.create(dialect="jsonrpc")
        async with gateway.stream(session["id"]) as client, gateway.stream(stubborn["id"]) as other:
            pids = []
            for each in (client, other):
                await each.request(1, "ping")
                pids.append((await each.answer(1))["result"]["pid"])
            await other.request(2, "ignore", eof=True, signals=["SIGTERM"])
            await other.answer(2)
            with socket.create_connection(("127.0.0.1", gateway.port)) as deaf:
                deaf.sendall(
                    f"GET /api/sessions/{session['id']}/stream HTTP/1.1\r\n"
                    f"Host: {gateway.host}\r\nAuthorization: Bearer {TOKEN}\r\n"
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
                )
                await client.request(2, "line", size=12 * 1024 * 1024)  # more than sockets hold
                await client.answer(2)
                began = time.monotonic()
                stopped = asyncio.create_task(asyncio.to_thread(gateway.stop, how))
                assert await client.closed() == 1001
                assert await other.closed() == 1001
                code, text = await stopped
                assert time.monotonic() - began < 25
                assert (code, text) == (0, "")
        assert not any(alive(pid) for pid in pids)


async def test_nohup_is_respected(tmp_path):
    """A SIGHUP that was ignored at the start stays so: the gateway outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with program(tmp_path) as gateway:
            os.kill(gateway.pid, signal.SIGHUP)
            async with gateway.http() as http:
                for _ in range(10):  # it would have stopped before these are answered
                    assert (await http.get("/healthz")).status_code == 200
            assert gateway.stop() == (0, "")
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_restart_of_the_gateway(tmp_path):
    """Sessions, their events and seqs outlive a gateway that was killed; they say so, and go on."""
    with program(tmp_path) as gateway:
        session = await gateway.create(list(demo.WORKER), name="mine")
        async with gateway.stream(session["id"], client="ann", format="events") as client:
            await client.request("p-1", "prompt", user_input="Hello")
            await client.until(
                lambda m: m.get("params", {}).get("id") == "p-1" and "result" in str(m)
            )
            await client.request("p-2", "prompt", user_input="Hello again")
            await client.until(lambda m: "ContentPart" in str(m))
            await client.until(
                lambda m: m.get("params", {}).get("event") == "line" and "until" in str(m)
            )
        seen = [m["params"] for m in client.seen if m.get("method") == "session_event"]
        gateway.stop(signal.SIGKILL)
    with program(tmp_path) as gateway:
        async with gateway.http() as http:
            (again,) = (await http.get("/api/sessions/")).json()["sessions"]
            assert (again["id"], again["name"], again["demo"]) == (session["id"], "mine", True)
            assert again["created_at"] == session["created_at"]
            assert (again["state"], again["reason"]) == ("error", "stdin_broken")
            assert (again["cause"], again["worker"]) == ("link_lost", "maybe_alive")
        async with gateway.stream(session["id"], client="ann", format="events") as client:
            await client.notification("history_complete")
            replay = [m["params"] for m in client.seen if m.get("method") == "session_event"]
            kept = {event["seq"]: event for event in replay}
            common = [event for event in seen if event["seq"] in kept]
            assert common == [kept[event["seq"]] for event in common]
            assert common[:3] == seen[:3]
            assert any(e.get("id") == "p-2" and "error" in e.get("text", "") for e in replay)
            await client.request("p-3", "prompt", user_input="Still there?")
            await client.until(
                lambda m: m.get("params", {}).get("id") == "p-3" and "result" in str(m)
            )
        assert gateway.stop()[0] == 0


@pytest.mark.parametrize(
    "options",
    [("--keep-session-mib", "1"), ("--keep-mib", "1"), ("--keep-days", "0.00001")],
    ids=" ".join,
)
async def test_what_is_kept_is_bounded(tmp_path, options):
    """The oldest events go when there is more than was asked for, or when they are older."""
    command = ["sh", "-c", "yes | head -c 3000000 | tr '\\n' y | fold -w 999; exec cat"]
    limits = {"retained_bytes": 65536}  # so that what can be read is what the log has
    with program(tmp_path, "--port", "0", *options) as gateway:
        session = await gateway.create(command, dialect="lines", limits=limits)
        address = f"/api/sessions/{session['id']}"
        async with gateway.http() as http, asyncio.timeout(DEADLINE):
            last = first = 1
            while last < 3000 or first == 1:  # each message is a write, and each write tidies
                await http.post(f"{address}/messages", content=b"more")
                told = (await http.get(address)).json()
                first, last = told["first_seq"], told["last_seq"]
            events = (await http.get(f"{address}/events", params={"after": first - 1})).json()
        assert events["events"][0]["seq"] >= first > 1  # more may have gone meanwhile
        assert gateway.stop() == (0, "")


async def test_a_worker_has_its_variables_and_no_token(tmp_path):
    """What a session sets reaches its worker; the gateway's token does not."""
    with program(tmp_path) as gateway:
        session = await gateway.create(env={"HF_CANARY": "value"})
        async with gateway.stream(session["id"]) as client:
            await client.request(1, "surroundings")
            env = (await client.answer(1))["result"]["env"]
        assert env["HF_CANARY"] == "value"
        assert TOKEN not in str(env)
        gateway.stop()


async def test_variables_are_not_kept(tmp_path):
    """After a restart a session that had some says which are missing, and does not start."""
    with program(tmp_path) as gateway:
        session = await gateway.create(env={"HF_CANARY": "the-secret-value"})
        assert session["env"] == ["HF_CANARY"]
        gateway.stop()
    with program(tmp_path) as gateway:
        async with gateway.http() as http:
            answer = await http.post(f"/api/sessions/{session['id']}/restart")
        assert answer.status_code == 200
        assert answer.json()["reason"] == "initialization_failed"
        assert "HF_CANARY" in answer.json()["detail"]
        gateway.stop()


# -- what is never said --------------------------------------------------------------------------


async def test_nothing_secret_is_written_down(tmp_path):
    """Neither the token nor the value of a variable is in a log, an answer, or the database."""
    secret = "canary-0123456789-canary"
    wrong = "wrong-token-0123456789"
    answers = []
    with program(tmp_path) as gateway:
        async with gateway.http() as http:

            async def call(method, path, **options):
                answer = await http.request(method, path, **options)
                answers.append(answer.text + str(answer.headers))
                return answer

            body = {"target": "local:", "command": SCRIPTED, "env": {"HF_CANARY": secret}}
            session = (await call("POST", "/api/sessions/", json=body)).json()
            for bad in (
                {**body, "command": []},
                {**body, "env": {"HF_CANARY": [secret]}},
                {**body, "env": secret},
                {**body, "env": {"HF=CANARY": secret}},
                {**body, "env": {"HF_CANARY": secret + "\0"}},
                {**body, "dialect": "none"},
                {**body, "target": "nowhere://x"},
                {**body, "more": secret},
            ):
                assert (await call("POST", "/api/sessions/", json=bad)).status_code == 422
            await call("POST", "/api/sessions/", json={**body, "command": ["/no/such/program"]})
            await call("POST", "/api/sessions/", content=f'{{"env": "{secret}')
            await call("GET", f"/healthz?token={TOKEN}")
            await call("GET", f"/healthz?token={wrong}", headers={"authorization": "none"})
            await call("GET", f"/no/such/path?token={TOKEN}")
            await call("GET", "/api/sessions/")
            await call("GET", f"/api/sessions/{session['id']}/events")
            await call("GET", "/api/transports")
            await call("GET", "/metrics")
            await call("GET", "/api/openapi.json")
        async with gateway.stream(session["id"], token=TOKEN) as client:
            await client.send("no JSON")
            await client.request(2, "killed")
            await client.status("error")
        for offered in ([f"holdfast-token.{wrong}"], ["holdfast", f"holdfast-token.{TOKEN}"]):
            url = f"ws://{gateway.host}/api/sessions/no-such/stream?token={wrong}"
            with suppress(websockets.InvalidStatus):
                async with websockets.connect(url, subprotocols=offered, proxy=None):
                    pass
        with socket.create_connection(("127.0.0.1", gateway.port)) as odd:
            odd.sendall(f"GET /?token={TOKEN} HTTP/9.9\r\n\r\n".encode())
            odd.recv(1000)
        code, text = gateway.stop()
    assert code == 0
    for said in (text, *answers):
        assert TOKEN not in said
        assert wrong not in said
        assert secret not in said
    assert "lost its worker" in text  # the log is there
    for file in (tmp_path / "data").iterdir():
        content = file.read_bytes()
        assert TOKEN.encode() not in content
        assert secret.encode() not in content


async def test_a_gibibyte_without_a_newline(tmp_path):
    """A line that does not end takes no more memory than ``max_line`` allows, and is reported."""
    size = 256 * 1024 * 1024
    with program(tmp_path) as gateway:
        script = f"head -c {size} /dev/zero; echo; exec cat"
        limits = {"max_line": 1024 * 1024}
        before = gateway.memory()
        session = await gateway.create(["sh", "-c", script], dialect="lines", limits=limits)
        async with gateway.stream(session["id"]) as client:
            too_long = await client.notification("session_line_too_long")
            assert too_long["size"] == size
            await client.send('"still here"')
            await client.until(lambda message: message == "still here")
        assert gateway.memory() - before < 48 * 1024 * 1024
        gateway.stop()
