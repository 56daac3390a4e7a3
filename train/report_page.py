"""An evaluation as one HTML page: scores, and every photo with its caption, the worst first.

The page needs no network: thumbnails are inside it. It can be sorted and searched with the keyboard, follows
the system's light or dark colours, and without JavaScript is still a table in the right order.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from kiloword.runtime.errors import ImageError
from kiloword.runtime.images import load_image, upright_size
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.evaluation import METRIC_LABELS, EvaluatedPhoto, EvaluationReport

__all__ = ["report_page", "thumbnail"]

_TEMPLATE = Path(__file__).with_name("report_page.html")
_EDGE = 176
_JPEG_QUALITY = 72


def report_page(report: EvaluationReport, *, title: str | None = None) -> str:
    """Return the page.

    Args:
        report: What to show; its photos are read again for their thumbnails.
        title: Heading; None for the bundle's name.
    """
    worst_first = sorted(report.photos, key=lambda photo: photo.cider)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title or f"{report.bundle}: captions and what people wrote"),
        subtitle=escape(_subtitle(report)),
        scores="\n".join(_score_rows(report)),
        statistics="\n".join(f"<li>{escape(line)}</li>" for line in report.statistics.lines()),
        failures=_failures(report),
        count=len(worst_first),
        rows="\n".join(map(_row, worst_first)),
    )


def thumbnail(path: str | Path) -> str | None:
    """A small JPEG of a photo as a ``data:`` address; None where the photo cannot be read any more."""
    from PIL import Image

    try:
        width, height = upright_size(path)
        scale = min(1.0, _EDGE / max(width, height))
        spec = ImageSpec(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
        pixels = load_image(path, spec)
    except ImageError:
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _subtitle(report: EvaluationReport) -> str:
    decode = ", ".join(f"{name} {value:g}" for name, value in report.decode.items())
    return (
        f"{report.scores.num_images} photos, {report.precision}, {report.provider}, {decode}; "
        f"tokenizer {report.scores.tokenizer}; {report.ms_per_photo:.1f} ms a photo"
    )


def _score_rows(report: EvaluationReport) -> Iterable[str]:
    for name, label in METRIC_LABELS.items():
        interval = report.intervals[name]
        yield (
            f'<tr><th scope="row">{label}</th><td class="number">{getattr(report.scores, name):.1f}</td>'
            f'<td class="number">{interval.low:.1f} to {interval.high:.1f}</td></tr>'
        )


def _failures(report: EvaluationReport) -> str:
    if not report.failures:
        return ""
    lines = "".join(f"<li>{escape(failure.error)}</li>" for failure in report.failures)
    return f"<h2>Photos without a caption</h2>\n<ul>{lines}</ul>"


def _row(photo: EvaluatedPhoto) -> str:
    source = thumbnail(photo.path)
    # The caption stands beside the picture: read out as its description, it would come twice.
    picture = f'<img src="{source}" alt="" loading="lazy">' if source else ""
    references = "".join(f"<li>{escape(text)}</li>" for text in photo.references)
    faults = "".join(f'<p class="fault">{escape(fault)}</p>' for fault in _faults(photo))
    return (
        f'<tr data-cider="{photo.cider:.3f}" data-rouge="{photo.rouge_l:.3f}" '
        f'data-confidence="{photo.confidence:.5f}">'
        f'<th scope="row">{picture}{escape(photo.image_id)}</th>'
        f'<td><span class="caption">{escape(photo.caption)}</span>{faults}<ul>{references}</ul></td>'
        f'<td class="number" data-label="CIDEr">{photo.cider:.1f}</td>'
        f'<td class="number" data-label="ROUGE-L">{photo.rouge_l:.1f}</td>'
        f'<td class="number" data-label="Confidence">{photo.confidence:.2f}</td></tr>'
    )


def _faults(photo: EvaluatedPhoto) -> Iterable[str]:
    if not photo.reliable:
        yield f"not reliable: {photo.reason}"
    if photo.unfinished:
        yield "unfinished"
    if photo.repetitive:
        yield "repeats itself"
