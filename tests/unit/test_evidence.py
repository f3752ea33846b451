"""What is known of a worker's end, and what that means: the judgement as a table."""

from __future__ import annotations

import msgspec
import pytest

from holdfast import Cause, Exit, Fate, Operation, Reason, TransportBroken
from holdfast._evidence import Evidence, Loss

PIPE = "BrokenPipeError: [Errno 32] Broken pipe"
NATIVE = BrokenPipeError(32, "Broken pipe")


def broken(
    operation: Operation = Operation.SEND,
    cause: Cause = Cause.UNKNOWN,
    worker: Fate = Fate.UNKNOWN,
    exit: Exit | None = None,
) -> TransportBroken:
    return TransportBroken(operation, NATIVE, cause=cause, worker=worker, exit=exit)


KILLED, CODE_0, CODE_3 = Exit(signal="SIGKILL"), Exit(0), Exit(3)
LINK_LOST = broken(cause=Cause.LINK_LOST, worker=Fate.MAYBE_ALIVE)
BROKEN, EXITED = Reason.STDIN_BROKEN, Reason.PROCESS_EXIT
UNKNOWN, GONE, ALIVE = Cause.UNKNOWN, Fate.GONE, Fate.ALIVE

TABLE: dict[str, tuple[Evidence, Loss]] = {
    # A transport that reports exits.
    "write failed, killed": (
        Evidence(True, broken=broken(), exit=KILLED),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, KILLED),
    ),
    "write failed, code 0": (
        Evidence(True, broken=broken(), eof=True, exit=CODE_0),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, CODE_0),
    ),
    "write failed, no exit": (
        Evidence(True, broken=broken()),
        Loss(BROKEN, PIPE, Cause.STDIN_CLOSED, ALIVE, None),
    ),
    "half close failed, no exit": (
        Evidence(True, broken=broken(Operation.SEND_EOF)),
        Loss(BROKEN, PIPE, Cause.STDIN_CLOSED, ALIVE, None),
    ),
    "read failed, no exit": (
        Evidence(True, broken=broken(Operation.RECEIVE)),
        Loss(BROKEN, PIPE, UNKNOWN, ALIVE, None),
    ),
    "write failed, exit not reported": (
        Evidence(True, broken=broken(), exit=Exit()),
        Loss(BROKEN, PIPE, UNKNOWN, Fate.UNKNOWN, Exit()),
    ),
    "the error knew the exit": (
        Evidence(True, broken=broken(exit=CODE_3)),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, CODE_3),
    ),
    "the error knew the exit that wait did not": (
        Evidence(True, broken=broken(exit=CODE_3), exit=Exit()),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, CODE_3),
    ),
    "wait knew better": (
        Evidence(True, broken=broken(exit=CODE_3), exit=KILLED),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, KILLED),
    ),
    "end of stdout, code 0": (
        Evidence(True, eof=True, exit=CODE_0),
        Loss(EXITED, "worker exited with code 0", Cause.WORKER_EXITED, GONE, CODE_0),
    ),
    "exit alone": (
        Evidence(True, exit=CODE_3),
        Loss(EXITED, "worker exited with code 3", Cause.WORKER_EXITED, GONE, CODE_3),
    ),
    "killed while idle": (
        Evidence(True, eof=True, exit=KILLED),
        Loss(EXITED, "worker killed by SIGKILL", Cause.WORKER_EXITED, GONE, KILLED),
    ),
    "end of stdout, no exit": (
        Evidence(True, eof=True),
        Loss(EXITED, "worker closed its stdout and lives", UNKNOWN, ALIVE, None),
    ),
    # A transport that does not.
    "write failed, nothing known": (
        Evidence(False, broken=broken()),
        Loss(BROKEN, PIPE, UNKNOWN, Fate.UNKNOWN, Exit()),
    ),
    "end of stdout, nothing known": (
        Evidence(False, eof=True),
        Loss(EXITED, "worker closed its stdout", UNKNOWN, Fate.UNKNOWN, Exit()),
    ),
    "end of stdout, and wait has returned by chance": (
        Evidence(False, eof=True, exit=Exit()),
        Loss(EXITED, "worker closed its stdout", UNKNOWN, Fate.UNKNOWN, Exit()),
    ),
    "over, nothing known": (
        Evidence(False, exit=Exit()),
        Loss(
            EXITED,
            "worker is over; how it ended was not reported",
            UNKNOWN,
            Fate.UNKNOWN,
            Exit(),
        ),
    ),
    "stuck, nothing known": (
        Evidence(False, stuck=2.5),
        Loss(
            BROKEN,
            "the worker took no input for 2.5 s, and a part of a message is already written",
            Cause.STUCK,
            Fate.UNKNOWN,
            Exit(),
        ),
    ),
    "a mistake of a transport, nothing known": (
        Evidence(False, failure="ValueError: oops"),
        Loss(Reason.READ_LOOP_ERROR, "ValueError: oops", None, Fate.UNKNOWN, Exit()),
    ),
    # A link.
    "link lost": (
        Evidence(True, broken=LINK_LOST),
        Loss(BROKEN, PIPE, Cause.LINK_LOST, Fate.MAYBE_ALIVE, Exit()),
    ),
    "link lost, worker not known": (
        Evidence(True, broken=broken(Operation.RECEIVE, Cause.LINK_LOST)),
        Loss(BROKEN, PIPE, Cause.LINK_LOST, Fate.UNKNOWN, Exit()),
    ),
    "link silent": (
        Evidence(True, broken=broken(Operation.WAIT, Cause.LINK_SILENT)),
        Loss(BROKEN, PIPE, Cause.LINK_SILENT, Fate.UNKNOWN, Exit()),
    ),
    "link lost, and then the exit": (
        Evidence(True, broken=LINK_LOST, exit=CODE_0),
        Loss(BROKEN, PIPE, Cause.LINK_LOST, GONE, CODE_0),
    ),
    # Ours.
    "stuck": (
        Evidence(True, stuck=2.5),
        Loss(
            BROKEN,
            "the worker took no input for 2.5 s, and a part of a message is already written",
            Cause.STUCK,
            ALIVE,
            None,
        ),
    ),
    "stuck, and then broken": (
        Evidence(True, stuck=2.5, broken=broken(), exit=KILLED),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, KILLED),
    ),
    "stuck, and its exit is known": (
        Evidence(True, stuck=2.5, exit=CODE_0),
        Loss(Reason.PROCESS_EXIT, "worker exited with code 0", Cause.WORKER_EXITED, GONE, CODE_0),
    ),
    "a transport's mistake": (
        Evidence(True, failure="ValueError: oops", eof=True),
        Loss(Reason.READ_LOOP_ERROR, "ValueError: oops", None, ALIVE, None),
    ),
    "a transport's mistake, and then broken": (
        Evidence(True, failure="ValueError: oops", broken=broken(), exit=CODE_0),
        Loss(BROKEN, PIPE, Cause.WORKER_EXITED, GONE, CODE_0),
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_judgement(case: str) -> None:
    """Each set of notes has one meaning, and claims no more than was noticed."""
    evidence, loss = TABLE[case]
    assert evidence.judge() == loss
    assert bool(evidence)
    assert evidence.worker_gone is (loss.worker is Fate.GONE)


@pytest.mark.parametrize("case", TABLE)
def test_every_broken_transport_is_stdin_broken(case: str) -> None:
    """Whichever operation met it, a broken transport is ``stdin_broken`` with its own detail."""
    evidence, _ = TABLE[case]
    if evidence.broken is not None:
        loss = evidence.judge(b"noise")
        assert (loss.reason, loss.detail) == (Reason.STDIN_BROKEN, evidence.broken.detail)
        assert not loss.clean


@pytest.mark.parametrize("case", TABLE)
def test_where_nobody_will_say_the_exit_is_not_reported(case: str) -> None:
    """Never ``None`` by chance: whether ``wait`` has returned by then changes nothing."""
    evidence, loss = TABLE[case]
    if not evidence.reports_exit or evidence.link_failed:
        assert loss.exit is not None
        if evidence.exit is None:
            assert msgspec.structs.replace(evidence, exit=Exit()).judge() == loss


def test_no_evidence_is_none() -> None:
    """Before anything was noticed there is nothing to judge."""
    assert not Evidence(True)
    assert not Evidence(False)


@pytest.mark.parametrize(
    "evidence",
    [Evidence(True, stuck=0.0), Evidence(True, exit=Exit()), Evidence(True, failure="")],
    ids=["stuck at once", "exit not reported", "no words"],
)
def test_a_note_that_is_false_counts(evidence: Evidence) -> None:
    """A note counts by being there, not by its truth value."""
    assert evidence


def test_only_a_reported_code_0_is_clean() -> None:
    """Clean is: the worker ended by itself and said that all is well."""
    assert Evidence(True, eof=True, exit=CODE_0).judge().clean
    for exit in (CODE_3, KILLED, Exit(), None):
        assert not Evidence(True, eof=True, exit=exit).judge().clean


@pytest.mark.parametrize(
    ("exit", "tail", "detail"),
    [
        (
            CODE_3,
            b"a\nValueError: oops\n\n",
            "worker exited with code 3; its last words: ValueError: oops",
        ),
        (CODE_3, b"", "worker exited with code 3"),
        (CODE_3, b" \n\n", "worker exited with code 3"),
        (CODE_0, b"bye\n", "worker exited with code 0"),
        (CODE_3, b"\x1b[31mred\xff\x07", "worker exited with code 3; its last words: �[31mred��"),
        (CODE_3, b"x" * 9000, "worker exited with code 3; its last words: " + "x" * 500),
    ],
)
def test_a_crash_quotes_the_last_words(exit: Exit, tail: bytes, detail: str) -> None:
    """The last line of stderr is quoted after a failure: printable, and not long."""
    assert Evidence(True, exit=exit).judge(tail).detail == detail


def test_only_stdin_closed() -> None:
    """A worker that shut its stdin and nothing else is told from one that is over."""
    assert Evidence(True, broken=broken()).only_stdin_closed
    assert not Evidence(True, broken=broken(), eof=True).only_stdin_closed
    assert not Evidence(True, broken=broken(), exit=CODE_0).only_stdin_closed
    assert not Evidence(True, broken=LINK_LOST).only_stdin_closed
    assert not Evidence(False, broken=broken()).only_stdin_closed
    assert not Evidence(True, eof=True).only_stdin_closed
