"""The bounds of a session, each with its reason."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What a session may take, in bytes and seconds.

    Attributes:
        max_line: The longest message from the worker; a longer one is dropped and reported.
        retained_bytes: How much memory the journal may take.
        stderr_tail: How much of the worker's latest stderr is kept at hand.
        send_timeout: The default of ``send(timeout=)``; ``None`` to wait as long as it takes.
        eof_grace: How long a worker has to end after its stdin was closed. A worker that reads
            its stdin ends within milliseconds; 2 s is what MCP's own clients give.
        term_grace: How long it has after SIGTERM, to write down what it must not lose.
        kill_grace: How long to wait for the exit after SIGKILL. The kernel needs no time for
            that, unless the process hangs in it.
        settle: How long to look for what a lost worker has still said, and for its exit: enough
            for a pipe's content and a loaded machine, and well below a second.
        exit_grace: How long a worker that closed its stdout has to exit by itself.
    """

    max_line: int = 64 * 1024 * 1024
    retained_bytes: int = 64 * 1024 * 1024
    stderr_tail: int = 64 * 1024
    send_timeout: float | None = None
    eof_grace: float = 2.0
    term_grace: float = 2.0
    kill_grace: float = 2.0
    settle: float = 0.5
    exit_grace: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None and name == "send_timeout":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"Limits.{name} is a number, not {value!r}")
            if not value >= 0 or (value == 0 and name in ("max_line", "retained_bytes")):
                raise ValueError(f"Limits.{name} is not a usable bound: {value!r}")
