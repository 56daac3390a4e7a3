"""The photo that the key s saves: the frame as it was seen, with its caption in it and beside it."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from kiloword.runtime.captions import NO_DESCRIPTION
from kiloword.runtime.outputs import write_new

if TYPE_CHECKING:
    from kiloword.runtime.live import LiveCaption
    from kiloword.runtime.newest import Frame

_DESCRIPTION_TAG = 0x010E  # ImageDescription
_QUALITY = 95


def save_photo(frame: Frame, live: LiveCaption | None, folder: Path) -> str:
    """Write a frame as JPEG, its caption as the EXIF description and in a txt file of the same name.

    Args:
        frame: What was seen.
        live: What was said; None if nothing yet. Then, and where no words are reliable, there is the photo
            alone: "no reliable description" describes nothing.
        folder: Where to.

    Returns:
        What to tell the user.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    from PIL import Image

    path = _free_name(folder, datetime.now())
    picture = Image.fromarray(frame.rgb)
    exif = Image.Exif()
    words = "" if live is None or live.shown == NO_DESCRIPTION else live.shown
    if words:
        exif[_DESCRIPTION_TAG] = words.encode()  # UTF-8, as the Metadata Working Group recommends
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=_QUALITY, exif=exif)
    write_new(path, encoded.getvalue())
    if words:
        write_new(path.with_suffix(".txt"), f"{words}\n".encode())
    return f"saved {path}"


def _free_name(folder: Path, now: datetime) -> Path:
    """A name that is not taken, so that nothing is ever overwritten."""
    stem = f"kiloword-{now:%Y%m%d-%H%M%S}"
    path, number = folder / f"{stem}.jpg", 1
    while path.exists() or path.with_suffix(".txt").exists():
        number += 1
        path = folder / f"{stem}-{number}.jpg"
    return path
