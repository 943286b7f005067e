"""Bytes of artifacts over HTTP: streamed in, streamed out, with ranges."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import multipart
from litestar import Response
from litestar.response import Stream

from sfp_server.errors import Malformed, NotFound, RangeNotSatisfiable
from sfp_server.web.wire import ApiRequest

_CHUNK = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(slots=True)
class Upload:
    """A body on its way in: the raw bytes, or the one file of a multipart form. `name` is known once read."""

    request: ApiRequest
    name: str
    content_type: str = "application/octet-stream"

    def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes as they come. Raises Malformed."""
        content_type = self.request.headers.get("content-type", "application/octet-stream")
        kind, _, _ = content_type.partition(";")
        if kind.strip().lower() == "multipart/form-data":
            return self._of_form(content_type)
        self.content_type = kind.strip()[:255] or "application/octet-stream"
        return self.request.stream()

    async def _of_form(self, content_type: str) -> AsyncIterator[bytes]:
        header = Message()
        header["content-type"] = content_type
        boundary = header.get_param("boundary")
        if not isinstance(boundary, str) or not boundary:
            raise Malformed("multipart/form-data needs a boundary")
        files = 0
        wanted = False
        try:
            with multipart.PushMultipartParser(boundary, max_segment_count=16) as parser:
                async for chunk in self.request.stream():
                    for part in parser.parse(chunk):
                        if isinstance(part, multipart.MultipartSegment):
                            wanted = part.filename is not None
                            files += wanted
                            self._take(part, files, wanted=wanted)
                        elif part and wanted:
                            yield bytes(part)
        except multipart.MultipartError as error:
            raise Malformed(f"the form is not well formed: {error}") from error
        if files != 1:
            raise Malformed("send exactly one file")

    def _take(self, part: multipart.MultipartSegment, files: int, *, wanted: bool) -> None:
        if files > 1:
            raise Malformed("send exactly one file")
        if wanted:
            self.name = self.name or part.filename or ""
            self.content_type = (part.content_type or self.content_type)[:255]


def clean_name(name: str) -> str:
    """A file name without directories and control characters; `artifact` when nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    text = "".join(letter for letter in last if letter.isprintable())[:255]
    return text if text not in {"", ".", ".."} else "artifact"


def send_file(path: Path, *, name: str, size: int, sha256: str, range_header: str | None) -> Response[Any]:
    """A streamed answer with the whole file, or the one range that was asked for.

    Raises:
        NotFound: the bytes are gone.
        RangeNotSatisfiable: the range lies outside.
    """
    if not path.is_file():
        raise NotFound("the artifact's bytes are gone")
    first, last = _range(range_header, size)
    partial = (first, last) != (0, size - 1) and size > 0
    quoted = name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "_").rpartition("/")[2]
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(last - first + 1 if size else 0),
        "Content-Disposition": f'attachment; filename="{quoted}"',
        "ETag": f'"{sha256}"',
    }
    if partial:
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Stream(
        _read(path, first, last),
        status_code=206 if partial else 200,
        headers=headers,
        media_type="application/octet-stream",
    )


def _range(header: str | None, size: int) -> tuple[int, int]:
    """First and last byte. A header of another unit, or with several ranges, means the whole file (RFC 9110)."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or not (match[1] or match[2]):
        return 0, size - 1
    if match[1]:
        first, last = int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first > last or first >= size:
        raise RangeNotSatisfiable(f"the artifact has {size} bytes")
    return first, last


def _read(path: Path, first: int, last: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(first)
        left = last - first + 1
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            left -= len(chunk)
            yield chunk
