"""The models against plain recomputations: torch's own layers, F.conv2d on floats, uncached passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.models.attention import (
    FeedForward,
    attend,
    attention_weights,
    merge_heads,
    self_attend,
    split_heads,
)
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.encoder import FeatureShape
from kiloword.train.models.transformer import TransformerConfig, TransformerDecoder
from kiloword.train.models.vit import VisionTransformer, VitConfig

VIT = VitConfig(image_size=32, patch_size=8, width=24, depth=3, heads=3)
DECODER = TransformerConfig(width=16, depth=2, heads=2, max_length=12)
IMAGE = FeatureShape(24, 2, 2, leading=1)
MASKS = {
    "none": None,
    "causal": torch.ones(5, 7, dtype=torch.bool).tril(2),
    "one for each row": torch.tensor([[True] * 7, [True] * 4 + [False] * 3])[:, None, None, :],
}


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    """Every weight is random, norms and biases too, so that none may be left out unnoticed."""
    torch.manual_seed(1)
    model = VisionTransformer(VIT).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def decoder() -> TransformerDecoder:
    torch.manual_seed(2)
    model = TransformerDecoder(DECODER, 11, IMAGE).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def pixels(random: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (2, 32, 32, 3), generator=random, dtype=torch.uint8)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_attention_in_the_open_equals_the_fused_kernel(random: torch.Generator, mask: Tensor | None) -> None:
    """Expected values: torch's F.scaled_dot_product_attention."""
    query = torch.randn(2, 3, 5, 4, generator=random)
    key, value = torch.randn(2, 2, 3, 7, 4, generator=random)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(attention_weights(query, key, mask) @ value, expected)
    torch.testing.assert_close(attend(query, key, value, mask), expected)


def test_nobody_looks_where_the_mask_forbids(random: torch.Generator) -> None:
    query, key = torch.randn(2, 1, 2, 6, 4, generator=random)
    weights = attention_weights(query, key, torch.ones(6, 6).tril().bool())
    assert torch.equal(weights, weights.tril())
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 6))


@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_torchs_layer(random: torch.Generator, causal: bool) -> None:
    """Expected values: nn.MultiheadAttention, same weights; its boolean mask forbids where ours allows."""
    layer = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    hidden = torch.randn(2, 6, 12, generator=random)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril() if causal else None
    expected, _ = layer(
        hidden, hidden, hidden, attn_mask=None if allowed is None else ~allowed, need_weights=False
    )
    query, key, value = F.linear(hidden, layer.in_proj_weight, layer.in_proj_bias).chunk(3, dim=-1)
    mixed, (keys, values) = self_attend(query, key, value, 3, mask=allowed)
    torch.testing.assert_close(layer.out_proj(mixed), expected)
    assert keys.shape == values.shape == (2, 3, 6, 4)


def test_self_attention_with_earlier_positions_equals_all_at_once(random: torch.Generator) -> None:
    query, key, value = torch.randn(3, 2, 6, 12, generator=random)
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    whole, _ = self_attend(query, key, value, 3, mask=allowed)
    _, past = self_attend(query[:, :4], key[:, :4], value[:, :4], 3, mask=allowed[:4, :4])
    rest, (keys, _) = self_attend(query[:, 4:], key[:, 4:], value[:, 4:], 3, mask=allowed[4:], past=past)
    torch.testing.assert_close(rest, whole[:, 4:])
    assert keys.shape[2] == 6


def test_heads_split_and_merge_again(random: torch.Generator) -> None:
    hidden = torch.randn(2, 5, 12, generator=random)
    heads = split_heads(hidden, 3)
    assert torch.equal(heads[:, 1], hidden[:, :, 4:8])
    assert torch.equal(merge_heads(heads), hidden)


def test_feed_forward_uses_the_exact_gelu(random: torch.Generator) -> None:
    """x * Phi(x), written with the error function; the tanh approximation differs by 1e-4 here."""
    layer = FeedForward(4, 8)
    hidden = torch.randn(3, 4, generator=random)
    before = layer.fc1(hidden)
    expected = layer.fc2(before * 0.5 * (1 + torch.erf(before / 2**0.5)))
    torch.testing.assert_close(layer(hidden), expected, rtol=1e-6, atol=1e-7)


