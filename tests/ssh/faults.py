"""What a session says of each thing that can go wrong over SSH: measured, and written down.

``python -m tests.ssh.faults`` provokes each fault on a real server, with each client, and writes
the table in ``docs/ssh.md``; a test sees that the table is still true.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import msgspec

import holdfast
from holdfast import Delivery, Limits, Receipt, Session, State, Status

from .machine import command
from .network import Direction, Drop, destroy
from .relay import Relay
from .sshd import Sshd

PAGE = Path(__file__).parents[2] / "docs" / "ssh.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"
CLIENTS = ("paramiko", "openssh")
HEARTBEAT = {"heartbeat": 1, "deadline": 2}
"""What the table is measured with; the defaults are 5 and 15 s."""

PATIENCE = 7.0
"""Seconds after which a fault is said not to be noticed."""

Prompt = {"jsonrpc": "2.0", "id": "1", "method": "work"}
WORKER = 'read -r line; echo \'{"jsonrpc":"2.0","method":"begun"}\'; '
"""Takes one request, says so, and then does what a fault needs."""


class Place(msgspec.Struct):
    """Where a fault happens."""

    server: Sshd
    relay: Relay
    session: Session | None = None
    stop: list[Callable[[], object]] = []


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong while a request is in flight.

    Attributes:
        what: In words, as the table has it.
        script: What the worker does once it has the request.
        act: What is done to it then; it may send something.
        by_relay: Whether the connection goes by the relay.
        options: Of the target, beside the usual ones.
    """

    what: str
    script: str = "exec sleep 1000"
    act: Callable[[Place], Awaitable[Receipt | None]] | None = None
    by_relay: bool = False
    options: Mapping[str, object] = {}


class Row(msgspec.Struct, frozen=True):
    """What was said of a fault, without the time that it took."""

    state: str
    reason: str
    cause: str
    worker: str
    exit: str
    delivery: str

    def cells(self) -> str:
        """As in the table."""
        state = f"`{self.state}` / `{self.reason}`"
        if self.state not in (State.ERROR, State.STOPPED):
            state = f"not noticed: `{self.state}`"
        return f"{state} | {self.cause} | {self.worker} | {self.exit} | {self.delivery}"


# -- what is done ----------------------------------------------------------------------------------


def to_server(act: Callable[[Place], object]) -> Callable[[Place], Awaitable[None]]:
    async def do(place: Place) -> None:
        act(place)

    return do


async def send(place: Place) -> Receipt | None:
    """Send until a send is not written."""
    assert place.session is not None
    message = {"jsonrpc": "2.0", "method": "more"}
    for _ in range(20):
        receipt = await place.session.send(message, timeout=2)
        if receipt.delivery is not Delivery.WRITTEN:
            return receipt
        await anyio.sleep(0.05)
    return receipt


async def send_much(place: Place) -> Receipt | None:
    """Send more than pipes and windows hold."""
    assert place.session is not None
    params = {"text": "x" * 8 * 1024 * 1024}
    return await place.session.send(
        {"jsonrpc": "2.0", "method": "more", "params": params}, timeout=1
    )


def dropped(direction: Direction) -> Callable[[Place], Awaitable[None]]:
    """Packets of the present connections vanish."""

    def act(place: Place) -> None:
        for fault in drops(place.server, direction):
            place.stop.append(fault.start().stop)

    return to_server(act)


def drops(server: Sshd, direction: Direction) -> list[Drop]:
    """For the connections that there are, by the clients' ports, so that later ones pass."""
    mirror = {"to_server": "to_client", "to_client": "to_server"}
    return [Drop(port, mirror.get(direction, direction)) for port in client_ports(server)]


