"""Who is let in: the token, ``Host`` and ``Origin``, on every route; limits; what is never said."""

from __future__ import annotations

import asyncio
import hmac
import json
import socket

import httpx
import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from holdfast_gateway._app import PAGE, create_app
from holdfast_gateway._hosting import MAX_MESSAGE

from .serving import DEADLINE, SCRIPTED, TOKEN

pytestmark = pytest.mark.anyio


def raw(gateway, text, *, upto=65536):
    """Send bytes to the gateway's port, and give the first line of the answer and the rest."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=DEADLINE) as sock:
        sock.sendall(text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode())
        answer = b""
        while len(answer) < upto and (data := sock.recv(65536)):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


def request(method, path, *headers):
    """A request as it goes on the wire."""
    close = [] if "Connection: Upgrade" in headers else ["Connection: close"]
    return "\n".join([f"{method} {path} HTTP/1.1", *headers, *close, "", ""])


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
BEARER = f"Authorization: Bearer {TOKEN}"


def flat(routes):
    """Routes, those of included routers among them."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from flat(router.routes)
        else:
            yield route


def every_route(gateway):
    """Each route of the application, as (method or None for a WebSocket, path)."""
    found = []
    for route in flat(create_app(gateway.gateway).routes):
        path = route.path.replace("{session_id}", "some-id")
        if isinstance(route, WebSocketRoute):
            found.append((None, path))
        elif isinstance(route, Mount):
            found.append(("GET", f"{path}/app.js"))
        else:
            assert isinstance(route, Route), route
            found += [(method, path) for method in sorted(route.methods or ())]
    return found


async def status_of_handshake(url, **options):
    """The HTTP status with which a WebSocket is answered; 101 if it is opened."""
    try:
        async with connect(url, proxy=None, **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


# -- the token -----------------------------------------------------------------------------------


async def test_every_route_is_found(gateway):
    """The list that the next test walks through holds all kinds of routes."""
    routes = every_route(gateway)
    page = [("GET", "/static/app.js"), ("GET", "/")] if PAGE.is_dir() else []
    for each in [
        *page,
        (None, "/api/sessions/some-id/stream"),
        ("POST", "/api/sessions/"),
        ("POST", "/api/sessions/some-id/kill"),
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/api/openapi.json"),
    ]:
        assert each in routes


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "*"])
async def test_no_token_no_answer(gateway, token):
    """Every route, WebSocket, static and metrics included, answers 401 and nothing else."""
    headers = {} if not token else {"authorization": f"Bearer {token}"}
    query = "" if token is None else f"?token={token}"
    known = gateway.gateway.hosted.copy()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        for method, path in [*every_route(gateway), ("GET", "/no/such/path")]:
            if method is None:
                url = f"ws://{gateway.host}{path}{query}"
                assert await status_of_handshake(url, additional_headers=headers) == 401, path
                continue
            answer = await http.request(method, path + query, headers=headers)
            assert answer.status_code == 401, (method, path)
            assert "set-cookie" not in answer.headers
            if method != "HEAD":
                assert set(answer.json()) == {"type", "title", "status", "detail", "hint"}
    assert gateway.gateway.hosted == known


async def test_the_ways_to_give_the_token(gateway):
    """A header, a cookie, the URL, and a WebSocket's subprotocol."""
    session = await gateway.create()
    ws = f"ws://{gateway.host}/api/sessions/{session['id']}/stream"
    cookie = {"cookie": f"other=1; holdfast-{gateway.port}={TOKEN}"}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        for headers in ({"authorization": f"bearer {TOKEN}"}, cookie):
            assert (await http.get("/healthz", headers=headers)).status_code == 200
            assert await status_of_handshake(ws, additional_headers=headers) == 101
        assert (await http.get(f"/healthz?token={TOKEN}")).status_code == 200
        assert (
            await http.get("/healthz", headers={"cookie": f"holdfast-1={TOKEN}"})
        ).status_code == 401
    assert await status_of_handshake(f"{ws}?token={TOKEN}") == 101
    async with connect(
        ws, proxy=None, subprotocols=["holdfast", f"holdfast-token.{TOKEN}"]
    ) as websocket:
        assert websocket.subprotocol == "holdfast"


async def test_the_token_leaves_the_pages_url(gateway):
    """It becomes a cookie that no script and no other site can use; the rest of the URL stays."""
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        answer = await http.get(f"/?a=b&token={TOKEN}")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/?a=b"
        name, *attributes = answer.headers["set-cookie"].split("; ")
        assert name == f"holdfast-{gateway.port}={TOKEN}"
        assert set(attributes) == {"HttpOnly", "SameSite=Strict", "Path=/"}
        assert (await http.get("/healthz")).status_code == 200  # by the cookie


