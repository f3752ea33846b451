"""Target URIs: what stands where, and what is refused with a word on why."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from holdfast import InvalidTarget, Target

TABLE: dict[str, tuple[str, str | None, str | None, int | None, str, dict[str, str]]] = {
    "local:": ("local", None, None, None, "", {}),
    "LOCAL:": ("local", None, None, None, "", {}),
    "local:/bin": ("local", None, None, None, "/bin", {}),
    "local:?a=1&b=&c": ("local", None, None, None, "", {"a": "1", "b": "", "c": ""}),
    "ssh://build7": ("ssh", None, "build7", None, "", {}),
    "ssh://me@build7:2222/srv": ("ssh", "me", "build7", 2222, "/srv", {}),
    "ssh://me@[::1]:22": ("ssh", "me", "::1", 22, "", {}),
    "ssh://[fe80::1%25eth0]": ("ssh", None, "fe80::1%25eth0", None, "", {}),
    "ssh://a%40b@host": ("ssh", "a@b", "host", None, "", {}),
    "ssh://@host": ("ssh", "", "host", None, "", {}),
    "ssh://": ("ssh", None, None, None, "", {}),
    "tcp://127.0.0.1:1": ("tcp", None, "127.0.0.1", 1, "", {}),
    "tcp://h:65535": ("tcp", None, "h", 65535, "", {}),
    "docker://registry.example:5000/name:tag": (
        "docker", None, "registry.example", 5000, "/name:tag", {},
    ),
    "docker://python:3.12-slim": ("docker", None, "python:3.12-slim", None, "", {}),
    "docker://a@sha256:0a": ("docker", "a", "sha256:0a", None, "", {}),
    "docker+exec://web-1?user=me": ("docker+exec", None, "web-1", None, "", {"user": "me"}),
    "x:a%20b?k%3D=%26+1": ("x", None, None, None, "a b", {"k=": "&+1"}),
    "x://h?url=a?b=c": ("x", None, "h", None, "", {"url": "a?b=c"}),
    "x://h#f": ("x", None, "h#f", None, "", {}),
}  # fmt: skip


@pytest.mark.parametrize("text", TABLE)
def test_target(text: str) -> None:
    """Each part of a target stands in its own field, and the text as it was written."""
    scheme, user, host, port, path, options = TABLE[text]
    target = Target.parse(text)
    assert target == Target(scheme, user, host, port, path, options, text)


@pytest.mark.parametrize(
    ("text", "opaque"),
    [
        ("docker://registry.example:5000/name:tag?pull=never", "registry.example:5000/name:tag"),
        ("docker://name@sha256:0a1b", "name@sha256:0a1b"),
        ("docker+exec://web-1", "web-1"),
        ("local:", ""),
        ("x:a:b", "a:b"),
    ],
)
def test_an_image_stands_as_it_was_written(text: str, opaque: str) -> None:
    """For containers, everything between ``//`` and ``?`` is one name."""
    assert Target.parse(text).opaque == opaque


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a target"),
        ("build7", "such as local: or ssh://host"),
        (":x", "not a target"),
        ("//host", "not a target"),
        ("1x:", "not a target"),
        ("a b:", "not a target"),
        ("ssh://h:0", "ports are 1 to 65535"),
        ("ssh://h:65536", "ports are 1 to 65535"),
        ("local:?a=1&a=2", "option 'a' is given twice"),
        ("local:?a&%61", "option 'a' is given twice"),
        ("ssh://h\n", "control characters"),
        ("ssh://h?a=\x7f", "control characters"),
        ("ssh://h\0", "control characters"),
    ],
)
def test_what_is_no_target_says_why(text: str, why: str) -> None:
    """A text that cannot be read is refused with the reason."""
    with pytest.raises(InvalidTarget) as caught:
        Target.parse(text)
    assert why in str(caught.value)
    assert isinstance(caught.value, ValueError)


@given(st.text(max_size=30) | st.text("local:/@[]?&=%:0123456789", max_size=30).map("x:".__add__))
def test_any_text_is_a_target_or_an_error(text: str) -> None:
    """Whatever is written, it is read or refused, and never fails otherwise."""
    try:
        target = Target.parse(text)
    except InvalidTarget:
        return
    assert target.text == text
    assert target.scheme == text.partition(":")[0].lower()
