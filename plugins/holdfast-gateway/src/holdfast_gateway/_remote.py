"""A running gateway as its client sees it: where it is, its sessions, and one session's stream."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import click
import httpx

from . import _runtime

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

UNAVAILABLE: Final = 69
"""The exit code where there is no gateway or no such session (``EX_UNAVAILABLE``)."""

_PATIENCE: Final = 60.0
"""Seconds for an answer: a stop goes through three graces and a close, each bounded."""

Session = dict[str, Any]
Event = dict[str, Any]


class Unavailable(click.ClickException):
    """There is no such gateway or session, or it does not let us in."""

    exit_code = UNAVAILABLE


class Remote:
    """One gateway.

    Args:
        url: Its address, ``http://127.0.0.1:8377``.
        token: Its token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}"},
            timeout=_PATIENCE,
            trust_env=False,  # a proxy must not see the token, nor stand before loopback
            verify=ssl.create_default_context() if self.url.startswith("https") else True,
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def sessions(self) -> list[Session]:
        """All its sessions."""
        found: list[Session] = self._ask("GET", "/api/sessions/")["sessions"]
        return found

    def stop(self, session_id: str) -> Session:
        """Stop a session's worker, and give what the session says then."""
        stopped: Session = self._ask("POST", f"/api/sessions/{quote(session_id, safe='')}/stop")
        return stopped

    def events(self, session_id: str, after: int) -> Iterator[Event]:
        """The events of a session with a larger ``seq`` that are there now, oldest first.

        What is no longer retained shows as one event ``lagged``, with ``resume_from``.
        """
        path = f"/api/sessions/{quote(session_id, safe='')}/events"
        while True:
            page = self._ask("GET", path, after=after)
            if page["lagged"] is not None:
                yield {"event": "lagged", **page["lagged"]}
            yield from page["events"]
            if page["next_after"] <= after or page["next_after"] >= page["last_seq"]:
                return
            after = page["next_after"]

    def _ask(self, method: str, path: str, **query: object) -> Any:
        try:
            answer = self._http.request(method, path, params={k: str(v) for k, v in query.items()})
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no gateway answers at {self.url}: {error}; is holdfast serve running there?"
            ) from error
        if answer.is_success:
            with suppress(ValueError):  # a server of something else
                return answer.json()
        raise Unavailable(_problem(answer, self.url))

    @asynccontextmanager
    async def stream(
        self, session_id: str, *, after: int, client: str | None = None
    ) -> AsyncIterator[ClientConnection]:
        """A session's stream of events, as a WebSocket.

        Raises:
            Unavailable: It cannot be had.
        """
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake

        query = {"after": str(after), "format": "events"}
        if client is not None:
            query["client"] = client
        scheme, _, rest = self.url.partition("://")
        url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}"
        url += f"/api/sessions/{quote(session_id, safe='')}/stream?{urlencode(query)}"
        try:
            websocket = await connect(
                url,
                additional_headers={"authorization": f"Bearer {self._token}"},
                compression=None,
                max_size=None,  # a worker's lines may be as long as its session allows
                proxy=None,
            )
        except (InvalidHandshake, OSError) as error:
            raise Unavailable(f"{self.url} gives no stream of {session_id}: {error}") from error
        async with websocket:
            yield websocket


def _problem(answer: httpx.Response, url: str) -> str:
    """What a refusal says, and what to do about it."""
    try:
        problem = answer.json()
        text = f"{problem['detail']}; {problem['hint']}" if problem["hint"] else problem["detail"]
    except (ValueError, KeyError, TypeError):
        text = f"it answered {answer.status_code} {answer.reason_phrase}: is it a holdfast gateway?"
    return f"{url}: {text}"


@contextmanager
def remotes(url: str | None, token: str | None) -> Iterator[list[Remote]]:
    """The gateways that are meant: the one of a URL, or all that run for this user.

    Raises:
        Unavailable: There is none, or its token is not known.
    """
    found = [Remote(*each) for each in _places(url, token)]
    try:
        yield found
    finally:
        for each in found:
            each.close()


def _places(url: str | None, token: str | None) -> list[tuple[str, str]]:
    running = _runtime.running()
    if url is None:
        if not running:
            raise Unavailable(
                "no gateway of this user runs on this machine; start one with `holdfast serve`, "
                "or name one with --url and --token"
            )
        return [(each.url, token or each.token) for each in running]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise click.UsageError(f"not the URL of a gateway: {url!r}; write http://127.0.0.1:8377")
    place = f"{parts.scheme}://{parts.netloc}"
    known = {each.url.rstrip("/"): each.token for each in running}
    token = token or parse_qs(parts.query).get("token", [None])[0] or known.get(place)
    if token is None:
        raise click.UsageError(
            f"the token of {place} is not known: give --token, or set HOLDFAST_TOKEN, or take the "
            f"whole URL that holdfast serve printed"
        )
    return [(place, token)]


def find(gateways: list[Remote], word: str) -> tuple[Remote, Session]:
    """The session that a word means: its id, its name, or the beginning of its id.

    Raises:
        Unavailable: There is none, or it could mean several.
    """
    listed = [(remote, session) for remote in gateways for session in remote.sessions()]
    for found in (
        [each for each in listed if each[1]["id"] == word],
        [each for each in listed if each[1]["name"] == word],
        [each for each in listed if each[1]["id"].startswith(word)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(session["id"] for _, session in found)
            raise Unavailable(f"{word!r} may mean several sessions: {ids}; write the whole id")
    raise Unavailable(f"no session {word!r}; `holdfast ls` lists them")
