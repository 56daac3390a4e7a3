"""Tables of Markdown for docs/benchmarks.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Result = dict[str, Any]
"""A file of benchmarks/results/."""


def table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The lines of a table."""
    for row in [heads, ["---"] * len(heads), *rows]:
        yield f"| {' | '.join(row)} |"
