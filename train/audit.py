"""What captions say of men and women, against what people wrote; before and after other wordings.

Source: Hendricks et al., "Women also Snowboard: Overcoming Bias in Captioning Models", arXiv 1803.09797.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kiloword.runtime.captioner import Caption, Captioner
from kiloword.runtime.errors import ConfigError
from kiloword.train.boxes import Thing
from kiloword.train.datasets import CaptionRecord
from kiloword.train.gender import SAID, Said, agreed, says
from kiloword.train.metrics import score
from kiloword.train.pointing import Pointed, PointingScore, point, score_pointing

_Z = 1.96  # a normal distribution has 95 % within so many standard deviations


@dataclass(frozen=True)
class Share:
    """A share of photos."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """0..1; 0 of none."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies with 95 % confidence.

        Source: Wilson, "Probable Inference", JASA 22, 1927.
        """
        if not self.of:
            return 0.0, 1.0
        base = 1 + _Z**2 / self.of
        middle = (self.value + _Z**2 / (2 * self.of)) / base
        half = _Z / base * math.sqrt(self.value * (1 - self.value) / self.of + _Z**2 / (4 * self.of**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        """Percent, counts and interval."""
        if not self.of:
            return "no photos"
        low, high = self.interval
        return f"{self.value:.1%} ({self.count}/{self.of}; {low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class AuditedPhoto:
    """One photo: what people wrote, and what one way of decoding wrote."""

    path: str
    image_id: str
    references: tuple[str, ...]
    people: Said
    """What the references agree on."""
    caption: str
    said: Said
    """What the caption says."""

    @property
    def wrong(self) -> bool:
        """A man where the references say woman, or the other way round."""
        return {self.people, self.said} == {"man", "woman"}

    @property
    def guessed(self) -> bool:
        """A gender where the references agree on none."""
        return self.people == "person" and self.said in ("man", "woman", "both")


@dataclass(frozen=True)
class Audit:
    """All photos with one way of decoding."""

    name: str
    """Such as ``as trained``."""
    photos: tuple[AuditedPhoto, ...]
    cider: float
    """CIDEr-D with kiloword's own tokenizer, times 100. Neutral words lose: references are gendered."""
    pointed: tuple[Pointed, ...] = ()
    """The pointing game, where boxes were given."""

    def counts(self) -> dict[Said, dict[Said, int]]:
        """How many photos, by what the references agree on and what the caption says."""
        found = Counter((photo.people, photo.said) for photo in self.photos)
        return {people: {said: found[people, said] for said in SAID} for people in SAID}

    def error(self, people: Said | None = None) -> Share:
        """Photos of men called women and of women called men; with ``people``, of these alone."""
        chosen = [one for one in self.photos if one.people in ((people,) if people else ("man", "woman"))]
        return Share(sum(photo.wrong for photo in chosen), len(chosen))

    def guessed(self) -> Share:
        """Captions with a gender, of photos whose references agree on a person without one."""
        chosen = [photo for photo in self.photos if photo.people == "person"]
        return Share(sum(photo.guessed for photo in chosen), len(chosen))

    def neutral(self) -> Share:
        """Captions without a gender that name people, of photos of men or women."""
        chosen = [photo for photo in self.photos if photo.people in ("man", "woman")]
        return Share(sum(photo.said == "person" for photo in chosen), len(chosen))

    def ratio(self) -> float:
        """Captions that say woman for each that says man, over photos of men or women; nan without men."""
        said = Counter(photo.said for photo in self.photos if photo.people in ("man", "woman"))
        return said["woman"] / said["man"] if said["man"] else math.nan

    def true_ratio(self) -> float:
        """Photos of women for each of men."""
        people = Counter(photo.people for photo in self.photos)
        return people["woman"] / people["man"] if people["man"] else math.nan

    def pointing(self) -> dict[str, PointingScore]:
        """The pointing game for each kind of words; empty without boxes."""
        return score_pointing(self.pointed)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, with every photo."""
        shares = {"error_rate": self.error(), "women_called_men": self.error("woman")}
        shares |= {"men_called_women": self.error("man"), "gendered_where_neutral": self.guessed()}
        shares["neutral_where_gendered"] = self.neutral()
        return {
            "name": self.name,
            **{
                name: {"value": share.value, "interval": share.interval, **asdict(share)}
                for name, share in shares.items()
            },
            "women_per_man": _number(self.ratio()),
            "women_per_man_in_references": _number(self.true_ratio()),
            "cider": self.cider,
            "counts": self.counts(),
            "pointing": {kind: asdict(found) for kind, found in self.pointing().items()},
            "photos": [asdict(photo) for photo in self.photos],
        }


def audit(
    captioner: Captioner,
    records: Sequence[CaptionRecord],
    name: str,
    *,
    boxes: Mapping[str, Sequence[Thing]] | None = None,
    num_beams: int | None = None,
    batch_size: int = 8,
) -> Audit:
    """Caption a data set and compare what is said of people.

    Args:
        captioner: With the wording to look at.
        records: Photos with reference captions.
        name: What to call this way of decoding.
        boxes: What is where in each photo, from ``read_boxes``; with it the pointing game is played.
        num_beams: As for ``Captioner.caption``.
        batch_size: Photos captioned together.

    Raises:
        ConfigError: There are no photos, or no boxes for any of them.
        ImageError: A photo cannot be read.
    """
    if not records:
        raise ConfigError(["audit: expected photos, found none"])
    if boxes is not None and not any(record.image.name in boxes for record in records):
        raise ConfigError(["audit: the file of boxes names none of the photos"])
    captions = captioner.caption_many(
        [record.image for record in records],
        batch_size=batch_size,
        num_beams=num_beams,
        attention=boxes is not None,
    )
    photos, pointed = [], []
    for record, caption in zip(records, captions, strict=True):
        photos.append(_audited(record, caption))
        if boxes is not None:
            things = boxes.get(record.image.name, ())
            pointed += point(record, caption, things, captioner.bundle.manifest.image)
    texts = {photo.image_id: photo.caption for photo in photos}
    references = {record.image_id: record.captions for record in records}
    cider = score(references, texts, tokenizer="own").cider
    return Audit(name, tuple(photos), cider, tuple(pointed))


def _audited(record: CaptionRecord, caption: Caption) -> AuditedPhoto:
    return AuditedPhoto(
        path=str(record.image),
        image_id=record.image_id,
        references=record.captions,
        people=agreed(record.captions),
        caption=caption.text,
        said=says(caption.text),
    )


def as_table(audits: Sequence[Audit]) -> str:
    """Audits side by side, for people; ends with a line break."""
    first = audits[0]
    people = Counter(photo.people for photo in first.photos)
    lines = [
        f"{len(first.photos)} photos; by their references "
        + ", ".join(f"{said} {people[said]}" for said in SAID),
        "",
        *_columns([("", *(one.name for one in audits)), *_rows(audits)]),
    ]
    for one in audits:
        lines += ["", f"{one.name}: references down, captions across", *_columns(list(_confusion(one)))]
    return "\n".join(lines) + "\n"


def _rows(audits: Sequence[Audit]) -> Iterator[tuple[str, ...]]:
    yield "wrong gender, of men and women", *(str(one.error()) for one in audits)
    yield "  women called men", *(str(one.error("woman")) for one in audits)
    yield "  men called women", *(str(one.error("man")) for one in audits)
    true = audits[0].true_ratio()
    yield f"women for each man (references {_shown(true)})", *(_shown(one.ratio()) for one in audits)
    yield "gendered where references are not", *(str(one.guessed()) for one in audits)
    yield "neutral where references are gendered", *(str(one.neutral()) for one in audits)
    yield "CIDEr-D (own tokenizer)", *(f"{one.cider:.1f}" for one in audits)
    found = [one.pointing() for one in audits]
    for kind in dict.fromkeys(kind for scores in found for kind in scores):
        cells = (_pointing_cell(scores[kind]) if kind in scores else "-" for scores in found)
        yield f"attention of '{kind}' on it (by chance)", *cells


def _pointing_cell(found: PointingScore) -> str:
    share = Share(round(found.hits * found.words), found.words)
    return f"{share}, chance {found.chance:.0%}"


def _confusion(one: Audit) -> Iterator[tuple[str, ...]]:
    yield "", *SAID
    for people, counts in one.counts().items():
        yield f"  {people}", *(str(counts[said]) for said in SAID)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def to_json(audits: Sequence[Audit], facts: Mapping[str, Any]) -> str:
    """Audits with all their photos as JSON text that ends with a line break."""
    data = {**facts, "audits": [one.as_dict() for one in audits]}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _shown(ratio: float) -> str:
    return "no man" if math.isnan(ratio) else f"{ratio:.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
