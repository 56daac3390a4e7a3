"""Captions in XMP: everything else in a packet stays byte for byte, and a person's text is sacred."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree

import pytest

from kiloword.runtime.xmp import EMPTY_PACKET, MachineText, fields_of_others, merge_caption, withdraw_caption
from kiloword.runtime.xmp_tree import DC, IPTC, KILOWORD, PHOTOSHOP, RDF, XmpError

TEXT = MachineText('a dog & a "cat" <run>', "tiny", 0.81234, "kiloword 0.1.0 (machine)")
OTHER = MachineText("two birds", "large", 0.5, "kiloword 0.1.0 (machine)")
LANG = "{http://www.w3.org/XML/1998/namespace}lang"

DARKTABLE = b"""<?xml version="1.0" encoding="UTF-8"?>
<!-- edited by hand > with "care" -->
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable='http://darktable.sf.net/'
   xmp:Rating="3"
   darktable:xmp_version="5"   darktable:note='5 > 3 "quoted"'>
   <?program keep="me"?>
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:operation="exposure" darktable:params="gz02eJz"/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
ADOBE = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\r\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<r:Description r:about="uuid:1&amp;2" xmlns:q="http://ns.adobe.com/photoshop/1.0/" q:City="Köln"/>'
    '<r:Description r:about="uuid:1&amp;2" xmlns:xap="http://ns.adobe.com/xap/1.0/"/></r:RDF></x:xmpmeta>'
    + " " * 2000
    + '\n<?xpacket end="w"?>\0\0'.replace("\0", "\n")
).encode()
NO_DESCRIPTION = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n</rdf:RDF>'
UTF16 = DARKTABLE.decode().replace('"UTF-8"', '"UTF-16"').encode("utf-16")
PACKETS = {
    "darktable": DARKTABLE,
    "adobe": ADOBE,
    "bare": NO_DESCRIPTION,
    "new": EMPTY_PACKET,
    "utf16": UTF16,
}


def described_as(text: str, kind: str = "description") -> bytes:
    """A packet in which a person has written."""
    name = {"description": "dc:description", "altText": "i:AltTextAccessibility"}[kind]
    body = f'<{name}><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></{name}>'
    head = f'<rdf:Description rdf:about="" xmlns:dc="{DC}" xmlns:i="{IPTC}">'
    return DARKTABLE.replace(b" </rdf:RDF>", f"  {head}{body}</rdf:Description>\n </rdf:RDF>".encode())


def read(packet: bytes) -> dict[str, str]:
    """What an independent XML reader finds: fields by their names, and our marks."""
    found: dict[str, str] = {}
    for description in ElementTree.fromstring(packet).iter(f"{{{RDF}}}Description"):
        for name, value in description.attrib.items():
            if name.startswith(f"{{{KILOWORD}}}"):
                found[name.partition("}")[2]] = value
        for uri, name in ((DC, "description"), (IPTC, "AltTextAccessibility")):
            for item in description.findall(f"{{{uri}}}{name}/{{{RDF}}}Alt/{{{RDF}}}li"):
                assert name not in found, "a property occurs twice"
                assert item.get(LANG) == "x-default"
                found[name] = item.text or ""
        writer = description.find(f"{{{PHOTOSHOP}}}CaptionWriter")
        if writer is not None:
            found["CaptionWriter"] = writer.text or ""
    return found


@pytest.mark.parametrize("name", PACKETS)
def test_a_caption_goes_in_and_all_else_stays(name: str) -> None:
    """Another reader finds both fields and the marks, and the old bytes are there around one block."""
    packet = PACKETS[name]
    merged = merge_caption(packet, TEXT)
    found = read(merged.packet)
    assert found == {
        "description": TEXT.caption,
        "AltTextAccessibility": TEXT.caption,
        "CaptionWriter": TEXT.writer,
        "caption": TEXT.caption,
        "fields": "description altText writer",
        "writer": TEXT.writer,
        "bundle": "tiny",
        "confidence": "0.8123",
    }
    common = next(i for i in range(len(packet)) if packet[i] != merged.packet[i])
    assert merged.packet.endswith(packet[common + 2 :][-(len(packet) - common - 2) :])
    assert (merged.written, merged.kept) == (("description", "altText"), ())


@pytest.mark.parametrize("name", PACKETS)
def test_taking_it_out_gives_the_same_bytes(name: str) -> None:
    merged = merge_caption(PACKETS[name], TEXT)
    assert withdraw_caption(merged.packet) == PACKETS[name]
    again = merge_caption(merged.packet, OTHER)
    assert read(again.packet)["description"] == "two birds"
    assert withdraw_caption(again.packet) == PACKETS[name]


def test_the_same_caption_again_changes_nothing() -> None:
    merged = merge_caption(DARKTABLE, TEXT)
    assert merge_caption(merged.packet, TEXT).packet == merged.packet


def test_all_descriptions_are_about_the_same() -> None:
    """XMP demands one value of rdf:about in a packet."""
    tree = ElementTree.fromstring(merge_caption(ADOBE, TEXT).packet)
    assert {one.get(f"{{{RDF}}}about") for one in tree.iter(f"{{{RDF}}}Description")} == {"uuid:1&2"}


@pytest.mark.parametrize(
    ("kind", "name"), [("description", "description"), ("altText", "AltTextAccessibility")]
)
def test_a_persons_text_is_kept_and_the_other_field_filled(kind: str, name: str) -> None:
    packet = described_as("Rex in the garden", kind)
    merged = merge_caption(packet, TEXT)
    assert read(merged.packet)[name] == "Rex in the garden"
    assert merged.kept == (kind,)
    assert len(merged.written) == 1
    assert withdraw_caption(merged.packet) == packet
    assert fields_of_others(merged.packet) == (kind,)


def test_a_text_in_another_language_is_a_persons_text() -> None:
    packet = described_as("Rex im Garten").replace(b'lang="x-default"', b'lang="de"')
    merged = merge_caption(packet, TEXT)
    assert merged.written == ("altText",)
    assert b"Rex im Garten" in merged.packet


def test_nothing_is_written_where_all_is_taken() -> None:
    packet = described_as("Rex")
    merged = merge_caption(packet, TEXT, taken=("altText",))
    assert (merged.packet, merged.written) == (packet, ())


@pytest.mark.parametrize(
    "blank",
    [
        '<dc:description xmlns:dc="http://purl.org/dc/elements/1.1/"/>',
        '<dc:description xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Alt>'
        '<rdf:li xml:lang="x-default"> </rdf:li></rdf:Alt></dc:description>',
    ],
)
def test_an_empty_field_is_filled(blank: str) -> None:
    packet = DARKTABLE.replace(b"<?program", blank.encode() + b"<?program")
    found = read(merge_caption(packet, TEXT).packet)
    assert found["description"] == TEXT.caption


def test_an_empty_attribute_is_filled() -> None:
    packet = DARKTABLE.replace(
        b'xmp:Rating="3"', b'xmp:Rating="3" d:description="" xmlns:d="%s"' % DC.encode()
    )
    merged = merge_caption(packet, TEXT)
    assert read(merged.packet)["description"] == TEXT.caption
    assert b'd:description=""' not in merged.packet


def test_an_attribute_with_text_is_a_persons() -> None:
    packet = DARKTABLE.replace(b'xmp:Rating="3"', b'd:description="Rex" xmlns:d="%s"' % DC.encode())
    assert merge_caption(packet, TEXT).written == ("altText",)


def test_what_a_person_changed_stays_when_ours_goes() -> None:
    """The description was corrected by hand: it is theirs now; the alternative text is still ours."""
    merged = merge_caption(DARKTABLE, OTHER).packet
    corrected = merged.replace(
        b"two birds</rdf:li></rdf:Alt></dc:desc", b"two owls</rdf:li></rdf:Alt></dc:desc"
    )
    rest = withdraw_caption(corrected)
    assert read(rest) == {"description": "two owls"}
    again = merge_caption(corrected, TEXT)
    assert read(again.packet)["description"] == "two owls"
    assert read(again.packet)["AltTextAccessibility"] == TEXT.caption
    assert again.kept == ("description",)


def test_other_programs_may_rewrite_the_packet() -> None:
    """exiv2 and others gather all properties in one description, marks and all; ours still come out."""
    found = read(merge_caption(DARKTABLE, OTHER).packet)
    marks = "".join(f"<k:{name}>{found[name]}</k:{name}>" for name in ("caption", "fields", "writer"))
    text = '<rdf:Alt>\n  <rdf:li xml:lang="x-default">two birds</rdf:li>\n</rdf:Alt>'
    rewritten = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about=""'
        f' xmlns:dc="{DC}" xmlns:k="{KILOWORD}" xmlns:i="{IPTC}" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        f' k:bundle="large" xmp:Rating="3"><dc:description>{text}</dc:description>{marks}'
        f"<i:AltTextAccessibility>{text}</i:AltTextAccessibility></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
    rest = withdraw_caption(rewritten)
    assert b"birds" not in rest
    assert b"k:caption" not in rest
    assert b'xmp:Rating="3"' in rest
    ElementTree.fromstring(rest)


def test_an_rdf_element_without_content() -> None:
    packet = b'<q:RDF xmlns:q="http://www.w3.org/1999/02/22-rdf-syntax-ns#" />'
    assert read(merge_caption(packet, TEXT).packet)["description"] == TEXT.caption


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>""" + NO_DESCRIPTION


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"", "damaged"),
        (DARKTABLE[:-40], "damaged"),
        (b"<html></html>", "no XMP"),
        (BOMB, "document type"),
        (b"<a>" * 200 + b"</a>" * 200, "too deeply"),
        (DARKTABLE.replace(b"exposure", b"\xff\xfe"), "damaged"),
    ],
)
def test_what_is_no_xmp_is_refused(packet: bytes, words: str) -> None:
    with pytest.raises(XmpError, match=words):
        merge_caption(packet, TEXT)


def test_captions_hold_nothing_that_breaks_xml() -> None:
    odd = MachineText('a "b" <c> & \x00\x0b\ud800 é 🐈\n d', "b<u>", 1.0, "w")
    found = read(merge_caption(EMPTY_PACKET, odd).packet)
    assert found["description"] == 'a "b" <c> & é 🐈 d'
    assert withdraw_caption(merge_caption(EMPTY_PACKET, odd).packet) == EMPTY_PACKET


def test_damaged_packets_end_in_an_error_or_a_packet() -> None:
    """A thousand random damages: nothing but XmpError, and what is written can be read."""
    chance = random.Random(4)
    sources = [merge_caption(packet, OTHER).packet for packet in (DARKTABLE, ADOBE)]
    merged = 0
    for _ in range(1000):
        data = bytearray(chance.choice(sources))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.choice(b'<>"=/ \0x&')
        try:
            ElementTree.fromstring(merge_caption(bytes(data), TEXT).packet)
            merged += 1
        except XmpError:
            pass
    assert merged > 40
