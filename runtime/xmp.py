"""Captions in XMP: put into a packet, found again, and taken out, without touching anything else in it.

A packet is edited as the bytes it is: what is added is one block of its own, and nothing is parsed into a
tree and written back. So other programs' properties, comments, processing instructions, order and padding
stay as they were, and taking the block out gives the packet as it was before.

A caption goes to `dc:description` and to IPTC's `AltTextAccessibility`, each only where no text is yet. Marks
in a namespace of our own say what was written, so that it is never taken for a person's text, nor a person's
for ours: a field is ours as long as it holds what the marks say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from kiloword.runtime.xmp_tree import DC, IPTC, KILOWORD, PHOTOSHOP, RDF, Element, Packet, parse_packet

EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>'
).encode()
"""What a caption is put into where there is no packet yet."""

_FIELDS = {
    "description": (DC, "dc", "description"),
    "altText": (IPTC, "Iptc4xmpCore", "AltTextAccessibility"),
    "writer": (PHOTOSHOP, "photoshop", "CaptionWriter"),
}
_CAPTION_FIELDS = ("description", "altText")
_MARKS = ("caption", "fields", "writer", "bundle", "confidence")
_BLANK = re.compile(rb"\s*\Z")


@dataclass(frozen=True)
class MachineText:
    """A caption with what marks it as machine-made."""

    caption: str
    bundle: str
    confidence: float
    """0..1."""
    writer: str
    """The program and its version."""


@dataclass(frozen=True)
class Merged:
    """A packet with a caption in it."""

    packet: bytes
    written: tuple[str, ...]
    """``description``, ``altText``: those that hold the caption now."""
    kept: tuple[str, ...]
    """Those that hold somebody else's text, which was left alone."""


def merge_caption(packet: bytes, text: MachineText, taken: Iterable[str] = ()) -> Merged:
    """Put a caption into a packet, in the place of an earlier one of ours.

    Args:
        packet: The packet, or the whole of a sidecar.
        text: The caption.
        taken: Fields for which somebody's text is elsewhere, in EXIF or IPTC data beside the packet.

    Returns:
        The new packet; the same as before, but for an earlier caption, where all fields are taken.

    Raises:
        XmpError: This is no XMP that can be read.
    """
    found = parse_packet(withdraw_caption(packet))
    occupied = set(taken) | {name for name in _FIELDS if _holds_text(found, name)}
    written = tuple(name for name in _CAPTION_FIELDS if name not in occupied)
    kept = tuple(name for name in _CAPTION_FIELDS if name in occupied)
    if not written:
        return Merged(found.encoded(found.data), (), kept)
    signed = "description" in written and "writer" not in occupied
    fields = (*written, "writer") if signed else written
    blanks = [span for name in fields for _, span in _properties(found, *_name_of(name))]
    cleared = parse_packet(_without(found.data, blanks)) if blanks else found
    return Merged(found.encoded(_with_block(cleared, text, fields)), written, kept)


def withdraw_caption(packet: bytes) -> bytes:
    """Take out what `merge_caption` put in; a field that was changed since is a person's and stays.

    Raises:
        XmpError: This is no XMP that can be read.
    """
    found = parse_packet(packet)
    marks = _marks(found)
    if "caption" not in marks:
        return packet
    spans = [span for mark in _MARKS for _, span in _properties(found, KILOWORD, mark)]
    for name in marks.get("fields", "").split():
        if name in _FIELDS:
            expected = marks.get("writer", "") if name == "writer" else marks["caption"]
            spans += [span for value, span in _properties(found, *_name_of(name)) if value == expected]
    return found.encoded(_without(found.data, _with_emptied(found, spans)))


def caption_in(packet: bytes) -> str | None:
    """The caption that we put into a packet, if there is one.

    Raises:
        XmpError: This is no XMP that can be read.
    """
    return _marks(parse_packet(packet)).get("caption")


def fields_of_others(packet: bytes) -> tuple[str, ...]:
    """``description``, ``altText``: those that hold a text that is not ours.

    Raises:
        XmpError: This is no XMP that can be read.
    """
    found = parse_packet(withdraw_caption(packet))
    return tuple(name for name in _CAPTION_FIELDS if _holds_text(found, name))


def _name_of(field: str) -> tuple[str, str]:
    uri, _, local = _FIELDS[field]
    return uri, local


def _marks(packet: Packet) -> dict[str, str]:
    return {mark: value for mark in _MARKS for value, _ in _properties(packet, KILOWORD, mark)}


