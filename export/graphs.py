"""The two graphs of a bundle as torch modules, with the inputs and outputs that `bundle.json` declares.

Shape legend:
    - B: pictures, K: beams, L: new tokens, P: past tokens, R: past rows, N: image tokens, H: heads,
      D: width of one head, V: vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kiloword.runtime.manifest import PAST_LENGTH_AXIS, AttentionSpec, GraphSpec, TensorSpec
from kiloword.train.models.attention import KeyValue
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.decoder import TransformerDecoder
from kiloword.train.models.vit import PatchEmbedding

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"


class EncoderGraph(nn.Module):
    """uint8 pixels -> cross-attention keys and values of every decoder block, once per image."""

    def __init__(self, model: CaptionModel) -> None:
        super().__init__()
        self.model = model
        self.patches = FoldedPatchEmbedding(model.encoder.patch_embed)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, height, width, 3) uint8 -> for each block key and value, (B, H, N, D) float32."""
        hidden = self.model.encoder.with_positions(self.patches(pixels))
        return _flat(self.model.decoder.image_context(self.model.encoder.forward_from(hidden, 0)))


class FoldedPatchEmbedding(nn.Module):
    """The patch projection with the normalisation of the pixels multiplied into its weights beforehand."""

    def __init__(self, patches: PatchEmbedding) -> None:
        super().__init__()
        weight, bias = patches.folded()
        self.patch_size = patches.patch_size
        # Detached, because the exporter asks each tensor for its gradient, and a computed one then warns.
        self.register_buffer("weight", weight.detach().t().contiguous())
        self.register_buffer("bias", bias.detach())
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, height, width, 3) -> float32 (B, patches, W)."""
        return PatchEmbedding.cut(pixels, self.patch_size).float() @ self.weight + self.bias


class DecoderGraph(nn.Module):
    """One graph for the prompt and for each step after it: the past may have length 0."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        # The output matrix is the embedding transposed. Exported tied, it becomes a Transpose before each
        # product, and a quantizer that looks for constant weights passes over the decoder's largest matrix.
        self.register_buffer("output_matrix", decoder.token_embedding.weight.detach().t().contiguous())

    def forward(self, input_ids: Tensor, beam_rows: Tensor, *context_and_past: Tensor) -> tuple[Tensor, ...]:
        """Reads new tokens.

        Args:
            input_ids: int64 (B, K, L).
            beam_rows: int64 (B, K), the row of the past that each hypothesis continues.
            context_and_past: for each block the image's key and value (B, H, N, D), then for each block the
                past key and value (R, H, P, D).

        Returns:
            logits (B, K, V) of the last position; for each block key and value (B * K, H, P + L, D); for each
            block its cross-attention queries (B * K, L, W). Where it looks can be computed from these by who
            wants to know, and they cost nothing; attention weights as an output would be computed in every
            step, for onnxruntime runs a graph as a whole, whatever is fetched.
        """
        pairs = list(zip(context_and_past[::2], context_and_past[1::2], strict=True))
        context, past = pairs[: self.decoder.config.depth], pairs[self.decoder.config.depth :]
        rows = beam_rows.flatten()
        continued = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in past]
        queries: list[Tensor] = []
        hidden, present = self.decoder(input_ids.flatten(0, 1), context, continued, queries)
        logits = hidden[:, -1] @ self.output_matrix + self.decoder.output_bias
        return (logits.unflatten(0, input_ids.shape[:2]), *_flat(present), *queries)


def _flat(pairs: Sequence[KeyValue]) -> tuple[Tensor, ...]:
    return tuple(tensor for pair in pairs for tensor in pair)


def encoder_spec(model: CaptionModel) -> GraphSpec:
    """What `encoder.onnx` takes and gives."""
    size = model.encoder.config.image_size
    pixels = TensorSpec("pixels", "pixels", "uint8", ("batch_size", size, size, 3))
    return GraphSpec(ENCODER_FILE, (pixels,), _context_specs(model, feeds=True))


def decoder_spec(model: CaptionModel) -> GraphSpec:
    """What `decoder.onnx` takes and gives."""
    config = model.decoder.config
    ids = TensorSpec("input_ids", "token_ids", "int64", ("batch_size", "num_beams", "sequence_length"))
    rows = TensorSpec("beam_rows", "beam_rows", "int64", ("batch_size", "num_beams"))
    logits = TensorSpec("logits", "logits", "float32", ("batch_size", "num_beams", config.vocab_size))
    past, present = [], []
    for name in _pair_names(config.depth):
        past_axes = ("past_rows", config.heads, PAST_LENGTH_AXIS, config.head_width)
        past.append(TensorSpec(f"past_key_values.{name}", "cache", "float32", past_axes))
        axes = ("rows", config.heads, "total_sequence_length", config.head_width)
        present.append(TensorSpec(f"present.{name}", "cache", "float32", axes, feeds=past[-1].name))
    query_axes = ("rows", "sequence_length", config.width)
    queries = [TensorSpec(name, "cross_query", "float32", query_axes) for name in _query_names(config.depth)]
    return GraphSpec(
        DECODER_FILE,
        (ids, rows, *_context_specs(model, feeds=False), *past),
        (logits, *present, *queries),
    )


def attention_spec(model: CaptionModel) -> AttentionSpec:
    """Which picture of where it looked can be drawn from the decoder's queries: all blocks, all heads."""
    side = math.isqrt(model.encoder.config.tokens)  # the tokens are a square, and the class token before it
    return AttentionSpec(
        grid_height=side,
        grid_width=side,
        leading_tokens=model.encoder.config.tokens - side * side,
        queries={
            name: f"cross_key_values.{index}.key"
            for index, name in enumerate(_query_names(model.decoder.config.depth))
        },
    )


def _query_names(depth: int) -> list[str]:
    return [f"cross_query.{index}" for index in range(depth)]


def _context_specs(model: CaptionModel, *, feeds: bool) -> tuple[TensorSpec, ...]:
    config = model.decoder.config
    axes = ("batch_size", config.heads, model.encoder.config.tokens, config.head_width)
    names = [f"cross_key_values.{name}" for name in _pair_names(config.depth)]
    return tuple(
        TensorSpec(name, "context", "float32", axes, feeds=name if feeds else None) for name in names
    )


def _pair_names(depth: int) -> list[str]:
    return [f"{index}.{kind}" for index in range(depth) for kind in ("key", "value")]


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
