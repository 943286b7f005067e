"""No value leaks, whatever way it is written and wherever the stream is cut."""

import base64
import html
import json
import shlex
import time
import urllib.parse
from xml.sax import saxutils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfp_worker.redact import Redactor

VALUES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=6, max_size=40).filter(
    lambda value: len(value.strip().encode()) >= 6 and "*" not in value
)


def forms(value):
    raw = value.encode()
    return [
        raw,
        base64.b64encode(raw),
        base64.urlsafe_b64encode(raw),
        urllib.parse.quote(value, safe="").encode(),
        urllib.parse.quote(value).encode(),
        urllib.parse.quote_plus(value).encode(),
        json.dumps(value)[1:-1].encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        base64.b64encode(raw).rstrip(b"="),
        json.dumps(value)[1:-1].replace("/", "\\/").encode(),
        html.escape(value).encode(),
        html.escape(value, quote=False).encode(),
        saxutils.quoteattr(value)[1:-1].encode() if not set(value) & set("\n\r\t\"'") else raw,
        shlex.quote(value).strip("'").encode() if not value.startswith("'") and not value.endswith("'") else raw,
        value.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()
        if value.isprintable() and value.isascii() and not set(value) & set("'+=/\\\"")
        else raw,
    ]


def redact(redactor, parts):
    stream = redactor.stream()
    return b"".join(stream.feed(part) for part in parts) + stream.finish()


@given(VALUES, st.data())
def test_no_form_of_a_value_is_shown_wherever_it_is_cut(value, data):
    redactor = Redactor([value])
    for form in forms(value):
        text = b"before " + form + b" after"
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        shown = redact(redactor, parts)
        assert form not in shown
        assert b"***" in shown
        assert shown.startswith(b"before ")
        assert shown.endswith(b" after")


@given(VALUES, st.binary(max_size=5), st.binary(max_size=5))
def test_a_value_inside_longer_base64_is_not_shown(value, before, after):
    raw = value.encode()
    text = base64.b64encode(before + raw + after)
    assert b"***" in redact(Redactor([value]), [text])


@given(VALUES)
def test_cutting_makes_no_difference(value):
    redactor = Redactor([value])
    text = f"x{value}y{value[:-1]}z{value}{value}".encode()
    assert redact(redactor, [text]) == redact(redactor, [bytes((byte,)) for byte in text])


@given(st.binary(max_size=200))
def test_without_values_nothing_changes(data):
    assert redact(Redactor([]), [data]) == data


def test_a_longer_value_that_starts_with_a_shorter_one_leaves_no_rest():
    redactor = Redactor(["abcd", "abcdefgh"])
    assert redact(redactor, [b"abcd", b"efgh!"]) == b"***!"


def test_overlapping_values_leave_no_rest():
    redactor = Redactor(["onetwo", "twothree"])
    for cut in range(12):
        text = b"-onetwothree-"
        assert redact(redactor, [text[:cut], text[cut:]]) == b"-***-"


def test_only_what_may_become_a_value_is_held_back():
    stream = Redactor(["secret"]).stream()
    assert stream.feed(b"hello sec") == b"hello "
    assert stream.feed(b"ond") == b"second"


def test_a_value_of_several_lines_is_hidden_line_by_line():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----\n"
    shown = Redactor([key]).text("first MIIEvQIBADANBg then kqhkiG9w0BAQEF")
    assert shown == "first *** then ***"


def test_wrapped_base64_of_a_long_value_is_hidden():
    value = "v" + "0123456789" * 20
    shown = Redactor([value]).text(base64.encodebytes(value.encode()).decode())
    assert "***" in shown
    assert all(len(line) < 12 for line in shown.splitlines())


@pytest.mark.parametrize("value", ["", "a", "ab", "  "])
def test_what_is_too_short_is_not_searched(value):
    assert Redactor([value]).text("a b ab  ") == "a b ab  "


def test_json_is_redacted_in_keys_strings_and_numbers():
    redacted = Redactor(["1234567", "secret"]).value({"secret": ["a secret", 1234567, True, None, 1.5]})
    assert redacted == {"***": ["a ***", "***", True, None, 1.5]}


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe", b"\x80" * 70, "\u202e".encode()])
def test_binary_garbage_around_a_value_hides_nothing_of_it(garbage):
    assert redact(Redactor(["hunter22"]), [garbage + b"hunter22" + garbage]) == garbage + b"***" + garbage


@pytest.mark.parametrize(
    ("value", "output"),
    [
        ("s3cretvalue", b"s3cretvalue" * 200_000),
        ("s3cretvalue", b"s3cretvalu" * 200_000),
        ("a" * 4096, b"a" * 2_000_000),
        ("x" + "a" * 4096, b"a" * 2_000_000),
        ("s3cretvalue", bytes(range(256)) * 8_000),
    ],
    ids=["only values", "nearly values", "one sign", "a long end", "noise"],
)
def test_a_long_line_costs_a_time_that_grows_with_its_length_only(value, output):
    """Measured: twice as long may take three times as long, in pieces as a pipe gives them."""

    def seconds(data):
        stream = Redactor([value]).stream()
        began = time.process_time()
        for at in range(0, len(data), 65_536):
            stream.feed(data[at : at + 65_536])
        stream.finish()
        return time.process_time() - began

    half, whole = seconds(output[: len(output) // 2]), seconds(output)
    assert whole < 3 * half + 0.3
