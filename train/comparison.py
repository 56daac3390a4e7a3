"""Two bundles on the same photos: which one is better, and is that more than chance?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kiloword.runtime.errors import ConfigError
from kiloword.train.evaluation import METRIC_LABELS, EvaluationReport
from kiloword.train.metrics.bootstrap import Difference, compare_tables, photo_table
from kiloword.train.metrics.ptb import TokenizerName
from kiloword.train.metrics.scores import tokenize_captions

__all__ = ["Comparison", "SavedCaptions", "compare", "read_captions"]


@dataclass(frozen=True)
class SavedCaptions:
    """What a comparison needs of an evaluation."""

    name: str
    """Where it comes from, for people."""
    tokenizer: TokenizerName
    """What it was scored with."""
    photos: Mapping[str, tuple[str, tuple[str, ...]]]
    """Image id -> caption and references."""

    @classmethod
    def of(cls, report: EvaluationReport, name: str) -> SavedCaptions:
        """Take them from a report."""
        photos = {photo.image_id: (photo.caption, photo.references) for photo in report.photos}
        return cls(name, report.scores.tokenizer, photos)


@dataclass(frozen=True)
class Comparison:
    """A paired comparison."""

    first: str
    second: str
    photos: int
    """Photos that both captioned."""
    left_out: int
    """Photos that only one of them captioned."""
    tokenizer: str
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        """Return what people want to know first, then all scores."""
        cider = next(one for one in self.differences if one.metric == "cider")
        lines = [_sentence(cider), f"A: {self.first}", f"B: {self.second}", self._photos_line()]
        lines.append(f"{'':8}{'A':>8}{'B':>8}  B - A")
        lines += map(_line, self.differences)
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready data."""
        differences = [
            {**asdict(one), "margin": one.margin, "significant": one.significant} for one in self.differences
        ]
        return {**asdict(self), "differences": differences}

    def to_json(self) -> str:
        """Return everything as JSON text that ends with a line break."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"

    def _photos_line(self) -> str:
        left_out = f"; {self.left_out} left out, which only one of them has" if self.left_out else ""
        return f"{self.photos} photos{left_out}; tokenizer: {self.tokenizer}; 95 % by paired bootstrap"


def compare(first: SavedCaptions, second: SavedCaptions) -> Comparison:
    """Compare two sets of captions on the photos that both have.

    Raises:
        ConfigError: They share no photo, or have other references for the same photo.
    """
    shared = [photo for photo in first.photos if photo in second.photos]
    problems = [
        f"photo {photo!r} has other references in {second.name} than in {first.name}"
        for photo in shared
        if first.photos[photo][1] != second.photos[photo][1]
    ]
    if not shared:
        problems = [f"{first.name} and {second.name} have no photo in common"]
    if problems:
        raise ConfigError(problems[:3], hint="evaluate both on the same data set")
    # The reference tokenizer only where both were scored with it, and so can be again.
    tokenizer: TokenizerName = "auto" if (first.tokenizer, second.tokenizer) == ("java", "java") else "own"
    references = [first.photos[photo][1] for photo in shared]
    split = [
        tokenize_captions(references, [one.photos[photo][0] for photo in shared], tokenizer)
        for one in (first, second)
    ]
    return Comparison(
        first=first.name,
        second=second.name,
        photos=len(shared),
        left_out=len(first.photos) + len(second.photos) - 2 * len(shared),
        tokenizer=split[0].tokenizer,
        differences=compare_tables(*(photo_table(one) for one in split)),
    )


def read_captions(path: Path) -> SavedCaptions:
    """Read what `kiloword evaluate --format json` wrote.

    Raises:
        ConfigError: It is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        photos = {one["image_id"]: (one["caption"], tuple(one["references"])) for one in data["photos"]}
        return SavedCaptions(f"{data['bundle']} ({path})", data["metrics"]["tokenizer"], photos)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{path}: is no evaluation ({type(error).__name__}: {error})"
        raise ConfigError([problem], hint="kiloword evaluate DATASET --format json -o FILE") from error


def _sentence(cider: Difference) -> str:
    if not cider.significant:
        return (
            f"A and B do not differ by more than chance: "
            f"B - A is {cider.difference:+.1f} +- {cider.margin:.1f} CIDEr (95 %)"
        )
    better = "better" if cider.difference > 0 else "worse"
    return f"B is {better} by {abs(cider.difference):.1f} +- {cider.margin:.1f} CIDEr (95 %)"


def _line(one: Difference) -> str:
    low, high = one.interval.low, one.interval.high
    return (
        f"{METRIC_LABELS[one.metric]:8}{one.first:8.1f}{one.second:8.1f}  "
        f"{one.difference:+.1f} +- {one.margin:.1f}  ({low:+.1f} to {high:+.1f}, p {one.p_value:.3f})"
    )
