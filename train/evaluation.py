"""Captions of a data set against what people wrote: scores, statistics and every photo's row.

Works with the runtime and the scores alone, so a machine that only captions can also evaluate; no torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kiloword.runtime.captioner import Caption, Captioner, CaptionFailure
from kiloword.runtime.errors import ConfigError, KilowordError
from kiloword.runtime.outputs import write_atomically
from kiloword.train.caption_statistics import (
    CaptionStatistics,
    describe_captions,
    is_unfinished,
    repeats_itself,
)
from kiloword.train.datasets import CaptionRecord
from kiloword.train.metrics.bootstrap import METRICS, Interval, intervals, photo_table
from kiloword.train.metrics.ptb import TokenizerName
from kiloword.train.metrics.scores import Scores, score_tokens, tokenize_captions

__all__ = ["METRIC_LABELS", "EvaluatedPhoto", "EvaluationReport", "FailedPhoto", "evaluate"]

METRIC_LABELS = dict(
    zip(METRICS, ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"), strict=True)
)
"""How people write the scores."""


@dataclass(frozen=True)
class EvaluatedPhoto:
    """One photo's caption beside what people wrote."""

    path: str
    image_id: str
    caption: str
    confidence: float
    """The captioner's, 0..1."""
    reliable: bool
    """False: people read "no reliable description" instead."""
    reason: str | None
    """Why not."""
    unfinished: bool
    """It ran into ``max_new_tokens``."""
    repetitive: bool
    """A word stands twice in a row, or three words in a row come twice."""
    cider: float
    """This photo's CIDEr-D, times 100; the rarity of words is counted over all photos of the report."""
    rouge_l: float
    """This photo's ROUGE-L, times 100."""
    references: tuple[str, ...]


@dataclass(frozen=True)
class FailedPhoto:
    """A photo without a caption; it is in no score."""

    path: str
    error: str


@dataclass(frozen=True)
class EvaluationReport:
    """How well a bundle captions a data set, with the settings that this holds for."""

    bundle: str
    precision: str
    provider: str
    decode: dict[str, float]
    """``num_beams``, ``max_new_tokens``, ``length_penalty``, ``no_repeat_ngram_size`` and ``batch_size``."""
    scores: Scores
    intervals: dict[str, Interval]
    """For each score where it would lie on other photos of this kind, 95 times in a hundred (bootstrap)."""
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
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "statistics": asdict(self.statistics),
            "ms_per_photo": self.ms_per_photo,
            "num_failures": len(self.failures),
            "failures": [asdict(failure) for failure in self.failures],
            "photos": [asdict(photo) for photo in self.photos],
        }

    def to_json(self) -> str:
        """Return the report as JSON text that ends with a line break."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return a row for each photo as CSV with a header; references are joined with " | "."""
        text = io.StringIO()
        columns = [field.name for field in fields(EvaluatedPhoto)]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for photo in self.photos:
            writer.writerow({**asdict(photo), "references": " | ".join(photo.references)})
        return text.getvalue()

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
            "95 % of the time: "
            + ", ".join(
                f"{METRIC_LABELS[name]} {self.intervals[name].low:.1f} to {self.intervals[name].high:.1f}"
                for name in ("bleu_4", "rouge_l", "cider")
            ),
            *statistics.lines(),
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
    training_captions: Collection[str] | None = None,
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
        training_captions: What the bundle was trained on, where that is known: how many captions are new?

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
    return _report(captioner, captioned, failures, given, tokenizer, training_captions)


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
    training_captions: Collection[str] | None,
) -> EvaluationReport:
    tokens = tokenize_captions(
        [record.captions for record, _ in captioned], [caption.text for _, caption in captioned], tokenizer
    )
    scores = score_tokens(tokens)
    captions = [caption for _, caption in captioned]
    table = photo_table(tokens)
    end = captioner.bundle.manifest.tokens.eos_token_id
    rows = zip(captioned, scores.cider_per_image, table[:, -2].tolist(), strict=True)
    manifest = captioner.bundle.manifest
    overrides = {name: value for name, value in given.items() if value is not None}
    return EvaluationReport(
        bundle=manifest.name,
        precision=manifest.precision,
        provider=captioner.provider,
        decode={**asdict(manifest.generation), **overrides},
        scores=scores,
        intervals=intervals(table),
        statistics=describe_captions(
            captions,
            tokens.candidates,
            eos_token_id=end,
            unknown_token_id=_unknown_token_id(captioner.bundle.tokenizer_path),
            training_captions=training_captions,
        ),
        ms_per_photo=sum(caption.latency_ms for caption in captions) / len(captions),
        photos=tuple(_row(record, caption, cider, rouge, end) for (record, caption), cider, rouge in rows),
        failures=tuple(failures),
    )


def _row(record: CaptionRecord, caption: Caption, cider: float, rouge: float, end: int) -> EvaluatedPhoto:
    return EvaluatedPhoto(
        path=str(record.image),
        image_id=record.image_id,
        caption=caption.text,
        confidence=caption.confidence,
        reliable=caption.reliable,
        reason=caption.reason,
        unfinished=is_unfinished(caption, end),
        repetitive=repeats_itself(caption.text.split()),
        cider=cider,
        rouge_l=rouge,
        references=record.captions,
    )


def _unknown_token_id(tokenizer_path: Path) -> int | None:
    """Return the id of the token for what the vocabulary lacks; byte-level vocabularies have none."""
    model = json.loads(tokenizer_path.read_text(encoding="utf-8"))["model"]
    if "unk_id" in model:  # unigram vocabularies are lists and name the id itself
        return model["unk_id"]  # type: ignore[no-any-return]
    return model["vocab"].get(model.get("unk_token"))  # type: ignore[no-any-return]
