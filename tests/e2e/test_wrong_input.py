"""Newer commands given what they cannot use: one line says what, where and what to do; nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from kiloword.cli import main
from kiloword.runtime.bundle import MANIFEST_FILE, load_bundle
from tests.bundles import make_tiny_bundle

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from tests.checkpoints import RECIPE, tiny_model, tiny_tokenizer  # noqa: E402

pytestmark = pytest.mark.e2e

MINIMAL_RECIPE = """
name = "minimal"
data = {root = ".", train = [{source = "photos"}], validation = [{source = "photos"}]}
encoder = {image_size = 32, patch_size = 8, width = 32, depth = 1, heads = 2}
stages = [{name = "all", passes = 1, learning_rate = 1e-3}]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle, a data set of 40 photos, one whose photos are damaged, and what is neither."""
    make_tiny_bundle(tmp_path / "bundle")
    for name in ("photos", "damaged"):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"file_name": f"{number}.png", "captions": [f"thing {number}"]} for number in range(40)]
        (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for number in range(40):
            Image.new("RGB", (20, 16), (6 * number, 90, 9)).save(folder / f"{number}.png")
            if name == "damaged":
                (folder / f"{number}.png").write_bytes(b"no picture")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "bytes.txt").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(place: Path, *arguments: str) -> str:
    """What is said by a command that fails and leaves everything as it was."""
    before = contents(place)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert contents(place) == before
    return result.output


@pytest.mark.parametrize(
    "command",
    [
        ("caption", "photos", "--min-confidence", "nan"),
        ("calibrate", "bundle", "--data", "photos", "--good-cider", "nan"),
        ("calibrate", "bundle", "--data", "photos", "--lost", "nan"),
        ("label", "bundle", "--classifier", "x", "--names", "y", "--data", "photos", "--least", "nan"),
        ("webcam", "--max-fps", "nan"),
        ("serve", "--rate", "inf"),
        ("export", "--quantize", "--min-speedup", "nan"),
    ],
    ids=" ".join,
)
def test_what_is_no_number(place: Path, command: tuple[str, ...]) -> None:
    """To Python, "nan" and "inf" are floats, and no comparison with a bound finds the first one wrong."""
    assert "is not a number" in refused(place, *command)


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "photos", "--split", "all"),
        ("caption", "photos", "-o", "captions.jsonl"),
        ("calibrate", "bundle", "--data", "photos"),
        ("draft", "bundle", "photos"),
    ],
    ids=" ".join,
)
def test_more_threads_than_any_machine_has(place: Path, command: tuple[str, ...]) -> None:
    """onnxruntime's own answer to such a number was a TypeError."""
    assert "threads: expected at most 1024" in refused(place, *command, "--threads", "9" * 20)


def test_a_batch_of_all_photos_there_are(place: Path) -> None:
    said = refused(place, "evaluate", "photos", "--split", "all", "--batch-size", "9" * 20)
    assert "is not in the range 1<=x<=65536" in said


@pytest.mark.parametrize("option", ["--output", "--report"])
@pytest.mark.parametrize("folder", ["nowhere", "text.txt"])
def test_an_evaluation_that_could_not_be_written_is_not_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch, option: str, folder: str
) -> None:
    """It took hours, and then there was no such folder."""
    monkeypatch.setattr("kiloword.train.evaluation.evaluate", lambda *_, **__: pytest.fail("began"))
    said = refused(place, "evaluate", "photos", "--split", "all", "--bundle", "bundle", option, f"{folder}/x")
    assert f"{folder}/x: there is no folder" in said


def test_a_benchmark_that_could_not_be_written_is_not_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kiloword.runtime.bench.suite.run_bench", lambda *_, **__: pytest.fail("began"))
    assert "there is no folder" in refused(place, "bench", "--bundle", "bundle", "-o", "nowhere/x.json")


@pytest.mark.parametrize(("other", "what"), [("nowhere", "is not a bundle"), ("x.json", "cannot be read")])
def test_a_comparison_with_nothing_is_not_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch, other: str, what: str
) -> None:
    monkeypatch.setattr("kiloword.train.evaluation.evaluate", lambda *_, **__: pytest.fail("began"))
    assert what in refused(place, "evaluate", "photos", "--split", "all", "--compare", "bundle", other)


