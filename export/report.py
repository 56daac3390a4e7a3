"""What int8 cost and what it gained: both bundles on the same photos, one thread, in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiloword.export.quantize import count_products
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import ExportError

SMALLEST_AGREEMENT = 0.5
"""Share of equal words below which an int8 bundle is refused as broken. Healthy ones are above 0.8."""
_PHOTOS = 32
_ROUNDS = 2


def compare(fp32: Path, int8: Path, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Captions photos with both bundles, greedily, photo by photo in turns.

    Args:
        fp32: directory of the fp32 bundle.
        int8: directory of the int8 bundle.
        pixels: uint8 (photos, height, width, 3).

    Returns:
        For each precision bytes, integer and float products, median milliseconds per photo; and the shares of
        equal captions and equal words.

    Raises:
        ExportError: the int8 bundle multiplies no bytes, or says other things than the fp32 bundle.
    """
    # On the processor, both: `auto` would put fp32 alone on a GPU and compare two machines.
    captioners = {
        name: Captioner.load(path, provider="cpu", threads=1)
        for name, path in (("fp32", fp32), ("int8", int8))
    }
    texts: dict[str, list[str]] = {name: [] for name in captioners}
    times: dict[str, list[float]] = {name: [] for name in captioners}
    for _ in range(_ROUNDS):
        for photo in pixels[:_PHOTOS]:
            for name, captioner in captioners.items():
                started = time.perf_counter()
                caption = captioner.caption_pixels(photo[None], num_beams=1)[0]
                times[name].append(1000 * (time.perf_counter() - started))
                texts[name].append(caption.text)
    for captioner in captioners.values():
        captioner.close()
    report: dict[str, Any] = {
        name: _facts(path, times[name]) for name, path in (("fp32", fp32), ("int8", int8))
    }
    report |= {"photos": min(len(pixels), _PHOTOS), "threads": 1, **_agreement(texts["fp32"], texts["int8"])}
    _require_sound(report)
    return report


def _facts(directory: Path, times_ms: list[float]) -> dict[str, Any]:
    bundle = load_bundle(directory)
    counts = {
        file.stem: dict(zip(("integer_products", "float_products"), count_products(file), strict=True))
        for file in (bundle.encoder_path, bundle.decoder_path)
    }
    return {"bytes": bundle.size_bytes, "greedy_ms_per_photo": round(median(times_ms), 2), **counts}


def _agreement(first: list[str], second: list[str]) -> dict[str, float]:
    """Share of captions that are equal, and of words that stand at the same place in both."""
    same = sum(a == b for a, b in zip(first, second, strict=True))
    words = [(a.split(), b.split()) for a, b in zip(first, second, strict=True)]
    equal = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in words)
    total = sum(max(len(a), len(b)) for a, b in words)
    return {"equal_captions": round(same / len(first), 4), "equal_words": round(equal / max(total, 1), 4)}


def _require_sound(report: Mapping[str, Any]) -> None:
    for graph in ("encoder", "decoder"):
        if report["int8"][graph]["integer_products"] == 0:
            raise ExportError(f"the int8 {graph} multiplies no bytes when it runs")
    if report["equal_words"] < SMALLEST_AGREEMENT:
        raise ExportError(
            "int8 says other things than fp32",
            expected=f"{SMALLEST_AGREEMENT:.0%} equal words or more",
            found=f"{report['equal_words']:.0%}",
            hint="--calibration FOLDER with photos like those that the model was trained on",
        )


def as_table(report: Mapping[str, Any]) -> str:
    """The comparison for people."""
    lines = [f"{'':10}{'MB':>8}{'ms/photo':>10}  products in int8 / float (encoder, decoder)"]
    for name in ("fp32", "int8"):
        facts = report[name]
        products = ", ".join(
            f"{facts[graph]['integer_products']} / {facts[graph]['float_products']}"
            for graph in ("encoder", "decoder")
        )
        lines.append(f"{name:10}{facts['bytes'] / 1e6:8.1f}{facts['greedy_ms_per_photo']:10.1f}  {products}")
    lines.append(
        f"equal on {report['photos']} photos: {report['equal_captions']:.0%} of captions, "
        f"{report['equal_words']:.0%} of words (greedy, one thread)"
    )
    return "\n".join(lines)
