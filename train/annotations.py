"""Readers of the annotation files that caption data sets come with: one function per layout.

A reader only reads: it notes every photo that is named, its captions and its split, and rejects what it
cannot understand. Whether the photos exist, and how many faults are too many, is decided in ``datasets``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kiloword.runtime.errors import ConfigError

__all__ = ["READERS", "Annotations", "Layout", "Photo", "canonical_split", "detect_layout", "is_text"]

Layout = Literal["auto", "flickr8k", "coco", "karpathy", "table"]

_FLICKR8K_CAPTIONS = "Flickr8k.token.txt"
_TABLE_FILES = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv")
_SPLIT_ALIASES = {"val": "dev", "validation": "dev", "valid": "dev", "restval": "train", "training": "train"}
_IMAGE_COLUMNS = ("file_name", "image", "path")
_CAPTION_COLUMNS = ("caption", "text", "captions")


@dataclass
class Photo:
    """A photo as the annotations name it, before anything is checked."""

    name: str
    """Its file, relative to the folder of photos."""
    image_id: str
    """Its name in the data set."""
    split: str | None
    """Canonical name of its split, if it is in one."""
    where: str
    """File and line where it is first named."""
    captions: list[tuple[str, str]] = field(default_factory=list)
    """Each caption with the file and line where it stands."""


@dataclass
class Annotations:
    """Everything one reader found in the annotation files."""

    source: Path
    """The annotation file."""
    photos: dict[str, Photo] = field(default_factory=dict)
    """Photos by image_id, in the file's order."""
    problems: list[str] = field(default_factory=list)
    """One line per fault."""
    total: int = 0
    """Captions that were looked at."""
    bad: int = 0
    """Those of them that cannot be used."""

    def reject(self, where: str, message: str, *, captions: int = 1) -> None:
        """Count and name a fault that costs ``captions`` captions."""
        self.problems.append(f"{where}: {message}")
        self.total += captions
        self.bad += captions

    def photo(self, name: str, image_id: str, split: str | None, where: str) -> Photo:
        """Return the photo called ``image_id``; make it where it is new."""
        return self.photos.setdefault(image_id, Photo(name, image_id, split, where))


def canonical_split(name: str | None) -> str | None:
    """Return our name of a split: ``val`` and ``validation`` are ``dev``, ``restval`` is ``train``."""
    if name is None or not name.strip():
        return None
    lowered = name.strip().lower()
    return _SPLIT_ALIASES.get(lowered, lowered)


def _split_of(row: dict[str, Any]) -> str | None:
    split = row.get("split")
    return None if split is None else canonical_split(str(split))


def detect_layout(path: Path) -> Layout:
    """Tell a data set's layout by the files it has and, for JSON, by its keys.

    Raises:
        ConfigError: There is nothing here that we know.
    """
    if path.is_dir():
        if (path / _FLICKR8K_CAPTIONS).is_file():
            return "flickr8k"
        if _table_in(path) is not None:
            return "table"
        expected = ", ".join((_FLICKR8K_CAPTIONS, *_TABLE_FILES))
        raise ConfigError(
            [f"{path}: no data set in this folder; expected one of {expected}, or name a JSON file"]
        )
    if path.name == _FLICKR8K_CAPTIONS:
        return "flickr8k"
    if path.suffix.lower() in (".jsonl", ".csv"):
        return "table"
    if path.suffix.lower() == ".json":
        return "coco" if "annotations" in _load_json(path) else "karpathy"
    found = "an unknown kind of file" if path.exists() else "no such file or folder"
    raise ConfigError([f"{path}: {found}; expected a data set's folder, or a .json, .jsonl or .csv file"])


def _table_in(folder: Path) -> Path | None:
    return next((folder / name for name in _TABLE_FILES if (folder / name).is_file()), None)


def _read_flickr8k(path: Path) -> Annotations:
    """Read ``name.jpg#k<TAB>caption`` lines and the split lists beside them."""
    source = path / _FLICKR8K_CAPTIONS if path.is_dir() else path
    annotations = Annotations(source)
    splits = _flickr8k_splits(annotations)
    for where, line in _text_lines(annotations):
        key, tab, text = line.partition("\t")
        name, _, number = key.rpartition("#")
        if not (tab and name and number.isdigit()):
            annotations.reject(where, f"expected name#number<TAB>caption, found {line[:60]!r}")
            continue
        annotations.photo(name, name, splits.get(name), where).captions.append((text, where))
    for name, split in splits.items():
        annotations.photo(name, name, split, f"{source.name} (split {split})")
    return annotations


def _flickr8k_splits(annotations: Annotations) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split in ("train", "dev", "test"):
        listing = annotations.source.parent / f"Flickr_8k.{split}Images.txt"
        if not listing.is_file():
            continue
        for number, name in enumerate(_read_text(listing).split("\n"), 1):
            name = name.strip()
            if name and splits.setdefault(name, split) != split:
                annotations.reject(
                    f"{listing.name}:{number}", f"{name!r} is in split {splits[name]!r} already"
                )
    return splits


