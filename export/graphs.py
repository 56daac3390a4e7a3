"""The two graphs of a bundle as torch modules, with the inputs and outputs that `bundle.json` declares.

Shape legend:
    - B: pictures, K: beams, L: new tokens, R: past rows, V: vocabulary
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import GraphSpec, TensorSpec
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.decoder import Decoder

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"


class EncoderGraph(nn.Module):
    """uint8 pixels -> what the decoder needs of the picture, once per image."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.encoder = model.encoder.for_export()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, height, width, 3) uint8 -> what ``Decoder.context_specs`` declares, float32."""
        return self.model.context(self.encoder(pixels))


class DecoderGraph(nn.Module):
    """One graph for the prompt and for each step after it: the past may have length 0."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.contexts = sum(spec.starts is None for spec in decoder.context_specs())
        # The output matrix may be the embedding transposed. Exported tied, it becomes a Transpose before each
        # product, and a quantizer that looks for constant weights passes over the decoder's largest matrix.
        self.register_buffer("output_matrix", decoder.output_weight.detach().t().contiguous())
        self.output_matrix: Tensor

    def forward(self, input_ids: Tensor, beam_rows: Tensor, *context_and_past: Tensor) -> tuple[Tensor, ...]:
        """Reads new tokens.

        Args:
            input_ids: int64 (B, K, L).
            beam_rows: int64 (B, K), the row of the past that each hypothesis continues.
            context_and_past: the context, axis 0 is B, then the past, axis 0 is R.

        Returns:
            logits (B, K, V) of the last position; the state, axis 0 is B * K; what says where it looked;
            unless tokens are read one by one, logits (B, K, L, V) of each position.
        """
        context, past = context_and_past[: self.contexts], context_and_past[self.contexts :]
        rows = beam_rows.flatten()
        continued = tuple(tensor.index_select(0, rows) for tensor in past)
        reading = self.decoder.read(input_ids.flatten(0, 1), context, continued)
        of_all = reading.hidden @ self.output_matrix + self.decoder.output_bias
        of_all = of_all.reshape(*input_ids.shape, -1)
        looks = [
            _last(look, input_ids) if spec.role == "cross_attention" else look
            for spec, look in zip(self.decoder.look_specs(), reading.looks, strict=True)
        ]
        checks = () if self.decoder.token_by_token else (of_all,)
        return (of_all[:, :, -1], *reading.state, *looks, *checks)


def _last(look: Tensor, input_ids: Tensor) -> Tensor:
    """Attention at the last position: (B * K, L, N) -> (B, K, N)."""
    return look[:, -1].reshape(*input_ids.shape[:2], -1)


def encoder_spec(model: CaptionModel) -> GraphSpec:
    """What `encoder.onnx` takes and gives."""
    size = model.encoder.config.image_size
    pixels = TensorSpec("pixels", "pixels", "uint8", ("batch_size", size, size, 3))
    outputs = [
        TensorSpec(
            spec.name,
            "recurrent" if spec.starts else "context",
            "float32",
            ("batch_size", *spec.axes),
            feeds=spec.starts or spec.name,
        )
        for spec in model.decoder.context_specs()
    ]
    return GraphSpec(ENCODER_FILE, (pixels,), tuple(outputs))


def decoder_spec(model: CaptionModel) -> GraphSpec:
    """What `decoder.onnx` takes and gives."""
    decoder = model.decoder
    length: int | str = 1 if decoder.token_by_token else "sequence_length"
    ids = TensorSpec("input_ids", "token_ids", "int64", ("batch_size", "num_beams", length))
    rows = TensorSpec("beam_rows", "beam_rows", "int64", ("batch_size", "num_beams"))
    logits = TensorSpec("logits", "logits", "float32", ("batch_size", "num_beams", decoder.vocab_size))
    context = [
        TensorSpec(spec.name, "context", "float32", ("batch_size", *spec.axes))
        for spec in decoder.context_specs()
        if spec.starts is None
    ]
    states = decoder.state_specs()
    inputs = (ids, rows, *context, *(state.past for state in states))
    checks = () if decoder.token_by_token else (sequence_logits(decoder.vocab_size),)
    outputs = (logits, *(state.present for state in states), *decoder.look_specs(), *checks)
    return GraphSpec(DECODER_FILE, inputs, outputs)


def sequence_logits(vocab_size: int) -> TensorSpec:
    """What follows each token that is read: guesses are checked by it."""
    axes = ("batch_size", "num_beams", "sequence_length", vocab_size)
    return TensorSpec("sequence_logits", "sequence_logits", "float32", axes)


def example_inputs(spec: GraphSpec, sizes: dict[str, int], seed: int = 0) -> list[Tensor]:
    """Random inputs for a graph: a size for each named axis must be given.

    Args:
        spec: the graph's declaration.
        sizes: such as ``{"batch_size": 2, "num_beams": 3, "vocab_size": 100, ...}``; ``vocab_size`` bounds
            the token ids, ``past_rows`` the beam rows.
        seed: of the random numbers.

    Returns:
        One tensor for each input, in order.
    """
    random = torch.Generator().manual_seed(seed)
    limits = {"pixels": 256, "token_ids": sizes.get("vocab_size", 1), "beam_rows": sizes.get("past_rows", 1)}
    tensors = []
    for item in spec.inputs:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in item.axes]
        if item.role in limits:
            dtype = torch.uint8 if item.dtype == "uint8" else torch.int64
            tensors.append(torch.randint(limits[item.role], shape, generator=random).to(dtype))
        else:
            tensors.append(torch.randn(shape, generator=random))
    return tensors
