"""The clauses against a live target: what ``holdfast check`` runs.

pytest runs them in this process, cut off from everything around it: no configuration, no conftest,
no plugin but anyio's and our own, and not a word on the terminal. What happened is collected here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import traceback
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
import pytest

from holdfast import Capability, Channel, Command, Transport

from . import CLAUSES, Clause, TransportContract
from ._kit import WHOLE

BACKENDS: Final = ("asyncio", "trio")

BLOCKED: Final = 1.5 * WHOLE
"""Seconds after which a clause is ended by force: its own deadline did not."""

_RAN: Final = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def in_order() -> list[Clause]:
    """The clauses in the order of the contract."""
    groups = [vars(group) for group in TransportContract.__bases__]
    return [each for group in groups for each in CLAUSES.values() if each.test in group]


class Outcome(StrEnum):
    """What became of a clause."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Run:
    """One clause on one event loop; ``detail`` is why it failed or was skipped."""

    clause: str
    backend: str
    outcome: Outcome
    seconds: float
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What to try, and how.

    Attributes:
        make: Gives a fresh transport to the target.
        capabilities: What that transport can do.
        worker: The command of a script worker, where the clauses shall not run commands of their
            own; ``None`` where they may.
        sever: A shell command that cuts the link, on this machine.
        patterns: Which clauses.
        backends: On which event loops.
        patience: A factor for every deadline.
    """

    make: Callable[[], Transport]
    capabilities: Capability
    worker: tuple[str, ...] | None = None
    sever: str | None = None
    patterns: Sequence[str] = ()
    backends: Sequence[str] = BACKENDS
    patience: float = 1.0

    def transport(self) -> Transport:
        """A fresh transport, as the clauses shall see it."""
        transport = self.make()
        return transport if self.worker is None else _Fixed(transport, self.worker)

    def missing(self, clause: Clause) -> list[str]:
        """What this target lacks for a clause: names of capabilities, or of a fixture."""
        can = self.capabilities
        if self.worker is not None:
            can &= ~Capability.ANY_COMMAND
        if lacking := [(each.name or "").lower() for each in clause.needs & ~can]:
            return lacking
        if clause.fixture is not None and (clause.fixture != "sever" or self.sever is None):
            return [clause.fixture]
        if self.worker is None and Capability.ANY_COMMAND not in can:
            return ["any_command"]
        return []

    def run(self, begin: Callable[[int], object], ended: Callable[[Run], object]) -> list[Run]:
        """Try the clauses.

        Args:
            begin: Told how many there are, counted once for each event loop.
            ended: Told of each as it ends.

        Raises:
            KeyboardInterrupt: The user interrupted it.
            RuntimeError: pytest could not run at all.
        """
        plugin = _Plugin(self, begin, ended)
        arguments = [
            __file__,
            *("-c", os.devnull, "--rootdir", str(Path(__file__).parent), "--noconftest"),
            *("-p", "anyio.pytest_plugin", "-p", "_holdfast_pytest"),
            *("-p", "no:terminal", "-p", "no:cacheprovider", "--import-mode=importlib"),
            f"--holdfast-patience={self.patience}",
            *(f"--holdfast-clause={pattern}" for pattern in self.patterns),
        ]
        with _alone():
            code = pytest.main(arguments, plugins=[plugin])
        ended_as = pytest.ExitCode(code)
        if ended_as is pytest.ExitCode.INTERRUPTED and not (plugin.trouble or plugin.blocked):
            raise KeyboardInterrupt
        if plugin.trouble or (ended_as not in _RAN and not plugin.blocked):
            why = plugin.trouble or ended_as.name.lower()
            raise RuntimeError(f"pytest could not run the clauses: {why}")
        return list(plugin.runs.values())


class TestLive(TransportContract):
    """The contract, for whatever target there is."""

    script_worker: ClassVar[bool] = False

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every clause on the event loops that were asked for."""
        if "anyio_backend" in metafunc.fixturenames:
            chosen = _trial(metafunc.config).backends
            backends = [each for each in self.backends if each.id in chosen]
            metafunc.parametrize("anyio_backend", backends, scope="module")

    @pytest.fixture
    def transport(self, request: pytest.FixtureRequest) -> Transport:
        """A fresh transport to the target."""
        trial = _trial(request.config)
        type(self).script_worker = trial.worker is not None
        return trial.transport()

    @pytest.fixture
    def sever(self, request: pytest.FixtureRequest) -> Any:
        """Cuts the link by the command that was given; ``None`` where there is none."""
        command = _trial(request.config).sever
        if command is None:
            return None

        async def cut(channel: Channel) -> None:
            done = await anyio.run_process(
                ["sh", "-c", command], check=False, stderr=subprocess.STDOUT
            )
            text = done.stdout.decode(errors="replace").strip()
            assert done.returncode == 0, f"--sever {command!r} failed: {text or done.returncode}"

        return cut


