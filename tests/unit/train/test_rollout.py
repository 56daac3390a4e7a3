"""Attention rollout against the formula in plain loops, and what it must not depend on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kiloword.train.checkpoint import CheckpointError  # noqa: E402
from kiloword.train.models.vit import VisionTransformer, VitConfig  # noqa: E402
from kiloword.train.rollout import attention_rollout, explain_encoder  # noqa: E402
from tests.checkpoints import make_tiny_checkpoint, random_pixels  # noqa: E402


def encoder(merge_after: int = 0) -> VisionTransformer:
    torch.manual_seed(3)
    config = VitConfig(image_size=32, patch_size=8, width=24, depth=3, heads=3, merge_after=merge_after)
    model = VisionTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.5)
    return model


def test_rollout_is_the_product_of_the_blocks() -> None:
    """numpy, head by head, from the tensors that the model's own layers give."""
    model, pixels = encoder(), torch.from_numpy(random_pixels(1))
    made_of = np.eye(17)
    with torch.inference_mode():
        for index, block in enumerate(model.blocks):
            hidden = model.forward_until(pixels, index)
            qkv = block.attn.qkv(block.norm1(hidden))[0].numpy().astype(float)
            mean = np.zeros((17, 17))
            for head in range(3):
                query, key = (qkv[:, part * 24 + head * 8 : part * 24 + head * 8 + 8] for part in (0, 1))
                scores = np.exp(query @ key.T / 8**0.5)
                mean += scores / scores.sum(axis=1, keepdims=True) / 3
            made_of = (mean + np.eye(17)) / 2 @ made_of
    expected = made_of[0, 1:] / made_of[0, 1:].sum()
    found = attention_rollout(model, pixels)
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


def test_rollout_reaches_through_merged_tokens() -> None:
    """The map is still over the first patches: what came before tells the four of a merged token apart."""
    found = attention_rollout(encoder(merge_after=2), torch.from_numpy(random_pixels(1)))
    assert found.shape == (4, 4)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found.min() >= 0
    assert len(np.unique(found.round(6))) > 4


def test_the_rollout_of_a_checkpoint_is_drawn_like_words(tmp_path: Path) -> None:
    """One map with its label; a folder that is no checkpoint is said to be none."""
    make_tiny_checkpoint(tmp_path / "checkpoint")
    found = explain_encoder(tmp_path / "checkpoint", random_pixels(1)[0])
    assert found.labels == ("encoder",)
    assert found.maps.shape == (1, 4, 4)
    with pytest.raises(CheckpointError):
        explain_encoder(tmp_path, random_pixels(1)[0])
