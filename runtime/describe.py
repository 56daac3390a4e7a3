"""A bundle's manifest in words and columns, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.manifest import GraphSpec, TensorSpec
from kiloword.runtime.quantization_spec import quantization_table
from kiloword.runtime.reliability_spec import ReliabilitySpec

_LABEL_WIDTH = 24


def describe_bundle(bundle: Bundle) -> str:
    """All that a person asks of a bundle, as lines of text.

    Args:
        bundle: A bundle whose files were checked by `load_bundle`.
    """
    manifest = bundle.manifest
    blocks = [
        _facts(_summary(bundle)),
        _section("generation", _facts(vars(manifest.generation))),
        _section("files (hashes checked)", _facts(_file_sizes(bundle))),
        _section(f"encoder: {manifest.encoder.file}", _describe_graph(manifest.encoder)),
        _section(f"decoder: {manifest.decoder.file}", _describe_graph(manifest.decoder)),
    ]
    if manifest.reliability is not None:
        blocks.append(_section("reliability", _facts(_reliability(manifest.reliability))))
    if manifest.labels is not None:
        blocks.append(_section("labels", _facts(flatten(asdict(manifest.labels)))))
    if manifest.draft is not None:
        blocks.append(_section("draft", _facts(flatten(asdict(manifest.draft)))))
    if manifest.quantization is not None:
        blocks.append(_section("quantization", _indented(quantization_table(manifest.quantization))))
    if manifest.provenance:
        blocks.append(_section("provenance", _facts(flatten(manifest.provenance))))
    if manifest.report:
        blocks.append(_section("report", _facts(flatten(manifest.report))))
    return "\n\n".join(blocks) + "\n"


def _summary(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    image, tokens = manifest.image, manifest.tokens
    crop = "" if image.shortest_edge is None else f" from {image.shortest_edge}"
    crop = crop if image.stretch_height is None else f" from {image.stretch_height} x {image.stretch_width}"
    return {
        "name": manifest.name,
        "directory": bundle.directory,
        "precision": manifest.precision,
        "size": _size(bundle.size_bytes),
        "format version": manifest.format_version,
        **{f"architecture.{key}": value for key, value in flatten(manifest.architecture).items()},
        "image": f"{image.height} x {image.width}, {image.resize}{crop}, {image.resample}",
        "vocabulary": f"{tokens.vocab_size} tokens",
        "bos, eos, pad": f"{tokens.bos_token_id}, {tokens.eos_token_id}, {tokens.pad_token_id}",
        "prompt": _listed(tokens.prompt_token_ids),
        "checked on": _listed(manifest.checked_providers) or "not said",
        "never written": _listed(tokens.suppressed_token_ids) or "nothing",
    }


def _reliability(spec: ReliabilitySpec) -> dict[str, Any]:
    """The thresholds and how well they do; the weights say nothing to people."""
    facts = {
        name: value for name, value in flatten(spec.facts).items() if not isinstance(value, (list, tuple))
    }
    thresholds = {name: getattr(spec, name) for name in ("photo_from", "reliable_from", "sure_from")}
    return {**thresholds, **facts}


def _file_sizes(bundle: Bundle) -> dict[str, str]:
    return {name: _size(record.bytes) for name, record in sorted(bundle.manifest.files.items())}


def _describe_graph(graph: GraphSpec) -> str:
    rows: list[tuple[str, ...]] = [("", "role", "name", "type", "axes", "feeds")]
    rows += [_tensor_row("in" if index == 0 else "", tensor) for index, tensor in enumerate(graph.inputs)]
    rows += [_tensor_row("out" if index == 0 else "", tensor) for index, tensor in enumerate(graph.outputs)]
    return _columns(rows)


def _tensor_row(side: str, tensor: TensorSpec) -> tuple[str, ...]:
    return (side, tensor.role, tensor.name, tensor.dtype, _listed(tensor.axes), tensor.feeds or "")


def flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts as one level.

    >>> flatten({"quality": {"cider": 57.2}, "by": "us"})
    {'quality.cider': 57.2, 'by': 'us'}
    """
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _section(title: str, body: str) -> str:
    return f"{title}\n{body}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _facts(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"  {key:<{_LABEL_WIDTH}} {_shown(value)}" for key, value in facts.items())


def _shown(value: Any) -> str:
    return _listed(value) if isinstance(value, (list, tuple)) else str(value)


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _size(size_bytes: int) -> str:
    """Decimal megabytes, as file managers say them."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.1f} kB"
    return f"{size_bytes / 1_000_000:.1f} MB"
