"""Pictures with one class each: CIFAR-100's python files, or a folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.folders import is_photo_name
from kiloword.train.pickles import read_plain_pickle

_SIDE = 32
_SPLITS = ("train", "val", "valid", "validation", "dev", "test")


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of known classes."""

    classes: tuple[str, ...]
    """Names, by label."""
    labels: NDArray[np.int64]
    """(N,) one for each picture."""
    files: tuple[Path, ...] | None = None
    """Photos to decode; ``None`` where ``pixels`` holds the pictures themselves."""
    pixels: NDArray[np.uint8] | None = None
    """(N, height, width, 3) RGB."""
    source: Path = Path()
    """The file that ``pixels`` came from."""

    def only(self, indices: Sequence[int] | NDArray[np.int64]) -> LabelledPictures:
        """Some of them."""
        chosen = np.asarray(indices, np.int64)
        files = None if self.files is None else tuple(self.files[index] for index in chosen)
        pixels = None if self.pixels is None else self.pixels[chosen]
        return LabelledPictures(self.classes, self.labels[chosen], files, pixels, self.source)


def load_labelled(source: Path, split: str | None) -> LabelledPictures:
    """Reads a labelled data set.

    Args:
        source: CIFAR-100's folder ``cifar-100-python`` (files ``meta``, ``train``, ``test``), or a folder
            with a folder of photos for each class; between the two may stand a folder for each split.
        split: ``train`` or ``test`` of CIFAR-100; the name of the folder in between, or ``None`` for none.

    Raises:
        ConfigError: the source is neither, has no such split, or a file of it is damaged or no plain data.
    """
    if not source.is_dir():
        raise ConfigError(
            ["expected cifar-100-python/ or a folder with a folder for each class"], path=source
        )
    return _load_cifar(source, split) if (source / "meta").is_file() else _load_folders(source, split)


def _load_cifar(folder: Path, split: str | None) -> LabelledPictures:
    if split not in ("train", "test"):
        raise ConfigError([f"CIFAR-100 has the splits train and test, not {split!r}"], path=folder)
    classes = _names(_entry(folder / "meta", "fine_label_names"), folder / "meta")
    file = folder / split
    data, labels = _entry(file, "data"), _entry(file, "fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * _SIDE * _SIDE,):
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ConfigError([f"data: expected uint8 (pictures, 3072), found {found}"], path=file)
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ConfigError(["fine_labels: expected a list of whole numbers"], path=file)
    if len(labels) != len(data) or not all(0 <= label < len(classes) for label in labels):
        found = f"{len(labels)} labels for {len(data)} pictures of {len(classes)} classes"
        raise ConfigError([f"fine_labels: expected one for each picture, found {found}"], path=file)
    # One plane for each colour, row by row.
    pixels = np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))
    return LabelledPictures(classes, np.asarray(labels, np.int64), pixels=pixels, source=file)


def _entry(file: Path, key: str) -> object:
    """One entry of a file's dictionary, whose keys are bytes when Python 2 wrote it."""
    content = read_plain_pickle(file)
    if not isinstance(content, dict):
        raise ConfigError([f"expected a dictionary, found {type(content).__name__}"], path=file)
    for name in (key, key.encode()):
        if name in content:
            return content[name]
    raise ConfigError([f"expected CIFAR-100's {key!r}, found {sorted(map(str, content))}"], path=file)


def _names(entry: object, file: Path) -> tuple[str, ...]:
    if not isinstance(entry, list) or not entry or not all(isinstance(name, str | bytes) for name in entry):
        raise ConfigError(["fine_label_names: expected a list of names"], path=file)
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in entry)


def _load_folders(folder: Path, split: str | None) -> LabelledPictures:
    place = folder if split is None else folder / split
    known = [name for name in _SPLITS if (folder / name).is_dir()]
    if not place.is_dir() or (split is None and known and len(known) == len(list(_folders(folder)))):
        found = f"its splits are {', '.join(known)}" if known else "it has no splits"
        raise ConfigError([f"no split {split!r}; {found}"], path=folder)
    groups = [
        (item, sorted(file for file in item.iterdir() if is_photo_name(file.name)))
        for item in _folders(place)
    ]
    groups = [(item, files) for item, files in groups if files]
    if len(groups) < 2:
        found = f"{len(groups)} with photos in it" if groups else "none"
        raise ConfigError(
            [f"expected a folder of photos for each of two or more classes, found {found}"], path=place
        )
    labels = [label for label, (_, files) in enumerate(groups) for _ in files]
    return LabelledPictures(
        tuple(item.name for item, _ in groups),
        np.asarray(labels, np.int64),
        files=tuple(file for _, files in groups for file in files),
    )


def _folders(folder: Path) -> Iterator[Path]:
    return (item for item in sorted(folder.iterdir()) if item.is_dir() and not item.name.startswith("."))
