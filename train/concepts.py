"""Which words the captions are about, and what teaches a model to see them and to write with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.train.captions import pad_captions
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.concepts import Concepts

_NO_CONCEPTS = frozenset(
    """
    a about above across after all along alongside also an and another are around as at away back be
    because been before behind being below beside between both but by can did do does doing down during
    each for from front get gets getting go goes going had has have having he her his him himself in
    inside into is it it's its just left like lot made makes making many more most near next no not of
    off on one onto or other others out outside over own past right she side sides so some something that
    the their them themselves then there these they this those through to together top toward towards two
    three four five up upon very was were what when where which while who whose will with within without
    you
    """.split()  # noqa: SIM905
)
"""English words that stand for nothing that one could see."""


def concept_words(captions: Iterable[Iterable[str]], tokenizer: Tokenizer, count: int) -> tuple[str, ...]:
    """The content words that the captions of most photos have.

    Args:
        captions: those of each photo.
        tokenizer: its normalisation makes words of a sentence.
        count: how many at most.

    Returns:
        The most frequent first; equally frequent ones in the order of the alphabet.
    """
    photos_with: Counter[str] = Counter()
    for photo in captions:
        photos_with.update({word for text in photo for word in _words(text, tokenizer)} - _NO_CONCEPTS)
    ordered = sorted(photos_with.items(), key=lambda item: (-item[1], item[0]))
    return tuple(word for word, _ in ordered[:count])


def concepts_in(texts: Iterable[str], words: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The numbers of those of the words that the texts say, in order."""
    numbers = {word: number for number, word in enumerate(words)}
    said = {numbers[word] for text in texts for word in _words(text, tokenizer) if word in numbers}
    return np.array(sorted(said), np.int64)


def _words(text: str, tokenizer: Tokenizer) -> list[str]:
    normalizer = tokenizer.normalizer
    return (text if normalizer is None else normalizer.normalize_str(text)).split()


@dataclass(frozen=True)
class ConceptLessons:
    """What teaches concepts: the words of each photo, and sentences with their words."""

    words: tuple[str, ...]
    """What there is to choose from, by number."""
    of_photos: Sequence[NDArray[np.int64]]
    """The numbers of the words that any caption of each training photo says."""
    sentences: Sequence[NDArray[np.int64]] = ()
    """Token ids of sentences without photos."""
    of_sentences: Sequence[NDArray[np.int64]] = ()
    """The numbers of each sentence's own words."""


def sentence_lessons(
    lines: Sequence[str], words: Sequence[str], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Token ids and concepts of sentences; those that say none of the words are left out."""
    encoded = tokenizer.encode_batch(list(lines))
    pairs = [
        (np.asarray(item.ids[:max_tokens], np.int64), said)
        for item, line in zip(encoded, lines, strict=True)
        if len(said := concepts_in([line], words, tokenizer))
    ]
    return [ids for ids, _ in pairs], [said for _, said in pairs]


def concept_loss(concepts: Concepts, features: Tensor, said: Sequence[NDArray[np.int64]]) -> Tensor:
    """How badly the head sees which words belong to each picture.

    Args:
        concepts: with a head that learns.
        features: (B, N, C) of the encoder.
        said: of each picture, the numbers of its words.

    Returns:
        Binary cross-entropy of all words, in nats for each word that is there: about as
        large as a caption's loss.
    """
    scores = concepts.scores(features).float()
    target = torch.zeros_like(scores)
    for row, numbers in enumerate(said):
        target[row, torch.from_numpy(numbers).to(target.device)] = 1.0
    total = F.binary_cross_entropy_with_logits(scores, target, reduction="sum")
    return total / target.sum().clamp(min=1.0)


def draw_sentences(lessons: ConceptLessons, count: int, best: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random sentences, by torch's generator, with their words.

    Args:
        lessons: with sentences.
        count: how many.
        best: most words of each that are told; of more, random ones.
        pad: fills up short sentences.

    Returns:
        int64 (count, L) token ids; int64 (count, best) words; boolean (count, best), False at padding.
    """
    rows = torch.randint(len(lessons.sentences), (count,)).tolist()
    words, known = torch.zeros(count, best, dtype=torch.int64), torch.zeros(count, best, dtype=torch.bool)
    for place, row in enumerate(rows):
        said = torch.from_numpy(lessons.of_sentences[row])
        kept = said[torch.randperm(len(said))[:best]]
        words[place, : len(kept)], known[place, : len(kept)] = kept, True
    tokens = pad_captions([[lessons.sentences[row]] for row in rows], pad)[:, 0]
    return torch.from_numpy(tokens), words, known


def told_context(model: CaptionModel, words: Tensor, known: Tensor) -> tuple[Tensor, ...]:
    """What the decoder reads where there are words and no picture: as `CaptionModel.context`."""
    return model.decoder.image_context(model.taught_concepts().told(words, known))


def read_lines(path: Path) -> list[str]:
    """The sentences of a text file, a line each; white space is collapsed.

    Raises:
        ConfigError: it is no text file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"not a text file in UTF-8: {error}"], path=path) from error
    return [text for line in lines if (text := " ".join(line.split()))]
