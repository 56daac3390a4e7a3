"""The benchmark of bundles in WebAssembly: counts what is equal, and sees what is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from benchmarks import browser
from kiloword import KilowordError
from kiloword.runtime.web.build import ONNXRUNTIME_WEB
from kiloword.runtime.web.packages import npm_package
from tests.bundles import make_tiny_bundle

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _node() -> None:
    try:
        npm_package("onnxruntime-web", ONNXRUNTIME_WEB, hint="install npm")
    except KilowordError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    if shutil.which("node") is None:
        pytest.skip("no node")


def test_two_bundles_are_compared_in_both_worlds(tmp_path: Path) -> None:
    """Float bundles give the same tokens in Python and in WebAssembly; another one gives others."""
    bundles = [make_tiny_bundle(tmp_path / name, seed=seed) for name, seed in (("one", 0), ("other", 5))]
    output = tmp_path / "result.json"
    arguments = ["--count", "0", "--output", str(output)]
    arguments += [part for bundle in bundles for part in ("--bundle", str(bundle.directory))]
    done = CliRunner().invoke(browser.main, arguments)
    assert done.exit_code == 0, done.output
    one, other = (row["examples"] for row in json.loads(output.read_text())["measurements"])
    count = len(list(browser.PHOTOS.glob("*.jpg")))
    assert one == {
        "photos": count,
        "browser_as_python": count,
        "python_as_first": count,
        "browser_as_first": count,
    }
    assert other["browser_as_python"] == count
    assert other["python_as_first"] < count
