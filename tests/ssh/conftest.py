"""A private sshd, and links to it that break, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from tests.faults.belongings import belongings, left_over
from tests.ssh import network, sshd as servers
from tests.ssh.machine import until
from tests.ssh.relay import Relay
from tests.ssh.sshd import Sshd

LEAVE_WITHIN = 3.0
"""Seconds for what tests have ended to be gone from the server too."""

RUNNING: list[Sshd] = []
"""The servers of this process that have not been stopped."""

FIRST_SEEN: dict[int, str] = {}
"""After which test a process was first found to run on."""


INTERRUPTED: list[str] = []
"""Holds something after a Ctrl-C."""


def pytest_keyboard_interrupt() -> None:
    """Remember that tests were ended in the middle."""
    INTERRUPTED.append("Ctrl-C")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers said, when a test fails."""
    report = yield
    if report.failed:
        report.sections += [(f"log of sshd, port {each.port}", each.tail()) for each in RUNNING]
    return report


@contextmanager
def running(server: Sshd) -> Iterator[Sshd]:
    """Run a server, known to the hooks and fixtures here."""
    RUNNING.append(server)
    try:
        with server:
            yield server
    finally:
        RUNNING.remove(server)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Begin without what earlier runs left that were ended by force, and end without own things."""
    servers.sweep()
    network.remove_rules(dead_owners=True)
    yield
    left = [f"a firewall rule: {rule}" for rule in network.remove_rules()]
    for server in RUNNING:
        left.append(f"an sshd: port {server.port}")
        server.stop()
    assert not left, left


@pytest.fixture(autouse=True)
def undo(nothing_is_left: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test has done to the network and to servers, the next one finds it whole."""
    yield
    for drop in [*network.ACTIVE]:
        drop.stop()
    for server in RUNNING:
        server.thaw()
        if server.pid is None:
            server.start()
        for each in server.commands():
            FIRST_SEEN.setdefault(each.pid, request.node.nodeid)


@pytest.fixture(scope="session")
def sshd(nothing_is_left: None) -> Iterator[Sshd]:
    """The server of this process."""
    with running(Sshd()) as server:
        yield server
        left = []
        if not INTERRUPTED:  # else nobody had the time to tidy up
            with suppress(TimeoutError):
                until(lambda: not server.processes(), "all is gone", LEAVE_WITHIN)
            left = server.processes()
    assert not left, "\n".join(
        ["tests left processes in the server:"]
        + [f"{each} (seen after {FIRST_SEEN.get(each.pid, 'the last test')})" for each in left]
    )


@pytest.fixture(autouse=True)
def _checked(sshd: Sshd, histories: object) -> Iterator[None]:
    """The history of each session is checked, as ``histories`` in ``tests/conftest.py`` says.

    The server is there before, since it stays and is no leftover of a test; and a test may have it
    started again, as another process.
    """
    before = belongings()
    yield
    assert left_over(before, processes=False) == []


@pytest.fixture
def make_sshd(undo: None) -> Iterator[Callable[..., Sshd]]:
    """Start servers with other settings: ``make_sshd(MaxSessions=1)``; all end with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(Sshd(settings)))


@pytest.fixture
def relay(request: pytest.FixtureRequest, undo: None) -> Iterator[Callable[..., Relay]]:
    """Start relays: ``relay()`` to the session's server, ``relay(server)`` to another.

    ``server.target(port=relay.port)`` goes through it; the server's keys are known there too.
    """
    with ExitStack() as stack:

        def start(server: Sshd | None = None) -> Relay:
            server = server or request.getfixturevalue("sshd")
            made = stack.enter_context(Relay(server.port))
            server.trust(made.port)
            return made

        yield start
