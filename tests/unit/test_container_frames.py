"""Streams are taken apart as they were put together, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from holdfast_transports.container._frames import STDERR, STDOUT, Demultiplexer, NotFramed

FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=300)))


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def joined(pieces: list[tuple[int, bytes]], stream: int) -> bytes:
    return b"".join(payload for which, payload in pieces if which == stream)


@given(FRAMES, st.lists(st.integers(1, 400)))
def test_every_cut_gives_the_same(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Both streams arrive whole and in order, wherever the reads cut the frames."""
    data = b"".join(frame(*each) for each in frames)
    whole = data
    apart, found = Demultiplexer(), []
    while data:
        size = cuts.pop() if cuts else 7
        found += apart.feed(data[:size])
        data = data[size:]
    assert not apart.cut
    assert all(payload for _, payload in found)
    for stream in (STDOUT, STDERR):
        assert joined(found, stream) == joined(frames, stream)
    if len(whole) > 0:
        rest = Demultiplexer()
        rest.feed(whole[:-1])
        assert rest.cut


@given(FRAMES)
def test_the_order_between_the_streams_stays(frames: list[tuple[int, bytes]]) -> None:
    """In one read, payloads come in the order of their frames."""
    data = b"".join(frame(*each) for each in frames)
    assert Demultiplexer().feed(data) == [each for each in frames if each[1]]


def test_the_middle_of_a_large_frame_is_not_copied() -> None:
    """What is payload from end to end is handed on as it is."""
    apart = Demultiplexer()
    apart.feed(frame(STDOUT, bytes(1000))[:8])
    middle = bytes(500)
    ((stream, payload),) = apart.feed(middle)
    assert stream == STDOUT
    assert payload is middle


@pytest.mark.parametrize(
    "text", [b"OCI runtime exec failed: exec: sh: not found", b"\x01\x00\x00\x01....", b"\x07" * 8]
)
def test_what_is_no_frame_is_refused(text: bytes) -> None:
    """Plain text in the place of a frame is told as what it says."""
    with pytest.raises(NotFramed) as caught:
        Demultiplexer().feed(text)
    assert caught.value.args[0] == text.decode().strip()
