"""One page with all photos and their captions, that opens from disk and needs nothing else.

The page is `gallery.html` with a line of JSON for each photo in it: thumbnails are small and lie in the page.
It draws only what is on the screen, so that 10,000 photos are as quick as ten.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.images import load_photo, upright_size
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.outputs import CaptionRow, printable
from kiloword.runtime.threads import available_cpus

THUMBNAIL_EDGE = 160
"""Pixels of a thumbnail's longer edge."""
_WEBP_QUALITY = 45
_MARK = "<!--PHOTOS-->"
_AHEAD_FOR_EACH_THREAD = 4


def write_gallery(stream: TextIO, rows: Iterable[CaptionRow], folder: str) -> None:
    """Write the page; memory does not grow with the photos.

    Args:
        stream: Where the page goes.
        rows: The photos, in the page's order.
        folder: Where the page will lie: the links to the photos are relative to it.

    Raises:
        OSError: The page cannot be written.
    """
    page = files("kiloword.runtime").joinpath("gallery.html").read_text(encoding="utf-8")
    head, _, tail = page.partition(_MARK)
    stream.write(head)
    separator = "["
    for entry in _in_threads(rows, folder):
        stream.write(f"{separator}\n{entry}")
        separator = ","
    stream.write("[" if separator == "[" else "")
    stream.write(f"\n]{tail}")


def _in_threads(rows: Iterable[CaptionRow], folder: str) -> Iterator[str]:
    """The photos' entries, in order; Pillow lets several threads decode at once."""
    threads = available_cpus()
    remaining = iter(rows)
    with ThreadPoolExecutor(threads, thread_name_prefix="kiloword-thumbnail") as pool:
        pending: deque[Future[str]] = deque()
        while True:
            wanted = threads * _AHEAD_FOR_EACH_THREAD - len(pending)
            pending.extend(pool.submit(_entry, row, folder) for row in islice(remaining, wanted))
            if not pending:
                return
            yield pending.popleft().result()


def _entry(row: CaptionRow, folder: str) -> str:
    """A photo as JSON that can stand in HTML."""
    fields: dict[str, Any] = {"name": printable(row.path), "href": link_to(row.path, folder)}
    if row.caption is None:
        fields["error"] = printable(row.error or "unknown error")
    else:
        fields |= {"caption": row.caption.text, "confidence": round(row.caption.confidence, 4)}
        notes = [
            *([] if row.caption.reliable else [f"not reliable: {row.caption.reason}"]),
            *row.caption.warnings,
        ]
        if notes:
            fields["warning"] = "; ".join(notes)
        thumbnail = make_thumbnail(row.path)
        if thumbnail is not None:
            fields["thumbnail"] = base64.b64encode(thumbnail).decode("ascii")
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def make_thumbnail(path: str) -> bytes | None:
    """A photo as a small WebP, upright; None where it cannot be read (any more)."""
    from PIL import Image

    try:
        width, height = upright_size(path)
        scale = min(1.0, THUMBNAIL_EDGE / max(width, height))
        spec = ImageSpec(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
        pixels = load_photo(path, spec).pixels
    except KilowordError:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=_WEBP_QUALITY, method=4)
    return stream.getvalue()


def link_to(path: str, folder: str) -> str:
    """A link from a page in a folder to a photo, whatever bytes are in its name.

    >>> link_to("photos/a #1.jpg", "pages") if os.sep == "/" else "../photos/a%20%231.jpg"
    '../photos/a%20%231.jpg'
    """
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return Path(path).absolute().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))
