r"""Replaces credential values in a byte stream, whatever way they are written and wherever it is cut.

Every value is searched raw, as base64 (standard and URL-safe, at each of the three alignments; by itself
also wrapped), URL-escaped, JSON-escaped, as XML or HTML, quoted for a shell and in hex; values of several
lines also line by line. Values below `SHORTEST` bytes are not searched: they would hide half of the
output; the vault takes none of them. Not found: what a program encodes in any other way, or twice.

    redactor = Redactor(["s3cret"])
    stream = redactor.stream()
    stream.feed(b"token=s3c") + stream.feed(b"ret!\n") + stream.finish()  # token=***!\n

Between two calls only bytes that may still become a value are held back.
"""

from __future__ import annotations

from binascii import b2a_base64

from sfp_worker import wire

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

MASK = b"***"
#: bytes of the shortest value that is searched
SHORTEST = 3
#: bytes of the shortest line of a longer value, and of the shortest encoded form
SHORTEST_LINE = 8
SHORTEST_ENCODED = 4
_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"


def _base64_forms(value: bytes) -> Iterator[bytes]:
    """What `value` looks like inside longer base64, at each alignment, and by itself, also wrapped."""
    for encode in (_standard, _urlsafe):
        whole = encode(value).rstrip(b"=")
        yield whole
        for width in (76, 64):
            yield from (whole[at : at + width] for at in range(0, len(whole), width) if len(whole) > width)
        for pad, dropped in ((0, 0), (1, 2), (2, 3)):
            text = encode(b"\0" * pad + value).rstrip(b"=")
            # The first and the last character also carry bits of the neighbours.
            mixed = 1 if (pad + len(value)) % 3 else 0
            yield text[dropped : len(text) - mixed]


def _standard(data: bytes) -> bytes:
    return b2a_base64(data, newline=False)


def _urlsafe(data: bytes) -> bytes:
    return _standard(data).translate(bytes.maketrans(b"+/", b"-_"))


def _escaped_forms(value: bytes) -> Iterator[bytes]:
    # What different programs leave as it is: strict, paths, encodeURIComponent, encodeURI.
    for safe in (b"", b"/", b"!*'()", b"!*'()/;,:@&=+$#?"):
        quoted = _quoted(value, safe)
        yield quoted
        yield quoted.replace(b"%20", b"+")
    text = value.decode("utf-8", "replace")
    for escape in (wire.escape, wire.escape_ascii):
        escaped = escape(text)[1:-1].encode("utf-8", "replace")
        yield escaped
        yield escaped.replace(b"/", b"\\/")
        # Encoders that fear HTML, or that write every sign as a number, in either case.
        for sign in "<>&'+=/":
            escaped = escaped.replace(sign.encode(), b"\\u%04x" % ord(sign))
        yield escaped
        yield escaped.replace(b"\\u003c", b"\\u003C").replace(b"\\u003e", b"\\u003E").replace(b"\\u002b", b"\\u002B")
    yield from _marked_up(value)
    yield value.replace(b"'", b"'\\''")
    yield value.replace(b"'", b"'\"'\"'")
    yield _before_each(value, b'\\"$`')
    yield _before_each(value, bytes(set(range(33, 127)) - set(_UNRESERVED) - set(b"/:@%+=,")) + b" ")
    yield value.hex().encode()
    yield value.hex().upper().encode()


def _marked_up(value: bytes) -> Iterator[bytes]:
    """As text of XML and HTML, and as their attributes, in the ways that programs write them."""
    text = value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")
    yield text
    for double in (b"&quot;", b"&#34;", b"&#x22;"):
        yield text.replace(b'"', double)
        for single in (b"&#39;", b"&#x27;", b"&apos;", b"&#039;"):
            yield text.replace(b'"', double).replace(b"'", single)


def _before_each(value: bytes, signs: bytes) -> bytes:
    """With a backslash before each of `signs`, as shells write them."""
    return b"".join(b"\\%c" % byte if byte in signs else b"%c" % byte for byte in value)


def _quoted(value: bytes, safe: bytes) -> bytes:
    keep = _UNRESERVED + safe
    return b"".join(bytes((byte,)) if byte in keep else b"%%%02X" % byte for byte in value)


