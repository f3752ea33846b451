"""A private Docker engine, and links to it that break, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.containers import engine as engines
from tests.containers.engine import Dockerd
from tests.ssh.relay import Relay

RUNNING: list[Dockerd] = []
"""The engines of this process that have not been stopped."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the engines said, when a test fails."""
    report = yield
    if report.failed:
        report.sections += [(f"log of dockerd, {each.folder}", each.tail()) for each in RUNNING]
    return report


@contextmanager
def run(engine: Dockerd) -> Iterator[Dockerd]:
    """Run an engine, known to the hooks here."""
    RUNNING.append(engine)
    try:
        with engine:
            engine.images()
            yield engine
    finally:
        RUNNING.remove(engine)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """The engine of this process."""
    engines.sweep()
    with run(Dockerd()) as engine:
        yield engine


@pytest.fixture(scope="session")
def container(dockerd: Dockerd) -> Iterator[str]:
    """A container that runs, and is not holdfast's."""
    made = dockerd.create("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done")
    dockerd.kept.add(made)
    yield made
    dockerd.kept.discard(made)
    dockerd.remove(made)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no container is left but those that are the tests' own."""
    yield
    for each in RUNNING:
        each.thaw()
        if each.pid is None:
            each.start()
        left = [one for one in each.containers() if one not in each.kept]
        for one in left:
            each.remove(one)
        assert not left or request.node.get_closest_marker("leaves"), f"containers left: {left}"


@pytest.fixture
def make_dockerd() -> Iterator[Callable[..., Dockerd]]:
    """Start further engines, for tests that kill them; all end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(run(Dockerd(*arguments)))


@pytest.fixture
def relay() -> Iterator[Callable[[Dockerd], Relay]]:
    """Start relays to engines; each has a TCP port, and breaks in many ways."""
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(Relay(str(engine.socket)))