def plain_vit(weights: dict[str, Tensor], pixels: Tensor, config: VitConfig) -> Tensor:
    """A ViT as papers write it, by functions alone: float picture, convolution, attention of torch."""
    image = pixels.permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.pixel_mean, config.pixel_std))
    patches = F.conv2d(
        (image - mean) / std,
        weights["patch_embed.proj.weight"],
        weights["patch_embed.proj.bias"],
        stride=config.patch_size,
    )
    start = weights["cls_token"].expand(len(pixels), -1, -1)
    hidden = torch.cat([start, patches.flatten(2).transpose(1, 2)], 1) + weights["pos_embed"]
    for index in range(config.depth):
        block = {
            name.removeprefix(f"blocks.{index}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{index}.")
        }
        normed = F.layer_norm(
            hidden, (config.width,), block["norm1.weight"], block["norm1.bias"], eps=1e-6
        ).transpose(0, 1)
        mixed, _ = F.multi_head_attention_forward(
            normed, normed, normed, config.width, config.heads,
            block["attn.qkv.weight"], block["attn.qkv.bias"], None, None, False, 0.0,
            block["attn.proj.weight"], block["attn.proj.bias"], training=False, need_weights=False,
        )  # fmt: skip
        hidden = hidden + mixed.transpose(0, 1)
        normed = F.layer_norm(hidden, (config.width,), block["norm2.weight"], block["norm2.bias"], eps=1e-6)
        expanded = F.gelu(F.linear(normed, block["mlp.fc1.weight"], block["mlp.fc1.bias"]))
        hidden = hidden + F.linear(expanded, block["mlp.fc2.weight"], block["mlp.fc2.bias"])
    return F.layer_norm(hidden, (config.width,), weights["norm.weight"], weights["norm.bias"], eps=1e-6)


