"""What a manifest says of a bundle's draft: the table that guesses which tokens follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class DraftSpec:
    """How to guess the tokens that follow."""

    file: str
    """File with an array int32 (entries, order + 1), as `numpy.save` writes it: the last tokens, with -1
    before them where there are fewer, and the one that follows them. The longest entry that fits counts."""
    most: int = 5
    """Most tokens that are guessed at once."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was counted on and how well it does; for people, it steers nothing."""


def check_draft(spec: DraftSpec, files: Mapping[str, object]) -> list[str]:
    """Look for contradictions.

    Args:
        spec: What the manifest says.
        files: The bundle's files; empty where they are not known yet.

    Returns:
        One sentence for each.
    """
    problems = [] if spec.most >= 1 else [f"draft.most: expected 1 or more, found {spec.most}"]
    if files and spec.file not in files:
        problems.append(f"draft: {spec.file} is no file of the bundle")
    return problems
