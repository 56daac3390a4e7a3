"""Captions of a data set against what people wrote: scores, statistics and every photo's row.

Works with the runtime and the scores alone, so a machine that only captions can also evaluate; no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiloword.runtime.captioner import Caption, Captioner, CaptionFailure
from kiloword.runtime.errors import ConfigError, KilowordError
from kiloword.runtime.outputs import write_atomically
from kiloword.train.datasets import CaptionRecord
from kiloword.train.metrics.ngrams import Tokens
from kiloword.train.metrics.ptb import TokenizerName
from kiloword.train.metrics.scores import Scores, score_tokens, tokenize_captions

__all__ = ["CaptionStatistics", "EvaluatedPhoto", "EvaluationReport", "FailedPhoto", "evaluate"]


@dataclass(frozen=True)
class EvaluatedPhoto:
    """One photo's caption beside what people wrote."""

    path: str
    image_id: str
    caption: str
    confidence: float
    """The captioner's, 0..1."""
    cider: float
    """This photo's CIDEr-D, times 100; the rarity of words is counted over all photos of the report."""
    references: tuple[str, ...]


@dataclass(frozen=True)
class FailedPhoto:
    """A photo without a caption; it is in no score."""

    path: str
    error: str


@dataclass(frozen=True)
class CaptionStatistics:
    """What the captions are like, apart from being right."""

    mean_length: float
    """Tokens of a caption, counted by the scores' tokenizer."""
    distinct_words: int
    """Different tokens in all captions together."""
    distinct_captions: int
    """Different token sequences."""
    unknown_words: int
    """Captions that have the tokenizer's unknown token."""
    unfinished: int
    """Captions that ran into ``max_new_tokens``: they lack the end-of-sequence token."""


