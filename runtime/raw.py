"""The JPEG that a camera puts into its RAW file, found without decoding the sensor's data.

CR2, NEF, ARW, DNG, PEF, SRW and RW2 are built like TIFF: directories of numbered fields, some of which say
where a whole JPEG lies. RAF has its own header that says it at once. What is read here are those numbers and
nothing else; each is checked against the file before it is followed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II\x55\0", b"IIRO", b"IIRS")
"""What TIFF begins with, and the forms of it that are RAW only: Panasonic's and Olympus'."""
_RAF_MAGIC = b"FUJIFILMCCD-RAW"
_RAF_JPEG_FIELD = 84  # where a RAF says, big-endian, at which byte its JPEG lies and how long it is

_COMPRESSION, _PHOTOMETRIC, _STRIP_OFFSETS, _ORIENTATION = 0x0103, 0x0106, 0x0111, 0x0112
_STRIP_BYTES, _SUB_DIRECTORIES, _JPEG_OFFSET, _JPEG_BYTES = 0x0117, 0x014A, 0x0201, 0x0202
_DNG_VERSION, _PANASONIC_JPEG = 0xC612, 0x002E
_SENSOR_DATA = (32803, 34892)  # a colour filter array, or linear values of one
_JPEG_COMPRESSIONS = (6, 7)
_WIDTHS = {1: 1, 3: 2, 4: 4, 7: 1, 13: 4}  # bytes of one value: BYTE, SHORT, LONG, UNDEFINED, IFD
_MOST_DIRECTORIES = 32
_MOST_FIELDS = 1000
_MOST_VALUES = 32


@dataclass(frozen=True)
class RawFile:
    """What a RAW file says of the JPEGs in it."""

    previews: tuple[bytes, ...]
    """The JPEGs, the largest first; none if the file has none that can be reached."""
    orientation: int
    """How the camera was held, as in EXIF, 1..8; for previews that do not say it themselves."""


@dataclass(frozen=True)
class _Field:
    """One field of a directory."""

    values: tuple[int, ...]
    offset: int
    count: int


_Directory = dict[int, _Field]


def read_raw(stream: BinaryIO) -> RawFile | None:
    """Look for previews; None where the file is no RAW file (an ordinary TIFF, say).

    Source: TIFF 6.0; Adobe DNG 1.7; the fields that the makers use, as the files themselves show them.
    """
    stream.seek(0)
    head = stream.read(16)
    if head.startswith(_RAF_MAGIC):
        return _read_raf(stream)
    if head[:4] not in TIFF_MAGICS:
        return None
    directories = list(_directories(stream, "<" if head.startswith(b"II") else ">"))
    known_as_raw = head[:4] not in TIFF_MAGICS[:2] or head[8:11] == b"CR\x02"
    if not known_as_raw and not any(map(_is_sensors, directories)):
        return None
    spans = sorted({span for directory in directories for span in _jpeg_spans(directory)}, reverse=True)
    orientation = directories[0].get(_ORIENTATION) if directories else None
    return RawFile(
        tuple(jpeg for length, offset in spans if (jpeg := _jpeg_at(stream, offset, length))),
        orientation.values[0] if orientation and orientation.values else 1,
    )


def _read_raf(stream: BinaryIO) -> RawFile:
    stream.seek(_RAF_JPEG_FIELD)
    numbers = stream.read(8)
    offset, length = struct.unpack(">II", numbers) if len(numbers) == 8 else (0, 0)
    jpeg = _jpeg_at(stream, offset, length)
    return RawFile((jpeg,) if jpeg else (), 1)


def _is_sensors(directory: _Directory) -> bool:
    photometric = directory.get(_PHOTOMETRIC)
    return _DNG_VERSION in directory or bool(photometric and set(photometric.values) & set(_SENSOR_DATA))


def _jpeg_spans(directory: _Directory) -> Iterator[tuple[int, int]]:
    """(length, offset) of each JPEG that the directory claims."""
    offset, length = directory.get(_JPEG_OFFSET), directory.get(_JPEG_BYTES)
    if offset and length and offset.values and length.values:
        yield length.values[0], offset.values[0]
    compression = directory.get(_COMPRESSION)
    strips, sizes = directory.get(_STRIP_OFFSETS), directory.get(_STRIP_BYTES)
    is_jpeg = compression is not None and set(compression.values) <= set(_JPEG_COMPRESSIONS)
    if is_jpeg and strips and sizes and len(strips.values) == 1 and len(sizes.values) == 1:
        yield sizes.values[0], strips.values[0]
    panasonic = directory.get(_PANASONIC_JPEG)
    if panasonic:
        yield panasonic.count, panasonic.offset


def _jpeg_at(stream: BinaryIO, offset: int, length: int) -> bytes | None:
    if offset + length > stream.seek(0, io.SEEK_END):
        return None
    stream.seek(offset)
    data = stream.read(length)
    return data if data.startswith(b"\xff\xd8\xff") else None


def _directories(stream: BinaryIO, order: str) -> Iterator[_Directory]:
    """All directories: the chain of the main ones, and the ones below them; no byte is visited twice."""
    pending = [_number(stream, 4, order)]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_DIRECTORIES:
        offset = pending.pop(0)
        if not offset or offset in seen:
            continue
        seen.add(offset)
        directory, following = _directory(stream, offset, order)
        below = directory.get(_SUB_DIRECTORIES)
        pending += [following, *(below.values if below else ())]
        yield directory


def _number(stream: BinaryIO, offset: int, order: str) -> int:
    stream.seek(offset)
    data = stream.read(4)
    return int(struct.unpack(order + "I", data)[0]) if len(data) == 4 else 0


def _directory(stream: BinaryIO, offset: int, order: str) -> tuple[_Directory, int]:
    """The fields of one directory, and where the next one lies."""
    stream.seek(offset)
    head = stream.read(2)
    count = struct.unpack(order + "H", head)[0] if len(head) == 2 else 0
    if count > _MOST_FIELDS:
        return {}, 0
    entries = stream.read(12 * count)
    directory = {}
    for start in range(0, len(entries) - 11, 12):
        tag, kind, values, position = struct.unpack_from(order + "HHII", entries, start)
        directory[tag] = _field(stream, order, kind, values, position, entries[start + 8 : start + 12])
    return directory, _number(stream, offset + 2 + 12 * count, order)


def _field(stream: BinaryIO, order: str, kind: int, count: int, position: int, inline: bytes) -> _Field:
    width = _WIDTHS.get(kind, 0)
    kept = min(count, _MOST_VALUES)
    if width * count > 4:
        stream.seek(position)
        inline = stream.read(width * kept)
    letter = {1: "B", 2: "H", 4: "I"}.get(width)
    if letter is None or len(inline) < width * kept:
        return _Field((), position, count)
    return _Field(struct.unpack_from(f"{order}{kept}{letter}", inline), position, count)
