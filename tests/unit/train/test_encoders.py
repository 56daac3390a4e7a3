"""Encoders against plain recomputations, level by level; positions; weights of other sizes and names."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import load_encoder_weights
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.convolution import with_folded_norms
from kiloword.train.models.encoder import EncoderConfig
from kiloword.train.models.hybrid import HybridConfig
from kiloword.train.models.mobilenet import MobileNetV2Config
from kiloword.train.models.positions import interpolate_positions, sinusoidal, sinusoidal_grid
from kiloword.train.models.registry import ENCODERS
from kiloword.train.models.resnet import ResNetConfig
from kiloword.train.models.show_tell import ShowTellConfig
from kiloword.train.models.stem import ConvStemConfig
from kiloword.train.models.vit import VitConfig

STEM = ConvStemConfig(32, widths=(8, 12, 16))
MOBILE = MobileNetV2Config(64, width_multiplier=0.1, stride=16)
CONFIGS: dict[str, EncoderConfig] = {
    "vit": VitConfig(32, 8, 16, 2, 2),
    "vit, sinusoids in one dimension": VitConfig(32, 8, 16, 2, 2, positions="sinusoidal_1d"),
    "vit, sinusoids in two, merged": VitConfig(32, 8, 16, 3, 2, merge_after=1, positions="sinusoidal_2d"),
    "mobilenet_v2": MobileNetV2Config(64, width_multiplier=0.1),
    "mobilenet_v2 at stride 16": MOBILE,
    "resnet": ResNetConfig(48, widths=(8, 16, 24), blocks=(1, 2, 1)),
    "conv_stem": STEM,
    "hybrid": HybridConfig(32, cnn=STEM, width=16, depth=2, heads=2),
    "transformer over a network": HybridConfig(
        64, cnn=MOBILE, width=16, depth=2, heads=2, positions="sinusoidal_2d"
    ),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def pixels_for(config: EncoderConfig, count: int = 2) -> Tensor:
    size = config.image_size
    random = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, size, size, 3), generator=random, dtype=torch.uint8)


def with_random_statistics(module: nn.Module) -> None:
    """Batch norms that do something, or folding them would be no work."""
    for part in module.modules():
        if (
            isinstance(part, nn.BatchNorm2d)
            and part.running_mean is not None
            and part.running_var is not None
        ):
            for tensor in (part.weight.data, part.bias.data, part.running_mean):
                tensor.normal_(0.3, 0.5)
            part.running_var.uniform_(0.3, 2)


def test_every_kind_is_looked_at() -> None:
    assert {config.kind for config in CONFIGS.values()} == set(ENCODERS)
    assert all(type(config) is ENCODERS[config.kind] for config in CONFIGS.values())
    assert [config.problems() for config in CONFIGS.values()] == [[]] * len(CONFIGS)


@each
@torch.inference_mode()
def test_levels_compose(config: EncoderConfig) -> None:
    """Frozen to any level and continued is the whole; what is stored has the declared shape."""
    torch.manual_seed(0)
    encoder, pixels = config.build().eval(), pixels_for(config)
    with_random_statistics(encoder)
    whole = encoder(pixels)
    assert whole.shape == (2, encoder.output.tokens, encoder.output.channels)
    for level in range(encoder.levels + 1):
        hidden = encoder.forward_until(pixels, level)
        assert hidden.shape[1:] == encoder.hidden_shape(level)
        torch.testing.assert_close(encoder.forward_from(hidden, level), whole)


@each
def test_a_level_depends_on_its_own_parameters_and_those_below(config: EncoderConfig) -> None:
    """By gradients: what `forward_until` (level) sees is exactly what `level_of` puts at or below it.

    The cache of features and the freezing of a stage rely on it.
    """
    torch.manual_seed(0)
    encoder, pixels = config.build(), pixels_for(config)
    for level in range(encoder.levels):
        encoder.zero_grad(set_to_none=True)
        encoder.forward_until(pixels, level).square().sum().backward()  # type: ignore[no-untyped-call]
        seen = {name for name, tensor in encoder.named_parameters() if tensor.grad is not None}
        assert seen == {name for name, _ in encoder.named_parameters() if encoder.level_of(name) <= level}


@each
@torch.inference_mode()
def test_what_is_exported_computes_the_same(config: EncoderConfig) -> None:
    torch.manual_seed(0)
    encoder, pixels = config.build().eval(), pixels_for(config)
    with_random_statistics(encoder)
    exported = encoder.for_export().eval()
    torch.testing.assert_close(exported(pixels), encoder(pixels), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in exported.modules())


@each
@torch.inference_mode()
def test_bytes_are_normalised_inside(config: EncoderConfig) -> None:
    """Twice the deviation of a brighter picture, less twice the mean: the same features."""
    torch.manual_seed(0)
    pixels = pixels_for(config) // 2
    inner = config.cnn if isinstance(config, HybridConfig) else config
    mean, std = (tuple(2 * value for value in item) for item in (inner.pixel_mean, inner.pixel_std))
    brighter = replace(inner, pixel_mean=mean, pixel_std=std)
    other = replace(config, cnn=brighter) if isinstance(config, HybridConfig) else brighter
    first, second = config.build().eval(), other.build().eval()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(2 * pixels), first(pixels), rtol=1e-4, atol=1e-4)


def test_sinusoids_are_those_of_the_formula() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i / W)), the cosine beside it, number by number."""
    table = sinusoidal(7, 6)
    for place in range(7):
        for pair in range(3):
            angle = place / 10000 ** (2 * pair / 6)
            assert table[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_grid_tells_rows_from_columns() -> None:
    grid = sinusoidal_grid(3, 5, 8).reshape(3, 5, 8)
    assert torch.equal(grid[:, :, :4], sinusoidal(3, 4)[:, None].expand(3, 5, 4))
    assert torch.equal(grid[:, :, 4:], sinusoidal(5, 4)[None].expand(3, 5, 4))


def test_positions_of_another_grid_are_resampled() -> None:
    """A ramp stays a ramp away from the border; the class token keeps its own; the same grid, everything."""
    ramp = torch.arange(8.0)[:, None].expand(8, 8).reshape(1, 64, 1)
    learned = torch.cat([torch.full((1, 1, 1), 77.0), ramp], dim=1)
    assert torch.equal(interpolate_positions(learned, 8, 8, leading=1), learned)
    wider = interpolate_positions(learned, 16, 16, leading=1)
    assert wider[0, 0, 0] == 77
    grid = wider[0, 1:].reshape(16, 16)
    expected = (torch.arange(16) + 0.5) / 2 - 0.5  # where the middle of each cell lies in the old grid
    # torch's cubic (a = -0.75) does not keep lines quite straight.
    torch.testing.assert_close(grid[4:12, 7], expected[4:12], rtol=0, atol=0.05)


def start(config: EncoderConfig, weights: dict[str, Tensor], folder: Path) -> CaptionModel:
    """A captioner whose encoder starts from a file."""
    model = CaptionModel(config, ShowTellConfig(8, 8), vocab_size=5)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "weights.safetensors")
    load_encoder_weights(model, folder / "weights.safetensors")
    return model


