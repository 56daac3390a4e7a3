"""What `bundle.json` says of an int8 bundle: how it was made, what that cost and gained, who let it pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeFigures:
    """Milliseconds."""

    median: float
    p95: float


@dataclass(frozen=True)
class ProductFigures:
    """The matrix products of one graph as the session runs it, after onnxruntime's own optimization."""

    integer_operators: Mapping[str, int]
    """How many multiply bytes, by operator."""
    float_products: int
    """How many with a constant matrix still multiply floats; convolutions are among them."""


@dataclass(frozen=True)
class VariantFigures:
    """One variant, as it was measured."""

    bytes: int
    """Of all files of the bundle."""
    load_ms: float
    """From a bundle on disk to the first encoded picture, in a fresh process (the median of some)."""
    peak_rss_bytes: int | None
    """The most memory that this process held; null where the system does not tell."""
    photo_ms: TimeFigures
    """Of a photo, from pixels to tokens: greedy, alone."""
    token_ms: TimeFigures
    """Of a token, the prompt's reading included."""
    encoder: ProductFigures
    decoder: ProductFigures
    cider: float | None = None
    """CIDEr-D times 100 on `QuantizationSpec.dataset`, with the bundle's own search."""
    bleu_4: float | None = None
    """BLEU-4 times 100, likewise."""


@dataclass(frozen=True)
class TrialFigures:
    """One recipe beside fp32."""

    recipe: str
    """``static``, ``dynamic``, ``weight-only``, or ``ENCODER+DECODER``."""
    figures: VariantFigures
    times_as_fast: float
    """The median of paired ratios, fp32's time over this one's, for the same photo in the same round."""
    equal_captions: float
    """Share of photos with the same caption as fp32 (greedy)."""
    equal_words: float
    """Share of words that stand at the same place in both captions."""
    alone_as_in_batch: float
    """Share of photos whose caption is the same alone and in a batch."""
    batch_difference: float
    """What the rest of a batch changes in a photo's encoding, relative to it; the largest that was seen."""
    refused: tuple[str, ...] = ()
    """Why the gate refuses it, one sentence with figures each; empty: it passes."""


@dataclass(frozen=True)
class QualityLimits:
    """What an int8 variant may cost at most."""

    min_times_as_fast: float = 1.0
    """It must be this many times as fast as fp32."""
    min_equal_words: float = 0.5
    """Share of words at the same place; healthy ones are above 0.8, broken ones near 0."""
    max_loss: float = 2.0
    """Points of CIDEr-D or BLEU-4 (both times 100) that may be lost where captions are given."""


@dataclass(frozen=True)
class QuantizationSpec:
    """How an int8 bundle was made and what the gate saw."""

    recipe: str
    encoder: str
    """``static``, ``dynamic`` or ``weight-only``."""
    decoder: str
    """``static``, ``dynamic`` or ``weight-only``."""
    batch_invariant: bool
    """A photo's caption does not depend on what else is in its batch."""
    reduce_range: bool
    """Weights have 7 bits."""
    forced: bool
    """The gate refused it and was overruled; `refused` says why it did."""
    refused: tuple[str, ...]
    limits: QualityLimits
    processor: str
    threads: int
    photos: int
    """Photos that were captioned."""
    rounds: int
    """How many times each variant captioned them."""
    dataset: str | None
    """What CIDEr-D and BLEU-4 were measured on; null: there were no captions to compare with."""
    dataset_photos: int
    fp32: VariantFigures
    tried: tuple[TrialFigures, ...]
    """All recipes that were tried, the chosen one among them."""

    @property
    def chosen(self) -> TrialFigures:
        """The figures of this bundle."""
        return next(one for one in self.tried if one.recipe == self.recipe)


def check_quantization(spec: QuantizationSpec) -> list[str]:
    """Look for contradictions; one sentence for each."""
    if all(one.recipe != spec.recipe for one in spec.tried):
        return [f"quantization.tried lacks the recipe {spec.recipe!r}"]
    if bool(spec.refused) != spec.forced:
        return ["quantization: expected 'forced' exactly where 'refused' gives a reason"]
    return []


def quantization_table(spec: QuantizationSpec) -> str:
    """The comparison with fp32 for people."""
    return "\n".join([*_rows(spec), *_notes(spec)])


def _rows(spec: QuantizationSpec) -> list[str]:
    cells = [_HEAD, _cells("fp32", spec.fp32, None)]
    cells += [_cells(_title(one, spec), one.figures, one) for one in spec.tried]
    if spec.dataset is None:
        cells = [row[:-2] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [_aligned(row, widths) for row in cells]


_HEAD = (
    *("", "MB", "load ms", "peak MB", "ms/photo", "p95", "ms/token", "p95", "x fp32"),
    *("captions", "words", "int8/float products", "CIDEr-D", "BLEU-4"),
)


def _title(trial: TrialFigures, spec: QuantizationSpec) -> str:
    if trial.recipe == spec.recipe:
        return f"{trial.recipe} (taken)"
    return f"{trial.recipe} (refused)" if trial.refused else trial.recipe


def _cells(title: str, figures: VariantFigures, trial: TrialFigures | None) -> tuple[str, ...]:
    memory = figures.peak_rss_bytes
    return (
        title,
        f"{figures.bytes / 1e6:.1f}",
        f"{figures.load_ms:.0f}",
        "-" if memory is None else f"{memory / 1e6:.0f}",
        f"{figures.photo_ms.median:.2f}",
        f"{figures.photo_ms.p95:.2f}",
        f"{figures.token_ms.median:.3f}",
        f"{figures.token_ms.p95:.3f}",
        "1.00" if trial is None else f"{trial.times_as_fast:.2f}",
        "" if trial is None else f"{trial.equal_captions:.0%}",
        "" if trial is None else f"{trial.equal_words:.0%}",
        ", ".join(
            f"{sum(graph.integer_operators.values())}/{graph.float_products}"
            for graph in (figures.encoder, figures.decoder)
        ),
        "-" if figures.cider is None else f"{figures.cider:.1f}",
        "-" if figures.bleu_4 is None else f"{figures.bleu_4:.1f}",
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def _notes(spec: QuantizationSpec) -> Iterator[str]:
    yield (
        f"{spec.photos} photos, {spec.rounds} rounds in turns, greedy, one by one, {spec.threads} thread, "
        f"{spec.processor}"
    )
    if spec.dataset is not None:
        yield f"CIDEr-D and BLEU-4: {spec.dataset_photos} photos of {spec.dataset}, the bundle's own search"
    operators = [
        f"{side} {', '.join(f'{count} {name}' for name, count in graph.integer_operators.items()) or 'none'}"
        for side, graph in (
            ("encoder", spec.chosen.figures.encoder),
            ("decoder", spec.chosen.figures.decoder),
        )
    ]
    yield f"integer operators that run: {'; '.join(operators)}"
    yield (
        "a photo's caption is its own, whatever stands beside it in a batch"
        if spec.batch_invariant
        else "a photo's caption may depend on the others in its batch (dynamic ranges)"
    )
    for trial in spec.tried:
        yield from (f"refused, {trial.recipe}: {reason}" for reason in trial.refused)
    if spec.forced:
        yield "FORCED: the gate refused this bundle, and --force overruled it"
