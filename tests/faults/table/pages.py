"""Writes what was measured into docs/failures.md, docs/ssh.md and the README."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from holdfast import State

from .faults import FAULTS, Fault
from .measured import Measured, Told
from .peers import PEERS
from .peers.peer import ANSWERED, HANGS, ended
from .places import PLACES, at_start
from .runner import Row

ROOT = Path(__file__).parents[3]
FAILURES, README = ROOT / "docs/failures.md", ROOT / "README.md"
SSH, CONTAINERS = ROOT / "docs/ssh.md", ROOT / "docs/containers.md"


def render(measured: Measured) -> dict[tuple[Path, str], str]:
    """Each generated part: the page and the part's name, and its text."""
    places = [name for name in PLACES if name in measured.places]

    def place_tables(*starts: str) -> str:
        named = [name for name in places if name.startswith(starts)]
        return "\n".join(place_table(measured, name, "###") for name in named)

    return {
        (FAILURES, "places"): place_tables(""),
        (FAILURES, "starts"): start_table(measured, places),
        (FAILURES, "peers"): "\n".join(
            filter(None, (peer_table(measured, name) for name in places))
        ),
        (FAILURES, "peers' use"): uses(measured),
        (SSH, "faults"): place_tables("ssh"),
        (CONTAINERS, "faults"): place_tables("docker", "podman"),
        (README, "faults"): short_table(measured),
    }


def write(measured: Measured) -> None:
    """Put each generated part in its place."""
    for (page, part), text in render(measured).items():
        begin, end = marks(part)
        head, _, rest = page.read_text(encoding="utf-8").partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise ValueError(f"{page} lacks its marks {begin.strip()} and {end.strip()}")
        page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def is_written(page: Path, part: str, text: str) -> bool:
    """Whether a page holds a generated part."""
    begin, end = marks(part)
    return f"{begin}\n{text}\n{end}" in page.read_text(encoding="utf-8")


def marks(part: str) -> tuple[str, str]:
    """What stands around a generated part."""
    return f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"


# -- tables ----------------------------------------------------------------------------------------


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"|{'|'.join(f' {cell} ' if cell != '---' else cell for cell in line)}|\n" for line in lines
    )


def told_in(measured: Measured, name: str) -> list[tuple[Fault, Told]]:
    """What was measured in a place, in the order of the faults."""
    told = measured.places[name]
    return [(fault, told[fault.what]) for fault in FAULTS if fault.what in told]


def place_table(measured: Measured, name: str, level: str) -> str:
    """Everything that can happen to a session in one place."""
    head = ["fault", "status", "cause", "worker", "exit", "last message", "said after", "left"]
    rows = [
        [
            fault.what,
            either(status(told, row) for row in told.rows),
            either(code(row.cause) for row in told.rows),
            either(code(row.worker) for row in told.rows),
            either(row.exit for row in told.rows),
            either(code(row.delivery) for row in told.rows),
            after(told),
            left(told),
        ]
        for fault, told in told_in(measured, name)
        if not at_start(fault)
    ]
    runs = min(told.runs for _, told in told_in(measured, name))
    return f"{level} `{name}` ({runs} runs of each)\n\n{table(head, rows)}"


def start_table(measured: Measured, places: list[str]) -> str:
    """What is said where a worker cannot be started."""
    rows = [
        [fault.what, f"`{name}`", *said(told), after(told)]
        for fault in FAULTS
        if at_start(fault)
        for name in places
        if (told := measured.places[name].get(fault.what)) is not None
    ]
    return table(["fault", "where", "error", "what it says", "said after"], rows)


def peer_table(measured: Measured, place: str) -> str:
    """What peers say of the faults of one place, beside what holdfast says."""
    _, *others = same = SAME_PLACE.get(place, (place,))
    names = [name for name, peer in PEERS.items() if peer.place in same]
    if place in others or not names:
        return ""
    rows = [
        [fault.what, in_short(told), *(heard_in(measured, name, fault.what) for name in names)]
        for fault, told in told_in(measured, place)
        if any(fault.what in measured.peers.get(name, {}) for name in names)
    ]
    return f"### `{place}`\n\n{table(['fault', 'holdfast', *names], rows)}"


