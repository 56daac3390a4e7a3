"""Made scenes: what is said is drawn, where the boxes say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.boxes import read_boxes
from kiloword.train.datasets import load_records
from kiloword.train.scenes import COLOURS, make_scene, write_scenes


def test_shapes_have_their_colour_inside_their_outline() -> None:
    """The mean colour inside the mask is nearest to the named one; outside nothing is that colourful."""
    for seed in range(40):
        scene = make_scene(seed)
        covered = np.zeros((40, 40), dtype=bool)
        for shape in scene.shapes:
            mask = shape.mask(40)
            mean = scene.pixels[mask].mean(axis=0)
            nearest = min(COLOURS, key=lambda name: float(np.abs(np.array(COLOURS[name]) - mean).sum()))
            assert nearest == shape.colour
            assert not (covered & mask).any()
            covered |= mask
        ground = scene.pixels[~covered].astype(int)
        assert np.median(np.ptp(ground, axis=1)) < 60


def test_captions_name_shapes_in_the_order_of_their_colours() -> None:
    """Two shapes have two kinds and colours and do not touch; a mirrored scene has the same captions."""
    pairs = [scene for scene in map(make_scene, range(60)) if len(scene.shapes) == 2]
    assert len(pairs) > 30
    for scene in pairs:
        first, second = scene.shapes
        assert first.colour < second.colour
        assert first.kind != second.kind
        assert scene.captions[0].index(first.colour) < scene.captions[0].index(second.colour)
        assert "a orange" not in scene.captions[0]
        across, down = (
            max(one, other) - (one + first.size if one < other else other + second.size)
            for one, other in ((first.left, second.left), (first.top, second.top))
        )
        assert max(across, down) >= 2


def test_the_folder_is_a_data_set_with_boxes(tmp_path: Path) -> None:
    """Read by the loaders that read any other; the same seed makes the same pictures."""
    folder = write_scenes(tmp_path / "scenes", {"train": 6, "test": 4}, seed=100)
    again = write_scenes(tmp_path / "again", {"train": 6, "test": 4}, seed=100)
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [
        p.read_bytes() for p in sorted(again.iterdir())
    ]
    records = load_records(folder, "test").records
    assert len(records) == 4
    things = read_boxes(folder / "boxes.json")
    for record in records:
        assert {thing.category for thing in things[record.image.name]} <= set(record.captions[0].split())
    assert len(json.loads((folder / "boxes.json").read_text())["images"]) == 10


def test_other_people_s_folders_are_left_alone(tmp_path: Path) -> None:
    """A folder with something else in it is not written into; one with scenes is replaced."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="new folder"):
        write_scenes(tmp_path, {"train": 1})
    write_scenes(tmp_path / "scenes", {"train": 1})
    write_scenes(tmp_path / "scenes", {"train": 1})