async def test_a_link_from_elsewhere_leads_to_the_page(gateway):
    """A browser sends no strict cookie along a redirect from another site: a page sends it on."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        answer = await http.get(f"/?token={TOKEN}&a=%22%3E", headers=headers)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/?a=%22%3E">' in answer.text
    assert "set-cookie" in answer.headers
    assert TOKEN not in answer.text


async def test_tokens_are_compared_in_constant_time(gateway, monkeypatch):
    """By ``hmac.compare_digest``, and by nothing else."""
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: True)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        answer = await http.get("/healthz", headers={"authorization": "Bearer anything"})
    assert answer.status_code == 200


# -- who calls -----------------------------------------------------------------------------------

FOREIGN_ORIGINS = [
    "http://evil.example",
    "http://127.0.0.1:{port}.evil.example",
    "http://127.0.0.1.evil.example:{port}",
    "http://evil.example#http://127.0.0.1:{port}",
    "http://user@127.0.0.1:{port}",
    "null",
    "",
    "http://127.0.0.1:{other}",
    "http://127.0.0.1",
    "https://127.0.0.1:{port}",
    "HTTP://127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}",
    "file://",
]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_foreign_origin(gateway, origin):
    """It is refused although the token is right, on REST and at the WebSocket's handshake."""
    session = await gateway.create()
    origin = origin.format(port=gateway.port, other=gateway.port + 1)
    host = f"Host: {gateway.host}"
    for method, path in [("GET", "/healthz"), ("POST", "/api/sessions/"), ("GET", "/")]:
        code, _, _ = raw(gateway, request(method, path, host, BEARER, f"Origin: {origin}"))
        assert code == 403
    path = f"/api/sessions/{session['id']}/stream"
    code, _, _ = raw(gateway, request("GET", path, host, BEARER, f"Origin: {origin}", *HANDSHAKE))
    assert code == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_our_own_origin(gateway, name):
    """Our own page may speak to us, under each of our names."""
    session = await gateway.create()
    host = f"{name}:{gateway.port}"
    headers = (f"Host: {host}", BEARER, f"Origin: http://{host}")
    assert raw(gateway, request("GET", "/healthz", *headers))[0] == 200
    path = f"/api/sessions/{session['id']}/stream"
    assert raw(gateway, request("GET", path, *headers, *HANDSHAKE), upto=100)[0] == 101


FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1:{port}.evil.example",
    "127.0.0.1",
    "127.0.0.1:{other}",
    "localhost.:{port}",
    "0.0.0.0:{port}",
    "",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_foreign_host(gateway, host):
    """A name that was made to point here (DNS rebinding) is none of ours, on REST and WebSocket."""
    session = await gateway.create()
    host = "Host: " + host.format(port=gateway.port, other=gateway.port + 1)
    for path in ["/healthz", "/", "/static/app.js"]:
        assert raw(gateway, request("GET", path, host, BEARER))[0] == 403
    path = f"/api/sessions/{session['id']}/stream"
    assert raw(gateway, request("GET", path, host, BEARER, *HANDSHAKE))[0] == 403


async def test_a_request_without_a_host(gateway):
    """HTTP/1.0 knows none: refused too."""
    assert raw(gateway, f"GET /healthz HTTP/1.0\n{BEARER}\n\n")[0] == 403
    assert raw(gateway, f"GET /healthz HTTP/1.1\n{BEARER}\n\n")[0] in (400, 403)


async def test_a_foreign_page_starts_nothing(gateway):
    """A form or a script of another site, in the browser that has our cookie, makes no session."""
    body = json.dumps({"target": "local:", "command": SCRIPTED})
    before = set(gateway.gateway.hosted)
    for origin in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"]:
        for kind in ["text/plain", "application/json", "application/x-www-form-urlencoded"]:
            text = request(
                "POST",
                "/api/sessions/",
                f"Host: {gateway.host}",
                f"Cookie: holdfast-{gateway.port}={TOKEN}",
                origin,
                f"Content-Type: {kind}",
                f"Content-Length: {len(body)}",
            )
            assert raw(gateway, text + body)[0] == 403
    preflight = request(
        "OPTIONS",
        "/api/sessions/",
        f"Host: {gateway.host}",
        "Origin: http://evil.example",
        "Access-Control-Request-Method: POST",
    )
    code, head, _ = raw(gateway, preflight)
    assert code == 403
    assert "access-control-allow" not in head
    assert set(gateway.gateway.hosted) == before


