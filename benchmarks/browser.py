"""A bundle in WebAssembly beside the same bundle in Python: the same tokens? And how long does it take?

The modules are those of the page that `kiloword web` writes and onnxruntime-web is the one that it brings,
run by node, whose engine is Chromium's. Both get the same pixels: the example photos, and photos of the
validation sets where the data are. Greedy, one thread. Every bundle is also compared with the first one, so
that one sees what int8 itself changes.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import export_fp32, find_checkpoint
from benchmarks.machine import REPOSITORY, shown_path, write_result
from benchmarks.quality import DATA, DATA_SETS
from kiloword.runtime.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.images import load_image
from kiloword.runtime.web.build import ONNXRUNTIME_WEB
from kiloword.runtime.web.packages import npm_package
from kiloword.train.datasets import load_records

PHOTOS = REPOSITORY / "examples" / "photos"
PAGE = REPOSITORY / "runtime" / "web" / "page"
_DRIVER = REPOSITORY / "benchmarks" / "browser.mjs"
_TIMEOUT_S = 600

Tokens = list[list[int]]


def photos_of(dataset: str, count: int) -> list[Path]:
    """Some photos of a validation set, always the same ones; none where the data are not."""
    part = DATA_SETS[dataset]
    if not (DATA / part.source).exists():
        return []
    images = [record.image for record in load_records(DATA / part.source, part.split).records]
    return random.Random(1).sample(images, min(count, len(images)))


def python_tokens(bundle: Bundle, pixels: NDArray[np.uint8]) -> tuple[Tokens, float]:
    """Greedy token ids of each photo by itself, and the median milliseconds of one."""
    ids, ms = [], []
    with Captioner.load(bundle.directory, provider="cpu", threads=1) as captioner:
        for photo in range(len(pixels)):
            began = time.perf_counter()
            (caption,) = captioner.caption_pixels(pixels[photo : photo + 1], num_beams=1)
            ms.append(1e3 * (time.perf_counter() - began))
            ids.append(list(caption.token_ids))
    return ids, statistics.median(ms)


def browser_rows(bundle: Bundle, pixels: NDArray[np.uint8], runtime: Path) -> list[dict[str, Any]]:
    """What the page's modules make of each photo: ``ids``, ``encoder_ms``, ``decoder_ms``.

    Raises:
        KilowordError: there is no node, or it failed.
    """
    node = shutil.which("node")
    if node is None:
        raise KilowordError("node is not installed", hint="install Node.js 18 or newer")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pixels.bin"
        file.write_bytes(pixels.tobytes())
        command = [node, str(_DRIVER), str(runtime), str(PAGE), str(bundle.directory), str(file)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=_TIMEOUT_S, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or len(rows) != len(pixels):
        raise KilowordError("node could not caption the photos", found=done.stderr.strip()[-300:])
    return rows


def equal(one: Tokens, other: Tokens, part: slice) -> int:
    """How many photos of a part have the same ids in both."""
    return sum(first == second for first, second in zip(one[part], other[part], strict=True))


def compare(
    bundle: Bundle, parts: Mapping[str, Sequence[Path]], runtime: Path, first: Tokens | None
) -> tuple[dict[str, Any], Tokens]:
    """One bundle's record, and its token ids in Python.

    Args:
        bundle: What is compared with itself.
        parts: Photos by the name of what they are.
        runtime: onnxruntime-web, unpacked.
        first: Token ids of the bundle that this one is compared with, too; None: its own.
    """
    photos = [photo for part in parts.values() for photo in part]
    pixels = np.stack([load_image(photo, bundle.manifest.image) for photo in photos])
    ids, ms = python_tokens(bundle, pixels)
    found = browser_rows(bundle, pixels, runtime)
    theirs, first = [row["ids"] for row in found], first or ids
    record: dict[str, Any] = {"bundle": bundle.name, "bundle_directory": shown_path(bundle.directory)}
    start = 0
    for name, of_part in parts.items():
        part = slice(start, start + len(of_part))
        start = part.stop
        record[name] = {
            "photos": len(of_part),
            "browser_as_python": equal(theirs, ids, part),
            "python_as_first": equal(ids, first, part),
            "browser_as_first": equal(theirs, first, part),
        }
    record["python_ms"] = round(ms, 1)
    for key in ("encoder_ms", "decoder_ms"):
        record[f"browser_{key}"] = round(statistics.median(row[key] for row in found), 1)
    return record, ids


@click.command()
@click.option(
    "--bundle", "bundles", multiple=True, type=click.Path(path_type=Path), help="Instead of fp32 and int8."
)
@click.option("--count", default=36, show_default=True, help="Photos of each validation set.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(bundles: Sequence[Path], count: int, output: Path | None) -> None:
    """Compare tokens and times; the result file has a row for each bundle."""
    parts = {"examples": sorted(PHOTOS.glob("*.jpg"))}
    parts |= {name: photos_of(name, count) for name in ("flickr8k-dev", "coco-dev")}
    rows: list[dict[str, Any]] = []
    first: Tokens | None = None
    try:
        runtime = npm_package("onnxruntime-web", ONNXRUNTIME_WEB, hint="install npm")
        for directory in bundles or (export_fp32(find_checkpoint()), DEFAULT_BUNDLE):
            row, ids = compare(load_bundle(directory), parts, runtime, first)
            first = first or ids
            rows.append(row)
            click.echo(json.dumps(row))
    except KilowordError as error:
        raise click.ClickException(str(error)) from error
    settings = {"onnxruntime_web": ONNXRUNTIME_WEB, "threads": 1, "num_beams": 1}
    click.echo(f"wrote {write_result('browser', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
