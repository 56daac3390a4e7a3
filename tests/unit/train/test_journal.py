"""metrics.jsonl: what is kept when a run goes on from somewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kiloword.train.journal import Journal, read_journal

POSITIONS = [(0, 1), (0, 2), (0, 2), (0, 3), (1, 1), (1, 2)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two stages; step 2 of the first has a second line, as a validation has."""
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"stage": stage, "step": step}) + "\n" for stage, step in POSITIONS))
    return file


@pytest.fixture
def opened() -> Iterator[list[Journal]]:
    """Closed at the end: a file that is left open is an error here."""
    journals: list[Journal] = []
    yield journals
    for journal in journals:
        journal.close()


@pytest.mark.parametrize(
    ("stage", "step", "kept"), [(0, 0, 0), (0, 2, 3), (0, 3, 4), (1, 0, 4), (1, 1, 5), (1, 2, 6), (2, 0, 6)]
)
def test_lines_after_the_checkpoint_are_dropped(
    path: Path, opened: list[Journal], stage: int, step: int, kept: int
) -> None:
    """(stage, step) is how far the checkpoint is; the beginning of a stage keeps all of those before it."""
    opened.append(Journal(path, stage, step))
    assert [(line["stage"], line["step"]) for line in read_journal(path)] == POSITIONS[:kept]


def test_lines_are_there_as_soon_as_they_are_written(path: Path, opened: list[Journal]) -> None:
    journal = Journal(path, 0, 2)
    opened.append(journal)
    journal.write(stage=0, step=3, loss=0.1 + 0.2)
    assert read_journal(path)[3:] == [{"stage": 0, "step": 3, "loss": 0.1 + 0.2}]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_a_kill_cut_off_is_no_line(path: Path, opened: list[Journal]) -> None:
    with path.open("a") as file:
        file.write('{"stage": 1, "st')
    assert len(read_journal(path)) == len(POSITIONS)
    journal = Journal(path, 1, 2)
    opened.append(journal)
    journal.write(stage=1, step=3)
    assert read_journal(path)[-1] == {"stage": 1, "step": 3}


def test_a_kill_while_the_journal_is_shortened_costs_no_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be emptied first and then written again."""

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Journal(path, 0, 1)
    assert len(read_journal(path)) == len(POSITIONS)


def test_no_journal_yet(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "metrics.jsonl") == []
