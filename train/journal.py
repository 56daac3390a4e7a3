"""``metrics.jsonl``: one line for each step and each validation of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Appends lines. When a run goes on, what was written after its checkpoint is dropped first."""

    def __init__(self, path: Path, stage: int, step: int) -> None:
        """Opens the file for a run that stands at ``step`` of ``stage``."""
        self.path = path
        kept = [line for line in read_journal(path) if (line["stage"], line["step"]) <= (stage, step)]
        # Beside the old file and then in its place: a kill right now must not cost the lines of hours.
        partial = path.with_name(path.name + ".part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **facts: Any) -> None:
        """Adds one line."""
        self._file.write(json.dumps(facts) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file; nothing can be written after this."""
        self._file.close()


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
