"""The whole path as a user types it: train, export and quantize, caption, evaluate, inspect.

The data are shapes that are drawn on the spot. What the model says of them must make sense: forty passes over
two dozen pictures are enough to name most colours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.shapes import COLOURS, make_shapes, tiny_recipe

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TIMEOUT_S = 300
REPRODUCIBLE = ("static", "static+weight-only", "weight-only")
"""What `--quantize` tries."""


def as_toml(table: dict[str, Any]) -> str:
    """A recipe's table as a TOML file: plain values first, then each section, then the lists of sections."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if is_plain(value)]
    for name, section in table.items():
        for part in section if isinstance(section, list) else [section]:
            if isinstance(part, dict):
                lines.append(f"[[{name}]]" if isinstance(section, list) else f"[{name}]")
                lines += [f"{key} = {inline(value)}" for key, value in part.items()]
    return "\n".join(lines) + "\n"


def is_plain(value: object) -> bool:
    return not isinstance(value, (dict, list))


def inline(value: object) -> str:
    """One value; JSON's texts, numbers and truth values are TOML's, its objects need equal signs."""
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with pictures and a recipe."""
    place = tmp_path_factory.mktemp("path")
    make_shapes(place / "shapes")
    recipe = tiny_recipe(place)
    recipe["data"] |= {"root": ".", "cache": "cache", "licence": "Drawn for this test."}
    recipe["stages"] = [{**stage, "passes": 20} for stage in recipe["stages"]]
    recipe["validation"] = {"every_passes": 10}
    (place / "shapes.toml").write_text(as_toml(recipe), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def run(folder: Path, repository: Path) -> Any:
    def python_cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`python cli.py ...` of the checkout, in that folder, with Python's own complaints as errors."""
        done = subprocess.run(
            [sys.executable, str(repository / "cli.py"), *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
        return done

    return python_cli


@pytest.fixture(scope="module")
def exported(run: Any, folder: Path) -> tuple[Path, Path]:
    """Train and export; both without naming what the recipe or the run already say."""
    trained = run("train", "shapes.toml")
    assert trained.stdout.strip() == str(Path("runs") / "shapes" / "best")
    done = run("export", "--quantize", "--force", "-o", "bundles")
    assert done.stdout.splitlines() == [str(Path("bundles") / name) for name in ("fp32", "int8")]
    assert "equal to torch in 8 cases" in done.stderr
    table = done.stderr[done.stderr.index("int8 against fp32:") :].splitlines()
    assert [line.split()[0] for line in table[1:6]] == ["MB", "fp32", *REPRODUCIBLE]
    return folder / "bundles" / "fp32", folder / "bundles" / "int8"


@pytest.mark.parametrize("precision", [0, 1], ids=["fp32", "int8"])
def test_captions_name_the_colours(run: Any, exported: tuple[Path, Path], precision: int) -> None:
    """Two thirds of the training pictures: what a model that saw nothing cannot reach with four colours."""
    done = run("caption", "shapes", "--format", "jsonl", "--bundle", exported[precision])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 24
    colours = list(COLOURS)
    right = [colours[int(Path(line["path"]).stem) // 3 % 4] in line["caption"].split() for line in lines]
    assert sum(right) >= 16
    assert all(0 < line["confidence"] <= 1 for line in lines)


def test_evaluation_scores_both_precisions_alike(run: Any, exported: tuple[Path, Path]) -> None:
    """CIDEr of the training split: well above 0, and int8 near fp32."""
    scores = []
    for bundle in exported:
        done = run("evaluate", "shapes", "--split", "train", "--bundle", bundle, "--format", "json")
        scores.append(json.loads(done.stdout)["metrics"]["cider"])
    assert min(scores) > 50
    assert abs(scores[0] - scores[1]) < 0.25 * scores[0]


def test_inspect_shows_where_the_bundle_comes_from(run: Any, exported: tuple[Path, Path]) -> None:
    """Recipe, licence and the comparison with fp32."""
    done = run("inspect", exported[1])
    for fact in ("shapes", "int8", "Drawn for this test.", "int8/float products", "rounds in turns"):
        assert fact in done.stdout
