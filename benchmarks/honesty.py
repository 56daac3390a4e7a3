"""How honest a bundle is: is its confidence calibrated, does it refuse what is no photo, does it keep photos?

Measured on photos and pictures that calibration (`kiloword calibrate`) has not seen: Flickr8k's test part, on
which nothing was chosen, and `benchmarks/nonphotos.py`, whose kinds of pictures are others than those that
calibration learnt from. `docs/honesty.py` draws the result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from benchmarks.machine import write_result
from benchmarks.nonphotos import SEED, make_nonphotos
from benchmarks.quality import DATA, DATA_SETS
from kiloword.runtime.bundle import DEFAULT_BUNDLE
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import Caption
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.reliability import NOT_A_PHOTO, judge
from kiloword.runtime.reliability_spec import ReliabilitySpec
from kiloword.train.calibration import photo_ciders
from kiloword.train.datasets import CaptionRecord, load_records
from kiloword.train.logistic import area_under_roc, calibration_error, reliability_bins, risk_coverage

_CURVE_POINTS = 20


def measure_photos(name: str, captioner: Captioner, records: Sequence[CaptionRecord]) -> dict[str, Any]:
    """Caption true photos: which are lost, and is the confidence of all of them right?"""
    spec = _spec(captioner)
    captions = list(captioner.caption_many([record.image for record in records]))
    good = photo_ciders(records, [one.text for one in captions]) >= spec.facts["good_cider"]
    confidence = np.array([one.confidence for one in captions])
    raw = np.array([one.mean_token_probability for one in captions])
    coverage, risk = risk_coverage(confidence, good)
    points = np.linspace(0, len(records) - 1, _CURVE_POINTS + 1).astype(int)[1:]
    sure = np.array([one.sure and one.reliable for one in captions])
    return {
        "case": name,
        "photos": len(records),
        "good_share": _short(good.mean()),
        "calibration_error": _short(calibration_error(confidence, good)),
        "calibration_error_of_mean_token_probability": _short(calibration_error(raw, good)),
        "area_under_roc": _short(area_under_roc(confidence, good)),
        "area_under_roc_of_mean_token_probability": _short(area_under_roc(raw, good)),
        "lost": _short(np.mean([not one.reliable for one in captions])),
        "taken_for_no_photo": _short(np.mean([one.reason == NOT_A_PHOTO for one in captions])),
        "sure_share": _short(sure.mean()),
        "good_share_where_sure": _short(good[sure].mean()),
        "good_share_where_probably": _short(good[~sure].mean()),
        "bins": [asdict(one) for one in reliability_bins(confidence, good)],
        "risk_coverage": [[_short(coverage[point]), _short(risk[point])] for point in points],
    }


def measure_nonphotos(captioner: Captioner, count: int) -> dict[str, Any]:
    """Caption pictures that are no photos: how many are refused, by kind?"""
    kinds, captions = [], []
    for picture in make_nonphotos(count):
        kinds.append(picture.kind)
        captions.append(captioner.caption(np.asarray(picture.image)))
    refused = Counter(kind for kind, one in zip(kinds, captions, strict=True) if not one.reliable)
    by_kind = {kind: f"{refused[kind]} of {total}" for kind, total in Counter(kinds).items()}
    return {
        "case": "pictures that are no photos",
        "photos": count,
        "seed": SEED,
        "refused": _short(sum(refused.values()) / count),
        "taken_for_no_photo": _short(np.mean([one.reason == NOT_A_PHOTO for one in captions])),
        "kinds": by_kind,
    }


def measure_cost(captioner: Captioner, caption: Caption, repeats: int = 200) -> dict[str, Any]:
    """Median time of judging one caption."""
    spec, image = _spec(captioner), captioner.bundle.manifest.image
    pixels = np.random.default_rng(0).integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
    axes = next(
        one.axes for one in captioner.bundle.manifest.encoder.outputs if one.name == spec.pooled_output
    )
    encoded = {str(spec.pooled_output): np.ones((int(axes[1]), 197, int(axes[3])), np.float32)}
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        judge(spec, pixels, encoded, caption.token_logprobs)
        times.append(1000 * (time.perf_counter() - start))
    return {
        "case": "cost of judging a caption",
        "median_ms": round(median(times), 3),
        "least_ms": round(min(times), 3),
    }


def _spec(captioner: Captioner) -> ReliabilitySpec:
    spec = captioner.bundle.manifest.reliability
    if spec is None:
        hint = f"kiloword calibrate {captioner.bundle.directory} --data ..."
        raise ConfigError(["the bundle is not calibrated"], path=captioner.bundle.directory, hint=hint)
    return spec


def _short(value: Any) -> float:
    return round(float(value), 4)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE)
@click.option("--data", type=click.Path(path_type=Path), default=DATA, help="Folder with flickr8k/.")
@click.option("--nonphotos", type=int, default=540, show_default=True, help="20 of each kind.")
@click.option("--limit", type=int, help="Only the first photos, to try something out.")
@click.option("--threads", type=int, help="All that this process may use by default.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundle: Path, data: Path, nonphotos: int, limit: int | None, threads: int | None, output: Path | None
) -> None:
    """Measure a calibrated bundle's honesty."""
    source = DATA_SETS["flickr8k-test"]
    records = load_records(data / source.source, source.split).records[:limit]
    with Captioner.load(bundle, threads=threads) as captioner:
        rows = [
            measure_photos("flickr8k-test", captioner, records),
            measure_nonphotos(captioner, nonphotos),
            measure_cost(captioner, captioner.caption(records[0].image)),
        ]
        facts = dict(_spec(captioner).facts)
    rows.insert(0, {"case": "validation photos that fitted nothing", **facts})
    for row in rows:
        click.echo(
            {key: value for key, value in row.items() if key not in ("bins", "risk_coverage", "check")}
        )
    settings = {"bundle": captioner.bundle.name, "limit": limit, "threads": threads}
    click.echo(f"wrote {write_result('honesty', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
