"""Caption data sets as people have them, read into one list of records.

Four layouts are understood:

* ``flickr8k``: a folder with ``Flickr8k.token.txt`` and the ``Flickr_8k.*Images.txt`` split lists;
* ``coco``: COCO's captions JSON (``images`` and ``annotations``);
* ``karpathy``: the JSON of Karpathy's splits (``images[].sentences[].raw``);
* ``table``: a folder with ``captions.jsonl``, ``metadata.jsonl``, ``captions.csv`` or ``metadata.csv``,
  or such a file.

Real data has faults: a photo that is gone, an empty caption, a line cut in half. Each is counted and named;
they stop the run only when they are many, because then the folder is more likely the wrong one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kiloword.runtime.errors import ConfigError
from kiloword.train.annotations import (
    READERS,
    Annotations,
    Layout,
    Photo,
    canonical_split,
    detect_layout,
    is_text,
)

__all__ = ["CaptionRecord", "Layout", "LoadedRecords", "load_captions", "load_records"]

_LOGGER = logging.getLogger(__name__)
# "Flicker8k_Dataset" is how the original archive spells its folder.
_IMAGE_FOLDERS = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset", "Images", ".")
_PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class CaptionRecord:
    """One photo and what people wrote about it."""

    image: Path
    """The photo's file; it existed when the records were loaded."""
    captions: tuple[str, ...]
    """At least one caption, in the file's order, white space collapsed, otherwise as written."""
    image_id: str
    """The photo's name in its data set, unique among the loaded records."""


@dataclass(frozen=True)
class LoadedRecords:
    """The usable part of a data set, and what was left out."""

    records: tuple[CaptionRecord, ...]
    """Photos with captions, in the data set's order."""
    problems: tuple[str, ...]
    """One line per fault: where it is and what is wrong."""
    total: int
    """Captions looked at, the bad ones included."""
    bad: int
    """Captions left out because of the problems (a missing photo loses all of its captions)."""


def load_records(
    source: str | Path,
    split: str | None,
    *,
    layout: Layout = "auto",
    images: str | Path | None = None,
    max_bad_fraction: float = 0.05,
) -> LoadedRecords:
    """Read a captioned data set.

    Args:
        source: The data set's folder or its annotation file.
        split: ``train``, ``dev`` (also ``val``, ``validation``), ``test``, another name that the data set
            uses, or ``None`` for everything. A data set without splits only has ``None``.
        layout: How the data set is laid out; ``auto`` looks at the files' names and keys.
        images: The folder that the photos' names are relative to; by default ``images/`` beside the
            annotations (or one of the other usual folders, or the annotations' own folder).
        max_bad_fraction: Largest share of captions (0..1) that may be lost to faults.

    Returns:
        The usable records and every fault found in this split. Faults that belong to no split (a line that
        cannot be read, a photo that no split lists and that does not exist) are reported for each.

    Raises:
        ConfigError: The source is not a data set of that layout, has no such split or no usable photo, or
            more than ``max_bad_fraction`` of its captions are bad.
    """
    path = Path(source)
    annotations = READERS[detect_layout(path) if layout == "auto" else layout](path)
    wanted = canonical_split(split)
    _require_split(annotations, wanted)
    folders = _image_folders(annotations.source.parent, None if images is None else Path(images))
    records = tuple(_usable_records(annotations, wanted, folders))
    _require_mostly_good(annotations, records, max_bad_fraction)
    return LoadedRecords(records, tuple(annotations.problems), annotations.total, annotations.bad)


def load_captions(source: str | Path, split: str, *, layout: Layout = "auto") -> tuple[str, ...] | None:
    """Read the captions of one split, whether or not its photos are there.

    Args:
        source: The data set's folder or its annotation file.
        split: As for `load_records`.
        layout: As for `load_records`.

    Returns:
        The captions as written; None where the data set has no such split.

    Raises:
        ConfigError: The source is not a data set of that layout.
    """
    path = Path(source)
    annotations = READERS[detect_layout(path) if layout == "auto" else layout](path)
    wanted = canonical_split(split)
    photos = [photo for photo in annotations.photos.values() if photo.split == wanted]
    texts = tuple(text for photo in photos for text, _ in photo.captions if is_text(text))
    return texts or None


def _usable_records(
    annotations: Annotations, split: str | None, folders: Sequence[Path]
) -> Iterator[CaptionRecord]:
    for photo in annotations.photos.values():
        in_split = split is None or photo.split == split
        if not in_split and photo.split is not None:
            continue
        image = _find_image(photo.name, folders)
        if image is None:
            message = f"no photo {photo.name!r} in {folders[0]}"
            annotations.reject(photo.where, message, captions=max(1, len(photo.captions)))
        elif in_split and (captions := _usable_captions(annotations, photo)):
            yield CaptionRecord(image, captions, photo.image_id)


def _usable_captions(annotations: Annotations, photo: Photo) -> tuple[str, ...]:
    if not photo.captions:
        annotations.reject(photo.where, f"photo {photo.name!r} has no caption")
    usable = []
    for text, where in photo.captions:
        caption = " ".join(text.split())
        if not caption:
            annotations.reject(where, f"empty caption of {photo.name!r}")
        elif not is_text(caption):
            annotations.reject(where, f"caption of {photo.name!r} is not UTF-8 text")
        else:
            usable.append(caption)
            annotations.total += 1
    return tuple(usable)


def _find_image(name: str, folders: Sequence[Path]) -> Path | None:
    candidates = (folder / name for folder in folders)
    # os.path.isfile answers False, not an exception, for names that no file system can hold.
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _image_folders(beside: Path, given: Path | None) -> list[Path]:
    if given is not None:
        if not given.is_dir():
            raise ConfigError([f"{given}: not a folder of photos"])
        return [given]
    return [folder for name in _IMAGE_FOLDERS if (folder := beside / name).is_dir()]


def _require_split(annotations: Annotations, split: str | None) -> None:
    known = sorted({photo.split for photo in annotations.photos.values() if photo.split is not None})
    if split is None or split in known:
        return
    found = (
        f"its splits are {', '.join(known)}"
        if known
        else "it has no splits: ask for all of it (split None, --split all)"
    )
    raise ConfigError([f"{annotations.source}: no photo of split {split!r}; {found}"])


def _require_mostly_good(
    annotations: Annotations, records: Sequence[CaptionRecord], max_bad_fraction: float
) -> None:
    problems = annotations.problems
    summary = f"{annotations.source}: {annotations.bad} of {annotations.total} captions cannot be used"
    if problems:
        _LOGGER.warning("%s; first: %s", summary, problems[0])
    if records and annotations.bad <= max_bad_fraction * annotations.total:
        return
    if not problems:
        raise ConfigError([f"{annotations.source}: no photo in it"])
    shown = problems[:_PROBLEMS_SHOWN]
    more = [f"... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    allowed = f"at most {max_bad_fraction:.0%} may be bad; is the folder of photos the right one?"
    raise ConfigError([f"{summary}; {allowed}", *shown, *more])
