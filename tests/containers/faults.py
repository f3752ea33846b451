"""What a session says of each thing that can go wrong in a container: measured, and written down.

``python -m tests.containers.faults`` provokes each fault on a real engine, for workers in
containers of their own and in one that runs, and writes the table in ``docs/containers.md``; a test
sees that the table is still true.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlencode

import anyio
import anyio.to_thread
import msgspec
from tests.ssh.network import Direction
from tests.ssh.relay import Relay

import holdfast
from holdfast import Delivery, Limits, Receipt, Session, State, Status

from .engine import BUSYBOX, Dockerd

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"
SCHEMES = ("docker", "docker+exec")
HEARTBEAT = {"heartbeat": 1, "deadline": 2}
"""What the table is measured with; the defaults are 5 and 15 s."""

PATIENCE = 7.0
"""Seconds after which a fault is said not to be noticed."""

Prompt = {"jsonrpc": "2.0", "id": "1", "method": "work"}
WORKER = 'read -r line; echo \'{"jsonrpc":"2.0","method":"begun"}\'; '
"""Takes one request, says so, and then does what a fault needs."""

IDLE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")


class Place(msgspec.Struct):
    """Where a fault happens."""

    engine: Dockerd
    relay: Relay
    container: str = ""
    session: Session | None = None
    stop: list[Callable[[], object]] = []


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong while a request is in flight.

    Attributes:
        what: In words, as the table has it.
        script: What the worker does once it has the request.
        act: What is done to it then; it may send something.
        options: Of the target, or of the container that is there, beside the usual ones.
        arguments: For the engine.
        own: Whether it needs an engine that no other test uses.
    """

    what: str
    script: str = "exec sleep 1000"
    act: Callable[[Place], Awaitable[Receipt | None]] | None = None
    options: Mapping[str, object] = {}
    arguments: tuple[str, ...] = ()
    own: bool = False


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


def done_to(act: Callable[[Place], object]) -> Callable[[Place], Awaitable[None]]:
    async def do(place: Place) -> None:
        await anyio.to_thread.run_sync(act, place)

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
    """Send more than pipes and buffers hold."""
    assert place.session is not None
    params = {"text": "x" * 8 * 1024 * 1024}
    return await place.session.send(
        {"jsonrpc": "2.0", "method": "more", "params": params}, timeout=1
    )


def freeze(place: Place) -> None:
    place.engine.freeze()
    place.stop.append(place.engine.thaw)


def kill_engine(place: Place) -> None:
    place.engine.kill()


def restart_engine(place: Place) -> None:
    """As an update does: killed, and up again, with the containers living on."""
    place.engine.kill()
    place.engine.start()


def to_container(method: str, path: str) -> Callable[[Place], Awaitable[None]]:
    """Have the engine do something to the worker's container."""

    def act(place: Place) -> None:
        status, said = place.engine.api(method, path.format(place.container))
        assert status < 400, said

    return done_to(act)


def pause(place: Place) -> None:
    place.engine.api("POST", f"/containers/{place.container}/pause")
    place.stop.append(lambda: place.engine.api("POST", f"/containers/{place.container}/unpause"))


def blackhole(place: Place) -> None:
    place.relay.blackhole(Direction.BOTH)
    place.stop.append(place.relay.heal)


EAT = "x=xxxxxxxx; while :; do x=$x$x; done"

