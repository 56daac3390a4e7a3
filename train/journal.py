"""``metrics.jsonl``: one line for each step and each validation of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Appends lines; when a run goes on, what was written after its checkpoint is dropped first."""

    def __init__(self, path: Path, stage: int, step: int) -> None:
        """Opens the file for a run that stands at ``step`` of ``stage``."""
        self.path = path
        kept = [line for line in read_journal(path) if (line["stage"], line["step"]) <= (stage, step)]
        self._file = path.open("w", encoding="utf-8")
        for line in kept:
            self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def write(self, **facts: Any) -> None:
        """Adds one line."""
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