@dataclass(frozen=True)
class EvaluationReport:
    """How well a bundle captions a data set, with the settings that this holds for."""

    bundle: str
    precision: str
    provider: str
    decode: dict[str, float]
    """``num_beams``, ``max_new_tokens``, ``length_penalty``, ``no_repeat_ngram_size`` and ``batch_size``."""
    scores: Scores
    statistics: CaptionStatistics
    ms_per_photo: float
    """Mean wall time from the photo's file to its caption."""
    photos: tuple[EvaluatedPhoto, ...]
    """In the data set's order."""
    failures: tuple[FailedPhoto, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data, summary first; each photo's CIDEr-D is in its row only."""
        metrics = asdict(self.scores)
        del metrics["cider_per_image"]
        return {
            "bundle": self.bundle,
            "precision": self.precision,
            "provider": self.provider,
            "decode": self.decode,
            "metrics": metrics,
            "statistics": asdict(self.statistics),
            "ms_per_photo": self.ms_per_photo,
            "num_failures": len(self.failures),
            "failures": [asdict(failure) for failure in self.failures],
            "photos": [asdict(photo) for photo in self.photos],
        }

    def to_json(self) -> str:
        """Return the report as JSON text that ends with a line break."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def write_json(self, path: str | Path) -> None:
        """Write the report to a file that is either whole or not there.

        Raises:
            OSError: The folder does not exist or cannot be written.
        """
        with write_atomically(path) as stream:
            stream.write(self.to_json())

    def __str__(self) -> str:
        """Return the summary for people, a few lines that end with a line break."""
        scores, statistics = self.scores, self.statistics
        lines = [
            f"{self.bundle} ({self.precision}, {self.provider}), {self._decode_text()}",
            f"{scores.num_images} photos, {len(self.failures)} failed; tokenizer: {scores.tokenizer}",
            f"BLEU-1 {scores.bleu_1:.1f}  BLEU-2 {scores.bleu_2:.1f}  BLEU-3 {scores.bleu_3:.1f}  "
            f"BLEU-4 {scores.bleu_4:.1f}  ROUGE-L {scores.rouge_l:.1f}  CIDEr-D {scores.cider:.1f}",
            f"{statistics.mean_length:.1f} words in a caption, {statistics.distinct_words} different words, "
            f"{statistics.distinct_captions} different captions; "
            f"{statistics.unknown_words} with an unknown word, {statistics.unfinished} unfinished",
            f"{self.ms_per_photo:.1f} ms a photo",
        ]
        return "\n".join(lines) + "\n"

    def _decode_text(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.decode.items())


def evaluate(
    captioner: Captioner,
    records: Sequence[CaptionRecord],
    *,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    length_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    batch_size: int = 8,
    tokenizer: TokenizerName = "auto",
) -> EvaluationReport:
    """Caption every photo and score the captions.

    Args:
        captioner: A loaded bundle.
        records: Photos with their reference captions, from ``load_records``.
        num_beams: As for ``Captioner.caption``; this and the next three default to the bundle's own.
        max_new_tokens: As for ``Captioner.caption``.
        length_penalty: As for ``Captioner.caption``.
        no_repeat_ngram_size: As for ``Captioner.caption``.
        batch_size: Photos captioned together.
        tokenizer: What splits captions for the scores: ``auto`` is the reference where Java is found.

    Returns:
        The report; photos that cannot be read are listed as failures and are in no score.

    Raises:
        ConfigError: There is no record, or the settings make no sense.
        KilowordError: Not one photo could be captioned.
        MissingDependencyError: The ``java`` tokenizer was asked for and cannot run.
    """
    if not records:
        raise ConfigError(["there is no photo to evaluate on"])
    results = captioner.caption_many(
        [record.image for record in records],
        batch_size=batch_size,
        on_error="yield",
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
    )
    captioned, failures = _separate(records, results)
    if not captioned:
        raise KilowordError("no photo could be captioned", found=f"as the first error: {failures[0].error}")
    given = {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens,
        "length_penalty": length_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "batch_size": batch_size,
    }
    return _report(captioner, captioned, failures, given, tokenizer)


def _separate(
    records: Sequence[CaptionRecord], results: Iterable[Caption | CaptionFailure]
) -> tuple[list[tuple[CaptionRecord, Caption]], list[FailedPhoto]]:
    captioned: list[tuple[CaptionRecord, Caption]] = []
    failures: list[FailedPhoto] = []
    for record, result in zip(records, results, strict=True):
        if isinstance(result, Caption):
            captioned.append((record, result))
        else:
            failures.append(FailedPhoto(str(record.image), str(result.error)))
    return captioned, failures


def _report(
    captioner: Captioner,
    captioned: Sequence[tuple[CaptionRecord, Caption]],
    failures: Sequence[FailedPhoto],
    given: dict[str, float | None],
    tokenizer: TokenizerName,
) -> EvaluationReport:
    tokens = tokenize_captions(
        [record.captions for record, _ in captioned], [caption.text for _, caption in captioned], tokenizer
    )
    scores = score_tokens(tokens)
    captions = [caption for _, caption in captioned]
    rows = zip(captioned, scores.cider_per_image, strict=True)
    manifest = captioner.bundle.manifest
    overrides = {name: value for name, value in given.items() if value is not None}
    return EvaluationReport(
        bundle=manifest.name,
        precision=manifest.precision,
        provider=captioner.provider,
        decode={**asdict(manifest.generation), **overrides},
        scores=scores,
        statistics=_statistics(captioner, captions, tokens.candidates),
        ms_per_photo=sum(caption.latency_ms for caption in captions) / len(captions),
        photos=tuple(_row(record, caption, cider) for (record, caption), cider in rows),
        failures=tuple(failures),
    )


def _row(record: CaptionRecord, caption: Caption, cider: float) -> EvaluatedPhoto:
    return EvaluatedPhoto(
        path=str(record.image),
        image_id=record.image_id,
        caption=caption.text,
        confidence=caption.confidence,
        cider=cider,
        references=record.captions,
    )


def _statistics(
    captioner: Captioner, captions: Sequence[Caption], tokens: Sequence[Tokens]
) -> CaptionStatistics:
    end = captioner.bundle.manifest.tokens.eos_token_id
    unknown = _unknown_token_id(captioner.bundle.tokenizer_path)
    return CaptionStatistics(
        mean_length=sum(map(len, tokens)) / len(tokens),
        distinct_words=len({token for caption in tokens for token in caption}),
        distinct_captions=len(set(map(tuple, tokens))),
        unknown_words=sum(unknown in caption.token_ids for caption in captions),
        unfinished=sum(caption.token_ids[-1:] != (end,) for caption in captions),
    )


def _unknown_token_id(tokenizer_path: Path) -> int | None:
    """Return the id of the token for what the vocabulary lacks; byte-level vocabularies have none."""
    model = json.loads(tokenizer_path.read_text(encoding="utf-8"))["model"]
    if "unk_id" in model:  # unigram vocabularies are lists and name the id itself
        return model["unk_id"]  # type: ignore[no-any-return]
    return model["vocab"].get(model.get("unk_token"))  # type: ignore[no-any-return]