_TRIAL: Final = pytest.StashKey[Trial]()


def _trial(config: pytest.Config) -> Trial:
    return config.stash[_TRIAL]


@dataclass(eq=False)  # pytest keeps plugins in sets
class _Plugin:
    """pytest's side: who runs, and what became of it."""

    trial: Trial
    begin: Callable[[int], object]
    ended: Callable[[Run], object]
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    trouble: str = ""
    blocked: bool = False

    def pytest_configure(self, config: pytest.Config) -> None:
        """Put the trial where the fixtures find it."""
        config.stash[_TRIAL] = self.trial

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Keep what went wrong with pytest itself."""
        self.trouble = excinfo.exconly()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why there are no tests."""
        if report.failed:
            self.trouble = str(report.longrepr)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell how many there are."""
        self.begin(len(session.items))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """End a clause in which the event loop stands still, so that no deadline can."""
        limit = BLOCKED * self.trial.patience

        def end_it(*_: object) -> None:
            self.blocked = True
            item.session.shouldstop = "the event loop is blocked"
            raise AssertionError(
                f"the transport blocked the event loop for {limit:g} s: nothing else could run; "
                f"the clauses behind this one were not tried"
            )

        before = signal.signal(signal.SIGALRM, end_it)
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note what became of each phase; a failure is the last word on its clause."""
        report = yield
        marker = item.get_closest_marker("holdfast_clause")
        assert marker is not None
        key = marker.kwargs["id"], str(getattr(item, "callspec").id)  # noqa: B009 - untyped
        before = self.runs.get(key)
        outcome = Outcome(report.outcome)
        if report.when == "call" or (before is None and outcome is not Outcome.PASSED):
            self.runs[key] = Run(*key, outcome, call.duration, _why(call))
        elif outcome is Outcome.FAILED and before and before.outcome is not Outcome.FAILED:
            self.runs[key] = Run(*key, outcome, before.seconds, f"in {report.when}: {_why(call)}")
        if report.when == "teardown":
            self.ended(self.runs[key])
        return report


def _why(call: pytest.CallInfo[None]) -> str | None:
    if call.excinfo is None:
        return None
    error = call.excinfo.value
    if isinstance(error, pytest.skip.Exception):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip().removeprefix("AssertionError: ")


class _Fixed(Transport):
    """A transport whose every channel leads to one command: the clauses' script worker."""

    def __init__(self, wrapped: Transport, argv: tuple[str, ...]) -> None:
        self._wrapped = wrapped
        self._command = Command(argv)
        self.capabilities = wrapped.capabilities & ~Capability.ANY_COMMAND

    @asynccontextmanager
    async def open(self, command: Command) -> AsyncIterator[Channel]:
        async with self._wrapped.open(self._command) as channel:
            yield channel

    async def aclose(self) -> None:
        await self._wrapped.aclose()


@contextmanager
def _alone() -> Iterator[None]:
    """Keep the user's own pytest settings and plugins out of it."""
    changed: Mapping[str, str | None] = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": None,
        "PYTEST_PLUGINS": None,
    }
    before = {name: os.environ.get(name) for name in changed}
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
