"""Writes docs/ERRORS.md: 40 photos of Flickr8k's test part with what the bundle says of them, drawn by lot.

    kiloword evaluate flickr8k/ --split test --format json -o outputs/test.json --report outputs/test.html
    python docs/error_gallery.py outputs/test.json

The photos belong to their authors and are not shown; the report, which stays on one's machine, has them.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("ERRORS.md")
COUNT, SEED = 40, 8


def main(evaluation: str) -> None:
    """Draw lots and write the page."""
    report = json.loads(Path(evaluation).read_text(encoding="utf-8"))
    TARGET.write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """The page as Markdown.

    Args:
        report: What ``kiloword evaluate --format json`` wrote.
    """
    photos = sorted(report["photos"], key=lambda photo: str(photo["image_id"]))
    drawn = random.Random(SEED).sample(photos, min(COUNT, len(photos)))
    drawn.sort(key=lambda photo: float(photo["cider"]))
    beams, cider = report["decode"]["num_beams"], report["metrics"]["cider"]
    made_by = f"`{report['bundle']}` ({report['precision']}, {beams:g} beams)"
    head = f"""# {len(drawn)} captions, drawn by lot

What {made_by} says of {len(drawn)} of the {len(photos)} photos of Flickr8k's test part, the worst first.
Not chosen: `docs/error_gallery.py` draws with a fixed seed. CIDEr is each photo's own (mean over all photos
{cider:.1f}); confidence is the bundle's. The photos belong to their authors and are not shown here;
`kiloword evaluate --report` makes a page with them where the data is.

| Photo | CIDEr | Confidence | Caption | What people wrote |
|---|---:|---:|---|---|
"""
    return head + "".join(map(_row, drawn))


def _row(photo: dict[str, Any]) -> str:
    caption = photo["caption"] if photo["reliable"] else f"{photo['caption']} (not shown: {photo['reason']})"
    references = "<br>".join(_cell(text) for text in photo["references"])
    cells = (
        photo["image_id"],
        f"{photo['cider']:.0f}",
        f"{photo['confidence']:.2f}",
        f"**{_cell(caption)}**",
    )
    return f"| {' | '.join(cells)} | {references} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").strip(" .")


if __name__ == "__main__":
    main(sys.argv[1])