async def test_another_site_cannot_embed(gateway):
    """What a page of another origin loads without an ``Origin``: refused. A link to us is not."""
    headers = (f"Host: {gateway.host}", BEARER)
    for site in ("cross-site", "same-site"):
        site = f"Sec-Fetch-Site: {site}"
        for mode in ("no-cors", "cors", "websocket"):
            text = request("GET", "/metrics", *headers, site, f"Sec-Fetch-Mode: {mode}")
            assert raw(gateway, text)[0] == 403
        text = request("GET", "/metrics", *headers, site, "Sec-Fetch-Mode: navigate")
        assert raw(gateway, text)[0] == 200


async def test_headers_of_every_answer(gateway):
    """A policy that runs no foreign script, and the usual ones, refusals included."""
    async with gateway.http() as http:
        for path, code in [("/healthz", 200), ("/api/sessions/no", 404), ("/metrics", 200)]:
            answer = await http.get(path)
            assert answer.status_code == code
            assert answer.headers["content-security-policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                f"connect-src 'self' ws://{gateway.host} wss://{gateway.host}; font-src 'self'; "
                "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            )
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert "server" not in answer.headers
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        refused = await http.get("/healthz")
        assert refused.headers["content-security-policy"] == "default-src 'none'"
        assert refused.headers["www-authenticate"] == 'Bearer realm="holdfast"'


# -- limits --------------------------------------------------------------------------------------


async def test_a_body_that_is_too_large(gateway):
    """It is refused before it is read, and in the middle where it has no length."""
    headers = (f"Host: {gateway.host}", BEARER)
    text = request("POST", "/api/sessions/", *headers, f"Content-Length: {MAX_MESSAGE + 1}")
    code, _, body = raw(gateway, text)
    assert code == 413
    assert json.loads(body)["hint"] == f"send at most {MAX_MESSAGE} bytes"

    async def pieces():
        for _ in range(20):
            yield b"x" * (MAX_MESSAGE // 10)

    async with gateway.http() as http:
        assert (await http.post("/api/sessions/", content=pieces())).status_code == 413


async def test_a_message_that_is_too_large(gateway):
    """The WebSocket closes with 1009, and the session goes on."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        await client.request(1, "echo", text="x" * (MAX_MESSAGE + 1))
        assert await client.closed() == 1009
    async with gateway.stream(session["id"]) as client:
        await client.request(2, "line", size=3 * MAX_MESSAGE)  # out is not in
        await client.answer(2)


async def test_compression_is_off(gateway):
    """A client that offers it is not taken up on that."""
    session = await gateway.create()
    async with gateway.stream(session["id"]) as client:
        assert client.socket.protocol.extensions == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/sessions/..%2f..%2fetc%2fpasswd",
        "/api/sessions/../../etc/passwd",
        "/api/sessions/%00",
        "/api/sessions/..",
        "/api/sessions/%2e%2e/events",
        "/static/../__init__.py",
        "/static/%2e%2e/__init__.py",
        "/static/..%2f__init__.py",
        "/static//etc/passwd",
        "/static/%00",
    ],
)
async def test_traversal(gateway, path):
    """An id is a key and no path: 404."""
    code, _, body = raw(gateway, request("GET", path, f"Host: {gateway.host}", BEARER))
    assert code == 404
    assert json.loads(body)["status"] == 404


async def test_too_many_clients():
    """The one too many is closed with 4429, and the others go on."""
    from .serving import serving

    with serving(max_clients=2, max_sessions=1) as gateway:
        session = await gateway.create()
        async with gateway.stream(session["id"]) as one, gateway.stream(session["id"]):
            async with gateway.stream(session["id"]) as three:
                assert await three.closed() == 4429
            await one.request(1, "echo")
            await one.answer(1)
        async with gateway.http() as http:
            body = {"target": "local:", "command": SCRIPTED}
            answer = await http.post("/api/sessions/", json=body)
            assert answer.status_code == 429
            assert "--max-sessions" in answer.json()["hint"]


async def test_a_client_that_sends_more_than_its_worker_takes(gateway, tmp_path):
    """Its messages are refused with their own ids; nothing grows, and the socket lives."""
    fifo = tmp_path / "gate"
    import os

    os.mkfifo(fifo)
    session = await gateway.create(dialect="jsonrpc")
    async with gateway.stream(session["id"]) as client:
        await client.request(0, "pause", fifo=str(fifo))
        await client.answer(0)
        text = "x" * (MAX_MESSAGE - 1000)
        for number in range(1, 8):
            await client.request(number, "echo", text=text)
        refused = await client.until(lambda m: m.get("error", {}).get("code") == -32003)
        assert refused["id"] in (5, 6)
        await asyncio.to_thread(fifo.write_bytes, b"")
        assert (await client.answer(1))["result"]["text"] == text