def test_weights_of_another_image_size(tmp_path: Path) -> None:
    """All but the positions as they are; with fixed positions, those of the file are left out."""
    given = VitConfig(64, 8, 16, 2, 2).build().state_dict()
    small = VitConfig(32, 8, 16, 2, 2)
    found = start(small, {**given, "head.weight": torch.zeros(3, 16)}, tmp_path).encoder.state_dict()
    assert found.keys() == given.keys()
    assert found["pos_embed"].shape == (1, 17, 16)
    expected = F.interpolate(
        given["pos_embed"][:, 1:].reshape(1, 8, 8, 16).permute(0, 3, 1, 2), (4, 4), mode="bicubic"
    )
    torch.testing.assert_close(found["pos_embed"][0, 1:], expected[0].flatten(1).t())
    same = given.keys() - {"pos_embed"}
    assert all(torch.equal(found[name], given[name]) for name in same)
    fixed = start(replace(small, positions="sinusoidal_2d"), given, tmp_path).encoder.state_dict()
    assert fixed.keys() == same


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    given = VitConfig(32, 8, 32, 2, 2).build().state_dict()
    with pytest.raises(ConfigError, match=r"pos_embed: expected shape \(1, 17, 16\), found \(1, 17, 32\)"):
        start(VitConfig(32, 8, 16, 2, 2), given, tmp_path)


