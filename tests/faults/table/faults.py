"""Every fault of the table: what the worker does, what is done from outside, and when."""

from __future__ import annotations

from enum import Enum

import msgspec

from holdfast import Capability


class Moment(Enum):
    """What a session is doing when it happens."""

    START = "start"
    """It is being started."""
    IDLE = "idle"
    REQUEST = "request"
    """A request is in flight."""
    MESSAGE = "message"
    """A request is in flight, and a further message is written in part."""


class Then(Enum):
    """What is sent after the fault, for those that only a sender can meet."""

    SMALL = "small"
    """Messages, until one is not written."""
    LARGE = "large"
    """One that is larger than every pipe and window on the way."""


BEGIN = r"""printf '{"jsonrpc":"2.0","method":"begun","params":{"pid":%d}}\n' $$; """
"""Says that it is there, and its process id."""
TAKE = r"""read -r line; id=${line#*'"id":'}; id=${id%%[,\}]*}; """
"""Takes a request, and remembers its id."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong.

    Attributes:
        what: In words, as the tables have it.
        script: What the worker does: POSIX shell. It says that it has begun at ``{begin}``, or
            first of all; the clock starts then.
        hand: What is done from outside then: a method of the place. Where a place has no such
            method, the fault cannot happen there.
        at: When.
        then: What is sent afterwards.
        needs: What the transport must be capable of for the fault to mean anything.
        command: What to start in the place of ``sh`` and the script.
        cwd: Where to start it.
    """

    what: str
    script: str = "exec sleep 1000"
    hand: str | None = None
    at: Moment = Moment.REQUEST
    then: Then | None = None
    needs: Capability = Capability(0)
    command: tuple[str, ...] = ()
    cwd: str | None = None

    def argv(self, handshake: str = "", begin: str = BEGIN) -> tuple[str, ...]:
        """The worker's command line.

        Args:
            handshake: What it does before everything else, where a client wants that.
            begin: How it says that it has begun.
        """
        take = "" if self.at is Moment.IDLE else TAKE
        script = self.script if "{begin}" in self.script else "{begin}" + self.script
        return self.command or ("sh", "-c", handshake + take + script.replace("{begin}", begin))


ANSWER = r"""printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id"; """

GARBAGE = (
    r"""printf '\377\376\000\001{"id":\n42\nnull\n\n{"jsonrpc":"2.0","id":\r\n'; """
    "head -c 300000 /dev/zero; echo; "
)
"""Bytes that are no text, JSON that is no message, a message cut short, and a long line of NULs."""

FLOOD = "head -c 8000000 /dev/zero >&2; "

EAT = "x=xxxxxxxx; while :; do x=$x$x; done"

CHILD = "sleep 1000 & {begin}read -r _"
DAEMON = (
    "trap up=1 USR1; setsid sh -c 'kill -USR1 $0; exec sleep 1000' $$ & "
    'while [ -z "$up" ]; do sleep 0.01; done; {begin}read -r _'
)
"""A child that has left the worker's session and group before the worker says that it has begun."""

FAULTS = [
    # the worker
    Fault("killed while idle", hand="kill_worker", at=Moment.IDLE),
    Fault("killed in a request", hand="kill_worker"),
    Fault("killed in the middle of a message", hand="kill_worker", at=Moment.MESSAGE),
    Fault("exits 0 while idle", "exit 0", at=Moment.IDLE),
    Fault("exits 0 in a request", "exit 0"),
    Fault("exits 3", "exit 3"),
    Fault("killed, its child keeps its pipes", CHILD, hand="kill_worker"),
    Fault("killed, a daemon of its keeps its pipes", DAEMON, hand="kill_worker"),
    Fault("closes its stdin and lives", "exec <&-; exec sleep 1000", then=Then.SMALL),
    Fault("closes its stdout and stderr and lives", "exec >&- 2>&-; exec sleep 1000"),
    Fault("stops reading (SIGSTOP)", hand="stop_worker", then=Then.LARGE),
    Fault("prints garbage, then answers", GARBAGE + ANSWER + "exec sleep 1000"),
    Fault(
        "floods stderr, then answers",
        FLOOD + ANSWER + "exec sleep 1000",
        needs=Capability.STDERR,
    ),
    Fault("out of memory", EAT, hand="exhaust_memory"),
    # its container
    Fault("container killed", hand="kill_container"),
    Fault("container stopped", hand="stop_container"),
    Fault("container removed", hand="remove_container"),
    Fault("container paused", hand="pause_container", then=Then.LARGE),
    # the link
    Fault("connection reset", hand="reset_link"),
    Fault("connection half closed", hand="half_close_link"),
    Fault("sockets destroyed", hand="destroy_sockets"),
    Fault("packets dropped, both ways", hand="drop_packets"),
    Fault("packets to the server dropped", hand="drop_packets_to_server"),
    Fault("packets to us dropped", hand="drop_packets_to_us"),
    # the server, or the engine
    Fault("server's process frozen", hand="freeze_server"),
    Fault("server's process killed", hand="kill_server"),
    Fault("server shut down", hand="shut_server_down"),
    Fault("engine restarted, containers live on", hand="restart_engine"),
    # at the start
    Fault("nobody listens", hand="refuse_connections", at=Moment.START),
    Fault("no answer to a connection", hand="drop_connections", at=Moment.START),
    Fault("host key unknown", hand="forget_host_key", at=Moment.START),
    Fault("host key changed", hand="change_host_key", at=Moment.START),
    Fault("authentication refused", hand="refuse_login", at=Moment.START),
    Fault("engine down", hand="stop_engine", at=Moment.START),
    Fault("image missing", hand="lose_image", at=Moment.START),
    Fault("container missing", hand="lose_container", at=Moment.START),
    Fault(
        "no such command",
        at=Moment.START,
        needs=Capability.ANY_COMMAND,
        command=("no-such-command",),
    ),
    Fault("no such directory", at=Moment.START, needs=Capability.ANY_COMMAND, cwd="/no/such/place"),
]
