"""CARD.md: what a bundle is, where it comes from, what it is good for and what not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiloword.runtime.manifest import GenerationSettings
from kiloword.train.checkpoint import Checkpoint


def write_card(
    checkpoint: Checkpoint, precision: str, generation: GenerationSettings, report: Mapping[str, Any]
) -> str:
    """The card as Markdown.

    Args:
        checkpoint: what the bundle was made from.
        precision: of the bundle.
        generation: its defaults.
        report: measured facts; may be empty.
    """
    recipe, training = checkpoint.recipe, checkpoint.training
    scores = ", ".join(f"{name} {value:.1f}" for name, value in training.get("validation_cider", {}).items())
    parts = [
        f"# {recipe.name} ({precision})",
        "Writes one English sentence about a photo. Made by [kiloword](https://github.com/kiloword/kiloword).",
        "## Model",
        f"- Encoder: ViT, {recipe.encoder.image_size} x {recipe.encoder.image_size} pixels, patches of "
        f"{recipe.encoder.patch_size}, width {recipe.encoder.width}, {recipe.encoder.depth} blocks"
        + (f"; started from `{recipe.encoder.weights}`." if recipe.encoder.weights else "."),
        f"- Decoder: Transformer, width {recipe.decoder.width}, {recipe.decoder.depth} blocks, "
        f"{training.get('vocabulary', '?')} tokens ({recipe.tokenizer.kind}).",
        f"- Defaults: {generation.num_beams} beams, at most {generation.max_new_tokens} tokens, "
        f"length penalty {generation.length_penalty}.",
        "## Training",
        f"- {training.get('photos', '?')} photos with {training.get('captions', '?')} captions: "
        + ", ".join(item.source for item in recipe.data.train)
        + f". {recipe.data.licence}",
        f"- Best after pass {training.get('passes', '?')} of the stage \"{training.get('stage', '?')}\", "
        f"{training.get('training_seconds', 0) / 60:.0f} minutes of training in all.",
        f"- Validation CIDEr (greedy, own tokenizer): {scores or 'not measured'}.",
        "## Limits",
        "- It has seen few photos, mostly of people and dogs outdoors: what it has not seen it takes for what it has.",
        "- It may name a gender, an age or an action that is not there. Do not use it to decide about people.",
        "- It cannot read text, count beyond a few, or name persons and places.",
        "- `confidence` is the geometric mean of the words' probabilities. It is not calibrated.",
        "## Licence",
        "The weights may be used under the terms of the data they were trained on, see above; the encoder's start "
        "weights are Apache-2.0.",
    ]
    if report:
        parts += ["## int8 against fp32", f"```\n{report['table']}\n```"]
    return "\n\n".join(parts) + "\n"