FAULTS = [
    Fault("worker killed (`kill -9`)", "kill -9 $$"),
    Fault("worker exits 0 with a request in flight", "exit 0"),
    Fault("worker exits 3", "exit 3"),
    Fault("worker killed, a grandchild keeps its output", "sleep 1000 & kill -9 $$"),
    Fault("worker runs out of the container's memory", EAT, options={"memory": "16m"}),
    Fault("worker closes its stdin and lives", "exec <&-; exec sleep 1000", send),
    Fault("worker closes its stdout and stderr and lives", "exec >&- 2>&-; exec sleep 1000"),
    Fault("worker stops reading (SIGSTOP)", "kill -STOP $$", send_much),
    Fault("`docker kill`", act=to_container("POST", "/containers/{}/kill")),
    Fault("`docker rm -f`", act=to_container("DELETE", "/containers/{}?force=1")),
    Fault("`docker stop`", act=to_container("POST", "/containers/{}/stop?t=1")),
    Fault("`docker pause`", act=done_to(pause)),
    Fault("engine killed", act=done_to(kill_engine), own=True),
    Fault(
        "engine killed and started again, `live-restore`",
        act=done_to(restart_engine),
        own=True,
        arguments=("--live-restore",),
    ),
    Fault("engine frozen (SIGSTOP)", act=done_to(freeze)),
    Fault("connection reset", act=done_to(lambda place: place.relay.reset())),
    Fault("connection half closed", act=done_to(lambda place: place.relay.half_close())),
    Fault("connection drops everything", act=done_to(blackhole)),
]


# -- measuring -------------------------------------------------------------------------------------


async def provoke(fault: Fault, place: Place, scheme: str) -> tuple[Row, float]:
    """Run one session into a fault; gives what it said, and after how many seconds."""
    engine = place.engine
    options = {"host": f"tcp://{place.relay.host}:{place.relay.port}", **HEARTBEAT}
    image = BUSYBOX
    if scheme.endswith("+exec"):
        limit = {"Memory": 16 * 1024**2, "MemorySwap": 16 * 1024**2}
        host = {"NetworkMode": "none", **(limit if fault.options else {})}
        image = place.container = engine.create(*IDLE, HostConfig=host)
    else:
        options.update(fault.options)
    before = {*engine.containers()}
    target = f"{scheme}://{image}?{urlencode(options)}"
    async with holdfast.SessionManager(limits=Limits(term_grace=0.5, eof_grace=0.2)) as manager:
        session = await manager.start(target, ["sh", "-c", WORKER + fault.script])
        place.session = session
        if scheme == "docker":
            (place.container,) = {*engine.containers()} - before
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


def lines(scheme: str, measured: list[tuple[Fault, Row, float]]) -> str:
    """A scheme's table."""
    head = "| fault | status | cause | worker | exit | last message | said after |\n"
    rule = "|---|---|---|---|---|---|---|\n"
    rows = "".join(
        f"| {fault.what} | {row.cells()} | {f'{took:.1f} s' if took < PATIENCE else ''} |\n"
        for fault, row, took in measured
    )
    return f"`{scheme}://`:\n\n{head}{rule}{rows}"


def written(scheme: str) -> dict[str, str]:
    """What the page says of each fault, without the time."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    table = text.partition(f"`{scheme}://`:")[2].partition("://`:")[0]
    found = {}
    for line in table.splitlines():
        if line.startswith("| ") and not line.startswith("| fault"):
            what, *cells = (cell.strip() for cell in line[1:].removesuffix("|").split("|"))
            found[what] = " | ".join(cells[:-1])
    return found


def tidy(engine: Dockerd) -> None:
    """Remove all containers, once the engine runs again."""
    engine.thaw()
    if engine.pid is None:
        engine.start()
    engine.remove_all()


def main(rounds: int = 3) -> None:
    """Measure everything and write the page."""
    tables = []
    for scheme in SCHEMES:
        measured = []
        for fault in FAULTS:
            samples = []
            with Dockerd(*fault.arguments) as engine, Relay(str(engine.socket)) as relay:
                engine.images()
                for _ in range(rounds):
                    samples.append(anyio.run(provoke, fault, Place(engine, relay), scheme))
                    tidy(engine)
            row, took = samples[0][0], statistics.median(seconds for _, seconds in samples)
            print(scheme, fault.what, row.cells(), f"{took:.2f}", file=sys.stderr)
            for other, _ in samples:
                if other != row:
                    print(f"  but also: {other.cells()}", file=sys.stderr)
            measured.append((fault, row, took))
        tables.append(lines(scheme, measured))
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + "\n".join(tables) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
