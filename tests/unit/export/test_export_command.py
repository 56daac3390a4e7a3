"""`kiloword export`: what its options mean, and that its lists are those of the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from kiloword.cli import main
from kiloword.commands import quantizing as command
from kiloword.export import export as module
from kiloword.export.recipes import DecoderRecipe, EncoderRecipe, Purpose, is_recipe_name
from kiloword.export.single_graph import SearchOverrides


def test_the_lists_are_those_of_the_code() -> None:
    """They are written out a second time, because `--help` must not import onnx."""
    assert get_args(EncoderRecipe) == command.ENCODER_RECIPES
    assert get_args(DecoderRecipe) == command.DECODER_RECIPES
    assert get_args(Purpose) == command.PURPOSES
    for word in ("auto", "static", "weight-only+dynamic", "dynamic+static", "runs/mine", "-o", ""):
        assert command.is_recipe_name(word) == is_recipe_name(word)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `export_bundle` is called with, in place of an export."""
    seen: list[tuple[Any, ...]] = []

    def export_bundle(source: Path | None, output: Path, **options: Any) -> list[Path]:
        seen.append((source, output, options))
        return []

    monkeypatch.setattr(module, "export_bundle", export_bundle)
    return seen


@pytest.mark.parametrize(
    ("words", "source", "recipe"),
    [
        (["--quantize"], None, "auto"),
        (["--quantize", "dynamic"], None, "dynamic"),
        (["--quantize=static"], None, "static"),
        (["--quantize", "runs/mine"], "runs/mine", "auto"),
        (["runs/mine", "--quantize", "-o", "out"], "runs/mine", "auto"),
        (["runs/mine", "--quantize", "static+dynamic"], "runs/mine", "static+dynamic"),
        (["runs/mine"], "runs/mine", None),
    ],
)
def test_quantize_may_stand_alone(
    calls: list[tuple[Any, ...]], words: list[str], source: str | None, recipe: str | None
) -> None:
    """As a flag it was followed by the checkpoint; that must not become a recipe."""
    result = CliRunner().invoke(main, ["export", *words])
    assert result.exit_code == 0, result.output
    ((given, _, options),) = calls
    assert given == (None if source is None else Path(source))
    assert (None if options["quantize"] is None else options["quantize"].recipe) == recipe


def test_options_reach_the_export(calls: list[tuple[Any, ...]]) -> None:
    words = [
        "--quantize",
        "--for",
        "speed",
        "--reduce-range",
        "--force",
        "--max-loss",
        "1.5",
        "--min-speedup",
        "1.2",
    ]
    words += ["--precision", "fp16", "--single-graph", "--num-beams", "2", "--check-on", "openvino"]
    assert CliRunner().invoke(main, ["export", *words]).exit_code == 0
    ((_, _, options),) = calls
    quantize = options["quantize"]
    assert (quantize.purpose, quantize.reduce_range, quantize.force) == ("speed", True, True)
    assert (quantize.limits.max_loss, quantize.limits.min_times_as_fast) == (1.5, 1.2)
    assert options["half"]
    assert options["single_graph"] == SearchOverrides(num_beams=2)
    assert options["check_on"] == ("openvino",)


@pytest.mark.parametrize(
    "words", [["--quantize=int4"], ["--num-beams", "2"], ["--check-on", "auto"], ["--for", "fun"]]
)
def test_misuse(calls: list[tuple[Any, ...]], words: list[str]) -> None:
    assert CliRunner().invoke(main, ["export", *words]).exit_code == 2
    assert calls == []