@torch.inference_mode()
def test_vit_equals_a_plain_recomputation(vit: VisionTransformer, pixels: Tensor) -> None:
    """Normalisation folded into the projection equals a normalised float picture under a convolution."""
    torch.testing.assert_close(vit(pixels), plain_vit(vit.state_dict(), pixels, VIT), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_mean_and_deviation_of_each_colour_are_used(pixels: Tensor) -> None:
    config = VitConfig(32, 8, 24, 1, 3, pixel_mean=(0.485, 0.456, 0.406), pixel_std=(0.229, 0.224, 0.225))
    model = VisionTransformer(config).eval()
    expected = plain_vit(model.state_dict(), pixels, config)
    torch.testing.assert_close(model(pixels), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("block", range(VIT.depth + 1))
def test_frozen_and_learning_part_compose(vit: VisionTransformer, pixels: Tensor, block: int) -> None:
    assert torch.equal(vit.forward_from(vit.forward_until(pixels, block), block), vit(pixels))


def test_blocks_are_skipped_only_in_training(pixels: Tensor) -> None:
    """Stochastic depth: the mean over many passes is the pass without it, for one block on its own."""
    torch.manual_seed(0)
    model = VisionTransformer(VitConfig(32, 8, 24, 2, 3, drop_path=0.5))
    assert [block.drop_path for block in model.blocks] == [0.0, 0.5]
    block: Any = model.blocks[1]
    hidden = torch.randn(4000, 1, 24, generator=torch.Generator().manual_seed(1))[:1].expand(4000, -1, -1)
    with torch.no_grad():
        branch = block.train()._dropped(hidden)
        kept = branch[:, 0, 0] != 0
        assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
        torch.testing.assert_close(branch[kept], 2 * hidden[kept])
        assert torch.equal(block.eval()._dropped(hidden), hidden)


@pytest.mark.realdata
@torch.inference_mode()
def test_pretrained_weights_recognise_photos(data: Path, photos: Path) -> None:
    """timm's ViT-Tiny with its own head names what everybody sees here; by chance, one in 1000 is right."""
    weights = load_file(data / "encoders" / "vit_tiny_patch16_224.safetensors")
    names = (data / "encoders" / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    vit = VisionTransformer(VitConfig()).eval()
    vit.load_state_dict({name: value for name, value in weights.items() if not name.startswith("head.")})
    expected = {
        "cat": "Egyptian cat",
        "coffee": "espresso",
        "officer": "military uniform",
        "photographer": "tripod",
    }
    spec = ImageSpec(height=224, width=224)
    pixels = torch.stack([torch.from_numpy(load_image(photos / f"{name}.jpg", spec)) for name in expected])
    features = vit(pixels)
    torch.testing.assert_close(features, plain_vit(weights, pixels, VitConfig()), rtol=1e-3, atol=1e-3)
    classes = F.linear(features[:, 0], weights["head.weight"], weights["head.bias"]).argmax(-1)
    assert [names[index] for index in classes] == list(expected.values())


def plain_decoder_logits(decoder: TransformerDecoder, tokens: Tensor, features: Tensor) -> Tensor:
    """The whole decoder with torch's own attention function, without a cache: (R, L, V)."""
    config, length = decoder.config, tokens.shape[1]
    hidden = decoder.token_embedding.weight[tokens] + decoder.position_embedding.weight[:length]
    forbidden = torch.ones(length, length, dtype=torch.bool).triu(1)

    blocks: Any = decoder.blocks
    for block in blocks:
        turned = block.self_norm(hidden).transpose(0, 1)
        mixed, _ = F.multi_head_attention_forward(
            turned, turned, turned, config.width, config.heads,
            block.self_qkv.weight, block.self_qkv.bias, None, None, False, 0.0,
            block.self_out.weight, block.self_out.bias, training=False, need_weights=False,
            attn_mask=forbidden,
        )  # fmt: skip
        hidden = hidden + mixed.transpose(0, 1)
        normed = block.cross_norm(hidden)
        # The image's tokens are wider than the decoder, so its keys and values are made apart here.
        key, value = F.linear(features, block.cross_key_value.weight, block.cross_key_value.bias).chunk(2, -1)
        query = block.cross_query(normed)
        heads = [
            F.scaled_dot_product_attention(query[..., part], key[..., part], value[..., part])
            for part in (slice(0, 8), slice(8, 16))
        ]
        hidden = hidden + block.cross_out(torch.cat(heads, -1))
        hidden = hidden + block.mlp(block.mlp_norm(hidden))
    logits: Tensor = decoder.norm(hidden) @ decoder.token_embedding.weight.T + decoder.output_bias
    return logits


@torch.inference_mode()
def test_decoder_equals_a_plain_recomputation(decoder: TransformerDecoder, random: torch.Generator) -> None:
    tokens = torch.randint(0, 11, (2, 7), generator=random)
    features = torch.randn(2, 5, 24, generator=random)
    hidden, _ = decoder(tokens, decoder.image_context(features))
    expected = plain_decoder_logits(decoder, tokens, features)
    torch.testing.assert_close(decoder.logits(hidden), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 4], [5, 1, 1]])
def test_cached_equals_uncached(
    decoder: TransformerDecoder, random: torch.Generator, pieces: list[int]
) -> None:
    """Token by token, or a prompt first: the same hidden states as one pass over all."""
    tokens = torch.randint(0, 11, (3, 7), generator=random)
    context = decoder.image_context(torch.randn(3, 5, 24, generator=random))
    whole, present = decoder(tokens, context)
    parts, past = [], None
    for piece in tokens.split(pieces, dim=1):  # type: ignore[no-untyped-call]
        hidden, past = decoder(piece, context, past)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)
    assert past is not None
    for tensor, expected in zip(past, present, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_share_the_context_of_their_picture(
    decoder: TransformerDecoder, random: torch.Generator
) -> None:
    """Three rows for each of two pictures equal the same rows with a copy of the picture each."""
    tokens = torch.randint(0, 11, (6, 4), generator=random)
    features = torch.randn(2, 5, 24, generator=random)
    shared, _ = decoder(tokens, decoder.image_context(features))
    copied, _ = decoder(tokens, decoder.image_context(features.repeat_interleave(3, dim=0)))
    torch.testing.assert_close(shared, copied, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_later_words_change_nothing_before_them(decoder: TransformerDecoder, random: torch.Generator) -> None:
    tokens = torch.randint(0, 11, (1, 6), generator=random)
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    context = decoder.image_context(torch.randn(1, 5, 24, generator=random))
    before, after = decoder(tokens, context)[0], decoder(changed, context)[0]
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_embeddings_are_tied() -> None:
    """One matrix reads and writes words: it is stored once and learns from both sides."""
    decoder = TransformerDecoder(DECODER, 11, IMAGE)
    sizes = [name for name, parameter in decoder.named_parameters() if 11 in parameter.shape]
    assert sorted(sizes) == ["output_bias", "token_embedding.weight"]
    hidden = torch.randn(1, 16)
    decoder.logits(hidden)[0, 7].backward()  # type: ignore[no-untyped-call]
    gradient = decoder.token_embedding.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[7], hidden[0])


@torch.inference_mode()
def test_captions_of_a_picture_share_its_encoder_pass(pixels: Tensor, random: torch.Generator) -> None:
    model = CaptionModel(VIT, DECODER, 11).eval()
    tokens = torch.randint(0, 11, (2, 3, 4), generator=random)
    hidden = model(model.encoder(pixels), tokens)
    assert hidden.shape == (2, 3, 4, 16)
    for picture in range(2):
        for caption in range(3):
            context = model.encode(pixels[picture : picture + 1])
            alone, _ = model.decoder(tokens[picture, caption][None], context)
            torch.testing.assert_close(hidden[picture, caption], alone[0], rtol=1e-4, atol=1e-5)
