"""All that a run learns from, loaded: records, tokenizer, token ids and decoded photos."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.captions import EncodedCaptions, TokenIds, encode_captions
from kiloword.train.checkpoint import load_tokenizer, training_facts
from kiloword.train.concepts import (
    ConceptLessons,
    concept_words,
    concepts_in,
    read_lines,
    sentence_lessons,
)
from kiloword.train.datasets import CaptionRecord, load_records
from kiloword.train.packed import unpacked
from kiloword.train.photos import Photos
from kiloword.train.pictures import Progress
from kiloword.train.recipe import DataRecipe, DataSet, Recipe
from kiloword.train.tokenizers import TOKENIZER_TRAINERS
from kiloword.train.validation import ValidationSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What a run learns from and is judged by."""

    photos: Photos
    """The training photos."""
    rows: NDArray[np.int64]
    """Photos of one pass: a repeated one stands several times."""
    captions: Sequence[EncodedCaptions]
    """For each training photo."""
    tokenizer: Tokenizer
    ids: TokenIds
    validation: Sequence[ValidationSet]
    lessons: ConceptLessons | None
    """What teaches the words of ``[concepts]``, where the recipe learns them from captions."""
    facts: dict[str, Any]
    """For the record: how many photos and captions, what was left out."""

    def digest(self) -> str:
        """A short hash of all tokens and the photos' order: a run is resumed only with the same ones."""
        digest = hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        digest.update(self.rows.tobytes())
        for photo in self.captions:
            for token_ids in photo.all:
                digest.update(token_ids.tobytes() + b"|")
            digest.update(b"\n")
        return digest.hexdigest()[:16]


def image_spec(recipe: Recipe) -> ImageSpec:
    """How photos are brought to the encoder's size, in training and in the exported bundle alike."""
    return ImageSpec(height=recipe.encoder.image_size, width=recipe.encoder.image_size)


def load_material(recipe: Recipe, progress: Progress) -> Material:
    """Reads the data sets of a recipe, trains the tokenizer and decodes all photos.

    Raises:
        ConfigError: a data set is missing or too much of it is bad.
        ImageError: a photo cannot be read.
    """
    records: list[CaptionRecord] = []
    rows: list[int] = []
    problems: list[str] = []
    for item in recipe.data.train:
        found, faults = load_captions(item, recipe.data)
        rows.extend(list(range(len(records), len(records) + len(found))) * item.repeat)
        records.extend(found)
        problems.extend(faults)
    tokenizer = tokenizer_of(recipe, (text for record in records for text in record.captions))
    ids = TokenIds.of(tokenizer)
    captions = encode_captions(records, tokenizer, recipe.tokenizer.max_tokens)
    photos = _photos(records, recipe, progress)
    names = validation_names(recipe.data.validation)
    validation = [
        _validation_set(name, item, recipe, progress)
        for name, item in zip(names, recipe.data.validation, strict=True)
    ]
    lessons = concept_lessons(recipe, records, tokenizer)
    facts: dict[str, Any] = {
        "photos": len(records),
        "captions": sum(len(record.captions) for record in records),
        "vocabulary": tokenizer.get_vocab_size(),
        "unusable": len(problems),
    }
    if lessons is not None:
        facts |= {"concepts": list(lessons.words), "sentences": len(lessons.sentences)}
    return Material(photos, np.asarray(rows), captions, tokenizer, ids, validation, lessons, facts)


def concept_lessons(
    recipe: Recipe, records: Sequence[CaptionRecord], tokenizer: Tokenizer
) -> ConceptLessons | None:
    """The words that a recipe's concepts are, where they stand in its captions, and its sentences.

    Their numbers mean the same words as in the checkpoint that the run starts from, where that has any.

    Raises:
        CheckpointError: ``start`` names no checkpoint.
        ConfigError: the sentences are no text file.
    """
    settings = recipe.concepts
    if settings is None or settings.source != "captions":
        return None
    known = training_facts(Path(recipe.start)).get("concepts") if recipe.start else None
    words = tuple(known or concept_words((item.captions for item in records), tokenizer, settings.words))
    of_photos = [concepts_in(record.captions, words, tokenizer) for record in records]
    if settings.sentences is None:
        return ConceptLessons(words, of_photos)
    lines = read_lines(Path(recipe.data.root) / settings.sentences)
    sentences, said = sentence_lessons(lines, words, tokenizer, recipe.tokenizer.max_tokens)
    if not sentences:
        raise ConfigError([f"concepts.sentences: no sentence of {settings.sentences} says a concept"])
    return ConceptLessons(words, of_photos, sentences, said)


def load_captions(item: DataSet, data: DataRecipe) -> tuple[list[CaptionRecord], tuple[str, ...]]:
    """The records of one data set of a recipe, and what was left out.

    Raises:
        ConfigError: it is missing or too much of it is bad.
    """
    given = Path(data.root) / item.source
    source = unpacked(given, Path(data.cache))
    images = Path(data.root) / item.images if item.images is not None and source == given else None
    loaded = load_records(source, item.split, images=images, max_bad_fraction=data.max_bad_fraction)
    for problem in loaded.problems:
        logger.warning("left out: %s", problem)
    records = list(loaded.records)
    if item.limit is not None and item.limit < len(records):
        records = [records[index] for index in np.linspace(0, len(records) - 1, item.limit).astype(int)]
    return records, loaded.problems


def tokenizer_of(recipe: Recipe, sentences: Iterable[str]) -> Tokenizer:
    """The tokenizer of the checkpoint that the recipe names, or one trained on these sentences.

    Raises:
        CheckpointError: what the recipe names is no checkpoint with a tokenizer.
    """
    settings = recipe.tokenizer
    if settings.checkpoint:
        return load_tokenizer(Path(settings.checkpoint))
    trainer = TOKENIZER_TRAINERS[settings.kind]
    return trainer(sentences, min_count=settings.min_count, vocab_size=settings.vocab_size)


def validation_names(sets: Sequence[DataSet]) -> list[str]:
    """A short name for each set: its folder's; with the split, the file or a number where two would be alike.

    >>> validation_names([DataSet("flickr8k", "dev"), DataSet("coco/captions_dev.json")])
    ['flickr8k', 'coco']
    >>> validation_names([DataSet("mine", "dev"), DataSet("mine", "test"), DataSet("yours")])
    ['mine dev', 'mine test', 'yours']
    """
    sources = [Path(item.source) for item in sets]
    folders = [
        (source.parent if source.suffix else source).name or source.stem or "data" for source in sources
    ]
    full = [
        " ".join([folder, *([source.stem] if source.suffix else []), *([item.split] if item.split else [])])
        for folder, source, item in zip(folders, sources, sets, strict=True)
    ]
    names = [long if folders.count(short) > 1 else short for short, long in zip(folders, full, strict=True)]
    # "mean" is what validation calls the mean of all sets.
    return [
        f"{name} {number}" if names.count(name) > 1 or name == "mean" else name
        for number, name in enumerate(names, 1)
    ]


def _validation_set(name: str, item: DataSet, recipe: Recipe, progress: Progress) -> ValidationSet:
    records, _ = load_captions(item, recipe.data)
    return ValidationSet(name, records, _photos(records, recipe, progress))


def _photos(records: Sequence[CaptionRecord], recipe: Recipe, progress: Progress) -> Photos:
    files = [record.image for record in records]
    return Photos.load(files, image_spec(recipe), Path(recipe.data.cache), progress, recipe.augmentation)
