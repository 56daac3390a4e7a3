"""uint8 pixels to all that a decoder asks of the picture, by the checkpoint's own vision model.

The vision model is transformers' module, for it is run once per picture and exact by construction. Only its
attention is exchanged while it is exported, for the operator of opset 23.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import ops as onnx_ops

from kiloword.export.importing.decoder import TextDecoder
from kiloword.export.importing.pixels import PixelRule
from kiloword.runtime.manifest import GraphSpec, TensorSpec

ENCODER_FILE = "encoder.onnx"
_FUSED = "kiloword_fused"


class PictureEncoder(nn.Module):
    """Normalises pixels, looks at them, and projects what was seen for each block of the decoder.

    Args:
        pixels: how bytes become the numbers that the vision model takes.
        vision: float pixels (B, 3, height, width) -> features (B, N, C).
        decoder: projects the features.
    """

    def __init__(self, pixels: PixelRule, vision: nn.Module, decoder: TextDecoder) -> None:
        super().__init__()
        self.pixels = Normalize(pixels)
        self.vision = vision
        self.decoder = decoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, height, width, 3) uint8 -> keys and values for each block of the decoder."""
        return self.decoder.image_key_values(self.vision(self.pixels(pixels)))

    def spec(self, image_tokens: int) -> GraphSpec:
        """What `encoder.onnx` takes and gives."""
        image = self.pixels.rule.image
        pixels = TensorSpec("pixels", "pixels", "uint8", ("batch_size", image.height, image.width, 3))
        outputs = [
            TensorSpec(spec.name, "context", spec.dtype, spec.axes, feeds=spec.name)
            for spec in self.decoder.image_specs(image_tokens)
        ]
        return GraphSpec(ENCODER_FILE, (pixels,), tuple(outputs))


class Normalize(nn.Module):
    """uint8 (B, height, width, 3) -> float (B, 3, height, width), as the checkpoint's processor scales."""

    def __init__(self, rule: PixelRule) -> None:
        super().__init__()
        self.rule = rule
        self.register_buffer("scale", torch.tensor(rule.scale, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("shift", torch.tensor(rule.shift, dtype=torch.float32).view(3, 1, 1))
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised, channels first."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale - self.shift


class HiddenStates(nn.Module):
    """A vision model of transformers, for its last hidden state alone.

    Args:
        model: called with ``pixel_values``.
        after: what follows, such as a projection.
    """

    def __init__(self, model: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.after = nn.Identity() if after is None else after

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, C)."""
        return self.after(self.model(pixel_values).last_hidden_state)  # type: ignore[no-any-return]


@contextmanager
def fused_attention(module: nn.Module) -> Iterator[None]:
    """While this lasts, the attentions of transformers inside a module are exported as one operator each.

    The attention that transformers prefers cannot be exported by torch 2.13: it is taken apart into a view
    that does not fit.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_FUSED, _attention)
    configs: dict[int, Any] = {
        id(one.config): one.config for one in module.modules() if hasattr(one, "config")
    }
    usual = {key: getattr(config, "_attn_implementation", None) for key, config in configs.items()}
    try:
        for key, config in configs.items():
            if usual[key] in ("sdpa", "eager", None):
                config._attn_implementation_internal = _FUSED
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation_internal = usual[key]


def _attention(
    module: nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls an attention function: (B, H, N, D) each -> (B, N, H, D)."""
    heads, width = query.shape[1], query.shape[3]
    apart = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    if not all(tensor.is_contiguous() for tensor in apart):
        mixed = onnx_ops.attention(query, key, value, attention_mask, scale=scaling)[0]
        return mixed.transpose(1, 2).contiguous(), None
    # Heads that were just split off are put together again: ONNX's operator splits them by itself.
    query, key, value = (tensor.flatten(2) for tensor in apart)
    mixed = onnx_ops.attention(
        query, key, value, attention_mask, scale=scaling, q_num_heads=heads, kv_num_heads=heads
    )[0]
    return mixed.reshape(*mixed.shape[:2], heads, width), None
