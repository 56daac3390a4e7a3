"""The reading task: pictures of grids of handwritten digits, and the digits in order as their caption.

The digits come from scikit-learn's bundled set (1,797 of 8 x 8 pixels) or from MNIST's IDX files. They are
dealt to train, dev and test first and drawn into grids afterwards, so that no digit of a test grid was ever
seen in training, in whatever neighbourhood.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kiloword.runtime.errors import ConfigError, MissingDependencyError
from kiloword.runtime.outputs import write_atomically
from kiloword.train.idx import read_idx

SPLITS = ("train", "dev", "test")
_UNSEEN = {"dev": 0.1, "test": 0.2}
"""Shares of the digits that are kept from training, where the set itself does not say which."""
_IDX_PARTS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Digits:
    """Single handwritten digits."""

    images: NDArray[np.uint8]
    """(N, height, width), bright strokes on black."""
    labels: NDArray[np.int64]
    """(N,) 0 to 9."""
    unseen: NDArray[np.bool_]
    """(N,) True for digits that the set itself keeps for testing; all False where it leaves that open."""


@dataclass(frozen=True)
class GridStyle:
    """How a grid of digits is drawn."""

    rows: int = 3
    columns: int = 3
    cell: int = 16
    """Height and width of a digit's cell in pixels; one in sixteen is margin on each side."""
    warp: float = 1.0
    """How much training digits are turned, sheared, scaled, moved and bent; 0: drawn as they are."""


def load_digits(source: str | Path = "sklearn") -> Digits:
    """Single digits with their labels.

    Args:
        source: ``sklearn``, or a folder with MNIST's IDX files (``train-images-idx3-ubyte`` and the other
            three; ``.gz`` is read as it is).

    Raises:
        MissingDependencyError: scikit-learn is not installed.
        ConfigError: a file is missing or is no IDX file of digits.
    """
    return _from_sklearn() if source == "sklearn" else _from_idx_folder(Path(source))