def _read_coco(path: Path) -> Annotations:
    annotations = Annotations(path)
    document = _load_json(path)
    for index, image in enumerate(_list_of(document, "images", path)):
        where = f"{path.name} images[{index}]"
        if not (isinstance(image, dict) and "id" in image and isinstance(image.get("file_name"), str)):
            annotations.reject(where, "expected an object with id and file_name")
            continue
        image_id = str(image["id"])
        annotations.photo(image["file_name"], image_id, None, where)
    for index, entry in enumerate(_list_of(document, "annotations", path)):
        where = f"{path.name} annotations[{index}]"
        photo = annotations.photos.get(str(entry.get("image_id"))) if isinstance(entry, dict) else None
        if photo is None or not isinstance(entry.get("caption"), str):
            annotations.reject(where, "expected a caption and the image_id of a listed photo")
            continue
        photo.captions.append((entry["caption"], where))
    return annotations


def _read_karpathy(path: Path) -> Annotations:
    annotations = Annotations(path)
    for index, image in enumerate(_list_of(_load_json(path), "images", path)):
        where = f"{path.name} images[{index}]"
        try:
            name = str(Path(image.get("filepath") or "", image["filename"]))
            texts = [sentence["raw"] for sentence in image["sentences"]]
        except (AttributeError, KeyError, TypeError):
            annotations.reject(where, "expected filename and sentences with raw")
            continue
        photo = annotations.photo(name, name, _split_of(image), where)
        photo.captions.extend((str(text), where) for text in texts)
    return annotations


def _load_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{path}: not valid JSON: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: not captions JSON: nested too deeply"]) from error
    if not isinstance(document, dict) or "images" not in document:
        raise ConfigError([f"{path}: expected COCO's or Karpathy's captions JSON (an object with 'images')"])
    return document


def _list_of(document: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ConfigError([f"{path}: expected a list under {key!r}, found {type(value).__name__}"])
    return value


def _read_table(path: Path) -> Annotations:
    """Read rows of a photo, a caption (or a list of captions) and, where it is there, a split."""
    source = _table_in(path) if path.is_dir() else path
    if source is None:
        raise ConfigError([f"{path}: expected one of {', '.join(_TABLE_FILES)} in this folder"])
    annotations = Annotations(source)
    rows = _csv_rows(annotations) if source.suffix.lower() == ".csv" else _jsonl_rows(annotations)
    for where, row in rows:
        name = _first_of(row, _IMAGE_COLUMNS)
        texts = _captions_of(row)
        if not isinstance(name, str) or not name or texts is None:
            annotations.reject(where, f"expected {'|'.join(_IMAGE_COLUMNS)} and {'|'.join(_CAPTION_COLUMNS)}")
            continue
        photo = annotations.photo(name, name, _split_of(row), where)
        photo.captions.extend((text, where) for text in texts)
    return annotations


def _captions_of(row: dict[str, Any]) -> list[str] | None:
    value = _first_of(row, _CAPTION_COLUMNS)
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return texts
    return None


def _first_of(row: dict[str, Any], columns: Iterable[str]) -> object:
    return next((row[column] for column in columns if row.get(column) is not None), None)


def _jsonl_rows(annotations: Annotations) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, line in _text_lines(annotations):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            annotations.reject(where, f"not valid JSON: {error}")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            annotations.reject(where, f"expected a JSON object, found {type(row).__name__}")


def _csv_rows(annotations: Annotations) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_read_text(annotations.source), newline=""))
    columns = set(reader.fieldnames or ())
    if not (columns & set(_IMAGE_COLUMNS) and columns & set(_CAPTION_COLUMNS)):
        expected = f"{'|'.join(_IMAGE_COLUMNS)} and {'|'.join(_CAPTION_COLUMNS)}"
        raise ConfigError(
            [f"{annotations.source}: expected a header with {expected}, found {sorted(columns)}"]
        )
    for row in _rows_until_error(reader, annotations.source):
        where = f"{annotations.source.name}:{reader.line_num}"
        if None in row or not all(isinstance(value, str) and is_text(value) for value in row.values()):
            annotations.reject(
                where, f"expected {len(columns)} columns of UTF-8 text (quote a caption that has commas)"
            )
        else:
            yield where, dict(row)


def _rows_until_error(reader: csv.DictReader[str], source: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ConfigError([f"{source}:{reader.line_num}: not CSV: {error}"]) from error


def _text_lines(annotations: Annotations) -> Iterator[tuple[str, str]]:
    """Yield ``(where, line)`` of each line that is neither empty nor broken."""
    # Not splitlines(): it also splits at U+2028 and the like, which stand in real captions.
    for number, line in enumerate(_read_text(annotations.source).split("\n"), 1):
        where = f"{annotations.source.name}:{number}"
        if not is_text(line):
            annotations.reject(where, "not UTF-8 text")
        elif line.strip():
            yield where, line.rstrip("\r")


def _read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark; bytes that are not UTF-8 survive as lone surrogates."""
    try:
        return path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error


def is_text(line: str) -> bool:
    """Whether a string has no lone surrogate, which is what a byte that is not UTF-8 is read as."""
    return not any("\ud800" <= character <= "\udfff" for character in line)


READERS: dict[str, Callable[[Path], Annotations]] = {
    "flickr8k": _read_flickr8k,
    "coco": _read_coco,
    "karpathy": _read_karpathy,
    "table": _read_table,
}
