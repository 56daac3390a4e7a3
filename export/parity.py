"""The proof that graphs compute what torch computes: on several batch sizes, lengths, pasts and beam orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from kiloword.export.graphs import DecoderGraph, EncoderGraph, decoder_spec, encoder_spec, example_inputs
from kiloword.runtime.errors import ParityError
from kiloword.runtime.manifest import GraphSpec
from kiloword.train.models.captioner import CaptionModel

TOLERANCE = 2e-4
"""Largest difference, absolute and relative, in fp32: summation orders differ, nothing else may."""

_ENCODER_CASES = ({"batch_size": 1}, {"batch_size": 3})
_DECODER_CASES = tuple(
    {
        "batch_size": batch,
        "num_beams": beams,
        "sequence_length": length,
        "past_rows": rows,
        "past_sequence_length": past,
    }
    for batch, beams, length, rows, past in ((1, 1, 1, 1, 0), (1, 1, 1, 1, 7), (2, 3, 1, 6, 5), (3, 2, 4, 3, 0), (2, 2, 3, 5, 2))
)


@dataclass(frozen=True)
class Parity:
    """What was compared, and how far apart the values were."""

    cases: int
    largest_difference: float
    """Absolute, over all outputs of all cases."""


def check_parity(model: CaptionModel, directory: Path) -> Parity:
    """Compares both fp32 graphs with the torch model, value by value.

    Args:
        model: what was exported, in evaluation mode.
        directory: holds the two ONNX files.

    Returns:
        How close they are.

    Raises:
        ParityError: an output differs by more than ``TOLERANCE``, or a cached step differs from reading the whole
            sentence at once.
    """
    vocab_size = model.decoder.config.vocab_size
    encoder, decoder = _open(directory, encoder_spec(model)), _open(directory, decoder_spec(model))
    worst = [
        _compare(EncoderGraph(model).eval(), encoder, encoder_spec(model), case, vocab_size) for case in _ENCODER_CASES
    ]
    worst += [
        _compare(DecoderGraph(model.decoder).eval(), decoder, decoder_spec(model), case, vocab_size)
        for case in _DECODER_CASES
    ]
    worst.append(_compare_cached(model, decoder))
    return Parity(len(worst), max(worst))


def _open(directory: Path, spec: GraphSpec) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(directory / spec.file, options, providers=["CPUExecutionProvider"])


def _compare(
    module: nn.Module, session: onnxruntime.InferenceSession, spec: GraphSpec, case: dict[str, int], vocab_size: int
) -> float:
    inputs = example_inputs(spec, {**case, "vocab_size": vocab_size}, seed=sum(case.values()))
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in module(*inputs)]
    feeds = {item.name: tensor.numpy() for item, tensor in zip(spec.inputs, inputs, strict=True)}
    names = [item.name for item in spec.outputs]
    return _largest_difference(names, expected, session.run(names, feeds), f"{spec.file} with {case}")


def _compare_cached(model: CaptionModel, session: onnxruntime.InferenceSession, length: int = 6) -> float:
    """Token by token with a cache, beams reordered on the way, against reading each whole sentence at once."""
    spec = decoder_spec(model)
    sizes = {"batch_size": 2, "num_beams": 2, "sequence_length": length, "past_rows": 4, "past_sequence_length": 0}
    inputs = example_inputs(spec, {**sizes, "vocab_size": model.decoder.config.vocab_size}, seed=7)
    feeds = {item.name: tensor.numpy() for item, tensor in zip(spec.inputs, inputs, strict=True)}
    ids, beam_rows = feeds["input_ids"], np.arange(4).reshape(2, 2)
    swapped = beam_rows[:, ::-1].copy()
    names = [item.name for item in spec.outputs]
    worst, past = 0.0, {item.name: feeds[item.name] for item in spec.inputs_of("cache")}
    context = {item.name: feeds[item.name] for item in spec.inputs_of("context")}
    for step in range(length):
        rows = swapped if step == length // 2 else beam_rows
        if step == length // 2:  # from here on each sentence goes on with the other one's beginning
            ids = np.concatenate([ids[:, ::-1, :step], ids[:, :, step:]], axis=2)
        outputs = session.run(names, {"input_ids": ids[:, :, step : step + 1], "beam_rows": rows, **context, **past})
        past = {str(item.feeds): value for item, value in zip(spec.outputs[1:], outputs[1:], strict=True)}
        empty = {item.name: feeds[item.name] for item in spec.inputs_of("cache")}
        whole = session.run(["logits"], {"input_ids": ids[:, :, : step + 1], "beam_rows": beam_rows, **context, **empty})
        worst = max(worst, _largest_difference(["logits"], whole, outputs[:1], f"cached step {step}"))
    return worst


def _largest_difference(
    names: Sequence[str], expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]], what: str
) -> float:
    for name, want, have in zip(names, expected, found, strict=True):
        if want.shape != have.shape:
            raise ParityError(f"{what}: shape of {name}", expected=str(want.shape), found=str(have.shape))
        if not np.allclose(want, have, rtol=TOLERANCE, atol=TOLERANCE):
            difference = float(np.abs(want - have).max())
            raise ParityError(
                f"{what}: {name} differs from torch", expected=f"at most {TOLERANCE}", found=f"{difference:.3g}"
            )
    return max(float(np.abs(want - have).max(initial=0)) for want, have in zip(expected, found, strict=True))
