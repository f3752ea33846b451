"""What is known of a worker's end, and what that means: the fusion of all who noticed.

A loss may show first as a failed write, as the end of stdout, as an exit or as a silent link,
and each tells a part. They are collected for a short time and judged together.
"""

from __future__ import annotations

import msgspec

from ._errors import TransportBroken
from ._status import Cause, Exit, Fate, Reason

_LAST_WORDS = 500  # bytes: a message, not a dump


class Loss(msgspec.Struct, frozen=True):
    """A judgement: why the session is over, and what is known of the worker."""

    reason: Reason
    detail: str
    cause: Cause | None
    worker: Fate
    exit: Exit | None

    @property
    def clean(self) -> bool:
        """Whether the worker ended by itself and said that all is well."""
        return self.reason is Reason.PROCESS_EXIT and self.exit is not None and self.exit.code == 0


class Evidence(msgspec.Struct):
    """What has been noticed of one worker's end.

    Attributes:
        reports_exit: Whether the transport tells how a worker ended, so that no exit yet means
            that it lives.
        broken: The first ``TransportBroken``, whichever operation met it.
        eof: Whether the worker closed its stdout.
        exit: What ``wait`` returned.
        failure: What went wrong in reading, other than a broken transport.
        stuck: How long the worker has not read its stdin, in seconds.
    """

    reports_exit: bool
    broken: TransportBroken | None = None
    eof: bool = False
    exit: Exit | None = None
    failure: str | None = None
    stuck: float | None = None

    def __bool__(self) -> bool:
        return (
            self.broken is not None
            or self.eof
            or self.exit is not None
            or self.failure is not None
            or self.stuck is not None
        )

    @property
    def worker_gone(self) -> bool:
        """Whether it is certain that the worker is over."""
        return self._fate() is Fate.GONE

    @property
    def is_stuck(self) -> bool:
        """Whether the worker lives and takes no input, as far as anybody knows.

        A message may wait for ever although the worker is over: who inherited its stdin keeps that
        open, and reads nothing.
        """
        return self.stuck is not None and self.broken is None and not self.worker_gone

    @property
    def only_stdin_closed(self) -> bool:
        """Whether the worker lives, and shut nothing but its stdin."""
        return (
            self.broken is not None
            and not self.eof
            and self.failure is None
            and self._broken_cause(self._fate()) is Cause.STDIN_CLOSED
        )

    def _reported_exit(self) -> Exit | None:
        if self.exit is not None and self.exit.reported:
            return self.exit
        if self.broken is not None and self.broken.exit is not None:
            return self.broken.exit
        if not self.reports_exit or self.link_failed:
            return Exit()  # nobody will say, whether ``wait`` has returned by now or not
        return self.exit

    def _fate(self) -> Fate:
        exit = self._reported_exit()
        if exit is not None and exit.reported:
            return Fate.GONE
        if self.broken is not None and self.broken.worker is not Fate.UNKNOWN:
            return self.broken.worker
        if exit is None:
            return Fate.ALIVE
        return Fate.UNKNOWN

    @property
    def link_failed(self) -> bool:
        """Whether the way to the worker is gone, so that nothing can be asked of it."""
        return self.broken is not None and self.broken.cause in (Cause.LINK_LOST, Cause.LINK_SILENT)

    def judge(self, stderr_tail: bytes = b"") -> Loss:
        """What all this means. Call it once no more evidence is expected."""
        exit, fate = self._reported_exit(), self._fate()
        if self.is_stuck:
            return Loss(
                Reason.STDIN_BROKEN,
                f"the worker took no input for {self.stuck:g} s, and a part of a message is "
                f"already written",
                Cause.STUCK,
                fate,
                exit,
            )
        if self.broken is not None:
            return Loss(
                Reason.STDIN_BROKEN, self.broken.detail, self._broken_cause(fate), fate, exit
            )
        if self.failure is not None:
            return Loss(Reason.READ_LOOP_ERROR, self.failure, None, fate, exit)
        if fate is Fate.GONE:
            detail, cause = f"worker {exit}", Cause.WORKER_EXITED
        elif fate is Fate.ALIVE:
            detail, cause = "worker closed its stdout and lives", Cause.UNKNOWN
        elif self.eof and not self.reports_exit:
            detail, cause = "worker closed its stdout", Cause.UNKNOWN
        else:
            detail, cause = "worker is over; how it ended was not reported", Cause.UNKNOWN
        crashed = exit is not None and exit.code not in (None, 0)
        if crashed and (words := _last_words(stderr_tail)):
            detail += f"; its last words: {words}"
        return Loss(Reason.PROCESS_EXIT, detail, cause, fate, exit)

    def _broken_cause(self, fate: Fate) -> Cause:
        assert self.broken is not None
        if self.broken.cause is not Cause.UNKNOWN:
            return self.broken.cause
        if fate is Fate.GONE:
            return Cause.WORKER_EXITED
        if fate is Fate.ALIVE and self.broken.operation.is_write:
            return Cause.STDIN_CLOSED
        return Cause.UNKNOWN


def _last_words(stderr_tail: bytes) -> str:
    """The last line of a worker's stderr, printable and not long."""
    lines = stderr_tail.rstrip().splitlines()
    text = lines[-1][:_LAST_WORDS].decode("utf-8", "replace") if lines else ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
