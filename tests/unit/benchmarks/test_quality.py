"""What the quality benchmark says of int8 beside fp32, on a bundle and a data set that are made here."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks import quality
from tests.bundles import make_tiny_bundle


def row(precision: str, cider: float, dataset: str = "x", num_beams: int = 1) -> dict:
    """A record with what `against_fp32` looks at."""
    return {
        "dataset": dataset,
        "precision": precision,
        "decode": {"num_beams": num_beams},
        "metrics": {"cider": cider},
    }


def test_int8_is_compared_with_fp32_of_the_same_case() -> None:
    """By hand: 58.0 - 58.4 with one beam; nothing to compare with on the other data set and with three."""
    rows = [
        row("int8", 58.0),
        row("fp32", 58.4),
        row("int8", 50.0, dataset="y"),
        row("int8", 60.0, num_beams=3),
    ]
    compared = quality.against_fp32(rows)
    assert compared[0]["cider_above_fp32"] == -0.4
    assert all("cider_above_fp32" not in other for other in compared[1:])


def test_a_run_writes_every_case(tmp_path: Path, photos: Path) -> None:
    """One data set in COCO's layout with two of the example photos, one tiny bundle, one and two beams."""
    names = ["cat.jpg", "coffee.jpg"]
    captions = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "caption": "a dog on a field"} for number in range(len(names))
        ],
    }
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    for name in names:
        (folder / "images" / name).write_bytes((photos / name).read_bytes())
    (folder / "captions_dev.json").write_text(json.dumps(captions), encoding="utf-8")
    bundle = make_tiny_bundle(tmp_path / "bundle")
    arguments = ["--bundle", str(bundle.directory), "--data", str(tmp_path), "--dataset", "coco-dev"]
    arguments += ["--tokenizer", "own", "--num-beams", "1", "--num-beams", "2"]
    arguments += ["--output", str(tmp_path / "result.json")]
    done = CliRunner().invoke(quality.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert [measured["decode"]["num_beams"] for measured in result["measurements"]] == [1, 2]
    assert {measured["metrics"]["num_images"] for measured in result["measurements"]} == {2}
    assert str(tmp_path) not in json.dumps(result["measurements"])
