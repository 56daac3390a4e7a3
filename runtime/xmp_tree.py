"""Where things lie in an XMP packet: what an edit needs to know, in offsets of bytes."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from xml.parsers import expat

from kiloword.runtime.errors import KilowordError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
KILOWORD = "urn:kiloword:caption:1.0/"
"""Names of a caption's marks: what was written, by which bundle, with which confidence."""

_MOST_BYTES = 32 << 20
_DEEPEST = 100
_TAG = re.compile(rb"""<[^>"']*(?:"[^"]*"[^>"']*|'[^']*'[^>"']*)*>""")
_WIDE_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class XmpError(KilowordError):
    """This is no XMP, or none that can be changed without danger to it."""


@dataclass
class Element:
    """One element and where it lies."""

    name: str
    """Namespace, a space, and the local name."""
    attributes: dict[str, str]
    start: int
    """Of its start tag."""
    content_start: int
    """Behind its start tag."""
    content_end: int = 0
    """Of its end tag; the same as ``end`` where it has none."""
    end: int = 0
    """Behind all of it."""
    children: list[Element] = field(default_factory=list)
    text: str = ""
    """All text in it, at any depth."""


@dataclass(frozen=True)
class Packet:
    """A packet and what matters in it."""

    data: bytes
    """In UTF-8, whatever it came in."""
    encoding: str
    """What it came in."""
    rdf: Element
    descriptions: tuple[Element, ...]
    """The `rdf:Description` elements right below `rdf:RDF`."""

    def encoded(self, data: bytes) -> bytes:
        """Edited data in the encoding that the packet came in."""
        return data if self.encoding == "utf-8" else data.decode("utf-8").encode(self.encoding)

    def attribute_span(self, element: Element, uri: str, local: str) -> tuple[int, int]:
        """Where an attribute lies in the element's start tag, with the white space before it.

        Raises:
            XmpError: It is not found, because its prefix is declared in an unusual way.
        """
        tag = self.data[element.start : element.content_start]
        prefixes = re.findall(rb"xmlns:([^\s=]+)\s*=\s*[\"']" + re.escape(uri.encode()), self.data)
        for prefix in prefixes:
            name = re.escape(prefix) + b":" + local.encode()
            match = re.search(rb"\s+" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", tag)
            if match:
                return element.start + match.start(), element.start + match.end()
        raise XmpError(f"the property {local} cannot be told from others")


def parse_packet(packet: bytes) -> Packet:
    """Find the `rdf:RDF` element of a packet, and what is in it.

    Raises:
        XmpError: It is not well formed, has a document type (which XMP forbids), or no `rdf:RDF`.
    """
    if len(packet) > _MOST_BYTES:
        raise XmpError("the XMP is too large", expected=f"{_MOST_BYTES} bytes", found=str(len(packet)))
    encoding = _WIDE_MARKS.get(packet[:2], "utf-8")
    try:
        data = packet if encoding == "utf-8" else packet.decode(encoding).encode("utf-8")
        root = _Reader(data).root
    except (expat.ExpatError, UnicodeError) as error:
        raise XmpError("the XMP is damaged", found=str(error)) from error
    rdf = _find(root, f"{RDF} RDF")
    if rdf is None:
        raise XmpError("this is no XMP", expected="an element rdf:RDF")
    name = f"{RDF} Description"
    return Packet(data, encoding, rdf, tuple(child for child in rdf.children if child.name == name))


def _find(element: Element, name: str) -> Element | None:
    if element.name == name:
        return element
    return next((found for child in element.children if (found := _find(child, name))), None)


class _Reader:
    """Builds the tree of elements by the events of expat, which tells where each begins."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._open = [Element("", {}, 0, 0)]
        # The encoding is stated, because a declaration in a decoded UTF-16 packet still names UTF-16.
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._finish
        self._parser.CharacterDataHandler = self._add_text
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.Parse(data, True)
        self.root = self._open[0]

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > _DEEPEST:
            raise XmpError("the XMP is nested too deeply", expected=f"{_DEEPEST} levels")
        start = self._parser.CurrentByteIndex
        tag = _TAG.match(self._data, start)
        if tag is None:
            raise XmpError("the XMP is damaged", found="a tag without an end")
        element = Element(name, attributes, start, tag.end())
        self._open[-1].children.append(element)
        self._open.append(element)

    def _finish(self, _name: str) -> None:
        element = self._open.pop()
        place = self._parser.CurrentByteIndex
        if self._data[element.content_start - 2 : element.content_start] == b"/>":
            element.content_end = element.end = element.content_start
        else:
            element.content_end, element.end = place, self._data.index(b">", place) + 1
        self._open[-1].text += element.text

    def _add_text(self, text: str) -> None:
        self._open[-1].text += text

    def _refuse(self, *_: object) -> None:
        raise XmpError("the XMP has a document type, which XMP must not have")
