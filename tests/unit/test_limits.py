"""Limits: bounds that make sense, or an error that names the one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast import Command, Limits


def test_the_defaults() -> None:
    """The bounds of the design, and graces that are all bounded."""
    limits = Limits()
    assert (limits.max_line, limits.retained_bytes) == (64 * 2**20, 64 * 2**20)
    assert (limits.stderr_tail, limits.send_timeout) == (64 * 2**10, None)
    graces = ("eof_grace", "term_grace", "kill_grace", "settle", "exit_grace")
    assert all(0 < getattr(limits, name) <= 10 for name in graces)


@pytest.mark.parametrize("name", Limits.__struct_fields__)
@pytest.mark.parametrize("value", [-1, float("nan"), "1", True, None])
def test_a_bound_that_is_none(name: str, value: Any) -> None:
    """A bound that cannot be used is refused by its name."""
    if name == "send_timeout" and value is None:
        assert Limits(send_timeout=None).send_timeout is None
        return
    with pytest.raises((TypeError, ValueError), match=f"Limits.{name}"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", ["max_line", "retained_bytes"])
def test_a_size_of_nothing(name: str) -> None:
    """A session that keeps no line at all is none."""
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
    Limits(stderr_tail=0, eof_grace=0, send_timeout=0)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"argv": "cat"}, TypeError),
        ({"argv": ["cat"]}, TypeError),
        ({"argv": ()}, ValueError),
        ({"argv": ("cat", 1)}, TypeError),
        ({"argv": ("cat", b"x")}, TypeError),
        ({"argv": ("c\0at",)}, ValueError),
        ({"argv": ("cat",), "cwd": "a\0b"}, ValueError),
        ({"argv": ("cat",), "env": {"A": 1}}, TypeError),
        ({"argv": ("cat",), "env": {"A=B": ""}}, ValueError),
        ({"argv": ("cat",), "env": {"": "x"}}, ValueError),
        ({"argv": ("cat",), "env": {"A": "\0"}}, ValueError),
    ],
)
def test_a_command_that_is_none(arguments: dict[str, Any], error: type[Exception]) -> None:
    """What no program could be started with is refused before anything is started."""
    with pytest.raises(error):
        Command(**arguments)


def test_a_command_may_hold_anything_else() -> None:
    """Empty arguments, spaces and any Unicode are arguments."""
    command = Command(("x", "", " ", "é\n"), env={"A": ""})
    assert command == Command(("x", "", " ", "é\n"), None, {"A": ""}, True)