def _holds_text(packet: Packet, field: str) -> bool:
    return any(value.strip() for value, _ in _properties(packet, *_name_of(field)))


_Span = tuple[int, int]


def _properties(packet: Packet, uri: str, local: str) -> Iterator[tuple[str, _Span]]:
    """A property's text, in all languages together, and where it lies, as an element or an attribute."""
    name = f"{uri} {local}"
    for description in packet.descriptions:
        for child in description.children:
            if child.name == name:
                yield child.text.strip(), _with_space_before(packet.data, child.start, child.end)
        if name in description.attributes:
            yield description.attributes[name], packet.attribute_span(description, uri, local)


def _with_space_before(data: bytes, start: int, end: int) -> _Span:
    return len(data[:start].rstrip()), end


def _with_emptied(packet: Packet, spans: list[_Span]) -> list[_Span]:
    """Take whole descriptions out of which all would be taken: the block that was put in."""
    result = list(spans)
    for description in packet.descriptions:
        inside = [span for span in spans if description.start <= span[0] and span[1] <= description.end]
        if inside and _is_emptied(packet, description, inside):
            result = [span for span in result if span not in inside]
            result.append(_with_space_before(packet.data, description.start, description.end))
    return result


def _is_emptied(packet: Packet, description: Element, spans: list[_Span]) -> bool:
    """Whether nothing but white space is left in it, and no attribute but `rdf:about`."""
    attributes = [name for name in description.attributes if name not in (f"{RDF} about", "about")]
    within = [span for span in spans if span[0] < description.content_start]
    rest = packet.data[description.content_start : description.content_end]
    shift = description.content_start
    outside = [(start - shift, end - shift) for start, end in spans if start >= shift]
    return len(attributes) == len(within) and _BLANK.match(_without(rest, outside)) is not None


def _without(data: bytes, spans: Iterable[_Span]) -> bytes:
    for start, end in sorted(set(spans), reverse=True):
        data = data[:start] + data[end:]
    return data


def _with_block(packet: Packet, text: MachineText, fields: tuple[str, ...]) -> bytes:
    """Add a description of our own behind the others."""
    data, rdf = packet.data, packet.rdf
    block = _block(packet, text, fields).encode()
    if packet.descriptions:
        place = packet.descriptions[-1].end
        return data[:place] + block + data[place:]
    if rdf.content_start < rdf.end:
        return data[: rdf.content_start] + block + data[rdf.content_start :]
    tag = data[rdf.start : rdf.end]
    opened, name = tag[:-2].rstrip(), re.split(rb"[\s/>]", tag[1:], maxsplit=1)[0]
    return data[: rdf.start] + opened + b">" + block + b"\n</" + name + b">" + data[rdf.end :]


def _block(packet: Packet, text: MachineText, fields: tuple[str, ...]) -> str:
    """One `rdf:Description` that declares all prefixes it uses, and begins with a line end."""
    about = packet.descriptions[0].attributes.get(f"{RDF} about", "") if packet.descriptions else ""
    spaces = {"rdf": RDF, "kiloword": KILOWORD} | {_FIELDS[name][1]: _FIELDS[name][0] for name in fields}
    marks = {
        "caption": _clean(text.caption),
        "fields": " ".join(fields),
        "writer": text.writer,
        "bundle": text.bundle,
        "confidence": f"{text.confidence:.4f}",
    }
    lines = [f"  <rdf:Description rdf:about={_quoted(about)}"]
    lines += [f'    xmlns:{prefix}="{uri}"' for prefix, uri in spaces.items()]
    lines += [f"    kiloword:{mark}={_quoted(value)}" for mark, value in marks.items()]
    lines[-1] += ">"
    lines += [_property(name, text) for name in fields]
    return "\n" + "\n".join([*lines, "  </rdf:Description>"])


def _property(field: str, text: MachineText) -> str:
    _, prefix, local = _FIELDS[field]
    if field == "writer":
        return f"   <{prefix}:{local}>{escape(text.writer)}</{prefix}:{local}>"
    item = f'<rdf:li xml:lang="x-default">{escape(_clean(text.caption))}</rdf:li>'
    return f"   <{prefix}:{local}><rdf:Alt>{item}</rdf:Alt></{prefix}:{local}>"


def _clean(text: str) -> str:
    """Without what XML cannot hold, and on one line."""
    return " ".join(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text).split())


def _quoted(value: str) -> str:
    return quoteattr(_clean(value))
