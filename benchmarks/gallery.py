"""The gallery with many photos in a real browser: how long it takes to open, search and walk through.

    python -m benchmarks.gallery DIR --count 10000

Opened from disk. Times are the page's own, from an event until the next frame is on the screen; the browser
draws at most 60 frames a second, so nothing is quicker than some 16 ms. KILOWORD_CHROMIUM names the browser.
"""

from __future__ import annotations

import io
import json
import os
import time
from itertools import product
from pathlib import Path
from typing import Any

import click

from benchmarks.folder_photos import make_photos
from benchmarks.machine import summarize, write_result
from kiloword.runtime.captions import Caption
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.gallery import write_gallery
from kiloword.runtime.outputs import CaptionRow
from tests.browser import open_browser, open_page

SIZE = (640, 480)
DISTINCT = 24
WORDS = (
    ("a black dog", "two children", "an old man", "a woman in red", "a cyclist", "a white horse", "a crowd"),
    ("runs", "sits", "stands", "jumps", "waits"),
    ("on the beach", "in the snow", "beside a car", "in front of a house", "on a bench", "under a tree"),
)
_BEGIN, _END = '<script type="application/json" id="photos">', "</script>"
QUERIES = ("d", "do", "dog", "dog b", "dog beach", "snow", "zebra", "")
KEYS = ("ArrowDown", "ArrowRight", "PageDown", "End", "ArrowUp", "Home")

# What a person waits for: the work of the event's handlers, and that the result is on the screen.
_TIMED = """async ([kind, value]) => {
  const search = document.getElementById("search");
  const began = performance.now();
  if (kind === "search") {
    search.value = value;
    search.dispatchEvent(new Event("input", { bubbles: true }));
  } else {
    const target = document.activeElement ?? document.body;
    target.dispatchEvent(new KeyboardEvent("keydown", { key: value, bubbles: true, cancelable: true }));
  }
  const handled = performance.now();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return [handled - began, performance.now() - began];
}"""
_OPENED = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


def caption_of(number: int) -> Caption:
    """A caption for the photo of this number, the same at each call."""
    captions = [" ".join(words) for words in product(*WORDS)]
    return Caption(captions[number % len(captions)], (number * 7919 % 1000) / 1000, (), (), 1.0, "benchmark")


def make_page(folder: Path, count: int) -> tuple[Path, float]:
    """Write the page; gives the processor time of each photo in seconds, too.

    Some photos are in it many times, each time with another caption, so that thumbnails are made but once.
    """
    make_photos(folder / "photos", DISTINCT, SIZE, distinct=DISTINCT)
    photos = [str(photo) for photo in expand_paths([str(folder / "photos")])]
    rows = [CaptionRow(photo, caption_of(number)) for number, photo in enumerate(photos)]
    stream = io.StringIO()
    began = time.process_time()
    write_gallery(stream, rows, str(folder))
    cpu_s = (time.process_time() - began) / len(rows)
    head, begin, rest = stream.getvalue().partition(_BEGIN)
    block, end, tail = rest.partition(_END)
    some = json.loads(block)
    captions = map(caption_of, range(count))
    many = [
        {**some[number % len(some)], "caption": one.text, "confidence": one.confidence}
        for number, one in enumerate(captions)
    ]
    page = folder / f"gallery-{count}.html"
    page.write_text(f"{head}{begin}{json.dumps(many)}{end}{tail}", encoding="utf-8")
    return page, cpu_s


def measure(path: Path, repeats: int) -> list[dict[str, Any]]:
    """Open the page and use it."""
    handled: dict[str, list[float]] = {"search": [], "key": []}
    shown: dict[str, list[float]] = {"search": [], "key": []}
    most_cells = 0
    with open_browser() as browser, open_page(browser, path.as_uri()) as page:
        opened_ms = page.evaluate(_OPENED)
        for _ in range(repeats):
            for kind, values in (("search", QUERIES), ("key", KEYS)):
                for value in values:
                    handled_ms, shown_ms = page.evaluate(_TIMED, [kind, value])
                    handled[kind].append(handled_ms)
                    shown[kind].append(shown_ms)
                    most_cells = max(most_cells, page.locator("#space > li").count())
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        browser_version = browser.version
    return [
        {
            "measurement": "open",
            "browser": f"Chromium {browser_version}",
            "page_bytes": os.path.getsize(path),
            "opened_ms": round(opened_ms),
            "script_heap_bytes": round(metrics["JSHeapUsedSize"]),
            "most_cells_in_the_page": most_cells,
        },
        *({"measurement": f"{kind}: handled, ms", **summarize(handled[kind])} for kind in handled),
        *({"measurement": f"{kind}: on the screen, ms", **summarize(shown[kind])} for kind in shown),
    ]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=10_000, show_default=True, help="Photos in the page.")
@click.option("--repeats", default=5, show_default=True, help="How often each key and query.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(folder: Path, count: int, repeats: int, output: Path | None) -> None:
    """Make a gallery in FOLDER and measure it in Chromium."""
    page, cpu_s = make_page(folder, count)
    rows = measure(page, repeats)
    rows[0] |= {"photos": count, "made_cpu_ms_per_photo": round(1e3 * cpu_s, 2)}
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    settings = {"count": count, "repeats": repeats, "photo_size": list(SIZE)}
    click.echo(f"wrote {write_result('gallery', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
