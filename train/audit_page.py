"""A page of photos where captions say other things of people than the references do."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.overlays import see
from kiloword.train.audit import Audit, AuditedPhoto, as_table

_EDGE = 280
_MOST = 24


def as_page(audits: Sequence[Audit], title: str, most: int = _MOST) -> str:
    """The table and examples as one HTML page that needs no other file.

    Args:
        audits: Of the same photos; the first one chooses the examples, the others' captions stand beside it.
        title: What was audited.
        most: Most examples of each kind, evenly spread over those that there are.
    """
    first = audits[0]
    sections = [
        (
            "A man in the caption, a woman in the references",
            [p for p in first.photos if _is(p, "woman", "man")],
        ),
        (
            "A woman in the caption, a man in the references",
            [p for p in first.photos if _is(p, "man", "woman")],
        ),
        ("A gender in the caption, none in the references", [p for p in first.photos if p.guessed]),
    ]
    captions = [{photo.image_id: photo.caption for photo in one.photos} for one in audits]
    names = [one.name for one in audits]
    parts = []
    for heading, photos in sections:
        cards = [
            _card(photo, names, [texts[photo.image_id] for texts in captions])
            for photo in _spread(photos, most)
        ]
        count = f"{len(cards)} of {len(photos)}" if len(cards) < len(photos) else str(len(photos))
        parts.append(f"<h2>{html.escape(heading)} ({count})</h2>\n<div class=cards>{''.join(cards)}</div>")
    page = (Path(__file__).parent / "audit.html").read_text(encoding="utf-8")
    for name, value in (("TITLE", title), ("TABLE", as_table(audits))):
        page = page.replace(f"@{name}@", html.escape(value))
    return page.replace("@EXAMPLES@", "\n".join(parts))


def _is(photo: AuditedPhoto, people: str, said: str) -> bool:
    return (photo.people, photo.said) == (people, said)


def _spread(photos: Sequence[AuditedPhoto], most: int) -> list[AuditedPhoto]:
    """Not the first ones: those are often alike."""
    return [photos[at * len(photos) // most] for at in range(most)] if len(photos) > most else list(photos)


def _card(photo: AuditedPhoto, names: Sequence[str], captions: Sequence[str]) -> str:
    stream = io.BytesIO()
    Image.fromarray(see(photo.path, ImageSpec(_EDGE, _EDGE), _EDGE).pixels).save(stream, "JPEG", quality=80)
    source = base64.b64encode(stream.getvalue()).decode()
    said = "".join(
        f"<dt>{html.escape(name)}<dd><b>{html.escape(text)}</b>"
        for name, text in zip(names, captions, strict=True)
    )
    written = "".join(f"<li>{html.escape(reference)}" for reference in photo.references)
    return (
        f'<article><img src="data:image/jpeg;base64,{source}" alt="{html.escape(photo.image_id)}">'
        f"<dl>{said}<dt>references<dd><ul>{written}</ul></dl></article>\n"
    )
