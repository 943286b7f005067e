"""The supervisor's parts, by themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfp_worker import artifacts, protocol, wire
from sfp_worker.logs import Lines, pieces
from sfp_worker.place import clean_relative
from sfp_worker.progress import parse
from sfp_worker.redact import Redactor


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"50 half", (50, "half")),
        (b"0", (0, "")),
        (b"  7   a  b ", (7, "a b")),
        (b"150 over", (100, "over")),
        (b"-3 under", (0, "under")),
        (b"50% done", (50, "done")),
        (b"half way", None),
        (b"", None),
        (b"5.5 x", None),
        (b"99999999999999999999 x", None),
        ("١ x".encode(), None),
    ],
)
def test_progress_lines(line, found):
    assert parse(line) == found


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("*.txt", ["a.txt", ".txt"], ["d/a.txt", "a.txtx"]),
        ("**/*.txt", ["a.txt", "d/e/a.txt"], ["a.md"]),
        ("out/**", ["out/a", "out/b/c"], ["out", "outer/a"]),
        ("out/", ["out"], ["out/a"]),
        ("./a?c", ["abc"], ["a/c", "ac"]),
        ("[ab].x", ["a.x"], ["c.x"]),
        ("[!ab].x", ["c.x"], ["a.x", "/.x"]),
        ("a+b(1).x", ["a+b(1).x"], ["aab1.x"]),
        ("[", ["["], ["a"]),
    ],
)
def test_globs(glob, matching, other):
    wanted = artifacts.pattern([glob])
    assert [name for name in matching + other if wanted.fullmatch(name)] == matching


def test_no_globs_match_nothing():
    assert not artifacts.pattern([]).fullmatch("")


@given(st.text(max_size=100), st.integers(8, 20))
def test_pieces_keep_every_byte_and_cut_no_character(text, limit):
    parts = pieces(text.encode("utf-8", "replace"), limit)
    assert b"".join(parts) == text.encode("utf-8", "replace")
    assert all(len(part) <= limit for part in parts)
    assert "".join(part.decode() for part in parts) == text.encode("utf-8", "replace").decode()


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_lines_do_not_depend_on_how_output_is_cut(parts):
    def lines(chunks):
        cutter = Lines(Redactor([]).stream())
        return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.finish()

    assert lines(parts) == lines([b"".join(parts)])


@pytest.mark.parametrize("path", ["", ".", "/a", "../a", "a/../b", "a\0b", "/"])
def test_paths_that_are_not_relative_and_clean(path):
    with pytest.raises(ValueError):
        clean_relative(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(blacklist_categories=("Cs",))), inner),
    max_leaves=20,
)


@given(JSON, st.data())
def test_frames_arrive_however_they_are_cut(value, data):
    stream = protocol.encode({"t": "x", "value": value}) + protocol.encode_chunk(b"abc")
    cut = data.draw(st.integers(0, len(stream)))
    reader = protocol.FrameReader()
    frames = [*reader.feed(stream[:cut]), *reader.feed(stream[cut:])]
    assert frames == [{"t": "x", "value": value}, b"abc"]


@pytest.mark.parametrize(
    "data",
    [
        protocol.HEADER.pack(protocol.MAX_FRAME + 1, 0),
        protocol.HEADER.pack(1, 9) + b"x",
        protocol.HEADER.pack(2, 0) + b"[]",
        protocol.HEADER.pack(2, 0) + b"{}",
        protocol.HEADER.pack(2, 0) + b"{x",
        protocol.HEADER.pack(2, 0) + b"\xff\xff",
        protocol.HEADER.pack(100_000, 0) + b"[" * 100_000,
    ],
)
def test_what_is_not_a_frame_is_refused(data):
    with pytest.raises(protocol.ProtocolError):
        list(protocol.FrameReader().feed(data))


@pytest.mark.parametrize("text", ["", "{", "1 2", "NaN", "[1,]", "Infinity"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError):
        wire.loads(text)
