"""The proof that graphs compute what torch does: several batch sizes, lengths, pasts and beam orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from kiloword.export.graphs import DecoderGraph, EncoderGraph, decoder_spec, encoder_spec, example_inputs
from kiloword.runtime.errors import ParityError
from kiloword.runtime.manifest import STATE_ROLES, GraphSpec
from kiloword.runtime.threads import default_threads
from kiloword.train.models.captioner import CaptionModel

TOLERANCE = 2e-4
"""Largest difference, absolute and relative, in fp32: summation orders differ, nothing else may."""
ROUNDING = 2e-5
"""What comes on top, as a share of a tensor's largest value, whose rounding small values carry."""

_ENCODER_CASES = ({"batch_size": 1}, {"batch_size": 3})
# Batch size, beams, new tokens, rows of the past, tokens of the past.
_DECODER_CASES = ((1, 1, 1, 1, 0), (1, 1, 1, 1, 7), (2, 3, 1, 6, 5), (3, 2, 4, 3, 0), (2, 2, 3, 5, 2))
_CACHED_LENGTH = 6


@dataclass(frozen=True)
class Parity:
    """What was compared, and how far apart the values were."""

    cases: int
    largest_difference: float
    """Absolute, over all outputs of all cases."""


@dataclass(frozen=True)
class Graphs:
    """What was exported: both modules in evaluation mode, and what was declared of them."""

    encoder: nn.Module
    encoder_spec: GraphSpec
    decoder: nn.Module
    decoder_spec: GraphSpec
    vocab_size: int
    longest: int | None
    """Most tokens that the decoder can read; ``None``: any number."""
    token_by_token: bool = False
    """Whether the decoder reads one token per call."""
    placeless_token_id: int | None = None
    """A token that is not counted as a place, such as RoBERTa's padding: the tokens that are read with it get
    other places than those that are read after it, so that both ways of reading a sentence differ."""


def check_parity(model: CaptionModel, directory: Path) -> Parity:
    """Compares both fp32 graphs with the torch model, value by value; see `check_graphs`."""
    decoder = model.decoder
    graphs = Graphs(
        EncoderGraph(model).eval(),
        encoder_spec(model),
        DecoderGraph(decoder).eval(),
        decoder_spec(model),
        decoder.vocab_size,
        decoder.config.longest,
        decoder.token_by_token,
    )
    return check_graphs(graphs, directory)


def check_graphs(graphs: Graphs, directory: Path) -> Parity:
    """Compares both fp32 graphs with the modules that they were exported from, value by value.

    Args:
        graphs: what was exported.
        directory: holds the two ONNX files.

    Returns:
        How close they are.

    Raises:
        ParityError: an output differs by more than ``TOLERANCE``, or a cached step differs from reading the
            whole sentence at once.
    """
    first, second = graphs.encoder_spec, graphs.decoder_spec
    encoder, decoder = _open(directory, first), _open(directory, second)
    worst = [_compare(graphs.encoder, encoder, first, case) for case in _ENCODER_CASES]
    cases = decoder_cases(graphs.vocab_size, graphs.longest)
    worst += [_compare(graphs.decoder, decoder, second, case) for case in cases]
    worst.append(_compare_cached(graphs, decoder))
    return Parity(len(worst), max(worst))


def decoder_cases(vocab_size: int, most_tokens: int | None) -> list[dict[str, int]]:
    """Sizes of the axes; none reads more tokens than the decoder has positions for."""
    cases = []
    for batch, beams, length, rows, past in _DECODER_CASES:
        longest = most_tokens or length + past
        new = min(length, longest)
        cases.append(
            {
                "batch_size": batch,
                "num_beams": beams,
                "sequence_length": new,
                "past_rows": rows,
                "past_sequence_length": min(past, longest - new),
                "vocab_size": vocab_size,
            }
        )
    return cases


def _open(directory: Path, spec: GraphSpec) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = default_threads()
    return onnxruntime.InferenceSession(directory / spec.file, options, providers=["CPUExecutionProvider"])


