"""Captions where photo programs search: in XMP sidecars, and in the JPEG's own XMP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.folders import PHOTO_SUFFIXES
from kiloword.runtime.hashing import content_hash
from kiloword.runtime.jpeg_metadata import is_jpeg, other_description, read_xmp, replace_xmp
from kiloword.runtime.outputs import write_new
from kiloword.runtime.photo_files import replace_keeping_stat
from kiloword.runtime.sinks import LeftAlone, Ours, PlannedWrite
from kiloword.runtime.splices import make_splice
from kiloword.runtime.xmp import EMPTY_PACKET, MachineText, Merged, fields_of_others, merge_caption

if TYPE_CHECKING:
    from kiloword.runtime.captions import Caption

_TAKEN = "it has a description and an alternative text by somebody else"


def xmp_sidecar_of(photo: str) -> str:
    """Where a photo's XMP sidecar is, or is to be.

    An existing one is taken: `cat.jpg.xmp`, as darktable and digiKam call it, or `cat.xmp`, as Adobe does,
    unless another photo of that name lies beside it (`cat.nef`), whose sidecar `cat.xmp` then is. A new one
    is called `cat.jpg.xmp`, which can only belong to one photo.
    """
    own = photo + ".xmp"
    stem = os.path.splitext(photo)[0]
    for candidate in (own, photo + ".XMP"):
        if os.path.lexists(candidate):
            return candidate
    for candidate in (stem + ".xmp", stem + ".XMP"):
        if os.path.lexists(candidate) and not _has_namesake(photo, stem):
            return candidate
    return own


def _has_namesake(photo: str, stem: str) -> bool:
    own = os.path.splitext(photo)[1].lower()
    others = PHOTO_SUFFIXES - {own}
    return any(os.path.lexists(stem + form) for other in others for form in (other, other.upper()))


class XmpSidecars:
    """An XMP sidecar beside each photo; an existing one gets the caption, and keeps all the rest."""

    kind = "xmp"

    def plan(self, photo: str, caption: Caption, ours: Ours) -> PlannedWrite | LeftAlone | None:  # noqa: ARG002
        """Plan the sidecar of a photo; what is ours the marks in it say."""
        sidecar = xmp_sidecar_of(photo)
        if not os.path.lexists(sidecar):
            found = None
        elif os.path.isfile(sidecar):
            found = Path(sidecar).read_bytes()
        else:
            return LeftAlone(f"{sidecar}: left as it was: it is no ordinary file")
        try:
            # An empty file is what some programs leave; there is nothing in it to keep.
            packet = EMPTY_PACKET if found is None or not found.strip() else found
            merged = merge_caption(packet, machine_text(caption), _fields_in_photo(photo))
        except KilowordError as error:
            return LeftAlone(f"{sidecar}: left as it was: {error}")
        if not merged.written:
            return LeftAlone(f"{photo}: left as it was: {_TAKEN}")
        return _planned_sidecar(sidecar, found, merged)


def _planned_sidecar(sidecar: str, found: bytes | None, merged: Merged) -> PlannedWrite | None:
    content = merged.packet
    after = content_hash(content)
    if found is None:
        return PlannedWrite(sidecar, None, after, lambda: write_new(Path(sidecar), content))
    if found == content:
        return None
    undo = make_splice(found, content)
    replace = lambda: replace_keeping_stat(sidecar, found, content)  # noqa: E731
    return PlannedWrite(sidecar, content_hash(found), after, replace, undo)


class EmbeddedXmp:
    """The JPEG's own XMP; the picture's data and all other metadata stay byte for byte."""

    kind = "embed"

    def plan(self, photo: str, caption: Caption, ours: Ours) -> PlannedWrite | LeftAlone | None:  # noqa: ARG002
        """Plan a JPEG with the caption in it; what is ours the marks in its XMP say."""
        found = Path(photo).read_bytes()
        if not is_jpeg(found):
            return LeftAlone(f"{photo}: left as it was: only a JPEG takes a caption (use --sidecar xmp)")
        taken = ("description",) if other_description(found) else ()
        try:
            merged = merge_caption(read_xmp(found) or EMPTY_PACKET, machine_text(caption), taken)
            content = replace_xmp(found, merged.packet)
        except KilowordError as error:
            return LeftAlone(f"{photo}: left as it was: {error}")
        if not merged.written:
            return LeftAlone(f"{photo}: left as it was: {_TAKEN}")
        if content == found:
            return None
        undo = make_splice(found, content)
        replace = lambda: replace_keeping_stat(photo, found, content)  # noqa: E731
        return PlannedWrite(photo, content_hash(found), content_hash(content), replace, undo)


def machine_text(caption: Caption) -> MachineText:
    """A caption with the marks of its making."""
    from kiloword import __version__

    return MachineText(caption.text, caption.bundle, caption.confidence, f"kiloword {__version__} (machine)")


def _fields_in_photo(photo: str) -> tuple[str, ...]:
    """What somebody has written into the photo itself, which a sidecar would hide."""
    data = Path(photo).read_bytes()
    if not is_jpeg(data):
        return ()
    try:
        packet = read_xmp(data)
        fields = fields_of_others(packet) if packet else ()
    except KilowordError:
        fields = ()
    return (*fields, "description") if other_description(data) else fields
