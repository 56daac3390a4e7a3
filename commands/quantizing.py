"""The options that make int8 bundles: of `kiloword export` and `kiloword import`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kiloword.commands.common import FiniteRange

if TYPE_CHECKING:
    from kiloword.export.gate import CaptionedPhotos

_AnyFunction = TypeVar("_AnyFunction", bound=Callable[..., Any])

# Written out here because their home imports onnx, which `--help` must not wait for; a test compares the two.
ENCODER_RECIPES = ("static", "dynamic", "weight-only")
DECODER_RECIPES = ("static", "weight-only", "dynamic")
_SHORT_RECIPES = ("auto", "static", "dynamic", "weight-only")
PURPOSES = ("reproducible", "speed")


class _Recipe(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A recipe for int8, by name."""

    name = "recipe"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if is_recipe_name(str(value)):
            return str(value)
        pairs = f"{'|'.join(ENCODER_RECIPES)}+{'|'.join(DECODER_RECIPES)}"
        return self.fail(f"{value!r} is not one of {', '.join(_SHORT_RECIPES)}, {pairs}.", param, ctx)


def is_recipe_name(word: str) -> bool:
    """Whether a word names a recipe: one for both graphs, or one for each with a plus between them."""
    encoder, plus, decoder = word.partition("+")
    pair = bool(plus) and encoder in ENCODER_RECIPES and decoder in DECODER_RECIPES
    return pair or word in _SHORT_RECIPES


class QuantizeCommand(click.Command):
    """`--quantize` may stand alone, and a checkpoint behind it is no recipe."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a bare `--quantize` its value, and leave the rest to click."""
        following = zip(args, [*args[1:], ""], strict=True)
        whole = [
            "--quantize=auto" if word == "--quantize" and not is_recipe_name(after) else word
            for word, after in following
        ]
        return super().parse_args(ctx, whole)


RECIPES_HELP = (
    "Recipes for int8:",
    "  auto         tries those that suit the purpose and takes the fastest that the gate lets pass",
    "  static       ranges measured on photos and on the captions that fp32 writes of them",
    "  weight-only  8-bit weights in both graphs, activations quantized in blocks of a row",
    "  dynamic      ranges of whatever is in the batch: a photo's caption may depend on its neighbours",
    "  A+B          one for each graph: A for the encoder, B for the decoder",
    "",
)
"""For an epilog."""

_OPTIONS = (
    click.option(
        "--quantize",
        type=_Recipe(),
        metavar="[RECIPE]",
        help="Make an int8 bundle beside the fp32 one, if it is faster and nearly as good.",
    ),
    click.option(
        "--for",
        "purpose",
        type=click.Choice(PURPOSES),
        default="reproducible",
        show_default=True,
        help="What auto tries: recipes by which a photo's caption does not depend on its batch, or all.",
    ),
    click.option(
        "--calibration",
        type=click.Path(),
        metavar="DIR",
        help="Photos to measure the ranges of int8 on.  [default: the training photos, else the examples]",
    ),
    click.option("--reduce-range", is_flag=True, help="Weights of 7 bits, for processors without VNNI."),
    click.option(
        "--evaluate",
        "dataset",
        type=click.Path(),
        metavar="DATASET",
        help="Also measure CIDEr-D and BLEU-4 of fp32 and int8 on these photos with captions.",
    ),
    click.option(
        "--split", default="test", show_default=True, help="The part of DATASET; all means everything."
    ),
    click.option(
        "--evaluate-photos",
        type=click.IntRange(min=1),
        metavar="N",
        default=500,
        show_default=True,
        help="At most this many photos of DATASET, evenly spread.",
    ),
    click.option(
        "--min-speedup",
        type=FiniteRange(min=0),
        metavar="X",
        default=1.0,
        show_default=True,
        help="Refuse int8 that is not this many times as fast as fp32.",
    ),
    click.option(
        "--min-agreement",
        type=FiniteRange(0, 1),
        metavar="X",
        default=0.5,
        show_default=True,
        help="Refuse int8 with a smaller share of words equal to those of fp32.",
    ),
    click.option(
        "--max-loss",
        type=FiniteRange(min=0),
        metavar="POINTS",
        default=2.0,
        show_default=True,
        help="Refuse int8 that loses more points of CIDEr-D or BLEU-4 on DATASET.",
    ),
    click.option("--force", is_flag=True, help="Write an int8 bundle that was refused; the bundle says so."),
)


def quantize_options(function: _AnyFunction) -> _AnyFunction:
    """The options of every command that quantizes; `read_quantizing` takes their values."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def read_quantizing(
    *,
    quantize: str | None,
    purpose: str,
    calibration: str | None,
    reduce_range: bool,
    dataset: str | None,
    split: str,
    evaluate_photos: int,
    min_speedup: float,
    min_agreement: float,
    max_loss: float,
    force: bool,
) -> dict[str, Any]:
    """What the options ask for: ``quantize``, ``calibration`` and ``captioned`` of `export_bundle`."""
    from kiloword.export.quantized import QualityLimits, QuantizeOptions

    asked = None
    if quantize is not None:
        limits = QualityLimits(min_speedup, min_agreement, max_loss)
        kind = "speed" if purpose == "speed" else "reproducible"
        asked = QuantizeOptions(quantize, kind, reduce_range, limits, force)  # type: ignore[arg-type]
    return {
        "quantize": asked,
        "calibration": None if calibration is None else Path(calibration),
        "captioned": None if dataset is None else _captioned(dataset, split, evaluate_photos),
    }


def _captioned(dataset: str, split: str, most: int) -> CaptionedPhotos:
    from kiloword.export.gate import CaptionedPhotos
    from kiloword.train.datasets import load_records

    records = load_records(dataset, None if split == "all" else split).records
    step = max(len(records) / most, 1)
    chosen = [records[int(place * step)] for place in range(min(most, len(records)))]
    return CaptionedPhotos(f"{Path(dataset).name} ({split})", chosen)