def uses(measured: Measured) -> str:
    """How each peer is used, with its versions."""
    lines = []
    for name, peer in PEERS.items():
        versions = "".join(f" {measured.versions[package]}" for package in peer.packages)
        lines.append(f"- **{name}**{versions}: {peer.tells}.\n")
    return "".join(lines)


OVER_SSH = ("ssh (paramiko)", "ssh (openssh)")
SAME_PLACE: dict[str, tuple[str, ...]] = dict.fromkeys(OVER_SSH, OVER_SSH)
"""Places that have one table of peers: that of the first."""

SHORT = {"local": "`local:`", "ssh (paramiko)": "`ssh://`", "docker": "`docker://`"}
"""The README's columns, with holdfast."""

SHORT_PEERS = {
    "asyncio": "asyncio",
    "MCP SDK": "MCP SDK",
    "paramiko, keepalive": "paramiko",
    "asyncio + ssh, keepalive": "`ssh` command",
    "asyncio + docker run -i": "`docker run -i`",
}
"""And without."""

SHORT_FAULTS = (
    "killed in a request",
    "exits 0 in a request",
    "killed, its child keeps its pipes",
    "closes its stdin and lives",
    "stops reading (SIGSTOP)",
    "prints garbage, then answers",
    "connection reset",
    "packets dropped, both ways",
    "server's process frozen",
)


def short_table(measured: Measured) -> str:
    """The README's."""
    places = [name for name in SHORT if name in measured.places]
    head = ["", *(SHORT[name] for name in places), *SHORT_PEERS.values()]
    rows = []
    for what in SHORT_FAULTS:
        told = [measured.places[name].get(what) for name in places]
        cells = [in_short(each) if each is not None else "" for each in told]
        rows.append([what, *cells, *(heard_in(measured, name, what) for name in SHORT_PEERS)])
    return table(head, rows)


def in_short(told: Told) -> str:
    """The cause, and the time; or what else there is to say."""
    if told.median is None:
        return "not noticed"
    if told.row.state == State.IDLE:
        return "answered"
    causes = either(code(row.cause) for row in told.rows)
    return f"{causes}, {seconds(told.median)}"


def heard_in(measured: Measured, name: str, what: str) -> str:
    """What a peer said, in few words."""
    heard = measured.peers.get(name, {}).get(what)
    if heard is None:
        return ""
    texts = " or ".join(dict.fromkeys(words(text) for text in heard.said))
    return texts if heard.seconds is None else f"{texts}, {seconds(heard.seconds)}"


def words(text: str) -> str:
    """A peer's words; an error by what it says, if that is short; bold where it misleads."""
    if text == HANGS or text == ended("exit 0"):
        return f"**{text}**"
    kind, colon, rest = text.partition(": ")
    if not kind.isidentifier() or kind == ANSWERED:
        return text.replace("exit -", "exit \N{MINUS SIGN}")
    return f"`{kind}`: {rest}" if colon and len(rest) < 20 else f"`{kind}`"


def said(told: Told) -> tuple[str, str]:
    """An error's class, and its text."""
    kind, _, text = told.row.detail.partition(": ")
    return code(kind), text.replace("|", "\\|").replace("<", "&lt;")


def either(cells: Iterable[str]) -> str:
    """What was said, where that may differ."""
    return " or ".join(filter(None, dict.fromkeys(cells)))


def status(told: Told, row: Row) -> str:
    """State and reason, or what else there is to say."""
    if told.median is None:
        return f"not noticed: `{row.state}`"
    if row.state == State.IDLE:
        return "goes on; answered"
    return f"`{row.state}` / `{row.reason}`"


def after(told: Told) -> str:
    """The median time, and the worst."""
    if told.median is None or told.worst is None:
        return ""
    return f"{seconds(told.median)} ({seconds(told.worst)})"


def seconds(number: float) -> str:
    """A time, as exactly as it matters."""
    if number >= 0.1:
        return f"{number:.1f} s"
    return f"{number * 1000:.0f} ms" if number >= 0.001 else "<1 ms"


def left(told: Told) -> str:
    """What ran on afterwards."""
    if told.left:
        return ", ".join(f"`{each}`" for each in told.left)
    return "nothing" if told.left_for < 1.5 else f"nothing after {told.left_for:.0f} s"


def code(text: str) -> str:
    """A name of the package."""
    return f"`{text}`" if text else ""
