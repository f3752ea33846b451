"""What holds for every test of this checkout, plugins' included.

- Under ``CI=true`` a skip is a failure: a missing part must not look green. Only a test that says
  which capability its transport lacks (``capability: ...``) may skip there.
- A test that hangs ends its process, with the stacks of all threads on stderr. Under xdist it is
  reported as failed, and a new process takes the rest. pytest-timeout says when (the ini's
  ``timeout``, ``--timeout``, ``@pytest.mark.timeout``); of its own ways to stop a test, a signal
  is lost while trio or uvloop waits, and a thread's last words are lost under xdist.
- A test marked ``serial`` has the machine to itself: the other xdist workers wait meanwhile.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

pytest_plugins = ["pytester"]

LOCKS = pytest.StashKey[str]()
STDERR = pytest.StashKey[int]()


def in_ci() -> bool:
    """Say whether this run must be complete."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure, unless it names a missing capability or was expected to fail."""
    if not in_ci() or not report.skipped or hasattr(report, "wasxfail"):
        return
    where, line, message = report.longrepr if isinstance(report.longrepr, tuple) else ("?", 0, "")
    reason = message.removeprefix("Skipped: ")
    if not reason.startswith("capability:"):
        report.outcome = "failed"
        report.longrepr = f"{where}:{line}: CI=true does not skip; this one would have: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Judge the skips of tests."""
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Judge the skips of whole modules, ``importorskip`` among them."""
    report = yield
    fail_if_skipped(report)
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Keep the real stderr, which pytest does not capture yet; and obey signals, as workers do.

    What starts a run may ignore some (``nohup``, a shell's ``&``), and a program cannot trap what
    was ignored when it began: the workers of the tests would inherit that.
    """
    for each in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[STDERR] = os.dup(2)
    config.add_cleanup(lambda: os.close(config.stash[STDERR]))


@pytest.hookimpl(optionalhook=True)  # pytest-timeout's, as the next one
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Start the hang guard of one test."""
    if not item.config.getoption("usepdb"):
        stderr = item.config.stash[STDERR]
        faulthandler.dump_traceback_later(settings.timeout, exit=True, file=stderr)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer() -> bool:
    """Stop the hang guard: the test has ended."""
    faulthandler.cancel_dump_traceback_later()
    return True


def pytest_enter_pdb() -> None:
    """Stop the hang guard: a person thinks."""
    faulthandler.cancel_dump_traceback_later()


@contextmanager
def share_machine(folder: Path, *, alone: bool) -> Generator[None]:
    """Hold the machine, with others or alone.

    Who waits for it holds the gate too, so that no newcomer overtakes a test that is to be alone.
    """
    with (folder / "gate").open("w") as gate, (folder / "room").open("w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(optionalhook=True)  # xdist's
def pytest_configure_node(node: Any) -> None:
    """Tell each xdist worker of this run the folder in which they agree."""
    config = node.config
    if LOCKS not in config.stash:
        folder = TemporaryDirectory(prefix="holdfast-tests-")
        config.add_cleanup(folder.cleanup)
        config.stash[LOCKS] = folder.name
    node.workerinput["holdfast_locks"] = config.stash[LOCKS]


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: the hang guard does not count the wait
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a serial test run alone."""
    workerinput = getattr(item.config, "workerinput", None)
    if workerinput is None:  # not under xdist
        return (yield)
    alone = item.get_closest_marker("serial") is not None
    with share_machine(Path(workerinput["holdfast_locks"]), alone=alone):
        return (yield)
