"""Who may speak to the gateway: token, ``Host``, ``Origin``, and what every answer carries.

One middleware stands before every route, HTTP and WebSocket alike: there is no route that it does
not guard, and a WebSocket is refused before it is accepted.

- ``Host`` is one of our own names, else a foreign name was made to point here (DNS rebinding).
- ``Origin``, where a browser sends one, is exactly the origin under which it called us: pages of
  other sites, of other ports and of ``null`` are refused, on REST too.
- A token is asked for, as a header, a cookie, a part of the URL, or a WebSocket's subprotocol.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._hosting import MAX_MESSAGE, Settings
from ._problems import MEDIA_TYPE, Problem

SUBPROTOCOL: Final = "holdfast"
TOKEN_SUBPROTOCOL: Final = "holdfast-token."

_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}

# A browser does not send a strict cookie along a redirect that another site began: a click on a
# link in a mail, say. A page that sends it on by itself begins anew.
_ONWARD: Final = (
    b'<!doctype html><title>holdfast</title><meta http-equiv="refresh" content="0;url=%b">'
)


def csp(host: str) -> str:
    """The content security policy of every answer."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host} wss://{host}; font-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )


class Guard:
    """The middleware.

    Args:
        app: What it guards.
        settings: The token, and our names.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._token = settings.token.encode()
        self._cookie = f"holdfast-{settings.port}"
        self._tls = settings.tls
        self._scheme = scheme = "https" if settings.tls else "http"
        usual = ":443" if settings.tls else ":80"
        self._origins: dict[str, str] = {}  # by Host
        for host in settings.hosts:
            name = f"{host}:{settings.port}"
            self._origins[name] = f"{scheme}://{name}"
            if name.endswith(usual):
                self._origins[host] = f"{scheme}://{host}"
        for origin in settings.origins:
            self._origins[origin.partition("://")[2]] = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, and pass on what is not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            self._check_caller(headers, scope.get("server"))
            self._check_token(headers, dict(query))
            if scope["type"] == "websocket":
                await self._app(scope, receive, send)
                return
            send = self._with_headers(headers["host"], send)
            if any(name == "token" for name, _ in query) and scope["path"] == "/":
                await self._take_token(query, headers, send)
                return
            receive = await _whole_body(headers, receive)
        except Problem as problem:
            await _refuse(problem, scope, self._with_headers("", send))
            return
        await self._app(scope, receive, send)

    # -- who calls ---------------------------------------------------------------------------

    def _origin(self, host: str, server: tuple[str, int] | None) -> str | None:
        """The origin under which a ``Host`` may call us."""
        known = self._origins.get(host.lower())
        if known is not None or server is None:
            return known
        # The very address that was called is no name that anybody could point elsewhere.
        address, port = server
        name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        return f"{self._scheme}://{name}" if host == name else None

    def _check_caller(self, headers: Headers, server: tuple[str, int] | None) -> None:
        host = headers.get("host", "")
        expected = self._origin(host, server)
        if expected is None:
            raise Problem(
                403,
                f"this gateway is not called {host!r}",
                f"call it {' or '.join(self._origins)}; or let holdfast serve --allow-origin "
                f"name the origin of a proxy in front",
            )
        for origin in headers.getlist("origin"):
            if origin != expected:
                raise Problem(
                    403,
                    f"a page of {origin!r} may not speak to this gateway",
                    f"open the gateway's own page, {expected}/",
                )
        # What a browser asks for a page of another site without an Origin: an image, a script.
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site in ("cross-site", "same-site") and mode != "navigate":
            raise Problem(
                403,
                "a page of another origin may not use this gateway",
                f"open the gateway's own page, {expected}/",
            )

    def _check_token(self, headers: Headers, query: Mapping[str, str]) -> None:
        given = False
        for token in self._tokens(headers, query):
            given = True
            if hmac.compare_digest(token.encode("utf-8", "replace"), self._token):
                return
        raise Problem(
            401,
            "this token is not the gateway's" if given else "a token is needed",
            "open the URL that holdfast serve printed, or send Authorization: Bearer TOKEN",
        )

    def _tokens(self, headers: Headers, query: Mapping[str, str]) -> Iterator[str]:
        for header in headers.getlist("authorization"):
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer":
                yield token.strip()
        for header in headers.getlist("cookie"):
            try:
                cookies = SimpleCookie(header)
            except CookieError:  # somebody else's, which the browser sends to every port
                continue
            if self._cookie in cookies:
                yield cookies[self._cookie].value
        for header in headers.getlist("sec-websocket-protocol"):
            for protocol in header.split(","):
                if protocol.strip().startswith(TOKEN_SUBPROTOCOL):
                    yield protocol.strip().removeprefix(TOKEN_SUBPROTOCOL)
        if "token" in query:
            yield query["token"]

    async def _take_token(self, query: list[tuple[str, str]], headers: Headers, send: Send) -> None:
        """Turn the token in the page's URL into a cookie, and send the browser on without it."""
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        to = f"/?{rest}" if rest else "/"
        secure = "; Secure" if self._tls else ""
        cookie = f"{self._cookie}={self._token.decode()}; HttpOnly; SameSite=Strict; Path=/{secure}"
        answer = [(b"set-cookie", cookie.encode())]
        body = b""
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            status = 200
            body = _ONWARD % to.replace("&", "&amp;").encode()
            answer.append((b"content-type", b"text/html; charset=utf-8"))
        else:
            status = 303
            answer.append((b"location", to.encode()))
        answer.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": body})

    # -- what every answer carries -----------------------------------------------------------

    def _with_headers(self, host: str, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["content-security-policy"] = csp(host) if host else "default-src 'none'"
            await send(message)

        return send_with_headers


async def _whole_body(headers: Headers, receive: Receive) -> Receive:
    """Take a request's body before anybody looks at it, up to the limit.

    Raises:
        Problem: 413.
    """
    hint = f"send at most {MAX_MESSAGE} bytes"
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_MESSAGE:
        raise Problem(413, f"a body of {length} bytes is too large", hint)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return _replayed([message], receive)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_MESSAGE:
            raise Problem(413, f"a body of more than {MAX_MESSAGE} bytes is too large", hint)
    return _replayed([{"type": "http.request", "body": bytes(body), "more_body": False}], receive)


def _replayed(messages: list[Message], receive: Receive) -> Receive:
    async def receive_replayed() -> Message:
        return messages.pop(0) if messages else await receive()

    return receive_replayed


async def _refuse(problem: Problem, scope: Scope, send: Send) -> None:
    body = problem.encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    if problem.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="holdfast"'))
    kind = "http.response"
    if scope["type"] == "websocket":
        # Where the server cannot answer a handshake with a status, it is refused all the same.
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": problem.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
