"""``holdfast ls``, ``logs``, ``attach`` and ``stop``: a running gateway from the command line."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from ._printable import printable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from ._remote import Event, Remote, Session

LOST: Final = 74
"""The exit code where the stream ended before we left it (``EX_IOERR``)."""

_LINGER: Final = 1.0
"""Seconds for a word on what was sent last, where it was no request, before we leave."""

_MAX_LINE: Final = 1024 * 1024
"""Bytes of a line that the gateway takes."""

_F = TypeVar("_F", bound=Callable[..., Any])


def _at_gateway(function: _F) -> _F:
    """The options that say which gateway is meant."""
    url = click.option(
        "--url",
        envvar="HOLDFAST_URL",
        show_envvar=True,
        help="The gateway's URL.  [default: those that run on this machine for this user]",
    )
    token = click.option(
        "--token",
        envvar="HOLDFAST_TOKEN",
        show_envvar=True,
        help="Its token.  [default: the one it noted down for this user, or that of the URL]",
    )
    return url(token(function))


_HEAD: Final = ("SESSION", "NAME", "STATE", "REASON", "TARGET", "COMMAND")


# -- ls ------------------------------------------------------------------------------------------


@click.command()
@_at_gateway
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(url: str | None, token: str | None, as_json: bool) -> int:
    """List the sessions of the gateway."""
    from ._remote import remotes

    with remotes(url, token) as gateways:
        sessions = [session for each in gateways for session in each.sessions()]
    if as_json:
        click.echo(json.dumps({"sessions": sessions}, indent=2))
        return 0
    rows = [_HEAD, *map(_row, sessions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    return 0


def _row(session: Session) -> tuple[str, ...]:
    import shlex

    cells = (
        session["id"],
        session["name"] or "-",
        session["state"],
        session["reason"] or "-",
        session["target"],
        shlex.join(session["command"]),
    )
    return tuple(printable(cell) for cell in cells)


# -- stop ----------------------------------------------------------------------------------------


@click.command()
@_at_gateway
@click.option("--all", "everything", is_flag=True, help="Stop every session.")
@click.argument("sessions", nargs=-1, metavar="SESSION...")
def stop(url: str | None, token: str | None, everything: bool, sessions: tuple[str, ...]) -> int:
    """Stop the workers of sessions.

    That is politely at first, then by force. SESSION is an id, the beginning of one, or a name. A
    stopped session stays listed.
    """
    from ._remote import find, remotes

    if everything == bool(sessions):
        raise click.UsageError("name the sessions to stop, or give --all")
    with remotes(url, token) as gateways:
        if everything:
            found = [(each, session) for each in gateways for session in each.sessions()]
        else:
            found = [find(gateways, word) for word in sessions]
        for remote, session in found:
            after = remote.stop(session["id"])
            click.echo(f"{after['id']}  {after['state']}  {_said(after)}")
    return 0


# -- logs ----------------------------------------------------------------------------------------


@click.command()
@_at_gateway
@click.option("-f", "--follow", is_flag=True, help="Go on as more comes, until Ctrl-C.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="SEQ", help="Begin after this event."
)
@click.option("--json", "as_json", is_flag=True, help="Print every event, as JSON lines.")
@click.argument("session")
def logs(
    url: str | None, token: str | None, follow: bool, after: int, as_json: bool, session: str
) -> int:
    """Print what a session's worker wrote.

    Its stdout goes to stdout, its stderr and the states to stderr. SESSION is an id, the beginning
    of one, or a name. Answers to the requests of other clients are theirs alone, and are not shown.
    """
    from ._remote import find, remotes

    output = Output(as_json=as_json)
    with remotes(url, token) as gateways:
        remote, found = find(gateways, session)
        if follow:
            import anyio

            return anyio.run(_follow, remote, found["id"], after, output)
        with output.to_a_reader():
            for event in remote.events(found["id"], after):
                output.event(event)
    return 0


async def _follow(remote: Remote, session_id: str, after: int, output: Output) -> int:
    async with remote.stream(session_id, after=after) as websocket:
        return await _print_all(websocket, output)


async def _print_all(
    websocket: ClientConnection, output: Output, conversation: Conversation | None = None
) -> int:
    """Print what comes, until the conversation or the stream is over; gives the exit code."""
    from websockets.exceptions import ConnectionClosed

    with output.to_a_reader():
        try:
            while conversation is None or not conversation.over:
                message = json.loads(await websocket.recv())
                output.message(message)
                if conversation is not None:
                    conversation.heard(message)
        except ConnectionClosed as closed:
            why = closed.rcvd.reason if closed.rcvd is not None else "the connection was lost"
            click.echo(f"holdfast: the stream ended: {printable(why)}", err=True)
            return LOST
    return 0


# -- attach --------------------------------------------------------------------------------------


@click.command()
@_at_gateway
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="SEQ",
    help="Show first what came after this event.  [default: what comes from now on]",
)
@click.option(
    "--client",
    metavar="NAME",
    help="Be the client of this name: the answers to its earlier requests come, too.",
)
@click.argument("session")
def attach(
    url: str | None, token: str | None, after: int | None, client: str | None, session: str
) -> int:
    """Speak with a session's worker.

    Our stdin goes to it, and what it says to our stdout. SESSION is an id, the beginning of one, or
    a name. The session goes on when we leave: at Ctrl-C, or at the end of stdin once each request
    that was sent is answered. Other clients may be attached, too; their answers are theirs alone.
    """
    import anyio

    from ._remote import find, remotes

    with remotes(url, token) as gateways:
        remote, found = find(gateways, session)
        if found["state"] == "error" and after is None:  # else the replay tells it
            click.echo(f"holdfast: error {printable(_said(found))}", err=True)
        since = found["last_seq"] if after is None else after
        return anyio.run(_attach, remote, found["id"], since, client)


async def _attach(remote: Remote, session_id: str, after: int, client: str | None) -> int:
    import anyio

    code = 0
    conversation = Conversation()
    async with (
        remote.stream(session_id, after=after, client=client) as websocket,
        anyio.create_task_group() as tasks,
    ):

        async def speak() -> None:
            await _send_stdin(websocket, conversation)
            if not conversation.over:
                await anyio.sleep(_LINGER)
                conversation.expect_no_word()
            if conversation.over:
                tasks.cancel_scope.cancel()

        tasks.start_soon(speak)
        code = await _print_all(websocket, Output(as_json=False), conversation)
        tasks.cancel_scope.cancel()
    return code


class Conversation:
    """Which requests of ours are open, and whether anything is left to wait for."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._others = 0  # what is no request, and not yet heard of
        self._client: str | None = None
        self._replayed = False
        self._all_said = False

    @property
    def over(self) -> bool:
        """Whether all is said and answered."""
        return self._all_said and self._replayed and not self._open and self._others <= 0

    def saying(self, line: bytes) -> None:
        """We send a line."""
        try:
            message = json.loads(line)
        except ValueError:
            message = None  # the gateway says what is wrong with it
        if isinstance(message, dict) and "method" in message and message.get("id") is not None:
            self._open.add(json.dumps(message["id"]))
        else:
            self._others += 1

    def expect_no_word(self) -> None:
        """What is no request may have been refused without a word."""
        self._others = 0

    def end(self) -> None:
        """We say no more."""
        self._all_said = True

    def heard(self, message: dict[str, Any]) -> None:
        """The gateway sent a message: an event, or its own answer to one of ours."""
        if "method" not in message:
            self._answered(message["id"])
        elif message["method"] == "history_complete":
            self._client = message["params"]["client"]
            self._replayed = True
        elif message["method"] == "session_event":
            event = message["params"]
            if event["event"] == "line" and event["kind"] == "answer":
                self._answered(event["id"])
            elif event["event"] == "sent" and event["client"] == self._client:
                self._others -= event["kind"] != "request"

    def _answered(self, id: object) -> None:
        if id is None:
            self._others -= 1
        self._open.discard(json.dumps(id))


