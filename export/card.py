"""CARD.md: what a bundle is, where it comes from, what it is good for and what not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiloword.export.provenance import without_places
from kiloword.runtime.manifest import GenerationSettings
from kiloword.train.checkpoint import Checkpoint
from kiloword.train.recipe import Recipe

_LIMITS = (
    "What its training photos did not show, it takes for something that they did.",
    "It may name a gender, an age or an action that is not there. Do not use it to decide about people.",
    "It cannot read text, count beyond a few, or name persons and places.",
    "`confidence` is calibrated where `bundle.json` has the key `reliability`; else it is the geometric "
    "mean of the words' probabilities.",
)


CARD_FILE = "CARD.md"


def write_card(checkpoint: Checkpoint, precision: str, generation: GenerationSettings) -> str:
    """The card as Markdown.

    Args:
        checkpoint: what the bundle was made from.
        precision: of the bundle.
        generation: its defaults.
    """
    recipe = without_places(checkpoint.recipe)
    parts = [
        f"# {recipe.name} ({precision})",
        "Writes one sentence about a photo. Made by kiloword, which also runs it: `kiloword caption PHOTO`.",
        "## Model",
        _bullets(*_model(recipe, checkpoint.training, generation)),
        "## Training",
        _bullets(*_training(recipe, checkpoint.training)),
        "## Limits",
        _bullets(*_LIMITS),
        "## Licence",
        f"The weights may be used under the terms of {_terms(recipe)}.",
    ]
    return "\n\n".join(parts) + "\n"


def variant_card(card: str, was: str, precision: str, table: str) -> str:
    """The card of a bundle that was made from another one in another precision.

    Args:
        card: of the other one, as Markdown.
        was: its precision, which its first line names.
        precision: of the new one.
        table: what was measured of both.
    """
    title, newline, rest = card.partition("\n")
    title = title.replace(f"({was})", f"({precision})")
    return f"{title}{newline}{rest.rstrip()}\n\n## {precision} against {was}\n\n```\n{table}\n```\n"


def _model(recipe: Recipe, training: Mapping[str, Any], generation: GenerationSettings) -> tuple[str, ...]:
    encoder, decoder = recipe.encoder, recipe.decoder
    start = f"; started from `{encoder.weights}`" if encoder.weights else ""
    return (
        f"Encoder: {encoder.describe()}{start}.",
        f"Decoder: {decoder.describe()}, {training.get('vocabulary', '?')} tokens ({recipe.tokenizer.kind}).",
        *([f"Concepts: {recipe.concepts.describe()}."] if recipe.concepts else []),
        f"Defaults: {generation.num_beams} beams, at most {generation.max_new_tokens} tokens, "
        f"length penalty {generation.length_penalty}.",
    )


def _training(recipe: Recipe, training: Mapping[str, Any]) -> tuple[str, ...]:
    sources = ", ".join(item.source for item in recipe.data.train)
    scores = ", ".join(f"{name} {value:.1f}" for name, value in training.get("validation_cider", {}).items())
    photos, captions = training.get("photos", "?"), training.get("captions", "?")
    return (
        f"{photos} photos with {captions} captions: {sources}. {recipe.data.licence}".rstrip(),
        *([f"Went on from the checkpoint `{recipe.start}`."] if recipe.start else []),
        *([f"Took the encoder of the checkpoint `{recipe.start_encoder}`."] if recipe.start_encoder else []),
        f'Best after pass {training.get("passes", "?")} of the stage "{training.get("stage", "?")}", '
        f"{training.get('training_seconds', 0) / 60:.0f} minutes of training in this run.",
        f"Validation CIDEr (greedy, own tokenizer): {scores or 'not measured'}.",
    )


def _terms(recipe: Recipe) -> str:
    data = "the data that they were trained on, see above"
    weights = recipe.encoder.weights
    return f"{data}, and of the encoder's start weights, `{weights}`" if weights else data


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)