def client_ports(server: Sshd) -> list[int]:
    """The clients' ports of a server's connections."""
    listed = subprocess.run(
        [
            command("ss", "iproute2"),
            "-Hnt",
            "state",
            "established",
            "dport",
            "=",
            f":{server.port}",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [int(line.split()[2].rpartition(":")[2]) for line in listed.splitlines()]


def freeze(place: Place) -> None:
    place.server.freeze()
    place.stop.append(place.server.thaw)


def shut_down(place: Place) -> None:
    place.server.kill_listener()
    place.server.kill_sessions()
    place.stop.append(place.server.start)


FAULTS = [
    Fault("worker killed (`kill -9`)", "kill -9 $$"),
    Fault("worker exits 0 with a request in flight", "exit 0"),
    Fault("worker exits 3", "exit 3"),
    Fault("worker killed, a grandchild keeps its output", "sleep 1000 & kill -9 $$"),
    Fault("worker closes its stdin and lives", "exec <&-; exec sleep 1000", send),
    Fault("worker closes its stdout and stderr and lives", "exec >&- 2>&-; exec sleep 1000"),
    Fault("worker stops reading (SIGSTOP)", "kill -STOP $$", send_much),
    Fault("its sshd session killed", act=to_server(lambda place: place.server.kill_sessions())),
    Fault("its sshd session frozen", act=to_server(freeze)),
    Fault("packets dropped, both ways", act=dropped(Direction.BOTH)),
    Fault("packets to the server dropped", act=dropped(Direction.TO_SERVER)),
    Fault("packets to us dropped", act=dropped(Direction.TO_CLIENT)),
    Fault("connection reset", act=to_server(lambda place: place.relay.reset()), by_relay=True),
    Fault(
        "connection half closed",
        act=to_server(lambda place: place.relay.half_close()),
        by_relay=True,
    ),
    Fault("sockets destroyed", act=to_server(lambda place: destroy(place.server.port))),
    Fault("sshd shut down", act=to_server(shut_down)),
]


# -- measuring -------------------------------------------------------------------------------------


async def provoke(fault: Fault, place: Place, client: str) -> tuple[Row, float]:
    """Run one session into a fault; gives what it said, and after how many seconds."""
    port = place.relay.port if fault.by_relay else place.server.port
    target = place.server.target(port=port, client=client, **HEARTBEAT, **fault.options)
    async with holdfast.SessionManager(limits=Limits(term_grace=0.5, eof_grace=0.2)) as manager:
        session = await manager.start(target, ["sh", "-c", WORKER + fault.script])
        place.session = session
        async with session.subscribe() as events:
            receipt = await session.send(Prompt)
            async for event in events:
                if isinstance(event, holdfast.Line):
                    break
            began = time.monotonic()
            if fault.act is not None:
                receipt = await fault.act(place) or receipt
            try:
                status = await session.wait_for(State.ERROR, State.STOPPED, timeout=PATIENCE)
                assert not session.is_busy
            except TimeoutError:
                status = session.status
            took = time.monotonic() - began
            with anyio.move_on_after(0.5):
                while status.exit is None:
                    await anyio.sleep(0.02)
                    status = session.status
        row = _row(status, receipt)
        while place.stop:
            place.stop.pop()()
        place.server.kill_sessions()
    return row, took


def _row(status: Status, receipt: Receipt) -> Row:
    def named(value: object) -> str:
        return f"`{value}`" if value is not None else ""

    return Row(
        state=str(status.state),
        reason=str(status.reason),
        cause=named(status.cause),
        worker=named(status.worker),
        exit=str(status.exit) if status.exit is not None else "",
        delivery=named(receipt.delivery),
    )


def lines(client: str, measured: list[tuple[Fault, Row, float]]) -> str:
    """A client's table."""
    head = "| fault | status | cause | worker | exit | last message | said after |\n"
    rule = "|---|---|---|---|---|---|---|\n"
    rows = "".join(
        f"| {fault.what} | {row.cells()} | {f'{took:.1f} s' if took < PATIENCE else ''} |\n"
        for fault, row, took in measured
    )
    return f"`client={client}`:\n\n{head}{rule}{rows}"


def written(client: str) -> dict[str, str]:
    """What the page says of each fault, without the time."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    table = text.partition(f"`client={client}`:")[2].partition("`client=")[0]
    found = {}
    for line in table.splitlines():
        if line.startswith("| ") and not line.startswith("| fault"):
            what, *cells = (cell.strip() for cell in line[1:].removesuffix("|").split("|"))
            found[what] = " | ".join(cells[:-1])
    return found


def main(rounds: int = 3) -> None:
    """Measure everything and write the page."""
    tables = []
    for client in CLIENTS:
        measured = []
        for fault in FAULTS:
            samples = []
            for _ in range(rounds):
                with Sshd() as server, Relay(server.port) as relay:
                    server.trust(relay.port)
                    place = Place(server, relay)
                    samples.append(anyio.run(provoke, fault, place, client))
            row, took = samples[0][0], statistics.median(seconds for _, seconds in samples)
            print(client, fault.what, row.cells(), f"{took:.2f}", file=sys.stderr)
            for other, _ in samples:
                if other != row:
                    print(f"  but also: {other.cells()}", file=sys.stderr)
            measured.append((fault, row, took))
        tables.append(lines(client, measured))
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(tables) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
