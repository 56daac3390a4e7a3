"""The example in JavaScript: the same captions as here, from one graph, without a decode loop."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.export.single_graph import write_single_graph  # noqa: E402
from kiloword.runtime.images import load_image  # noqa: E402

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="no node and npm here"),
]

UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "network")
PHOTOS = ("coffee.jpg", "officer.jpg", "photographer.jpg")
"""Not the astronaut, who to the model \"sits\" or \"stands\" by the last bit of a pixel."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy of the example with its packages, whose install scripts are not run."""
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(repository / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    if done.returncode and any(word in done.stderr for word in UNREACHABLE):
        pytest.skip("the npm registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return folder / "caption.mjs"


def test_the_captions_are_those_of_python(
    program: Path, tmp_path: Path, repository: Path, photos: Path
) -> None:
    """Photos of the model's own size, so that both see the same pixels but for the JPEG decoder's rounding.

    The whole photos are captioned, too; the resizings agree to within rounding, which may change a word.
    """
    bundle = load_bundle()
    image = bundle.manifest.image
    small = tmp_path / "photos"
    small.mkdir()
    for name in PHOTOS:
        pixels = load_image(photos / name, image)
        Image.fromarray(pixels).save(small / name, quality=98, subsampling=0)
    made = write_single_graph(
        bundle, tmp_path / "one", np.stack([load_image(small / name, image) for name in PHOTOS])
    )
    files = [str(small / name) for name in PHOTOS] + [str(photos / name) for name in PHOTOS]
    done = subprocess.run(
        ["node", str(program), str(made), *files],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert [path for path, _ in found] == files
    with Captioner.load(provider="cpu") as captioner:
        expected = [captioner.caption(file).text for file in files]
    captions = [caption for _, caption in found]
    assert captions[: len(PHOTOS)] == expected[: len(PHOTOS)]
    assert sum(a == b for a, b in zip(captions, expected, strict=True)) >= 2 * len(PHOTOS) - 1
