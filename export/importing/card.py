"""CARD.md of an imported bundle: what it is, where it comes from, and what was proved of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write_card(
    name: str,
    precision: str,
    facts: Mapping[str, Any],
    origin: Mapping[str, Any],
    report: Mapping[str, Any],
) -> str:
    """The card as Markdown.

    Args:
        name: of the bundle.
        precision: of the bundle.
        facts: the architecture.
        origin: the provenance.
        report: measured facts; may be empty.
    """
    parts = [
        f"# {name} ({precision})",
        f"Writes captions of photos. Imported by kiloword from the checkpoint `{origin['imported_from']}`. "
        "Kiloword runs it: `kiloword caption --bundle DIR PHOTO`.",
        "## Model",
        "\n".join(f"- {key}: {value}" for key, value in facts.items()),
        "## Training, limits, licence",
        f"See the checkpoint's own card. Its licence: {origin['licence']}.",
        "The confidence of a caption is the geometric mean of its words' probabilities, and not calibrated.",
    ]
    if proof := report.get("transformers"):
        parts += [
            "## Compared with transformers",
            f"fp32, {proof['pictures']} random pictures, at most {proof['max_new_tokens']} tokens: the same "
            f"token ids for {proof['greedy_equal']} greedily and {proof['beam_4_equal']} with 4 beams "
            f"({proof['ties']} ties), scores to {proof['largest_score_difference']:.1e}.",
        ]
    return "\n\n".join(parts) + "\n"