async def _send_stdin(websocket: ClientConnection, conversation: Conversation) -> None:
    from websockets.exceptions import ConnectionClosed

    from holdfast import Lines
    from holdfast.pipes import open_reader

    reader = open_reader(os.dup(0))
    framer = Lines().framer(_MAX_LINE)
    data = b"-"
    try:
        while data:
            data = await reader.read()
            for frame in framer.feed(data) if data else framer.finish():
                line = frame if isinstance(frame, bytes) else getattr(frame, "data", None)
                if line is None:
                    click.echo(f"holdfast: a line above {_MAX_LINE} bytes is not sent", err=True)
                elif line.strip():
                    conversation.saying(line)
                    await websocket.send(line)
    except ConnectionClosed:
        return  # whoever prints says so
    finally:
        reader.close()
    conversation.end()


# -- what is printed -----------------------------------------------------------------------------


class Output:
    """Prints events: worker's bytes as they are, but on a terminal only what is plainly visible.

    Args:
        as_json: Every event as a line of JSON; else only what the worker wrote, and states.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._stdout: Final[BinaryIO] = sys.stdout.buffer
        self._stderr: Final[BinaryIO] = sys.stderr.buffer

    @contextmanager
    def to_a_reader(self) -> Iterator[None]:
        """Within this, a reader of stdout that leaves (``| head``) ends the printing quietly."""
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its end

    def message(self, message: dict[str, Any]) -> None:
        """Print a message of a stream of events."""
        match message.get("method"):
            case "session_event":
                self.event(message["params"])
            case "session_lagged":
                self.event({"event": "lagged", **message["params"]})
            case None:  # the gateway's own answer to what we sent
                self._line(json.dumps(message).encode())

    def event(self, event: Event) -> None:
        """Print an event."""
        if self._as_json:
            self._line(json.dumps(event).encode())
            return
        match event["event"]:
            case "line":
                self._line(_content(event))
            case "stderr":
                self._write(self._stderr, _content(event))
            case "status_changed":
                status = event["status"]
                self._note(f"{status['state']} {_said(status)}")
            case "line_too_long":
                self._note(f"a line of {event['size']} bytes is not kept")
            case "lagged":
                self._note(f"what came before event {event['resume_from']} is no longer kept")

    def _line(self, data: bytes) -> None:
        self._write(self._stdout, data + b"\n")

    def _note(self, text: str) -> None:
        self._write(self._stderr, f"holdfast: {text}\n".encode())

    def _write(self, stream: BinaryIO, data: bytes) -> None:
        if stream.isatty():
            data = printable(data.decode("utf-8", "backslashreplace")).encode()
        stream.write(data)
        stream.flush()


def _content(event: Event) -> bytes:
    if "text" in event:
        text: str = event["text"]
        return text.encode()
    return base64.b64decode(event["base64"])


def _said(status: dict[str, Any]) -> str:
    """What a status says beyond its state."""
    worker, exit = status["worker"], status["exit"]
    known = [status["detail"], f"worker {worker}" if worker else None]
    if exit is not None:
        known.append(f"exit {exit['code']}" if exit["signal"] is None else exit["signal"])
    details = "; ".join(each for each in known if each)
    return f"({status['reason']})" + (f": {details}" if details else "")
