"""Decoded photos and their augmented views."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from kiloword.runtime.errors import ConfigError, ImageError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.train import pictures
from kiloword.train.pictures import mirrored, pack_photos, photos_key, random_views
from kiloword.train.recipe import AugmentationRecipe
from tests.shapes import draw_shape, make_shapes

SPEC = ImageSpec(height=24, width=16)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return sorted(make_shapes(tmp_path / "shapes", count=5).glob("*.png"))


@pytest.fixture
def told() -> list[tuple[str, int, int]]:
    return []


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradient() -> Tensor:
    """Dark on the left, bright on the right, a little brighter at the bottom: uint8 (1, 32, 32, 3)."""
    across = torch.arange(32) * 6
    down = torch.arange(32)
    return (across[None, :] + down[:, None])[None, :, :, None].expand(1, 32, 32, 3).to(torch.uint8)


def test_photos_are_packed_as_the_runtime_sees_them(files: list[Path], tmp_path: Path) -> None:
    """Expected pixels: runtime.images.load_image, one by one."""
    packed = pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: None)
    assert packed.shape == (5, 24, 16, 3)
    assert packed.dtype == np.dtype(np.uint8)
    assert not packed.flags.writeable
    for file, pixels in zip(files, packed, strict=True):
        assert np.array_equal(pixels, load_image(file, SPEC))


def test_packing_in_groups_keeps_the_order(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, int, int]]
) -> None:
    monkeypatch.setattr(pictures, "_AHEAD", 2)
    packed = pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: told.append(facts))
    assert all(np.array_equal(packed[row], load_image(file, SPEC)) for row, file in enumerate(files))
    assert told == [("decoding photos", done, 5) for done in range(1, 6)]


def test_photos_are_decoded_once(files: list[Path], tmp_path: Path, told: list[tuple[str, int, int]]) -> None:
    first = pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: told.append(facts))
    told.clear()
    again = pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: told.append(facts))
    assert told == []
    assert np.array_equal(first, again)


def test_the_key_knows_which_photos_in_which_state_at_which_size(files: list[Path]) -> None:
    key = photos_key(files, SPEC)
    assert photos_key(list(files), ImageSpec(height=24, width=16)) == key
    others = [
        photos_key(files[:4], SPEC),
        photos_key(files[::-1], SPEC),
        photos_key(files, ImageSpec(height=16, width=24)),
    ]
    os.utime(files[0], (1, 1))
    others.append(photos_key(files, SPEC))
    assert len({key, *others}) == 5


def test_a_bad_photo_leaves_no_file_that_a_later_run_would_trust(files: list[Path], tmp_path: Path) -> None:
    files[3].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=files[3].name):
        pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: None)
    assert list((tmp_path / "cache").glob("*.npy")) == []


def test_a_full_disk_is_said_before_anything_is_written(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file that finds no room used to end the process with SIGBUS."""
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(ConfigError, match=r"cache: data\.cache: expected 0\.00 GB .*--set data\.cache"):
        pack_photos(files, SPEC, tmp_path / "cache", lambda *facts: None)
    assert list((tmp_path / "cache").iterdir()) == []


def test_mirrored_exchanges_left_and_right() -> None:
    pixels = torch.from_numpy(np.array(draw_shape("red", "square", left=0, top=4)))[None]
    found = mirrored(pixels)
    assert torch.equal(found[:, :, 0], pixels[:, :, -1])
    assert torch.equal(mirrored(found), pixels)
    assert not torch.equal(found, pixels)


@pytest.mark.parametrize("mirror", [False, True])
def test_views_keep_shape_and_bytes_and_their_side(mirror: bool) -> None:
    """A crop of the gradient still rises to the right; a mirrored one to the left."""
    pixels = gradient().expand(32, -1, -1, -1)
    views = random_views(pixels, seeded(), torch.full((32,), mirror))
    assert (views.shape, views.dtype) == (pixels.shape, torch.uint8)
    assert views.is_contiguous()
    rises = views[:, :, 24:].float().mean((1, 2, 3)) > views[:, :, :8].float().mean((1, 2, 3))
    assert torch.equal(rises, torch.full((32,), not mirror))


def test_each_photo_of_a_batch_may_be_mirrored_or_not() -> None:
    views = random_views(gradient().expand(2, -1, -1, -1), seeded(), torch.tensor([True, False]))
    left, right = views[:, :, :8].float().mean((1, 2, 3)), views[:, :, 24:].float().mean((1, 2, 3))
    assert (right > left).tolist() == [False, True]


def test_views_differ_and_follow_from_the_seed() -> None:
    pixels, mirror = gradient().expand(3, -1, -1, -1), torch.zeros(3, dtype=torch.bool)
    one, same, other = (random_views(pixels, seeded(seed), mirror) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_crops_are_inside_and_keep_at_least_half_of_the_area() -> None:
    """60 to 100 % of the area, cut where one side would be longer than the photo; read off the transforms."""
    transforms = pictures._crop_transforms(4000, seeded(), torch.zeros(4000, dtype=torch.bool), least=0.6)
    width, height = transforms[:, 0, 0], transforms[:, 1, 1]
    assert max(width.max().item(), height.max().item()) <= 1
    assert (transforms[:, 0, 2].abs() + width <= 1 + 1e-6).all()
    assert (transforms[:, 1, 2].abs() + height <= 1 + 1e-6).all()
    assert 0.55 < (width * height).min() < 0.65
    assert (width * height).max() > 0.95
    assert (torch.maximum(width / height, height / width)).max() < 4 / 3 + 1e-4


def test_black_stays_black_and_grey_stays_grey() -> None:
    """Brightness and contrast scale, they never add; saturation does not touch what has no colour."""
    grey = torch.full((8, 16, 16, 3), 100, dtype=torch.uint8)
    views = random_views(grey, seeded(), torch.zeros(8, dtype=torch.bool))
    assert (views == views[..., :1]).all()
    assert 80 <= views.min() < views.max() <= 120
    assert (random_views(grey * 0, seeded(), torch.zeros(8, dtype=torch.bool)) == 0).all()


def test_nothing_is_changed_where_nothing_is_to_be() -> None:
    """Digits that are mirrored or cut are other digits."""
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    augmentation = AugmentationRecipe(mirror=False, crop=1.0, colour=0.0)
    mirror = torch.tensor([augmentation.mirrors(view) for view in range(6)])
    assert torch.equal(random_views(pixels, seeded(), mirror, augmentation), pixels)