def _compare(
    module: nn.Module, session: onnxruntime.InferenceSession, spec: GraphSpec, case: dict[str, int]
) -> float:
    inputs = example_inputs(spec, case, seed=sum(case.values()))
    expected = _in_torch(module, [tensor.numpy() for tensor in inputs])
    feeds = {item.name: tensor.numpy() for item, tensor in zip(spec.inputs, inputs, strict=True)}
    what = f"{spec.file} with {case}"
    names = [item.name for item in spec.outputs]
    return _largest_difference(names, expected, _run(session, names, feeds, what), what)


def _run(
    session: onnxruntime.InferenceSession,
    names: list[str],
    feeds: Mapping[str, NDArray[Any]],
    what: str,
) -> list[NDArray[np.float32]]:
    try:
        results: list[NDArray[np.float32]] = session.run(names, dict(feeds))
    except Exception as error:  # onnxruntime's types share no other base
        reason = str(error).splitlines()[0]
        raise ParityError(f"{what} does not run", found=reason) from error
    return results


def _compare_cached(graphs: Graphs, session: onnxruntime.InferenceSession) -> float:
    """Token by token with a state, beams reordered on the way, against reading whole sentences at once.

    Whole sentences are read by torch, and by the graph too where it can.
    """
    spec, vocab_size = graphs.decoder_spec, graphs.vocab_size
    length = min(_CACHED_LENGTH, graphs.longest or _CACHED_LENGTH)
    sizes = {
        "batch_size": 2,
        "num_beams": 2,
        "sequence_length": length,
        "past_rows": 4,
        "past_sequence_length": 0,
        "vocab_size": vocab_size,
    }
    inputs = example_inputs(spec, sizes, seed=7)
    feeds = {item.name: tensor.numpy() for item, tensor in zip(spec.inputs, inputs, strict=True)}
    ids = np.random.default_rng(7).integers(0, vocab_size, (2, 2, length))
    if graphs.placeless_token_id is not None:
        ids[ids == graphs.placeless_token_id] = (graphs.placeless_token_id + 1) % vocab_size
    start = beam_rows = np.arange(4, dtype=np.int64).reshape(2, 2)
    swapped = beam_rows[:, ::-1].copy()
    names = [item.name for item in spec.outputs]
    past = first = {item.name: feeds[item.name] for item in spec.inputs_of(*STATE_ROLES)}
    context = {item.name: feeds[item.name] for item in spec.inputs_of("context")}
    worst = 0.0
    for step in range(length):
        rows = beam_rows
        if step == length // 2:  # from here on each sentence goes on with the other one's beginning
            ids = np.concatenate([ids[:, ::-1, :step], ids[:, :, step:]], axis=2)
            rows = start = swapped
        new = {"input_ids": ids[:, :, step : step + 1], "beam_rows": rows}
        what = f"cached step {step} of {spec.file}"
        outputs = _run(session, names, {**new, **context, **past}, what)
        past = {item.feeds: value for item, value in zip(spec.outputs, outputs, strict=True) if item.feeds}
        whole = {"input_ids": ids[:, :, : step + 1], "beam_rows": start, **context, **first}
        readings = [_in_torch(graphs.decoder, [whole[item.name] for item in spec.inputs])[:1]]
        if not graphs.token_by_token:
            readings.append(_run(session, ["logits"], whole, what))
        worst = max(worst, *(_largest_difference(["logits"], item, outputs[:1], what) for item in readings))
    return worst


def _in_torch(module: nn.Module, inputs: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [tensor.numpy() for tensor in module(*(torch.from_numpy(item) for item in inputs))]


def _largest_difference(
    names: Sequence[str],
    expected: Sequence[NDArray[np.float32]],
    found: Sequence[NDArray[np.float32]],
    what: str,
) -> float:
    for name, want, have in zip(names, expected, found, strict=True):
        if want.shape != have.shape:
            raise ParityError(f"{what}: shape of {name}", expected=str(want.shape), found=str(have.shape))
        allowed = TOLERANCE + ROUNDING * float(np.abs(want).max(initial=0))
        if not np.allclose(have, want, rtol=TOLERANCE, atol=allowed):
            difference = float(np.abs(want - have).max())
            raise ParityError(
                f"{what}: {name} differs", expected=f"at most {allowed:.3g}", found=f"{difference:.3g}"
            )
    return max(float(np.abs(want - have).max(initial=0)) for want, have in zip(expected, found, strict=True))