def test_a_hybrid_starts_from_weights_of_its_grid(tmp_path: Path) -> None:
    """The Transformer blocks stay fresh; a file for another network is refused."""
    config = HybridConfig(64, cnn=MOBILE, width=16, depth=1, heads=2)
    own = MobileNetV2Config(64, width_multiplier=0.1).build()
    numbered: dict[str, Tensor] = {}
    convolutions = [part for part in own.modules() if isinstance(part, nn.Conv2d)]
    for index, part in enumerate(convolutions):
        assert part.bias is not None
        numbered |= {f"conv{index}.weight": part.weight.data, f"conv{index}.bias": part.bias.data}
    encoder = start(config, numbered, tmp_path).encoder
    torch.testing.assert_close(
        encoder.forward_until(pixels_for(config), 13), own.forward_until(pixels_for(config), 13)
    )
    with pytest.raises(ConfigError, match=r"lacks cnn\.stem\.0\.weight"):
        start(config, VitConfig(32, 8, 16, 2, 2).build().state_dict(), tmp_path)


@torch.inference_mode()
def test_a_residual_network_equals_a_plain_recomputation() -> None:
    """Functions of torch alone, in the order that the paper draws."""
    torch.manual_seed(3)
    encoder = ResNetConfig(32, widths=(8, 16), blocks=(1, 2)).build().eval()
    with_random_statistics(encoder)
    weights = encoder.state_dict()

    def convolve(grid: Tensor, name: str, stride: int) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = {1: 0, 2: 0, 3: 1, 4: 1}[
            kernel.shape[-1]
        ]  # as much at each side as halves or keeps the grid
        grid = F.conv2d(grid, kernel, stride=stride, padding=padding)
        norm = [weights[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(grid, *norm)

    pixels = pixels_for(CONFIGS["vit"])
    grid = convolve((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, "stem.0", 2).relu()
    for index, stride in enumerate((2, 2, 1)):
        name = f"blocks.{index}"
        mixed = convolve(convolve(grid, f"{name}.first", stride).relu(), f"{name}.second", 1)
        has_shortcut = f"{name}.shortcut.conv.weight" in weights
        grid = (mixed + (convolve(grid, f"{name}.shortcut", stride) if has_shortcut else grid)).relu()
    expected = grid.flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)
    folded = with_folded_norms(encoder)
    torch.testing.assert_close(folded(pixels), expected, rtol=1e-4, atol=1e-4)


def plain_mobilenet(weights: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """MobileNetV2 by the table of the paper and functions alone: (B, 1280, rows, columns)."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    numbers = iter(range(52))

    def convolve(grid: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        kernel, bias = (
            weights[f"conv{number}.{kind}"] for number in [next(numbers)] for kind in ("weight", "bias")
        )
        return F.conv2d(grid, kernel, bias, stride, padding=kernel.shape[-1] // 2, groups=groups)

    grid = F.relu6(convolve((pixels.permute(0, 3, 1, 2) / 255 - mean) / std, stride=2))
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    for expansion, channels, count, first_stride in table:
        for place in range(count):
            stride = first_stride if place == 0 else 1
            inner = F.relu6(convolve(grid)) if expansion > 1 else grid
            inner = convolve(F.relu6(convolve(inner, stride, groups=inner.shape[1])))
            grid = grid + inner if stride == 1 and grid.shape[1] == channels else inner
    return F.relu6(convolve(grid))


@pytest.mark.realdata
@torch.inference_mode()
def test_published_mobilenet_equals_a_plain_recomputation(data: Path, photos: Path) -> None:
    """The published weights by their numbers; at stride 16 the same network, cut after 13 blocks."""
    file = data / "encoders" / "mobilenet_v2_bn_folded.safetensors"
    weights, config = load_file(file), MobileNetV2Config()
    model = CaptionModel(config, ShowTellConfig(8, 8), vocab_size=5).eval()
    load_encoder_weights(model, file)
    pixels = pixels_for(config, 1)
    expected = plain_mobilenet(weights, pixels)
    assert expected.shape == (1, 1280, 7, 7)
    torch.testing.assert_close(
        model.encoder(pixels), expected.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3
    )
    cut = CaptionModel(MobileNetV2Config(stride=16), ShowTellConfig(8, 8), vocab_size=5).eval()
    load_encoder_weights(cut, file)
    assert cut.encoder.output.cells == 14 * 14
    torch.testing.assert_close(cut.encoder.forward_until(pixels, 13), model.encoder.forward_until(pixels, 13))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VitConfig(width=190, heads=2, positions="sinusoidal_2d"), "multiple of 4, found 190"),
        (ResNetConfig(widths=(8,), blocks=(1, 1)), "blocks: expected as many as widths, 1, found 2"),
        (ConvStemConfig(widths=()), "widths: expected one or more"),
        (MobileNetV2Config(width_multiplier=0), "width_multiplier: expected more than 0"),
        (HybridConfig(heads=5), "heads 5 does not divide width 192"),
        (HybridConfig(pixel_mean=(0.1, 0.1, 0.1)), "pixel_mean: is a key of [encoder.cnn] here"),
        (HybridConfig(cnn=ConvStemConfig(weights="a")), "cnn.weights: is a key of [encoder] here"),
        (HybridConfig(cnn=ConvStemConfig(widths=(0,))), "cnn.widths: expected one or more, each 1 or more"),
    ],
)
def test_senseless_sizes_are_named(config: EncoderConfig, expected: str) -> None:
    assert any(expected in problem for problem in config.problems()), config.problems()


@pytest.mark.parametrize("name", ["resnet", "conv_stem"])
def test_a_cell_sees_as_far_to_all_sides(name: str) -> None:
    """The pixels with a gradient lie evenly around the middle of the cell that they reach."""
    config = replace(CONFIGS[name], image_size=192)
    encoder = config.build().eval()
    with_random_statistics(encoder)
    rows = encoder.output.rows
    cell = 192 // rows
    seen = torch.zeros(192, 192, dtype=torch.bool)
    for seed in range(3):  # a ReLU hides some of the paths
        pixels = torch.rand(1, 192, 192, 3, generator=torch.Generator().manual_seed(seed)) * 255
        pixels.requires_grad_()
        middle = encoder(pixels)[0, rows // 2 * rows + rows // 2]
        (gradient,) = torch.autograd.grad(middle.sum(), pixels)
        seen |= (gradient[0] != 0).any(dim=-1)
    for axis in (0, 1):
        (places,) = seen.any(dim=axis).nonzero(as_tuple=True)
        around = (int(places[0]) + int(places[-1]) + 1) / 2
        assert places[-1] - places[0] > cell
        assert abs(around - (rows // 2 + 0.5) * cell) <= 0.5


@pytest.mark.parametrize(("config", "least"), [(ResNetConfig(31), 32), (ConvStemConfig(15), 16)])
def test_a_picture_too_small_for_its_halvings(config: EncoderConfig, least: int) -> None:
    assert any(f"image_size: expected {least} or more" in problem for problem in config.problems())
    assert replace(config, image_size=least).problems() == []