def _from_sklearn() -> Digits:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise MissingDependencyError("scikit-learn", "digits") from error
    values, labels = datasets.load_digits(return_X_y=True)  # 0 to 16
    images = np.rint(np.asarray(values).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Digits(images, np.asarray(labels, np.int64), np.zeros(len(labels), bool))


def _from_idx_folder(folder: Path) -> Digits:
    images, labels, unseen = [], [], []
    for part, prefix in _IDX_PARTS.items():
        pictures = read_idx(_idx_file(folder, f"{prefix}-images"), dimensions=3)
        names = read_idx(_idx_file(folder, f"{prefix}-labels"), dimensions=1)
        if len(pictures) != len(names) or (len(names) and names.max() > 9):
            found = f"{len(pictures)} pictures, {len(names)} labels from 0 to {names.max(initial=0)}"
            raise ConfigError(
                [f"{part}: expected a label from 0 to 9 for each picture, found {found}"], path=folder
            )
        images.append(pictures)
        labels.append(names.astype(np.int64))
        unseen.append(np.full(len(names), part == "test"))
    if images[0].shape[1:] != images[1].shape[1:]:
        sizes = " and ".join(f"{part.shape[1]} x {part.shape[2]}" for part in images)
        raise ConfigError([f"expected pictures of one size, found {sizes}"], path=folder)
    return Digits(np.concatenate(images), np.concatenate(labels), np.concatenate(unseen))


def _idx_file(folder: Path, stem: str) -> Path:
    """MNIST's mirrors differ in a dot or a hyphen before ``idx`` and in whether the files are packed."""
    if not folder.is_dir():
        raise ConfigError(["expected 'sklearn' or a folder with MNIST's IDX files"], path=folder)
    found = sorted(
        file
        for file in folder.glob(f"{stem}[-.]idx?-ubyte*")
        if file.suffix in ("", ".gz") or "idx" in file.suffix
    )
    if not found:
        raise ConfigError([f"no file {stem}-idx*-ubyte or {stem}-idx*-ubyte.gz"], path=folder)
    return found[0]


def deal(digits: Digits, seed: int) -> dict[str, NDArray[np.int64]]:
    """Which digits each split may draw: disjoint, and together all of them.

    Args:
        digits: the set.
        seed: of the run; another one deals differently.

    Returns:
        Indices by split. Without a test part of its own, a fifth of the set is for test; a tenth of the rest
        of what may be seen is for dev.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(digits.labels))
    test = order[digits.unseen[order]]
    rest = order[~digits.unseen[order]]
    if not len(test):
        count = round(_UNSEEN["test"] * len(rest))
        test, rest = rest[:count], rest[count:]
    count = round(_UNSEEN["dev"] * len(order)) if len(order) < 20_000 else 2_000
    return {"train": rest[count:], "dev": rest[:count], "test": test}


def write_grids(
    folder: Path,
    digits: Digits,
    counts: Mapping[str, int],
    style: GridStyle,
    seed: int,
) -> Path:
    """Draws grids and writes them as a captioned data set.

    The same arguments write the same files, to the byte with the same Pillow.

    Args:
        folder: gets ``images/`` and ``captions.jsonl``, whose lines have a split and the numbers of the
            digits; must not hold a ``captions.jsonl`` yet.
        digits: what to draw.
        counts: grids of each split.
        style: how.
        seed: of everything random.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds a data set already.
    """
    if (folder / "captions.jsonl").exists():
        raise ConfigError(["the folder holds a data set already"], path=folder, hint="another folder with -o")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for split, number, chosen, picture in _grids(digits, counts, style, seed):
        name = f"{split}-{number:05d}.png"
        picture.save(folder / "images" / name, compress_level=1)
        caption = " ".join(str(digits.labels[index]) for index in chosen)
        line = {"file_name": name, "captions": [caption], "split": split, "digits": chosen.tolist()}
        lines.append(json.dumps(line) + "\n")
    with write_atomically(folder / "captions.jsonl") as stream:  # last: a folder without it is not complete
        stream.writelines(lines)
    return folder


def _grids(
    digits: Digits, counts: Mapping[str, int], style: GridStyle, seed: int
) -> Iterator[tuple[str, int, NDArray[np.int64], Image.Image]]:
    pools = deal(digits, seed)
    for place, split in enumerate(SPLITS, 1):
        for number in range(counts.get(split, 0)):
            random = np.random.default_rng([seed, place, number])
            chosen = random.choice(pools[split], style.rows * style.columns)
            warp = style.warp if split == "train" else 0.0  # what is judged is drawn as it was written
            yield split, number, chosen, draw_grid(digits.images[chosen], style, warp, random)


def draw_grid(
    images: NDArray[np.uint8], style: GridStyle, warp: float, random: np.random.Generator
) -> Image.Image:
    """One grid, filled row by row.

    Args:
        images: (rows * columns, height, width), bright on black.
        style: rows, columns and the size of a cell.
        warp: see `GridStyle`.
        random: source of the warps.

    Returns:
        An RGB picture of rows * cell by columns * cell pixels, dark strokes on white.
    """
    canvas = Image.new("L", (style.columns * style.cell, style.rows * style.cell))
    for place, image in enumerate(images):
        row, column = divmod(place, style.columns)
        digit = _with_margin(Image.fromarray(image), style.cell)
        if warp:
            matrix = _warp_matrix(style.cell, warp, random)
            digit = digit.transform(digit.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        canvas.paste(digit, (column * style.cell, row * style.cell))
    if warp:
        canvas = _bent(canvas, style, 0.03 * warp, random)
    return Image.eval(canvas, lambda value: 255 - value).convert("RGB")


def _with_margin(digit: Image.Image, cell: int) -> Image.Image:
    """A digit in the middle of its cell."""
    margin = cell // 16
    side = cell - 2 * margin
    whole = Image.new("L", (cell, cell))
    whole.paste(digit.resize((side, side), Image.Resampling.BICUBIC), (margin, margin))
    return whole


def _warp_matrix(cell: int, warp: float, random: np.random.Generator) -> tuple[float, ...]:
    """Six numbers that take a pixel of the result to one of the original, about the cell's centre.

    At 1: turned by up to 15 degrees, sheared by 0.2, each side scaled by 15 %, moved by 8 % of the cell.
    """
    angle, shear, wide, high, right, down = random.uniform(-warp, warp, 6)
    cosine, sine = np.cos(np.radians(15 * angle)), np.sin(np.radians(15 * angle))
    turn = np.array([[cosine, -sine], [sine, cosine]])
    matrix = turn @ np.array([[1 + 0.15 * wide, 0.2 * shear], [0.0, 1 + 0.15 * high]])
    centre = np.full(2, cell / 2)
    offset = centre - matrix @ centre + 0.08 * cell * np.array([right, down])
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def _bent(canvas: Image.Image, style: GridStyle, strength: float, random: np.random.Generator) -> Image.Image:
    """A grid as other hands might have led the pen: smooth random shifts of its parts.

    Shifts at 4 x 4 places of a cell have a standard deviation of ``strength`` times its side; those of the
    pixels lie smoothly between.

    Source: Simard et al., "Best Practices for Convolutional Neural Networks Applied to Visual Document
        Analysis", ICDAR 2003, section 2.
    """
    coarse = random.normal(0.0, strength * style.cell, (2, 4 * style.rows, 4 * style.columns))
    shifts = [
        np.asarray(Image.fromarray(field.astype(np.float32)).resize(canvas.size, Image.Resampling.BICUBIC))
        for field in coarse
    ]
    limits = np.array([[[canvas.height - 1.001]], [[canvas.width - 1.001]]])
    places = np.clip(np.mgrid[: canvas.height, : canvas.width] + np.stack(shifts), 0, limits)
    rows, columns = places.astype(int)
    down, right = places - (rows, columns)
    light = np.asarray(canvas, np.float32)
    upper = light[rows, columns] * (1 - right) + light[rows, columns + 1] * right
    lower = light[rows + 1, columns] * (1 - right) + light[rows + 1, columns + 1] * right
    return Image.fromarray(np.rint(upper * (1 - down) + lower * down).astype(np.uint8))
