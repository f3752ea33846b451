"""A schedule: one session's life, drawn from a seed. What is asked of it, and what befalls it."""

from __future__ import annotations

from random import Random
from typing import Any, Final

import msgspec

from holdfast import Capability
from holdfast.testing._faults import Fault, What, draw

DIALECTS: Final = ("kimi-wire", "kimi-wire", "jsonrpc", "jsonrpc", "mcp", "acp", "lsp", "lines")
METHODS: Final = {"kimi-wire": "prompt", "acp": "session/prompt"}
_CHANNELS: Final = 4  # how many workers of a schedule may meet faults

_READERS: Final = ("late", "slow", "resuming", "cancelled")

_ALL: Final = (
    Capability.STDERR
    | Capability.EXIT_STATUS
    | Capability.SIGNALS
    | Capability.HALF_CLOSE
    | Capability.REAPS_WORKER
    | Capability.EARLY_EOF
)


class Op(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a program asks of the session.

    Attributes:
        at: When, in seconds.
        do: What: the name of a method of the player.
        id: The request's id or the message's mark.
        size: How many bytes a message is made longer by.
        timeout: What is passed as ``timeout=``.
        cancel: Seconds until the caller is cancelled.
        arg: What else there is to say.
    """

    at: float
    do: str
    id: str = ""
    size: int = 0
    timeout: float | None = None
    cancel: float | None = None
    arg: Any = None

    def __str__(self) -> str:
        given = {k: v for k, v in msgspec.to_builtins(self).items() if k not in ("at", "do")}
        return f"{self.at:6.3f} s  {self.do}({', '.join(f'{k}={v!r}' for k, v in given.items())})"


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the workers behave, apart from faults."""

    delays: tuple[float, ...] = (0.0,)
    chatter: float = 0.0
    postpone: float = 0.0
    mute: float = 0.0
    fail: float = 0.0
    odd: float = 0.0
    stderr: float = 0.0
    size: int = 0
    linger: float = 0.0
    code: int = 0
    greeting: bool = False


class Schedule(msgspec.Struct, frozen=True):
    """All that a run depends on."""

    seed: int
    dialect: str
    capabilities: Capability
    pipe_size: int
    takes_at_once: bool
    retained_bytes: int
    max_line: int
    send_timeout: float | None
    start_first: bool
    ending: str  # "stop"; or the manager is left, by "leave" or "cancel", while all goes on
    left_at: float
    plan: Plan
    readers: tuple[tuple[str, float], ...]  # the kinds of subscribers, and what each measures by
    ops: tuple[Op, ...]
    faults: tuple[Fault, ...]

    @property
    def parts(self) -> list[Op | Fault]:
        """What can be left out."""
        return [*self.ops, *self.faults]

    def only(self, parts: list[Op | Fault]) -> Schedule:
        """The same schedule with these parts only."""
        return msgspec.structs.replace(
            self,
            ops=tuple(each for each in parts if isinstance(each, Op)),
            faults=tuple(each for each in parts if isinstance(each, Fault)),
        )

    def __str__(self) -> str:
        retained = f", {self.retained_bytes} bytes retained" if self.retained_bytes < 1e6 else ""
        lines = [
            f"seed {self.seed}: {self.dialect}, {self.capabilities}",
            f"  pipes of {self.pipe_size} bytes, takes at once: {self.takes_at_once}",
            f"  max_line {self.max_line}, send_timeout {self.send_timeout}{retained}",
            f"  started first: {self.start_first}; workers: {self.plan}",
            f"  {self.ending} at {self.left_at} s"
            if self.ending != "stop"
            else "  recovers, stops",
        ]
        lines += [f"  subscribers: {dict(self.readers)}"]
        lines += [f"  {op}" for op in sorted(self.ops, key=lambda op: op.at)]
        lines += [f"  {fault}" for fault in self.faults]
        return "\n".join(lines)


def drawn(seed: int) -> Schedule:
    """The schedule of this seed."""
    random = Random(seed)
    chance = random.random
    dialect = random.choice(DIALECTS)
    capabilities = _ALL
    for each in (
        Capability.STDERR,
        Capability.EXIT_STATUS,
        Capability.SIGNALS,
        Capability.HALF_CLOSE,
        Capability.EARLY_EOF,
    ):
        if chance() < 0.12:
            capabilities &= ~each
    if chance() < 0.3:
        capabilities |= Capability.DETECTS_SILENT_LINK
    faults = tuple(
        msgspec.structs.replace(fault, channel=channel)
        for channel in range(_CHANNELS)
        for fault in draw(random)
    )
    pipe_size = random.choice((65536, 65536, 4096, 512, 64))
    split = any(each.what in (What.SPLIT_READ, What.SPLIT_SEND) for each in faults)
    big = 0 if split else 100_000 if pipe_size == 65536 else 2 * pipe_size
    max_line = 300 if chance() < 0.1 else 64 * 1024 * 1024
    return Schedule(
        seed=seed,
        dialect=dialect,
        capabilities=capabilities,
        pipe_size=pipe_size,
        takes_at_once=chance() < 0.75,
        retained_bytes=6000 if chance() < 0.15 else 64 * 1024 * 1024,
        max_line=max_line,
        send_timeout=1.0 if chance() < 0.15 else None,
        start_first=chance() < 0.9,
        ending=random.choices(("stop", "leave", "cancel"), (76, 12, 12))[0],
        left_at=round(chance() * 1.3, 3),
        plan=_plan(random, 400 if max_line == 300 else 0 if split else min(big, 9000)),
        readers=(
            ("early", 0.0),
            *((kind, round(chance(), 3)) for kind in random.sample(_READERS, 3)),
        ),
        ops=_ops(random, dialect, big),
        faults=faults,
    )


def _plan(random: Random, size: int) -> Plan:
    chance = random.random
    return Plan(
        delays=random.choice(((0.0,), (0.0, 0.01), (0.0, 0.05, 0.3), (0.2,))),
        chatter=random.choice((0.0, 0.0, 0.3)),
        postpone=random.choice((0.0, 0.0, 0.3)),
        mute=random.choice((0.0, 0.0, 0.0, 0.3)),
        fail=random.choice((0.0, 0.2)),
        odd=random.choice((0.0, 0.0, 0.2)),
        stderr=random.choice((0.0, 0.0, 0.3)),
        size=size if chance() < 0.2 else 0,
        linger=random.choice((0.0, 0.0, 0.0, 0.1, 5.0)),
        code=random.choice((0, 0, 0, 1)),
        greeting=chance() < 0.3,
    )


_DOINGS: Final = {
    "request": 34,
    "call": 20,
    "notify": 10,
    "invalid": 3,
    "again": 3,
    "cancel": 4,
    "answer": 2,
    "restart": 12,
    "stop": 7,
    "start": 5,
    "wait_for": 3,
    "lever": 12,
}


def _ops(random: Random, dialect: str, big: int) -> tuple[Op, ...]:
    chance = random.random
    ops: list[Op] = []
    for number in range(random.choice((2, 3, 4, 5, 6, 8))):
        do = random.choices(tuple(_DOINGS), tuple(_DOINGS.values()))[0]
        at = ops[-1].at if ops and chance() < 0.35 else round(chance() * 1.2, 3)
        size = random.choice((big, big // 4)) if big and chance() < 0.1 else 0
        timeout = random.choice((0.02, 0.3, 2.0)) if chance() < 0.3 else None
        cancel = random.choice((0.0, 0.001, 0.05, 0.4)) if chance() < 0.12 else None
        arg: Any = None
        if do == "restart":
            arg = chance() < 0.6
        elif do == "lever":
            fault = _lever(random)
            arg = (fault.what.value, fault.amount)
        elif do == "wait_for":
            arg, timeout = random.choice(("idle", "busy", "error", "stopped")), timeout or 1.0
        elif do in ("request", "call"):
            arg = random.choice((METHODS.get(dialect, "ask"),) * 3 + ("other",))
        ops.append(Op(at, do, f"r{number}", size, timeout, cancel, arg))
    return tuple(ops)


def _lever(random: Random) -> Fault:
    while True:
        for fault in draw(random):
            if fault.sent is not None or fault.received is not None or fault.after is not None:
                return fault
