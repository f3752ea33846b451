"""The rules of the checkout's own conftest.py, each tried on a small suite of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty suite under our conftest.py, as a shell without CI would run it."""
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers = serial\n")
    for name in ("CI", "PYTEST_ADDOPTS", "PYTEST_TIMEOUT", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


def test_a_skip_is_a_skip_at_home(pytester: pytest.Pytester) -> None:
    """Without CI, what a machine lacks is skipped."""
    pytester.makepyfile("import pytest\ndef test_one(): pytest.skip('no docker')")
    pytester.runpytest_inprocess().assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    "source",
    [
        "def test_one(): pytest.skip('no docker')",
        "@pytest.mark.skip(reason='no docker')\ndef test_one(): pass",
        "@pytest.mark.skipif(True, reason='no docker')\ndef test_one(): pass",
        "@pytest.fixture\ndef it(): pytest.skip('no docker')\ndef test_one(it): pass",
        "def test_one(): pass\ndef test_two(): pytest.skip('no docker')",
    ],
    ids=["call", "mark", "skipif", "fixture", "one of two"],
)
def test_a_skip_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """With CI=true, a missing part fails, and the failure says what was missing."""
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(f"import pytest\n{source}")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "skipped" not in result.parseoutcomes()
    result.stdout.fnmatch_lines(["*CI=true does not skip; this one would have: no docker"])


@pytest.mark.parametrize(
    "source",
    ["pytest.importorskip('no_such_module')", "pytest.skip('no', allow_module_level=True)"],
    ids=["importorskip", "skip"],
)
def test_a_skipped_module_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """With CI=true, a module that would skip itself is an error, beside whatever passes."""
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(f"import pytest\n{source}", test_other="def test_one(): pass")
    result = pytester.runpytest_inprocess()
    assert result.ret != pytest.ExitCode.OK
    result.assert_outcomes(errors=1)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_missing_capability_skips_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """A transport without a capability is not a missing part; an expected failure is no skip."""
    monkeypatch.setenv("CI", "true")
    pytester.makepyfile(
        """
        import pytest

        def test_one():
            pytest.skip("capability: STDERR")

        @pytest.mark.xfail(run=False, reason="known")
        def test_two():
            pass

        def test_three():
            pass
        """
    )
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(skipped=1, xfailed=1, passed=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "wait",
    [
        "anyio.run(anyio.sleep, 3600)",
        "anyio.run(anyio.sleep, 3600, backend_options={'use_uvloop': True})",
        "anyio.run(anyio.sleep, 3600, backend='trio')",
    ],
    ids=["asyncio", "asyncio+uvloop", "trio"],
)
def test_a_test_that_hangs_fails_alone(pytester: pytest.Pytester, wait: str) -> None:
    """A hang is one failure, stderr says where it was, and the tests behind it still run."""
    pytester.makepyfile(
        f"""
        import anyio
        import pytest

        @pytest.mark.timeout(0.5)
        def test_that_hangs():
            {wait}

        @pytest.mark.parametrize("n", range(3))
        def test_other(n):
            pass
        """
    )
    result = pytester.runpytest_subprocess("-n", "1")
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines(["FAILED *::test_that_hangs*"])
    result.stderr.fnmatch_lines(["Timeout (*", "*, line 6 in test_that_hangs"])


def test_a_serial_test_has_the_machine_to_itself(pytester: pytest.Pytester) -> None:
    """Under xdist, no other test overlaps one that is marked ``serial``; others do overlap."""
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.fixture(autouse=True)
        def log(request):
            kind = "serial" if request.node.get_closest_marker("serial") else "other"
            begin = time.monotonic()
            yield
            with open("spans", "a") as spans:
                print(kind, begin, time.monotonic(), file=spans)

        @pytest.mark.parametrize("n", range(12))
        def test_other(n):
            time.sleep(0.05)

        @pytest.mark.serial
        @pytest.mark.parametrize("n", range(4))
        def test_serial(n):
            time.sleep(0.05)
        """
    )
    result = pytester.runpytest_subprocess("-n", "3", "--dist", "worksteal")
    result.assert_outcomes(passed=16)
    spans = [
        (kind, float(begin), float(end))
        for kind, begin, end in re.findall(
            r"(\w+) (\S+) (\S+)\n", (pytester.path / "spans").read_text()
        )
    ]
    assert len(spans) == 16
    overlaps = [
        {one[0], other[0]}
        for i, one in enumerate(spans)
        for other in spans[:i]
        if one[1] < other[2] and other[1] < one[2]
    ]
    assert {"other"} in overlaps
    assert all(kinds == {"other"} for kinds in overlaps)


def test_async_tests_run_on_both_loops(pytester: pytest.Pytester) -> None:
    """An async test runs on asyncio and trio, one marked ``uvloop`` on that too; ids name them."""
    pytester.makeini("[pytest]\nmarkers = uvloop\n")
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        import asyncio
        import pytest
        import sniffio

        pytestmark = pytest.mark.anyio

        def loop():
            if sniffio.current_async_library() == "trio":
                return "trio"
            module = type(asyncio.get_running_loop()).__module__
            return "asyncio+uvloop" if module.startswith("uvloop") else "asyncio"

        async def test_two(request):
            assert request.node.callspec.id == loop()

        @pytest.mark.uvloop
        async def test_three(request):
            assert request.node.callspec.id == loop()

        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_one(request):
            assert request.node.callspec.id == loop()
        """
    )
    result = pytester.runpytest_inprocess("-v")
    result.assert_outcomes(passed=6)
    ran = {line.split()[0].partition("::")[2] for line in result.outlines if "PASSED" in line}
    assert ran == {
        "test_two[asyncio]",
        "test_two[trio]",
        "test_three[asyncio]",
        "test_three[asyncio+uvloop]",
        "test_three[trio]",
        "test_one[trio]",
    }
