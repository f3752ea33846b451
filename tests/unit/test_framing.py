"""Bytes to messages: nothing is lost, whatever the pieces, and memory is bounded."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from holdfast import ContentLength, Framing, Lines
from holdfast._framing import ContentLengthFramer, Cut, Frame, Framer, LineFramer, TooLong, Unframed

BIG = 10**9
KIB, MIB, GIB = 2**10, 2**20, 2**30


def frames(framer: Framer, pieces: Iterable[bytes]) -> list[Frame]:
    """All frames of a stream that comes in these pieces and then ends."""
    result = [frame for piece in pieces for frame in framer.feed(piece)]
    return result + framer.finish()


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(edges)]


def content(frame: Frame) -> bytes:
    assert not isinstance(frame, TooLong)
    return frame if isinstance(frame, bytes) else frame.data


def header(length: int | str, *, name: str = "Content-Length", end: str = "\r\n") -> bytes:
    return f"{name}: {length}{end}{end}".encode()


text = st.binary(max_size=40) | st.text('ab\r\n{}":', max_size=40).map(str.encode)
cuts = st.lists(st.integers(0, 10_000), max_size=8)
lsp_parts = st.one_of(
    st.binary(max_size=30).map(ContentLength().encode),
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"\n",
            b"\r\n",
            b"noise\n",
            b"Content-Length: 3\r\n",
            b"Content-Type: x\r\n",
            header(0),
            header(7, name="content-LENGTH", end="\n"),
            header("99999999999999999999"),
            b"x" * 8192,
            b"Key: " + b"v" * 8160 + b"\n",
        ]
    ),
)
lsp_streams = st.lists(lsp_parts, max_size=8).map(b"".join)


# -- both -------------------------------------------------------------------------------------


@given(text, cuts, st.integers(1, 20))
def test_lines_do_not_depend_on_the_pieces(stream: bytes, cuts: list[int], max_size: int) -> None:
    """Any split of a stream gives the frames of the whole."""
    whole = frames(LineFramer(max_size), [stream])
    assert frames(LineFramer(max_size), split(stream, cuts)) == whole
    assert frames(LineFramer(max_size), split(stream, range(len(stream)))) == whole


@given(lsp_streams, cuts, st.integers(1, 20) | st.just(BIG))
def test_content_length_frames_do_not_depend_on_the_pieces(
    stream: bytes, cuts: list[int], max_size: int
) -> None:
    """Any split of a stream gives the frames of the whole."""
    whole = frames(ContentLengthFramer(max_size), [stream])
    assert frames(ContentLengthFramer(max_size), split(stream, cuts)) == whole
    if len(stream) < 1000:
        assert frames(ContentLengthFramer(max_size), split(stream, range(len(stream)))) == whole


@pytest.mark.parametrize("framing", [Lines(), ContentLength()], ids=["lines", "content-length"])
@given(
    st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=8), cuts
)
def test_what_was_encoded_comes_back(framing: Framing, sent: list[bytes], cuts: list[int]) -> None:
    """A framing reads what it writes, byte for byte."""
    stream = b"".join(map(framing.encode, sent))
    assert frames(framing.framer(BIG), split(stream, cuts)) == sent


@pytest.mark.parametrize(
    ("framing", "stream"),
    [
        (Lines(), b"cut"),
        (ContentLength(), header(9) + b"cut"),
        (ContentLength(), header(9)),
        (ContentLength(), b"Content-Length: 9\r\n"),
        (ContentLength(), b"Content-Le"),
    ],
    ids=["line", "body", "no body", "header", "field"],
)
def test_a_stream_ends_once(framing: Framing, stream: bytes) -> None:
    """What stood at the end without its own end is given once, however often one asks."""
    framer = framing.framer(BIG)
    assert framer.feed(stream) == []
    (cut,) = framer.finish()
    assert isinstance(cut, Cut)
    assert framer.finish() == []


@pytest.mark.parametrize("framing", [Lines(), ContentLength()], ids=["lines", "content-length"])
def test_the_end_of_a_whole_stream_gives_nothing(framing: Framing) -> None:
    """After the last message, and in an empty stream, nothing is cut."""
    assert framing.framer(BIG).finish() == []
    framer = framing.framer(BIG)
    assert framer.feed(framing.encode(b"x")) == [b"x"]
    assert framer.finish() == []


@pytest.mark.parametrize("framing", [Lines(), ContentLength()], ids=["lines", "content-length"])
def test_the_limit_is_exact(framing: Framing) -> None:
    """A message of ``max_size`` bytes is kept, one byte more is dropped, in one piece or many."""
    for pieces in (1, 3):
        for size in (9, 10, 11, 12):
            message = b"abcdefghijklmnop"[:size]
            framer = framing.framer(10)
            stream = framing.encode(message) + framing.encode(b"next")
            got = frames(framer, split(stream, [len(stream) * i // pieces for i in range(pieces)]))
            assert got == [message if size <= 10 else TooLong(size, message), b"next"]


@pytest.mark.parametrize(
    ("framing", "begin", "end"),
    [(Lines(), b"", b"\n"), (ContentLength(), header(GIB), b"")],
    ids=["lines", "content-length"],
)
def test_a_message_of_a_gibibyte_takes_bounded_memory(
    framing: Framing, begin: bytes, end: bytes
) -> None:
    """What is too long is counted and dropped while it comes, and the stream goes on."""
    chunk = bytearray(b"x" * MIB)
    framer = framing.framer(4 * MIB)
    tracemalloc.start()
    try:
        got = framer.feed(begin)
        for _ in range(GIB // MIB):
            got += framer.feed(bytes(chunk))
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    got += framer.feed(end + framing.encode(b"next"))
    assert got == [TooLong(GIB, b"x" * KIB, b"x" * KIB), b"next"]


# -- lines ------------------------------------------------------------------------------------


@given(text, cuts)
def test_lines_reassemble_byte_for_byte(stream: bytes, cuts: list[int]) -> None:
    """Frames with their newlines are the stream."""
    got = frames(LineFramer(BIG), split(stream, cuts))
    assert b"".join(content(f) + b"\n" * isinstance(f, bytes) for f in got) == stream


def test_lines_are_what_stands_between_newlines() -> None:
    """Empty lines count, a carriage return belongs to its line, other bytes end none."""
    stream = b"a\r\n\n\r\n\x0b\x0c\x85\xe2\x80\xa8\n\xff\xfe\x00\nlast"
    assert frames(LineFramer(BIG), [stream]) == [
        b"a\r",
        b"",
        b"\r",
        b"\x0b\x0c\x85\xe2\x80\xa8",
        b"\xff\xfe\x00",
        Cut(b"last"),
    ]


def test_a_line_above_the_limit_at_the_end_of_the_stream() -> None:
    """A line that is too long and cut is reported as too long."""
    assert frames(LineFramer(3), [b"ok\nabcdef"]) == [b"ok", TooLong(6, b"abcdef")]


def test_the_head_of_a_line_that_is_too_long_is_short() -> None:
    """Of a dropped line the first 1024 bytes are kept, in one piece or many."""
    line = bytes(range(97, 123)) * 100
    for step in (1, 7, 1023, 1024, 1025, 5000):
        pieces = [line[i : i + step] for i in range(0, len(line), step)]
        assert frames(LineFramer(10), [*pieces, b"\n"]) == [
            TooLong(2600, line[:1024], line[-1024:])
        ]


# -- Content-Length ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        b"Content-Length: 2\r\n\r\n",
        b"content-length: 2\r\n\r\n",
        b"CONTENT-LENGTH:2\r\n\r\n",
        b"Content-Length: \t2 \r\n\r\n",
        b"Content-Length: 2\n\n",
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: 2\r\n\r\n",
        b"Content-Length: 2\r\nContent-Type: x\r\n\r\n",
        b"Content-Length: 002\r\n\r\n",
    ],
)
def test_headers_are_read_as_the_protocol_allows(block: bytes) -> None:
    """Case, spaces, order and bare newlines do not matter."""
    assert frames(ContentLengthFramer(BIG), [block + b"{}" + header(1) + b"x"]) == [b"{}", b"x"]


def test_a_body_may_hold_anything() -> None:
    """A body that looks like a header, or like lines, is a body."""
    for body in (b"\r\n\r\n", header(5), b"a\nb\n", b"\xff\x00"):
        stream = ContentLength().encode(body) * 2
        assert frames(ContentLengthFramer(BIG), [stream]) == [body, body]


def test_an_empty_body_is_a_message() -> None:
    """A length of zero gives an empty message at once, and the next one is found."""
    framer = ContentLengthFramer(BIG)
    assert framer.feed(header(0)) == [b""]
    assert framer.feed(header(0) + header(1) + b"x") == [b"", b"x"]


@pytest.mark.parametrize(
    ("junk", "lines"),
    [
        (b"Traceback (most recent call last)\n", [b"Traceback (most recent call last)"]),
        (b"\n", [b""]),
        (b"one\r\ntwo\n", [b"one\r", b"two"]),
        (b"Content-Type: x\r\n\r\n", [b"Content-Type: x\r", b"\r"]),
        (b"Content-Length: 2\r\nbang\n", [b"Content-Length: 2\r", b"bang"]),
        (b"Content-Length: two\r\n\r\n", [b"Content-Length: two\r", b"\r"]),
        (b"Content-Length: -1\r\n\r\n", [b"Content-Length: -1\r", b"\r"]),
        (
            b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
            [b"Content-Length: " + b"9" * 19 + b"\r", b"\r"],
        ),
        (b"\xff\xfe\n", [b"\xff\xfe"]),
    ],
)
def test_after_junk_the_next_header_is_found(junk: bytes, lines: list[bytes]) -> None:
    """Bytes that are no header are handed on line by line, and the next message is whole."""
    got = frames(ContentLengthFramer(BIG), [junk + header(2) + b"{}"])
    assert got == [*(Unframed(line) for line in lines), b"{}"]


@given(st.binary(max_size=60), cuts)
def test_no_byte_of_junk_is_lost(junk: bytes, cuts: list[int]) -> None:
    """What never was a header comes out whole."""
    junk = junk.replace(b":", b";")
    got = frames(ContentLengthFramer(BIG), split(junk, cuts))
    assert b"".join(content(f) + b"\n" * isinstance(f, Unframed) for f in got) == junk


@pytest.mark.parametrize("junk", [b"x", b"Key: ", b"Content-Length: 5\r\nKey: "])
def test_a_header_without_an_end_takes_bounded_memory(junk: bytes) -> None:
    """A "header" that never ends is handed on, in pieces, and not kept."""
    framer = ContentLengthFramer(BIG)
    chunk = b"x" * 65536
    given_back = 0
    tracemalloc.start()
    try:
        framer.feed(junk)
        for _ in range(256):
            given_back += sum(len(content(frame)) for frame in framer.feed(chunk))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert given_back > 255 * 65536
    assert peak < MIB


def test_fields_beyond_the_longest_header_are_none() -> None:
    """A block above 8 KiB, its blank line included, is no header, wherever its lines end."""
    for extra in (-2, -1, 0, 1):
        start = b"Content-Length: 3\r\n"
        block = start + b"Key: " + b"v" * (8192 - len(start) - 7 + extra) + b"\r\n"
        assert len(block) == 8192 + extra
        got = frames(ContentLengthFramer(BIG), [block + b"\r\n" + b"abc\n" + header(2) + b"{}"])
        if extra == -2:
            assert got[0] == b"abc"
        else:
            assert got[0] == Unframed(start.removesuffix(b"\n"))
            assert b"abc" not in got
        assert got[-1] == b"{}"


def test_the_last_length_of_a_block_counts() -> None:
    """Where a block names two lengths, the last is taken."""
    block = b"Content-Length: 9\r\nContent-Length: 2\r\n\r\n"
    assert frames(ContentLengthFramer(BIG), [block + b"{}"]) == [b"{}"]


def test_a_body_that_is_too_long_is_dropped_and_the_next_one_found() -> None:
    """A body above the limit is counted and reported, and the stream stays in step."""
    stream = header(20) + b"y" * 20 + header(2) + b"{}"
    assert frames(ContentLengthFramer(10), [stream]) == [TooLong(20, b"y" * 20), b"{}"]


def test_a_giant_length_is_only_counted() -> None:
    """A length of which the body never comes allocates nothing, and says how much came."""
    framer = ContentLengthFramer(10)
    tracemalloc.start()
    try:
        assert framer.feed(header(10**18 - 1) + b"z" * 5000) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert framer.finish() == [TooLong(5000, b"z" * 1024, b"z" * 1024)]
    assert peak < 64 * KIB


def test_a_body_that_is_cut() -> None:
    """A body whose end never comes is given as cut."""
    assert frames(ContentLengthFramer(BIG), [header(9) + b'{"a"']) == [Cut(b'{"a"')]


def test_one_byte_of_a_time_takes_linear_time() -> None:
    """Each byte of a header and body is looked at a bounded number of times."""
    stream = ContentLength().encode(b"x" * 100_000)
    framer = ContentLengthFramer(BIG)
    got: list[Frame] = []
    for i in range(len(stream)):
        got += framer.feed(stream[i : i + 1])
    assert got == [b"x" * 100_000]
