"""XML of strangers → a tree, or a refusal. Runs inside the room only.

No document type, so no entities and nothing external; no comments or processing instructions where a signature
counts (they split texts in two); one encoding; bounded in size, depth and number. A first parser that only counts
looks for all that before the second builds anything.
"""

import re
from typing import Any, cast
from xml.parsers import expat

from lxml import etree as _untyped  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] (no types)

etree: Any = cast("Any", _untyped)

#: bytes
MAX_BYTES = 2 * 1024 * 1024
MAX_DEPTH = 40
MAX_ELEMENTS = 20_000
MAX_ATTRIBUTES = 50

#: of lxml
Element = Any

_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,255}")


class Refused(Exception):
    """The document is not taken. `reason` is one word for the audit trail, the text is fit for a page."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def parse(data: bytes, *, comments: bool) -> Element:
    """The root element.

    Args:
        comments: whether there may be some; they are dropped.

    Raises Refused.
    """
    if len(data) > MAX_BYTES:
        raise Refused("too_large", "the document is too large")
    _Counter(comments=comments).run(data)
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        attribute_defaults=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Refused("malformed", "the document is not well-formed XML") from error
    if root.getroottree().docinfo.doctype:
        raise Refused("doctype", "the document has a document type")
    return root


class _Counter:
    """Looks at every event of a parser that builds nothing."""

    def __init__(self, *, comments: bool) -> None:
        self._comments = comments
        self._depth = 0
        self._elements = 0

    def run(self, data: bytes) -> None:
        # The encoding is ours: what the document says of it is looked at in `_declared`.
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.XmlDeclHandler = self._declared
        parser.StartDoctypeDeclHandler = self._doctype
        parser.CommentHandler = self._comment
        parser.ProcessingInstructionHandler = self._instruction
        try:
            parser.Parse(data, True)
        except expat.ExpatError as error:
            raise Refused("malformed", "the document is not well-formed XML in UTF-8") from error

    def _start(self, _name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH or self._elements > MAX_ELEMENTS or len(attributes) > MAX_ATTRIBUTES:
            raise Refused("too_large", "the document has too many elements, or too deep ones")

    def _end(self, _name: str) -> None:
        self._depth -= 1

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() != "utf-8":
            raise Refused("encoding", "the document is not in UTF-8")

    def _doctype(self, *_: object) -> None:
        raise Refused("doctype", "the document has a document type")

    def _comment(self, _text: str) -> None:
        if not self._comments:
            raise Refused("comment", "the document has comments")

    def _instruction(self, *_: object) -> None:
        raise Refused("instruction", "the document has processing instructions")


def only(parent: Element, tag: str, *, reason: str = "form") -> Element:
    """The one child of that name. Raises Refused unless there is exactly one."""
    found = parent.findall(tag)
    if len(found) != 1:
        raise Refused(reason, f"the document has {len(found)} elements {_local(tag)} where one belongs")
    return found[0]


def text_of(element: Element) -> str:
    """What stands in an element that has nothing but text. Raises Refused."""
    if len(element):
        raise Refused("form", f"the element {_local(element.tag)} should hold text only")
    return (element.text or "").strip()


def id_of(element: Element) -> str:
    """The attribute ID. Raises Refused unless it is a name."""
    name = element.get("ID") or ""
    if _ID.fullmatch(name) is None:
        raise Refused("form", f"the element {_local(element.tag)} has no usable ID")
    return name


def refuse_repeated_ids(root: Element) -> None:
    """Raises Refused when two elements have the same ID, however the attribute is spelled."""
    seen: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name).lower() != "id":
                continue
            if value in seen:
                raise Refused("wrapping", "two elements have the same ID")
            seen.add(value)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2][:60]
