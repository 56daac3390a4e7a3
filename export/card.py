"""CARD.md: what a bundle is, where it comes from, what it is good for and what not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiloword.export.provenance import without_places
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
    recipe, training = without_places(checkpoint.recipe), checkpoint.training
    scores = ", ".join(f"{name} {value:.1f}" for name, value in training.get("validation_cider", {}).items())
    start = recipe.encoder.weights
    parts = [
        f"# {recipe.name} ({precision})",
        "Writes one sentence about a photo. Made by kiloword, which also runs it: `kiloword caption PHOTO`.",
        "## Model",
        f"- Encoder: ViT, {recipe.encoder.image_size} x {recipe.encoder.image_size} pixels, patches of "
        f"{recipe.encoder.patch_size}, width {recipe.encoder.width}, {recipe.encoder.depth} blocks"
        + (f"; started from `{start}`." if start else "."),
        f"- Decoder: Transformer, width {recipe.decoder.width}, {recipe.decoder.depth} blocks, "
        f"{training.get('vocabulary', '?')} tokens ({recipe.tokenizer.kind}).",
        f"- Defaults: {generation.num_beams} beams, at most {generation.max_new_tokens} tokens, "
        f"length penalty {generation.length_penalty}.",
        "## Training",
        f"- {training.get('photos', '?')} photos with {training.get('captions', '?')} captions: "
        + ", ".join(item.source for item in recipe.data.train)
        + f". {recipe.data.licence}",
        f'- Best after pass {training.get("passes", "?")} of the stage "{training.get("stage", "?")}", '
        f"{training.get('training_seconds', 0) / 60:.0f} minutes of training in all.",
        f"- Validation CIDEr (greedy, own tokenizer): {scores or 'not measured'}.",
        "## Limits",
        "- What its training photos did not show, it takes for something that they did.",
        "- It may name a gender, an age or an action that is not there. Do not use it to decide about "
        "people.",
        "- It cannot read text, count beyond a few, or name persons and places.",
        "- `confidence` is the geometric mean of the words' probabilities. It is not calibrated.",
        "## Licence",
        "The weights may be used under the terms of the data that they were trained on, see above"
        + (", and of the encoder's start weights; those of timm are Apache-2.0." if start else "."),
    ]
    if report:
        parts += ["## int8 against fp32", f"```\n{report['table']}\n```"]
    return "\n\n".join(parts) + "\n"
