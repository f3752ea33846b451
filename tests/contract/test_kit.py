"""The kit as its users meet it: what it prints, skips and lets one choose."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import asynccontextmanager

import anyio
import pytest

from holdfast.testing import CLAUSES, Kit, TransportContract
from holdfast_transports.local import LocalTransport

MODULE = """
    import pytest
    from holdfast import Capability, Channel
    from holdfast.testing import TransportContract
    from holdfast_transports.local import LocalTransport

    class Deaf(LocalTransport):
        capabilities = LocalTransport.capabilities & ~Capability.SIGNALS

    class TestDeaf(TransportContract):
        @pytest.fixture
        def transport(self):
            return Deaf()
"""


@pytest.fixture
def author(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project of an author of a transport: no conftest, no configuration."""
    pytester.makepyfile(test_deaf=MODULE)
    return pytester


def run(author: pytest.Pytester, *args: str) -> pytest.RunResult:
    return author.runpytest_inprocess("-p", "_holdfast_pytest", "-p", "no:cacheprovider", *args)


def test_it_needs_no_configuration(author: pytest.Pytester) -> None:
    """A clause runs on asyncio and trio, and the ids of its tests say so."""
    result = run(author, "-v", "--strict-markers", "--holdfast-clause", "HF-EXIT-1")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*TestDeaf::test_exit_codes?asyncio? PASSED*",
            "*TestDeaf::test_exit_codes?trio? PASSED*",
        ]
    )


def test_clauses_can_be_chosen(author: pytest.Pytester) -> None:
    """``--holdfast-clause`` takes patterns, several of them; so does the marker."""
    chosen = run(author, "--collect-only", "-q", "--holdfast-clause", "HF-ARGV-*",
                 "--holdfast-clause", "hf-cwd-1")  # fmt: skip
    assert chosen.outlines[-1].startswith(f"{2 * 7}/{2 * len(CLAUSES)} tests collected")
    marked = run(author, "--collect-only", "-q", "-m", "holdfast_clause(id='HF-CWD-1')")
    assert "2/" in marked.outlines[-1]


def test_every_clause_is_a_test(author: pytest.Pytester) -> None:
    """No clause is left out of the contract that an author subclasses."""
    result = run(author, "--collect-only", "-q")
    assert result.outlines[-1].startswith(f"{2 * len(CLAUSES)} tests collected")


def test_a_skip_names_the_capability(author: pytest.Pytester) -> None:
    """What does not apply is skipped, and the reason is the missing capability."""
    result = run(
        author, "-rs", "--holdfast-clause", "HF-SIGNAL-2", "--holdfast-clause", "HF-LINK-1"
    )
    result.assert_outcomes(skipped=4)
    assert {
        reason for line in result.outlines for reason in re.findall("capability: [A-Za-z_]+", line)
    } == {"capability: SIGNALS", "capability: sever"}


def test_a_broken_clause_is_readable(author: pytest.Pytester) -> None:
    """A failure prints the rule, where to look, how to repeat it and what the transport did."""
    result = run(author, "--holdfast-clause", "HF-CAP-1", "-k", "trio")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*signal without SIGNALS did not raise Unsupported*",
            "*clause HF-CAP-1 of the transport contract is broken*",
            "*the rule:  What a transport has no capability for is refused in words*",
            "*look at:   docs/writing-a-transport.md#hf-cap-1*",
            "*once more: pytest --holdfast-clause HF-CAP-1*",
            "*what the transport did*",
            "*0.0?? s  open(sh -c *) as A  ->  opened*",
            "*0.??? s  A.receive(65536)  ->  b'ready?n'*",
            "*0.??? s  A.signal(TERM)  ->  returned*",
            "*0.??? s  leave the context of A  ->  left*",
        ]
    )


def test_patience_scales_the_deadlines(author: pytest.Pytester) -> None:
    """``--holdfast-patience`` is a factor for every deadline."""
    author.makepyfile(
        test_deaf=MODULE
        + """
        def test_patience(self, kit):
            assert kit.patience == 2.5
        """
    )
    run(author, "--holdfast-patience", "2.5", "-k", "test_patience").assert_outcomes(passed=1)
    assert run(author, "--holdfast-patience", "-1").ret != 0


def test_every_clause_has_a_rule_and_a_place() -> None:
    """An id is spelt as all are; a rule is a sentence; ``see`` names something public."""
    import holdfast

    for id, clause in CLAUSES.items():
        assert re.fullmatch(r"HF-[A-Z]+-[1-9]", id)
        assert clause.rule.endswith(".")
        thing = holdfast
        for name in clause.see.split("."):
            thing = getattr(thing, name)


@pytest.mark.parametrize("module", ["_holdfast_pytest", "holdfast.testing"])
def test_what_every_pytest_run_imports_is_light(module: str) -> None:
    """pytest's side of the kit imports no part of holdfast; the package no pytest."""
    heavy = "holdfast" if module == "_holdfast_pytest" else "pytest"
    code = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class WithTasks(LocalTransport):
    """A transport that owns background tasks while a channel is open, as one with a heartbeat."""

    @asynccontextmanager
    async def open(self, command):
        async with anyio.create_task_group() as tasks, super().open(command) as channel:
            tasks.start_soon(anyio.sleep_forever)
            yield channel
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("clause", ["HF-SEND-1", "HF-EOF-1", "HF-RECV-5"])
def test_a_transport_may_own_tasks(clause: str, backend: str) -> None:
    """The kit leaves no scope of its own while a task group of the transport's is open."""

    async def check() -> None:
        await CLAUSES[clause].check(TransportContract(), Kit(WithTasks()))

    anyio.run(check, backend=backend)
