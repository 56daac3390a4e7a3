"""Grids of digits: nothing of a test grid was seen in training, and the same seed draws the same files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.errors import ConfigError
from kiloword.train.datasets import load_records
from kiloword.train.digits import Digits, GridStyle, deal, load_digits, write_grids
from tests.unit.train.test_idx import idx_bytes

COUNTS = {"train": 6, "dev": 3, "test": 4}


@pytest.fixture
def digits() -> Digits:
    """A hundred digits of one brightness each, so that a cell tells which digit it holds."""
    shades = np.arange(100, 200, dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None], (100, 8, 8)).copy()
    return Digits(images, np.arange(100) % 10, np.zeros(100, bool))


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "captions.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_splits_are_disjoint_and_together_all(digits: Digits) -> None:
    pools = deal(digits, seed=1)
    assert {split: len(pool) for split, pool in pools.items()} == {"train": 70, "dev": 10, "test": 20}
    assert sorted(np.concatenate(list(pools.values())).tolist()) == list(range(100))
    assert pools["test"].tolist() != deal(digits, seed=2)["test"].tolist()


def test_a_set_with_its_own_test_part_keeps_it(digits: Digits) -> None:
    unseen = np.arange(100) >= 85
    pools = deal(Digits(digits.images, digits.labels, unseen), seed=1)
    assert sorted(pools["test"].tolist()) == list(range(85, 100))
    assert len(pools["dev"]) == 10


def test_no_digit_of_one_split_is_drawn_in_another(digits: Digits, tmp_path: Path) -> None:
    drawn: dict[str, set[int]] = {"train": set(), "dev": set(), "test": set()}
    write_grids(tmp_path / "grids", digits, dict.fromkeys(drawn, 40), GridStyle(), seed=3)
    for line in lines(tmp_path / "grids"):
        drawn[line["split"]] |= set(line["digits"])
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["dev"]
    assert not drawn["dev"] & drawn["test"]


def test_the_caption_is_the_digits_row_by_row(digits: Digits, tmp_path: Path) -> None:
    """Test grids are drawn as written: each cell has the brightness of its digit, turned to dark on white."""
    style = GridStyle(rows=2, columns=3, cell=16)
    folder = write_grids(tmp_path / "grids", digits, COUNTS, style, seed=1)
    for line in lines(folder):
        if line["split"] != "test":
            continue
        assert line["captions"] == [" ".join(str(number % 10) for number in line["digits"])]
        with Image.open(folder / "images" / line["file_name"]) as picture:
            assert (picture.size, picture.mode) == ((48, 32), "RGB")
            cells = [picture.getpixel((8 + 16 * (place % 3), 8 + 16 * (place // 3))) for place in range(6)]
        assert cells == [(255 - (100 + number),) * 3 for number in line["digits"]]


def test_training_grids_are_warped_and_others_are_not(tmp_path: Path) -> None:
    """One digit with a single bright stroke, many times: only in training it looks different each time."""
    image = np.zeros((100, 8, 8), np.uint8)
    image[:, 1:7, 4] = 255
    style = GridStyle(rows=1, columns=1)
    digits = Digits(image, np.zeros(100, np.int64), np.zeros(100, bool))
    folder = write_grids(tmp_path / "grids", digits, COUNTS, style, seed=1)
    seen: dict[str, set[bytes]] = {split: set() for split in COUNTS}
    for line in lines(folder):
        with Image.open(folder / "images" / line["file_name"]) as picture:
            seen[line["split"]].add(picture.tobytes())
    assert {split: len(different) for split, different in seen.items()} == {"train": 6, "dev": 1, "test": 1}
    assert seen["dev"] == seen["test"]


def test_the_same_seed_draws_the_same_files(digits: Digits, tmp_path: Path) -> None:
    one, same, other = (
        write_grids(tmp_path / name, digits, COUNTS, GridStyle(), seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 14
    assert all((one / file).read_bytes() == (same / file).read_bytes() for file in files)
    assert lines(one) != lines(other)


def test_it_is_a_captioned_data_set(digits: Digits, tmp_path: Path) -> None:
    folder = write_grids(tmp_path / "grids", digits, COUNTS, GridStyle(), seed=1)
    for split, count in COUNTS.items():
        loaded = load_records(folder, split)
        assert (len(loaded.records), loaded.problems) == (count, ())


def test_a_data_set_is_not_drawn_over(digits: Digits, tmp_path: Path) -> None:
    write_grids(tmp_path / "grids", digits, COUNTS, GridStyle(), seed=1)
    with pytest.raises(ConfigError, match=r"holds a data set already.*-o"):
        write_grids(tmp_path / "grids", digits, COUNTS, GridStyle(), seed=1)


def test_scikit_learns_digits() -> None:
    """1,797 digits of 8 x 8; how often each occurs is what scikit-learn's page says of the first three."""
    pytest.importorskip("sklearn")
    digits = load_digits("sklearn")
    assert (digits.images.shape, digits.images.dtype) == ((1797, 8, 8), np.uint8)
    assert digits.images.max() == 255
    assert np.bincount(digits.labels)[:3].tolist() == [178, 182, 177]


def write_mnist(folder: Path, **changes: np.ndarray) -> Path:
    folder.mkdir()
    parts = {
        "train-images-idx3-ubyte": np.arange(30 * 6, dtype=np.uint8).reshape(30, 3, 2),
        "train-labels-idx1-ubyte": np.arange(30, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": np.zeros((5, 3, 2), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(5, dtype=np.uint8),
    }
    for number, (name, array) in enumerate({**parts, **changes}.items()):
        content = idx_bytes(array)
        # Mirrors disagree on the dot, and on whether the files are packed.
        file = folder / (name if number % 2 else name.replace("-idx", ".idx") + ".gz")
        file.write_bytes(content if number % 2 else gzip.compress(content))
    return folder


def test_mnists_files_packed_or_not(tmp_path: Path) -> None:
    digits = load_digits(write_mnist(tmp_path / "mnist"))
    assert digits.images.shape == (35, 3, 2)
    assert digits.labels.tolist() == [*(list(range(10)) * 3), *range(5)]
    assert digits.unseen.tolist() == [False] * 30 + [True] * 5


def test_what_is_wrong_with_mnists_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: expected 'sklearn' or a folder with MNIST's IDX files"):
        load_digits(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty: no file train-images-idx\*-ubyte or .*\.gz"):
        load_digits(tmp_path / "empty")
    fewer = {"train-labels-idx1-ubyte": np.zeros(29, np.uint8)}
    with pytest.raises(ConfigError, match="30 pictures, 29 labels"):
        load_digits(write_mnist(tmp_path / "fewer", **fewer))
    letters = {"t10k-labels-idx1-ubyte": np.full(5, 26, np.uint8)}
    with pytest.raises(ConfigError, match="labels from 0 to 26"):
        load_digits(write_mnist(tmp_path / "letters", **letters))
    sizes = {"t10k-images-idx3-ubyte": np.zeros((5, 4, 4), np.uint8)}
    with pytest.raises(ConfigError, match="pictures of one size, found 3 x 2 and 4 x 4"):
        load_digits(write_mnist(tmp_path / "sizes", **sizes))
