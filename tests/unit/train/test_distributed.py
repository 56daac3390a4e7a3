"""Two processes that share each batch against one whose batches are as large as both of theirs."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import make_shapes, tiny_recipe

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed package", allow_module_level=True)

from safetensors.torch import load_file  # noqa: E402

from kiloword.train.batches import Share  # noqa: E402
from kiloword.train.journal import read_journal  # noqa: E402
from kiloword.train.loop import train  # noqa: E402

TIMEOUT_S = 240
CHILD = """
import json, sys
from pathlib import Path
from kiloword.train.loop import train
from kiloword.train.recipe_file import recipe_from_table

recipe = recipe_from_table(json.loads(Path(sys.argv[1]).read_text()))
train(recipe, Path(sys.argv[2]), resume=len(sys.argv) > 3)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_shapes(folder / "shapes")
    return folder


def recipe_without_chance(root: Path, batch_size: int) -> dict[str, Any]:
    """No dropout and no augmentation, whose random numbers each process draws for itself."""
    table = copy.deepcopy(tiny_recipe(root))
    table["decoder"]["dropout"] = 0.0
    table["augmentation"] = {"mirror": False, "crop": 1.0, "colour": 0.0}
    for one in table["stages"]:
        one |= {"batch_size": batch_size, "passes": 2, "views": 1}
    table["validation"] = {"every_passes": 1}
    return table


def run_shared(table: dict[str, Any], output: Path, repository: Path, *more: str) -> tuple[int, str]:
    written = output.with_suffix(".json")
    written.write_text(json.dumps(table), encoding="utf-8")
    script = output.with_suffix(".py")
    script.write_text(CHILD, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(written), str(output), *more],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": import_path()},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stderr


def import_path() -> str:
    """Where this process found the package: an editable install or a plain checkout."""
    import kiloword

    found = str(Path(kiloword.__file__).parent.parent)
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), found)))


def test_two_processes_learn_what_one_with_the_doubled_batch_learns(
    root: Path, tmp_path: Path, repository: Path
) -> None:
    """20 photos in batches of 2 x 3: three whole batches, and one of two photos."""
    code, said = run_shared(recipe_without_chance(root, 3), tmp_path / "two", repository)
    assert code == 0, said
    train(recipe_from_table(recipe_without_chance(root, 6)), tmp_path / "one")
    found, expected = (read_journal(tmp_path / name / "metrics.jsonl") for name in ("two", "one"))
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine["stage"], mine["step"]) == (theirs["stage"], theirs["step"])
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=2e-4)
    weights = [load_file(tmp_path / name / "resume" / "resume.safetensors") for name in ("two", "one")]
    assert weights[0].keys() == weights[1].keys()
    moved = False
    for key, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][key], tensor, rtol=2e-3, atol=2e-4, msg=key)
        moved = moved or bool(tensor.abs().max() > 0)
    assert moved


def test_a_shared_run_goes_on_with_as_many_processes(root: Path, tmp_path: Path, repository: Path) -> None:
    """And with no other number, which would make other batches of the same photos."""
    table = recipe_without_chance(root, 3)
    del table["stages"][1]
    code, said = run_shared(table, tmp_path / "run", repository)
    assert code == 0, said
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    code, said = run_shared(table, tmp_path / "run", repository, "resume")
    assert code == 0, said
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"expected 2 processes, found 1.*torchrun"):
        train(recipe_from_table(table), tmp_path / "run", resume=True)


@pytest.mark.parametrize(("rows", "batch_size", "processes"), [(20, 3, 2), (19, 3, 2), (7, 4, 1), (8, 2, 3)])
def test_shares_of_a_pass(rows: int, batch_size: int, processes: int) -> None:
    """Each row once, no process without a row; what is left out is less than a row for each process."""
    shares = [Share(number, processes) for number in range(processes)]
    steps = shares[0].steps_in_pass(rows, batch_size)
    whole = batch_size * processes
    taken = [
        share.take(np.arange(rows)[step * whole : (step + 1) * whole])
        for step in range(steps)
        for share in shares
    ]
    assert all(0 < len(part) <= batch_size for part in taken)
    seen = sorted(np.concatenate(taken).tolist())
    assert seen == list(range(len(seen)))
    assert rows - len(seen) < processes
