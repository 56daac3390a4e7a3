"""What a ViT's class token has seen, through all blocks: attention rollout."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiloword.runtime.captioner import ImageSource
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.explain import Explanation
from kiloword.runtime.images import load_image
from kiloword.runtime.overlays import see
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.material import image_spec
from kiloword.train.models.attention import attention_weights, split_heads
from kiloword.train.models.vit import Block, VisionTransformer

_EDGE = 720


@torch.inference_mode()
def attention_rollout(encoder: VisionTransformer, pixels: Tensor) -> NDArray[np.float32]:
    """How much of each patch has reached the class token after the last block.

    A block mixes tokens by its attention and passes them on as they are: half of each makes one matrix, and
    the product of all blocks' matrices says what each token is made of. Where 2 x 2 patches are merged, a
    token is made of four in equal parts.

    Args:
        encoder: in evaluation mode.
        pixels: uint8 (1, height, width, 3), RGB.

    Returns:
        float32 (grid height, grid width) of the first block's patches; sums to 1.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928, equation 1.
    """
    hidden = encoder.forward_until(pixels, 0)
    made_of = torch.eye(hidden.shape[1])
    blocks = cast("Iterable[Block]", encoder.blocks)
    for index, block in enumerate(blocks):
        if encoder.merge is not None and index == encoder.config.merge_after:
            hidden = encoder.merge(hidden)
            made_of = _merging(made_of.shape[0]) @ made_of
        attention = block.attn
        query, key, _ = attention.qkv(block.norm1(hidden)).chunk(3, dim=-1)
        heads = attention.heads
        weights = attention_weights(split_heads(query, heads), split_heads(key, heads))[0].mean(dim=0)
        made_of = (0.5 * weights + 0.5 * torch.eye(len(weights))) @ made_of
        hidden = block(hidden)
    patches = made_of[0, 1:].double()
    side = math.isqrt(len(patches))
    return (patches / patches.sum()).reshape(side, side).float().numpy()


def _merging(tokens: int) -> Tensor:
    """What merged tokens are made of: (1 + side * side / 4, 1 + side * side)."""
    side = math.isqrt(tokens - 1)
    merged = torch.zeros(1 + side * side // 4, tokens)
    merged[0, 0] = 1.0
    for row in range(side):
        for column in range(side):
            merged[1 + row // 2 * (side // 2) + column // 2, 1 + row * side + column] = 0.25
    return merged


def explain_encoder(checkpoint: Path, photo: ImageSource) -> Explanation:
    """The rollout of a checkpoint's encoder over a photo, to be drawn like the words of a caption.

    Args:
        checkpoint: directory of a checkpoint with a ViT encoder, or a run's folder.
        photo: as for ``Captioner.caption``.

    Raises:
        CheckpointError: there is no checkpoint.
        ConfigError: its encoder is no ViT.
        ImageError: the photo cannot be read.
    """
    best = checkpoint / "best"
    loaded = load_checkpoint(best if best.is_dir() else checkpoint)
    encoder = loaded.model.encoder
    if not isinstance(encoder, VisionTransformer):
        raise ConfigError(
            ["rollout: expected an encoder of Transformer blocks with a class token"], path=checkpoint
        )
    spec = image_spec(loaded.recipe)
    pixels = torch.from_numpy(load_image(photo, spec))[None]
    map_ = attention_rollout(encoder, pixels)
    note = f"{loaded.recipe.name}, attention rollout to the class token through {encoder.levels} blocks"
    return Explanation(see(photo, spec, _EDGE), "What the encoder saw", ("encoder",), map_[None], note)
