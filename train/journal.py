"""``metrics.jsonl``: one line for each step and each validation of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO


class Journal:
    """Appends lines. When a run goes on, what was written after its checkpoint is dropped first.

    Args:
        path: of the file; ``None`` writes nothing, as where another process does.
        stage: where the run stands.
        step: where the run stands in the stage.
    """

    def __init__(self, path: Path | None, stage: int, step: int) -> None:
        self.path = path
        self._file: TextIO | None = None
        if path is None:
            return
        kept = [line for line in read_journal(path) if (line["stage"], line["step"]) <= (stage, step)]
        # Beside the old file and then in its place: a kill right now must not cost the lines of hours.
        partial = path.with_name(path.name + ".part")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, **facts: Any) -> None:
        """Adds one line."""
        if self._file is not None:
            self._file.write(json.dumps(facts) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file; nothing can be written after this."""
        if self._file is not None:
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
