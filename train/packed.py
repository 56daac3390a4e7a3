"""Captioned photos in a few files, for a machine that gets them over a wire: decoded, resized, in parts.

A packed folder looks to a recipe like the data it was made from: the same ``source`` names below
``data.root``, each a folder with ``pack.json``, ``captions.jsonl``, ``photos-000.zip`` and so on, the
encoder's weights and the sentences of ``[concepts]``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from kiloword.runtime.bundle import hash_file
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.threads import default_threads
from kiloword.train.datasets import CaptionRecord
from kiloword.train.pictures import Progress
from kiloword.train.recipe import DataSet, Recipe

FORMAT_VERSION = 1
PACK_FILE, CAPTIONS_FILE = "pack.json", "captions.jsonl"
PART_BYTES = 60 * 2**20
"""Largest part unless told otherwise: what refuses files of 64 MiB takes it."""
_QUALITY = 95
_AHEAD = 64
_HINT = "pack the data again (kiloword pack), or copy it again"

Splits = Mapping[str | None, Sequence[CaptionRecord]]


def pack(recipe: Recipe, output: Path, *, part_bytes: int = PART_BYTES, progress: Progress) -> None:
    """Packs all that a recipe learns from and is validated on.

    Photos are brought to the encoder's size exactly as the runtime does it, and stored as JPEG of quality 95.

    Args:
        recipe: of task ``caption``.
        output: a new folder; ``--set data.root=`` it, and the recipe finds the packed data.
        part_bytes: largest file of photos.
        progress: told how far it is.

    Raises:
        ConfigError: the folder exists, a source lies outside of ``data.root``, or data is missing or bad.
        ImageError: a photo cannot be read.
    """
    if recipe.task != "caption":
        raise ConfigError([f"task: only captioned photos can be packed, found {recipe.task!r}"])
    if output.exists():
        raise ConfigError(["the folder exists already"], path=output, hint="another folder with -o")
    spec = ImageSpec(height=recipe.encoder.image_size, width=recipe.encoder.image_size)
    partial = output.with_name(output.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for source, splits in _sources(recipe).items():
            _pack_source(partial / source, splits, spec, part_bytes, progress)
        sentences = recipe.concepts.sentences if recipe.concepts else None
        for file in filter(None, (recipe.encoder.weights, sentences)):
            copied = partial / _inside(file)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(recipe.data.root) / file, copied)
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def unpacked(source: Path, cache: Path) -> Path:
    """Where the photos of a source can be read from.

    Args:
        source: of a data set, packed or not.
        cache: folder in which packed photos are laid out, once; each file is compared with its hash.

    Returns:
        The same source where it is not packed; else a folder that any reader of data sets understands.

    Raises:
        ConfigError: it is damaged, or of another version.
    """
    if not (source / PACK_FILE).is_file():
        return source
    written = (source / PACK_FILE).read_bytes()
    files = _files_of(written, source)
    target = cache / f"unpacked-{hashlib.sha256(written).hexdigest()[:16]}"
    if not target.is_dir():
        partial = target.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, sha256 in files.items():
            _lay_out(source / name, sha256, partial)
        partial.rename(target)
    return target


def _sources(recipe: Recipe) -> dict[str, Splits]:
    """The records of each source and split; of what is asked for twice, all."""
    wanted: dict[str, dict[str | None, DataSet]] = {}
    for item in (*recipe.data.train, *recipe.data.validation):
        splits = wanted.setdefault(_inside(item.source), {})
        known = splits.get(item.split)
        splits[item.split] = item if known in (None, item) else replace(item, limit=None)
    for source, splits in wanted.items():
        if None in splits and len(splits) > 1:
            raise ConfigError(
                [f"data: {source!r} is asked for with a split and as a whole; pack one of them"]
            )
    return {
        source: {split: _records(item, recipe) for split, item in splits.items()}
        for source, splits in wanted.items()
    }


def _inside(source: str) -> str:
    """The path below ``data.root`` that a source has in a packed folder, too."""
    path = Path(source)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(
            [f"expected a path below data.root, found {source!r}"], hint="--set data.root=FOLDER"
        )
    return str(path)


def _records(item: DataSet, recipe: Recipe) -> Sequence[CaptionRecord]:
    from kiloword.train.material import load_captions  # which in turn reads packed data

    return load_captions(item, recipe.data)[0]


def _pack_source(folder: Path, splits: Splits, spec: ImageSpec, part_bytes: int, progress: Progress) -> None:
    """One source: its photos in parts, its captions, and the list of both with their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(split, record) for split, records in splits.items() for record in records]
    names = [f"{number:06d}.jpg" for number in range(len(rows))]
    pictures = _jpegs([record.image for _, record in rows], spec, progress)
    parts = _write_parts(folder, zip(names, pictures, strict=True), part_bytes)
    lines = [_line(name, split, record) for name, (split, record) in zip(names, rows, strict=True)]
    (folder / CAPTIONS_FILE).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = {name: hash_file(folder / name).sha256 for name in (*parts, CAPTIONS_FILE)}
    facts = {"format_version": FORMAT_VERSION, "image_size": spec.height, "photos": len(rows), "files": files}
    (folder / PACK_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _line(name: str, split: str | None, record: CaptionRecord) -> str:
    row: dict[str, Any] = {"file_name": name, "captions": record.captions}
    return json.dumps(row if split is None else {**row, "split": split}, ensure_ascii=False)


def _jpegs(photos: Sequence[Path], spec: ImageSpec, progress: Progress) -> Iterator[bytes]:
    """Each photo at the encoder's size, as JPEG without thinned-out colours."""

    def encoded(photo: Path) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(load_image(photo, spec)).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
        return stream.getvalue()

    with ThreadPoolExecutor(default_threads()) as pool:
        for start in range(0, len(photos), _AHEAD):
            for done, picture in enumerate(pool.map(encoded, photos[start : start + _AHEAD]), start + 1):
                progress("packing photos", done, len(photos))
                yield picture


def _write_parts(folder: Path, pictures: Iterator[tuple[str, bytes]], part_bytes: int) -> list[str]:
    """Zip files of at most ``part_bytes``, at least one photo in each; nothing is compressed twice."""
    names: list[str] = []
    part: zipfile.ZipFile | None = None
    size = 0
    for name, picture in pictures:
        room = len(picture) + 2 * (len(name) + 64)  # its two headers
        if part is None or size + room > part_bytes:
            if part is not None:
                part.close()
            names.append(f"photos-{len(names):03d}.zip")
            part, size = zipfile.ZipFile(folder / names[-1], "w", zipfile.ZIP_STORED), 64
        part.writestr(
            zipfile.ZipInfo(name), picture
        )  # always of the same date: the same photos, the same file
        size += room
    if part is not None:
        part.close()
    return names


def _files_of(written: bytes, source: Path) -> dict[str, str]:
    """The files that ``pack.json`` lists, with their hashes."""
    try:
        facts = json.loads(written)
        version, files = facts["format_version"], dict(facts["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"not packed data: {error}"], path=source / PACK_FILE, hint=_HINT) from error
    if version != FORMAT_VERSION:
        found = f"packed data of version {version!r}, expected {FORMAT_VERSION}"
        raise ConfigError([found], path=source, hint="pack the data again, or pip install --upgrade kiloword")
    strange = [name for name in files if not re.fullmatch(r"photos-\d+\.zip|captions\.jsonl", str(name))]
    if strange:
        raise ConfigError([f"packed data has no file {strange[0]!r}"], path=source / PACK_FILE, hint=_HINT)
    return files


def _lay_out(file: Path, sha256: str, folder: Path) -> None:
    """Copies the captions, or the photos of a part, once their bytes are those that were packed."""
    if not file.is_file():
        raise ConfigError([f"packed data lacks {file.name}"], path=file.parent, hint=_HINT)
    if hash_file(file).sha256 != sha256:
        raise ConfigError(["packed data is damaged: its hash is another one"], path=file, hint=_HINT)
    if file.name == CAPTIONS_FILE:
        shutil.copyfile(file, folder / CAPTIONS_FILE)
        return
    with zipfile.ZipFile(file) as part:
        for name in part.namelist():
            if not re.fullmatch(r"\d{6,}\.jpg", name):  # whoever packed it may be a stranger
                raise ConfigError([f"packed data may not hold {name!r}"], path=file, hint=_HINT)
            (folder / name).write_bytes(part.read(name))
