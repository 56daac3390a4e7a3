"""The XMP packet of a JPEG: read and replaced, and all the rest of the file byte for byte the same.

Source: ITU-T T.81 (segments), Adobe's XMP Specification Part 3 (where XMP lies in a JPEG).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kiloword.runtime.errors import KilowordError

_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_LARGEST_SEGMENT = 65_533
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP11 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEB
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_DESCRIPTION_TAG = 0x010E
_IPTC_CAPTION = (2, 120)
# What cameras put into the description of every picture; nobody wrote it, nobody searches for it.
_CAMERAS_OWN = (
    "OLYMPUS DIGITAL CAMERA",
    "SONY DSC",
    "KONICA MINOLTA DIGITAL CAMERA",
    "MINOLTA DIGITAL CAMERA",
    "SAMSUNG CAMERA PICTURES",
    "DIGITAL CAMERA",
)


class MetadataError(KilowordError):
    """This file cannot take a caption, or not without damage to something else in it."""


@dataclass(frozen=True)
class _Segment:
    marker: int
    start: int
    """Of its 0xFF."""
    end: int
    body: bytes


def is_jpeg(data: bytes) -> bool:
    """Whether a file begins as a JPEG does."""
    return data.startswith(b"\xff\xd8\xff")


def read_xmp(data: bytes) -> bytes | None:
    """The XMP packet in a JPEG, if it has one.

    Raises:
        MetadataError: The segments are damaged.
    """
    segment = _xmp_segment(list(_segments(data)))
    return None if segment is None else segment.body[len(_XMP_HEADER) :]


def replace_xmp(data: bytes, packet: bytes | None) -> bytes:
    """A JPEG with another XMP packet, or with none.

    Raises:
        MetadataError: The packet is too large for a segment, the file is signed, or the segments are damaged.
    """
    segments = list(_segments(data))
    _check_unsigned(segments)
    old = _xmp_segment(segments)
    place, end = (old.start, old.end) if old else (_place_for_xmp(segments),) * 2
    _check_pictures_behind(segments, place)
    return data[:place] + (b"" if packet is None else _as_segment(packet)) + data[end:]


def other_description(data: bytes) -> str | None:
    """A description outside the XMP: in EXIF (ImageDescription) or IPTC (Caption-Abstract) data.

    Programs show whichever of the three is there, so a text in one of them is the photo's description.
    """
    from PIL import Image, IptcImagePlugin

    try:
        with Image.open(io.BytesIO(data)) as image:
            described = image.getexif().get(_DESCRIPTION_TAG, "")
            fields = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:  # noqa: BLE001  damaged data beside a good picture describes nothing
        return None
    texts = [described, fields.get(_IPTC_CAPTION, "")]
    for text in (_as_text(value) for value in texts):
        if text and text.upper() not in _CAMERAS_OWN:
            return text
    return None


def _as_text(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return text.replace("\0", "").strip()


def _segments(data: bytes) -> Iterator[_Segment]:
    """All segments before the picture's data."""
    if not is_jpeg(data):
        raise MetadataError("is no JPEG")
    place = 2
    while True:
        start = place
        while data[place : place + 1] == b"\xff":  # any number of them may fill up
            place += 1
        if place == start or place >= len(data):
            raise MetadataError("its segments are damaged", found=f"no marker at byte {start}")
        marker, place = data[place], place + 1
        if marker in (_SOS, _EOI):
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if length < 2 or place + length > len(data):
            raise MetadataError("its segments are damaged", found=f"a length of {length} at byte {place}")
        yield _Segment(marker, start, place + length, data[place + 2 : place + length])
        place += length


def _xmp_segment(segments: list[_Segment]) -> _Segment | None:
    found = (one for one in segments if one.marker == _APP1 and one.body.startswith(_XMP_HEADER))
    return next(found, None)


def _place_for_xmp(segments: list[_Segment]) -> int:
    """Behind JFIF and EXIF, which want to be first."""
    place = 2
    for segment in segments:
        is_exif = segment.marker == _APP1 and segment.body.startswith(b"Exif\0")
        if segment.marker != _APP0 and not is_exif:
            break
        place = segment.end
    return place


def _as_segment(packet: bytes) -> bytes:
    body = _XMP_HEADER + packet
    if len(body) > _LARGEST_SEGMENT:
        found = f"{len(body):,} bytes"
        raise MetadataError("has too much XMP for one segment", expected="65,533 bytes", found=found)
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _check_unsigned(segments: list[_Segment]) -> None:
    """A signature of the whole file (C2PA) would be broken by any change."""
    if any(segment.marker == _APP11 and b"c2pa" in segment.body for segment in segments):
        raise MetadataError("is signed (C2PA), and a caption in it would break the signature")


def _check_pictures_behind(segments: list[_Segment], place: int) -> None:
    """An index of further pictures counts from where it lies itself: only what comes before it may grow."""
    for segment in segments:
        is_index = segment.marker == _APP2 and segment.body.startswith(b"MPF\0")
        if is_index and segment.start < place:
            raise MetadataError("has further pictures behind it, whose places a caption would shift")
