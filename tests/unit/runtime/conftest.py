"""Bundles, captioners and photos for the runtime's tests; all made here, none needs torch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kiloword import Bundle, Captioner
from tests.bundles import IMAGE_SIZE, Kind, make_tiny_bundle

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Bundle]:
    """One bundle of each kind; do not change them."""
    return {kind: make_tiny_bundle(tmp_path_factory.mktemp(kind), kind=kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest, bundles: dict[Kind, Bundle]) -> Bundle:
    """Every kind in turn."""
    return bundles[request.param]


@pytest.fixture
def captioner(bundles: dict[Kind, Bundle]) -> Iterator[Captioner]:
    """A captioner with a transformer."""
    with Captioner.load(bundles["transformer"].directory, provider="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture
def own_bundle(tmp_path: Path) -> Bundle:
    """A bundle that a test may damage."""
    return make_tiny_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """Twelve random images of the size that the tiny bundles take."""
    shape = (12, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="session")
def photo_bytes() -> bytes:
    """A JPEG of 64 x 48 with some structure."""
    rows, columns = np.mgrid[0:48, 0:64]
    colours = np.stack([4 * columns, 5 * rows, 2 * (rows + columns)], axis=2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def photo(tmp_path: Path, photo_bytes: bytes) -> Path:
    """That JPEG as a file, with a name that is not ASCII."""
    path = tmp_path / "Möwe 海.jpg"
    path.write_bytes(photo_bytes)
    return path
