"""All caption scores of a set of photos at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from kiloword.runtime.errors import ConfigError
from kiloword.train.metrics.bleu import corpus_bleu
from kiloword.train.metrics.cider import CiderScorer
from kiloword.train.metrics.ngrams import Tokens
from kiloword.train.metrics.ptb import TokenizerName, choose_tokenizer, tokenize_many
from kiloword.train.metrics.rouge import corpus_rouge_l

__all__ = ["Scores", "TokenizedCaptions", "score", "score_tokens", "tokenize_captions"]


@dataclass(frozen=True)
class Scores:
    """Caption scores over a set of photos, all times 100 as papers print them."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float
    cider: float
    """CIDEr-D."""
    tokenizer: Literal["java", "own"]
    """What split the captions into tokens: Stanford's PTB tokenizer (``java``) or kiloword's own."""
    num_images: int
    """Photos scored."""
    cider_per_image: tuple[float, ...]
    """CIDEr-D of each photo, in the order given; their mean is ``cider``."""


@dataclass(frozen=True)
class TokenizedCaptions:
    """References and captions of the same photos, split into tokens."""

    references: tuple[tuple[Tokens, ...], ...]
    candidates: tuple[Tokens, ...]
    tokenizer: Literal["java", "own"]


def score(
    references: Mapping[str, Sequence[str]],
    candidates: Mapping[str, str],
    tokenizer: TokenizerName = "auto",
) -> Scores:
    """Score captions against what people wrote.

    Args:
        references: Image id -> reference captions, at least one.
        candidates: Image id -> the caption to score, for exactly the same photos.
        tokenizer: ``auto`` takes the reference tokenizer where Java is found, else the own.

    Raises:
        ConfigError: There is no photo, or the two are not about the same photos, or one has no reference.
        MissingDependencyError: ``java`` was asked for and cannot run.
    """
    _require_same_photos(references, candidates)
    return score_tokens(
        tokenize_captions([references[photo] for photo in candidates], list(candidates.values()), tokenizer)
    )


def tokenize_captions(
    references: Sequence[Sequence[str]], candidates: Sequence[str], tokenizer: TokenizerName = "auto"
) -> TokenizedCaptions:
    """Split all captions with one tokenizer; element i of both arguments is about photo i."""
    chosen = choose_tokenizer(tokenizer)
    texts = [text for photo in references for text in photo]
    tokens = iter(tokenize_many([*texts, *candidates], chosen))
    split_references = tuple(tuple(islice(tokens, len(photo))) for photo in references)
    return TokenizedCaptions(split_references, tuple(tokens), chosen)


def score_tokens(captions: TokenizedCaptions) -> Scores:
    """Score captions that are split already; there must be at least one photo, each with a reference."""
    references, candidates = captions.references, captions.candidates
    bleu = [100 * value for value in corpus_bleu(references, candidates)]
    cider = 100 * CiderScorer(references).scores(candidates)
    return Scores(
        bleu_1=bleu[0],
        bleu_2=bleu[1],
        bleu_3=bleu[2],
        bleu_4=bleu[3],
        rouge_l=100 * corpus_rouge_l(references, candidates),
        cider=float(cider.mean()),
        tokenizer=captions.tokenizer,
        num_images=len(candidates),
        cider_per_image=tuple(cider.tolist()),
    )


def _require_same_photos(references: Mapping[str, Sequence[str]], candidates: Mapping[str, str]) -> None:
    problems = [
        f"photo {photo!r} has references and no caption" for photo in references.keys() - candidates.keys()
    ]
    problems += [f"photo {photo!r} has no reference" for photo in candidates if not references.get(photo)]
    if not candidates:
        problems.append("there is no caption to score")
    if problems:
        raise ConfigError(sorted(problems)[:5])