@pytest.mark.parametrize(
    ("target", "what"),
    [("mine", "is no checkpoint"), ("text.txt", "is no checkpoint"), ("a", "is one of those averaged")],
)
def test_an_average_replaces_nothing_but_older_averages(place: Path, target: str, what: str) -> None:
    """A folder of the user's own was gone."""
    from kiloword.train.checkpoint import save_model

    for name in ("a", "b"):
        save_model(place / name, tiny_model().state_dict(), tiny_tokenizer(), RECIPE, {})
    assert f"{target}: " in (said := refused(place, "average", "a", "b", "-o", target))
    assert what in said
    for _ in range(2):
        assert CliRunner().invoke(main, ["average", "a", "b", "-o", "mean"]).exit_code == 0


def test_photos_that_cannot_be_read_calibrate_nothing(place: Path) -> None:
    said = refused(place, "calibrate", "bundle", "--data", "damaged", "--threads", "1")
    assert said.endswith("\nerror: calibration needs 30 photos that can be read or more, found 0\n")


@pytest.mark.parametrize(
    ("classifier", "names", "what"),
    [
        ("nowhere", "text.txt", "nowhere: there is no such file"),
        ("mine", "text.txt", "mine: there is no such file"),
        ("text.txt", "text.txt", "text.txt: cannot be read"),
        ("vit", "mine", "mine: cannot be read: Is a directory"),
        ("vit", "bytes.txt", "bytes.txt: is no text in UTF-8"),
        ("vit", "text.txt", "text.txt: expected 3 names, found 1"),
        ("cut", "text.txt", "cut: is no ViT: Missing key(s)"),
        ("flat", "text.txt", "flat: has no classifier: head.weight and head.bias are (3,) and (3,)"),
    ],
)
def test_classifiers_that_cannot_teach(place: Path, classifier: str, names: str, what: str) -> None:
    """The file that is wrong is the one that is named."""
    from kiloword.train.models.vit import VitConfig

    size = load_bundle(place / "bundle").manifest.image.height
    encoder = VitConfig(image_size=size, patch_size=8, width=64, depth=2, heads=1).build().state_dict()
    head = {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}
    save_file({**encoder, **head}, place / "vit")
    one_name = {"head.weight": torch.zeros(1, 64), "head.bias": torch.zeros(1)}
    save_file(
        {name: value for name, value in encoder.items() if "0.mlp" not in name} | one_name, place / "cut"
    )
    save_file({**encoder, **head, "head.weight": torch.zeros(3)}, place / "flat")
    said = refused(place, "label", "bundle", "--classifier", classifier, "--names", names, "--data", "photos")
    assert what in said


@pytest.mark.parametrize("output", ["new", "text.txt/new"])
def test_packing_that_fails_leaves_nothing(place: Path, output: str) -> None:
    source = "damaged" if output == "new" else "photos"
    (place / "recipe.toml").write_text(MINIMAL_RECIPE.replace("photos", source))
    said = refused(place, "pack", "recipe.toml", "-o", output)
    assert "error: " in said
    assert not list(place.glob("new*"))


# What is no folder, `kiloword import` looks for on the hub.
@pytest.mark.parametrize(
    ("command", "bundle"),
    [
        (command, bundle)
        for command in ("bench", "doctor", "calibrate", "draft", "label", "web", "import")
        for bundle in ("nowhere", "text.txt", "mine", "broken")
        if (command, bundle) != ("import", "nowhere")
    ],
)
def test_what_is_no_bundle(place: Path, command: str, bundle: str) -> None:
    shutil.copytree(place / "bundle", place / "broken")
    (place / "broken" / MANIFEST_FILE).write_text("{")
    arguments = {
        "bench": ("--bundle", bundle),
        "doctor": ("--bundle", bundle),
        "calibrate": (bundle, "--data", "photos"),
        "draft": (bundle, "photos"),
        "label": (bundle, "--classifier", "x", "--names", "y", "--data", "photos"),
        "web": (bundle, "-o", "site"),
        "import": (bundle, "-o", "imported"),
    }[command]
    assert bundle in refused(place, command, *arguments)