def _lower_escapes(form: bytes) -> bytes:
    """`%2F` as `%2f`, which some programs write."""
    parts = form.split(b"%")
    return b"%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def patterns(values: Iterable[str]) -> list[bytes]:
    """Every byte sequence to replace for these values, longest first."""
    found: set[bytes] = set()
    for text in values:
        whole = text.encode("utf-8", "surrogateescape")
        for value in {whole, whole.strip()}:
            if len(value) < SHORTEST:
                continue
            found.add(value)
            encoded = [*_base64_forms(value), *_escaped_forms(value)]
            found.update(form for form in encoded if len(form) >= SHORTEST_ENCODED)
            found.update(_lower_escapes(form) for form in encoded if b"%" in form)
            for line in value.splitlines():
                found.update(form for form in (line, line.strip()) if len(form) >= SHORTEST_LINE)
    return sorted(found, key=lambda form: (-len(form), form))


class Redactor:
    """Knows the values; makes streams, which know where they are."""

    def __init__(self, values: Iterable[str]) -> None:
        self._patterns = patterns(values)

    def stream(self) -> RedactedStream:
        return RedactedStream(self._patterns)

    def text(self, text: str) -> str:
        """A whole text, redacted."""
        if not self._patterns:
            return text
        stream = self.stream()
        data = stream.feed(text.encode("utf-8", "surrogateescape")) + stream.finish()
        return data.decode("utf-8", "replace")

    def value(self, value: Any) -> Any:
        """A JSON value with every string in it redacted, keys included; two equal keys: the last wins."""
        if not self._patterns:
            return value
        match value:
            case str():
                return self.text(value)
            case list():
                items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] (JSON)
                return [self.value(item) for item in items]
            case dict():
                entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] (JSON)
                return {self.text(key): self.value(item) for key, item in entries.items()}
            case int() | float() if not isinstance(value, bool):
                text = str(value)
                return value if self.text(text) == text else MASK.decode()
            case _:
                return value


class RedactedStream:
    """One stream of bytes; not to be shared between streams."""

    def __init__(self, forms: list[bytes]) -> None:
        self._patterns = forms
        self._periods: dict[bytes, int] = {}
        self._carry = b""
        #: so many bytes at the start of the carry belong to a value that is already masked
        self._masked = 0

    def _period(self, form: bytes) -> int:
        """By how much `form` must at least be shifted to lie on itself."""
        if form not in self._periods:
            borders = [0]
            for byte in form[1:]:
                length = borders[-1]
                while length and form[length] != byte:
                    length = borders[length - 1]
                borders.append(length + (form[length] == byte))
            self._periods[form] = len(form) - borders[-1]
        return self._periods[form]

    def feed(self, data: bytes) -> bytes:
        """What can be shown after `data`."""
        if not self._patterns:
            return data
        buffer = self._carry + data
        return self._emit(buffer, upto=self._hold_from(buffer))

    def finish(self) -> bytes:
        """What was held back. No value was completed, so none is shown."""
        return self._emit(self._carry, upto=len(self._carry))

    def _hold_from(self, buffer: bytes) -> int:
        """Where the longest end of `buffer` starts that may still grow into a value."""
        hold = len(buffer)
        for form in self._patterns:
            at = max(0, len(buffer) - len(form) + 1)
            while (at := buffer.find(form[:1], at, hold)) >= 0:
                if form.startswith(buffer[at:]):
                    hold = at
                    break
                at += 1
        return hold

    def _emit(self, buffer: bytes, *, upto: int) -> bytes:
        shown: list[bytes] = []
        cursor = self._masked
        for start, end in self._spans(buffer):
            if start >= upto:
                break
            if start >= cursor:
                shown.extend((buffer[cursor:start], MASK))
            cursor = max(cursor, end)
        shown.append(buffer[cursor:upto])
        self._carry = buffer[upto:]
        self._masked = max(0, cursor - upto)
        return b"".join(shown)

    def _spans(self, buffer: bytes) -> list[tuple[int, int]]:
        """Where values are, in order, overlapping and touching ones merged."""
        spans: list[tuple[int, int]] = []
        for form in self._patterns:
            at = buffer.find(form)
            while at >= 0:
                period = self._period(form)
                end = at + len(form)
                if 2 * period <= len(form):
                    # The form again and again, overlapping itself: looked for one by one it would cost the square.
                    run = end
                    while run < len(buffer) and buffer[run] == buffer[run - period]:
                        run += 1
                    end += (run - end) // period * period
                spans.append((at, end))
                at = buffer.find(form, max(at + period, end - len(form) + period))
        spans.sort()
        merged: list[tuple[int, int]] = []
        for start, end in spans:
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged
