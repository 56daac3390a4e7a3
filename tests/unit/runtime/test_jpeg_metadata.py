"""XMP in a JPEG: checked with Pillow, which reads metadata on its own."""

from __future__ import annotations

import io
import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.jpeg_metadata import MetadataError, other_description, read_xmp, replace_xmp
from kiloword.runtime.splices import apply_splice, make_splice
from kiloword.runtime.xmp import EMPTY_PACKET, MachineText, merge_caption
from kiloword.runtime.xmp_tree import DC, RDF
from tests import hostile

PACKET = merge_caption(EMPTY_PACKET, MachineText("a dog runs", "tiny", 0.8, "kiloword")).packet


def photo(**options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    exif[0x0112] = 6
    return hostile.jpeg(exif=exif, icc_profile=b"profile" * 20, comment=b"mine", **options)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segment(data: bytes, added: bytes) -> bytes:
    return data[:2] + added + data[2:]


def scan(data: bytes) -> bytes:
    """From the first quantization table on: the picture itself."""
    return data[data.index(b"\xff\xdb") :]


JPEGS = {
    "with exif": photo(),
    "jfif alone": hostile.jpeg(),
    "progressive": hostile.jpeg(progressive=True),
    "cmyk": hostile.jpeg(hostile.scene().convert("CMYK")),
    "two pictures": hostile.encoded(hostile.scene(), "MPO", save_all=True, append_images=[hostile.scene()]),
    "bytes behind": photo() + b"motion photo" * 50,
    "padded markers": photo().replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),
}


@pytest.mark.parametrize("name", JPEGS)
def test_xmp_goes_in_and_out(name: str) -> None:
    """Pillow finds the caption, and all else as before; when it is taken out, every byte is as before."""
    data = JPEGS[name]
    assert read_xmp(data) is None
    new = replace_xmp(data, PACKET)
    assert read_xmp(new) == PACKET
    assert scan(new) == scan(data)
    with Image.open(io.BytesIO(data)) as old_image, Image.open(io.BytesIO(new)) as image:
        items = ElementTree.fromstring(image.info["xmp"]).iterfind(f".//{{{DC}}}description//{{{RDF}}}li")
        assert [item.text for item in items] == ["a dog runs"]
        for key in ("exif", "icc_profile", "comment", "jfif_version"):
            assert image.info.get(key) == old_image.info.get(key)
        np.testing.assert_array_equal(np.asarray(image), np.asarray(old_image))
    assert replace_xmp(new, None) == data
    assert apply_splice(new, make_splice(data, new)) == data


def test_the_second_picture_is_still_found() -> None:
    """An MPO says where its other pictures lie, in bytes from its index."""
    with Image.open(io.BytesIO(replace_xmp(JPEGS["two pictures"], PACKET))) as image:
        image.seek(1)
        image.load()
        assert image.size == (64, 48)


def test_an_existing_packet_is_replaced_where_it_is() -> None:
    data = replace_xmp(photo(), EMPTY_PACKET)
    assert replace_xmp(replace_xmp(data, PACKET), EMPTY_PACKET) == data


def test_exif_stays_first() -> None:
    new = replace_xmp(photo(), PACKET)
    assert new.index(b"Exif\0") < new.index(b"http://ns.adobe.com/xap")
    assert new.index(b"JFIF") == 6


def test_extended_xmp_is_left_alone() -> None:
    extension = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + bytes(8) + b"<x/>")
    data = with_segment(photo(), extension)
    assert read_xmp(data) is None
    assert extension in replace_xmp(data, PACKET)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x89PNG", "is no JPEG"),
        (photo()[:30], "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\xff\xd8\xff\xe1\0\1", "damaged"),
        (b"\xff\xd8\xff\xe1\xff\xff", "damaged"),
        (photo()[:20] + b"junk" + photo()[20:], "damaged"),
        (with_segment(photo(), segment(0xEB, b"JP\0\1jumbc2pa.claim")), "signature"),
        (with_segment(photo(), segment(0xE0, b"x") + segment(0xE2, b"MPF\0II*\0")), None),
    ],
)
def test_what_takes_no_caption(data: bytes, words: str | None) -> None:
    if words is None:
        replace_xmp(data, PACKET)
        return
    with pytest.raises(MetadataError, match=words):
        replace_xmp(data, PACKET)


def test_a_packet_before_which_an_index_lies_is_refused() -> None:
    """Growing it would shift the further pictures away from where the index says they are."""
    index, xmp = segment(0xE2, b"MPF\0II*\0"), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + EMPTY_PACKET)
    with pytest.raises(MetadataError, match="further pictures"):
        replace_xmp(with_segment(photo(), index + xmp), PACKET)


def test_a_packet_that_is_too_large() -> None:
    with pytest.raises(MetadataError, match="too much XMP"):
        replace_xmp(photo(), PACKET + b" " * 65_000)


def described(text: str) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = text
    return hostile.jpeg(exif=exif)


def iptc(text: bytes) -> bytes:
    """IPTC data as Photoshop stores it. Source: IPTC IIM 4.2, data set 2:120."""
    record = b"\x1c\x02\x78" + struct.pack(">H", len(text)) + text
    padded = record + b"\0" * (len(record) % 2)
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + padded
    return with_segment(hostile.jpeg(), segment(0xED, b"Photoshop 3.0\0" + resource))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (hostile.jpeg(), None),
        (described("Rex in the garden"), "Rex in the garden"),
        (described("   "), None),
        (described("OLYMPUS DIGITAL CAMERA         "), None),
        (iptc("Rex im Büro".encode()), "Rex im Büro"),
        (iptc(b""), None),
        (b"no picture", None),
    ],
)
def test_descriptions_beside_the_xmp(data: bytes, expected: str | None) -> None:
    assert other_description(data) == expected


def test_splices_of_any_two_files() -> None:
    for before, after in ((b"", b"abc"), (b"abc", b""), (b"aaa", b"aaaa"), (b"abab", b"ab"), (b"x", b"x")):
        assert apply_splice(after, make_splice(before, after)) == before
