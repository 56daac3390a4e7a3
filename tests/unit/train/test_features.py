"""Cached hidden states of frozen blocks, and how a stage gets its features from them or from pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from kiloword.runtime.manifest import ImageSpec
from kiloword.train.features import cache_features, view_of
from kiloword.train.models.hybrid import HybridConfig
from kiloword.train.models.resnet import ResNetConfig
from kiloword.train.models.vit import VisionTransformer, VitConfig
from kiloword.train.photos import Photos
from kiloword.train.pictures import Pixels, mirrored
from kiloword.train.recipe import AugmentationRecipe
from tests.shapes import make_shapes

CONFIG = VitConfig(image_size=32, patch_size=16, width=24, depth=3, heads=3)


def ignore(task: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(CONFIG).eval()


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(3).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def test_each_view_is_what_the_frozen_blocks_see(
    encoder: VisionTransformer, pixels: Pixels, tmp_path: Path
) -> None:
    """40 photos are batches of 32 and 8. Expected: one photo at a time, straight through the blocks."""
    stored = cache_features(encoder, pixels, "key", 2, 2, tmp_path / "cache", ignore)
    assert stored.shape == (2, 40, 5, 24)
    assert stored.dtype == np.dtype(np.float16)
    for row in (0, 31, 32, 39):
        photo = torch.from_numpy(pixels[row : row + 1])
        for view, seen in enumerate((photo, mirrored(photo))):
            with torch.inference_mode():
                expected = encoder.forward_until(seen, 2)[0].numpy()
            np.testing.assert_allclose(stored[view, row], expected, atol=4e-3)


def test_progress_ends_at_the_end(encoder: VisionTransformer, pixels: Pixels, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    cache_features(
        encoder, pixels, "key", 1, 2, tmp_path, lambda task, done, total: told.append((done, total))
    )
    assert told == [(32, 80), (40, 80), (72, 80), (80, 80)]


def test_features_are_computed_once(
    encoder: VisionTransformer, pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cache_features(encoder, pixels, "key", 2, 1, tmp_path, ignore)
    monkeypatch.setattr(VisionTransformer, "forward_until", None)  # a second computation would fail
    again = cache_features(encoder, pixels, "key", 2, 1, tmp_path, ignore)
    assert np.array_equal(first, again)
    assert not again.flags.writeable


@pytest.mark.parametrize(
    "change",
    ["photos", "block", "views", "embedding", "frozen weight"],
)
def test_whatever_the_features_depend_on_changes_the_file(
    encoder: VisionTransformer, pixels: Pixels, tmp_path: Path, change: str
) -> None:
    cache_features(encoder, pixels, "key", 2, 1, tmp_path, ignore)
    with torch.no_grad():
        if change == "embedding":
            encoder.pos_embed[0, 0, 0] += 1
        if change == "frozen weight":
            encoder.get_parameter("blocks.1.mlp.fc1.bias")[0] += 1
    key, block, views = (
        "other" if change == "photos" else "key",
        1 + (change != "block"),
        1 + (change == "views"),
    )
    cache_features(encoder, pixels, key, block, views, tmp_path, ignore)
    assert len(list(tmp_path.glob("features-*.npy"))) == 2


def test_weights_that_learn_change_nothing(
    encoder: VisionTransformer, pixels: Pixels, tmp_path: Path
) -> None:
    """Blocks above the frozen ones differ at each resume: their features must still be found."""
    cache_features(encoder, pixels, "key", 2, 1, tmp_path, ignore)
    with torch.no_grad():
        encoder.get_parameter("blocks.2.mlp.fc1.bias")[0] += 1
    cache_features(encoder, pixels, "key", 2, 1, tmp_path, ignore)
    assert len(list(tmp_path.glob("features-*.npy"))) == 1


def test_odd_views_are_mirrored() -> None:
    """View 1 is the plain mirror image; of the crops, 3 is mirrored, too: it darkens to the right."""
    across = (torch.arange(32) * 7).to(torch.uint8)
    photo = across[None, None, :, None].expand(1, 32, 32, 3)
    assert torch.equal(view_of(photo, 0, seed=0), photo)
    assert torch.equal(view_of(photo, 1, seed=0), mirrored(photo))
    for view in (2, 3, 4, 5):
        seen = view_of(photo, view, seed=0).float()
        assert (seen[:, :, 0].mean() > seen[:, :, -1].mean()).item() == (view % 2 == 1)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    files = sorted(make_shapes(tmp_path / "shapes", count=6).glob("*.png"))
    return Photos.load(files, ImageSpec(height=32, width=32), tmp_path / "cache", ignore)


def test_cached_and_direct_features_agree(photos: Photos, encoder: VisionTransformer, tmp_path: Path) -> None:
    """float16 in the cache costs three decimals and no more."""
    frozen = photos.frozen_at(encoder, 2, 2, tmp_path / "cache", ignore)
    assert (frozen.views, photos.views) == (2, 2)
    with torch.inference_mode():
        direct, cached = (item.plain_features(encoder, slice(1, 4)) for item in (photos, frozen))
        np.testing.assert_allclose(cached, direct, atol=1e-2)
        rows, views = np.array([1, 2, 3]), np.array([0, 1, 0])
        chosen = frozen.features(encoder, rows, views)
        np.testing.assert_allclose(chosen[[0, 2]], direct[[0, 2]], atol=1e-2)
        mirror_image = encoder(mirrored(torch.from_numpy(np.array(photos.pixels[2:3]))))
        np.testing.assert_allclose(chosen[1:2], mirror_image, atol=1e-2)


def test_gradients_reach_what_learns_and_nothing_else(
    photos: Photos, encoder: VisionTransformer, tmp_path: Path
) -> None:
    rows, views = np.array([0, 1]), np.array([0, 1])
    photos.frozen_at(encoder, 2, 2, tmp_path / "cache", ignore).features(
        encoder, rows, views
    ).sum().backward()  # type: ignore[no-untyped-call]
    learning = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] + name.split(".")[1] for name in learning} == {
        "blocks2",
        "normweight",
        "normbias",
    }
    photos.features(encoder, rows, views).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_nothing_frozen_forgets_an_earlier_cache(
    photos: Photos, encoder: VisionTransformer, tmp_path: Path
) -> None:
    frozen = photos.frozen_at(encoder, 1, 3, tmp_path / "cache", ignore)
    assert frozen.frozen_at(encoder, 0, 3, tmp_path / "cache", ignore).hidden is None


def test_fresh_views_follow_from_the_global_seed(photos: Photos, encoder: VisionTransformer) -> None:
    """The loop seeds torch by the number of the step, and a resumed step must see the same crops."""
    seen = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        seen.append(photos.features(encoder, np.array([0, 1]), np.array([0, 1])))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_a_grid_is_stored_as_it_is_and_shared_with_a_hybrid_over_it(tmp_path: Path) -> None:
    """Both see the same network with the same weights; a hybrid's own blocks have a file of their own."""
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    hybrid = HybridConfig(
        64, cnn=ResNetConfig(widths=(8, 12), blocks=(1, 1)), width=16, depth=2, heads=2
    ).build()
    grid = ResNetConfig(64, widths=(8, 12), blocks=(1, 1), weights="mine.safetensors").build()
    grid.load_state_dict(hybrid.cnn.state_dict())
    stored = cache_features(grid.eval(), pixels, "key", 2, 1, tmp_path, ignore)
    assert stored.shape == (1, 5, 12, 8, 8)
    with torch.inference_mode():
        expected = grid.forward_until(torch.from_numpy(pixels), 2).numpy()
    np.testing.assert_allclose(stored[0], expected, rtol=2e-3, atol=2e-3)
    cache_features(hybrid.eval(), pixels, "key", 2, 1, tmp_path, ignore)
    assert len(list(tmp_path.glob("features-*.npy"))) == 1
    cache_features(hybrid, pixels, "key", 3, 1, tmp_path, ignore)
    assert len(list(tmp_path.glob("features-*.npy"))) == 2


def test_without_mirroring_no_view_is_mirrored() -> None:
    """A gradient that is bright on the left stays so in every view; only the first is the photo itself."""
    augmentation = AugmentationRecipe(mirror=False)
    photo = torch.linspace(250, 5, 32).to(torch.uint8)[None, None, :, None].expand(1, 32, 32, 3)
    assert torch.equal(view_of(photo, 0, 0, augmentation), photo)
    for view in (1, 2, 3):
        seen = view_of(photo, view, 0, augmentation).float()
        assert not torch.equal(seen, photo.float())
        assert seen[:, :, 0].mean() > seen[:, :, -1].mean()


def test_features_of_other_augmentation_are_another_file(
    encoder: VisionTransformer, pixels: Pixels, tmp_path: Path
) -> None:
    cache_features(encoder, pixels, "key", 1, 3, tmp_path, ignore)
    cache_features(encoder, pixels, "key", 1, 3, tmp_path, ignore, AugmentationRecipe(mirror=False))
    assert len(list(tmp_path.glob("features-*.npy"))) == 2
