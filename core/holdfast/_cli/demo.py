"""``holdfast demo``: see a worker die in mid-answer, on a pipe and in a session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

import anyio
import click
import msgspec

from holdfast._events import Event, Kind, Line, Origin, Sent, StatusChanged, Stderr

from ._demo_acts import (
    PROMPTS,
    Entry,
    Killed,
    Logged,
    Seen,
    Story,
    Unguarded,
    guarded,
    pid_in,
    unguarded,
    word_in,
)
from ._demo_claims import Claim, judge_pipe, judge_session
from ._printing import console, on_terminal

Part = tuple[str, str]
"""A text, and how rich shall show it."""

_PLAIN: Final = ""


class Say(Protocol):
    """Prints parts, and ``end`` behind them."""

    def __call__(self, *parts: Part, end: str = "\n") -> None: ...


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the session's events as JSON lines.")
def command(as_json: bool) -> int:
    """See a worker die in the middle of an answer, and what is said of it.

    A small chat worker is started and killed with SIGKILL while it answers: first on a bare pipe,
    then in a holdfast session, which recovers with the next prompt. Nothing is set up, and nothing
    is staged: the exit code is 0 only if all that is promised came true.
    """
    if as_json:
        pipe = unguarded()
        story = anyio.run(guarded, _print_json)
        claims = [*judge_pipe(pipe), *judge_session(story)]
        for each in claims:
            if not each.held:
                click.echo(f"not so: {each.text}; instead: {each.got}", err=True)
    else:
        say = _rich() if on_terminal() else _plain
        pipe = _first_act(say)
        story = _second_act(say)
        claims = [*judge_pipe(pipe), *judge_session(story)]
        _print_claims(say, claims)
    return 0 if all(each.held for each in claims) else 1


def _plain(*parts: Part, end: str = "\n") -> None:
    click.echo("".join(text for text, _ in parts) + end, nl=False)


def _rich() -> Say:
    from rich.text import Text

    out = console()

    def say(*parts: Part, end: str = "\n") -> None:
        out.print(Text.assemble(*parts), end=end, soft_wrap=True)

    return say


def _heading(say: Say, text: str) -> None:
    say((f"\n{text}\n", "bold"))


# -- the acts ------------------------------------------------------------------------------------


def _first_act(say: Say) -> Unguarded:
    _heading(say, "1. A bare pipe: subprocess.Popen, and a worker that is killed in mid-answer")
    seen = unguarded()
    row = _Rows(say).row
    row("sent", f"prompt p-1: {PROMPTS[1]}", "cyan")
    row("worker", seen.words)
    row("kill -9", f"pid {seen.pid}", "bold red")
    row("stdout", "an answer" if seen.answered else "ends, and p-1 has no answer", "red")
    row("sent", f"prompt p-2: {PROMPTS[2]}", "cyan")
    for line in (seen.error or "nothing was raised").splitlines():
        row("", line, "red")
    return seen


def _second_act(say: Say) -> Story:
    _heading(say, "2. The same in a holdfast session: its log, as it comes")
    rows = _Rows(say)
    story = anyio.run(guarded, rows.tell)
    rows.finish()
    return story


class _Rows:
    """The log for a person: one row for each entry, and one for each run of words."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._open = False

    def tell(self, entry: Entry) -> None:
        word = word_in(entry.message) if isinstance(entry, Seen) else None
        if word is not None and self._open:
            self._say((word, _PLAIN), end="")
            return
        self.finish()
        match entry:
            case Seen() if word is not None:
                self.row("worker", word, when=_when(entry.at, entry.event), end="")
                self._open = True
            case Seen():
                self.row(*_described(entry), when=_when(entry.at, entry.event))
            case Killed():
                self.row("kill -9", f"pid {entry.pid}", "bold red", when=_when(entry.at))
            case Logged():
                self.row("log", f"{entry.level}: {entry.text}", "yellow", when=_when(entry.at))

    def finish(self) -> None:
        """End a row of words."""
        if self._open:
            self._say()
            self._open = False

    def row(
        self, what: str, text: str, style: str = _PLAIN, *, when: str = "", end: str = "\n"
    ) -> None:
        self._say((f"{when:>14}  ", "dim"), (f"{what:<8} ", "bold"), (text, style), end=end)


def _when(at: float, event: Event | None = None) -> str:
    """Milliseconds since the beginning, and the event's number in the journal."""
    return f"{at * 1000:.0f} ms {event.seq if event is not None else '':>4}"


def _described(seen: Seen) -> tuple[str, str, str]:
    """What an event is, what it says, and how it shall look."""
    message = seen.message
    match seen.event:
        case StatusChanged(status=status):
            text = f"{status.state} ({status.reason})"
            if status.cause is not None:
                text += f": {status.detail}; worker {status.worker}"
            names = ", ".join(sorted(map(str, seen.in_flight or ())))
            text += f"; in flight: {names or 'nothing'}"
            return "status", text, "bold red" if status.cause is not None else "green"
        case Sent(id=id):
            return "sent", f"prompt {id}: {message['params']['user_input']}", "cyan"
        case Line(kind=Kind.ANSWER, id=id, origin=Origin.WORKER):
            return "answer", f"to {id}: {json.dumps(message.get('result'))}", "cyan"
        case Line(kind=Kind.ANSWER, id=id):
            error = message["error"]
            text = f"to {id}, in the worker's place: error {error['code']}, {error['message']}"
            return "answer", text, "bold red"
        case Line() if (pid := pid_in(message)) is not None:
            return "worker", f"has started, pid {pid}", _PLAIN
        case Line() if isinstance(message, dict) and "params" in message:
            return "worker", message["params"]["type"], "dim"
        case Stderr():
            return "stderr", str(message).rstrip(), "yellow"
        case event:
            return type(event).__name__, str(message), _PLAIN


# -- the end -------------------------------------------------------------------------------------


def _print_claims(say: Say, claims: Sequence[Claim]) -> None:
    _heading(say, "3. What was claimed, and whether it came true")
    for each in claims:
        if each.held:
            say(("  ok      ", "bold green"), (each.text, _PLAIN))
        else:
            say(("  NOT SO  ", "bold red"), (f"{each.text}; instead: {each.got}", _PLAIN))


def _print_json(entry: Entry) -> None:
    """One event as a line of JSON; a message that is JSON stands in it as what it is."""
    if not isinstance(entry, Seen):
        return
    fields: dict[str, Any] = msgspec.to_builtins(entry.event, builtin_types=(bytes,))
    if "data" in fields:
        fields["data"] = entry.message
    click.echo(json.dumps(fields))
