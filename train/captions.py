"""Token ids of every caption, and which captions a photo brings to a training step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from kiloword.train.datasets import CaptionRecord
from kiloword.train.tokenizers import SPECIAL_TOKENS

_SIDES = re.compile(r"\b(left|right)(most|ward|wards|hand|handed)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class TokenIds:
    """The ids that training treats specially."""

    pad: int
    bos: int
    eos: int
    unk: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenIds:
        """The ids that a tokenizer of ``train.tokenizers`` gave to them."""
        vocabulary = tokenizer.get_vocab()
        return cls(*(vocabulary[token] for token in SPECIAL_TOKENS))


@dataclass(frozen=True)
class EncodedCaptions:
    """The captions of one photo as token ids, ``<bos>`` and ``<eos>`` included."""

    all: tuple[NDArray[np.int64], ...]
    """Every caption."""
    without_sides: tuple[NDArray[np.int64], ...]
    """Those that stay true in the mirror: they do not say left or right. May be empty."""


def encode_captions(
    records: Sequence[CaptionRecord], tokenizer: Tokenizer, max_tokens: int
) -> list[EncodedCaptions]:
    """Token ids of each record's captions; those over ``max_tokens`` are cut and then have no ``<eos>``."""
    encoded = []
    for record in records:
        ids = [
            np.asarray(item.ids[:max_tokens], np.int64)
            for item in tokenizer.encode_batch(list(record.captions))
        ]
        safe = tuple(item for item, text in zip(ids, record.captions, strict=True) if not _SIDES.search(text))
        encoded.append(EncodedCaptions(tuple(ids), safe))
    return encoded


def sample_captions(
    captions: EncodedCaptions, count: int, mirrored: bool, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """``count`` captions of one photo in random order; each is used once before any is used again."""
    choices = captions.without_sides if mirrored else captions.all
    picked: list[NDArray[np.int64]] = []
    while len(picked) < count:
        order = random.permutation(len(choices))[: count - len(picked)]
        picked.extend(choices[index] for index in order)
    return picked


def pad_captions(captions: Sequence[Sequence[NDArray[np.int64]]], pad: int) -> NDArray[np.int64]:
    """Ragged token ids as one array (photos, captions, longest), filled up with ``pad``."""
    longest = max(len(ids) for group in captions for ids in group)
    padded = np.full((len(captions), len(captions[0]), longest), pad, np.int64)
    for row, group in enumerate(captions):
        for column, ids in enumerate(group):
            padded[row, column, : len(ids)] = ids
    return padded
