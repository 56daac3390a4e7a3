"""Every encoder with every decoder: trains, resumes, exports, captions as torch does, and runs in int8.

Expected tokens come from plain torch that reads the whole sentence again for each word: no cache, no batch,
no beams shared. The pictures are coloured shapes, which tiny models learn in seconds.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import torch

from kiloword import Captioner
from kiloword.export.export import export_bundle
from kiloword.runtime.errors import ConfigError
from kiloword.runtime.generation import generate
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings, ImageSpec, TokenSpec
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.models import registry
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.registry import DECODERS, ENCODERS
from kiloword.train.progress import Progress
from kiloword.train.recipe_file import recipe_from_table
from kiloword.train.validation import TorchDecoder
from tests.checkpoints import FORCED
from tests.shapes import SIZE, make_shapes, tiny_recipe

pytestmark = [pytest.mark.parity, pytest.mark.slow]

BOS, EOS, SUPPRESSED = 1, 2, (0, 1, 3)
LONGEST = 10

_RESNET = {"kind": "resnet", "widths": [8, 16], "blocks": [1, 1]}
ENCODER_TABLES: dict[str, dict[str, Any]] = {
    "vit": {"patch_size": 8, "width": 32, "depth": 2, "heads": 2, "positions": "sinusoidal_2d"},
    "mobilenet_v2": {"kind": "mobilenet_v2", "width_multiplier": 0.1, "stride": 16},
    "resnet": _RESNET,
    "conv_stem": {"kind": "conv_stem", "widths": [8, 16, 24]},
    "hybrid": {
        "kind": "hybrid",
        "cnn": {"kind": "conv_stem", "widths": [8, 16, 16]},
        "width": 16,
        "depth": 1,
        "heads": 2,
    },
    "transformer over cnn": {"kind": "hybrid", "cnn": _RESNET, "width": 16, "depth": 1, "heads": 2},
}
DECODER_TABLES: dict[str, dict[str, Any]] = {
    "transformer": {"width": 32, "depth": 2, "heads": 2, "max_length": 12, "dropout": 0.1},
    "original transformer": {
        "width": 32,
        "depth": 1,
        "heads": 2,
        "max_length": 12,
        "dropout": 0.0,
        "norm": "post",
        "positions": "sinusoidal",
        "activation": "relu",
        "scale_embedding": True,
    },
    "show_attend_tell": {
        "kind": "show_attend_tell",
        "width": 32,
        "word_width": 24,
        "attention_width": 16,
        "dropout": 0.1,
    },
    "show_tell": {"kind": "show_tell", "width": 32, "word_width": 24, "dropout": 0.1},
}


@dataclass(frozen=True)
class Made:
    """A combination, trained and exported."""

    run: Path
    model: CaptionModel
    fp32: Captioner
    int8: Captioner
    pixels: NDArray[np.uint8]
    """uint8 (pictures, height, width, 3)."""


def recipe_table(root: Path, encoder: str, decoder: str) -> dict[str, Any]:
    """Two short stages: the encoder's first level frozen and cached, then end to end."""
    table = tiny_recipe(root)
    table["encoder"] = {"image_size": SIZE, **ENCODER_TABLES[encoder]}
    table["decoder"] = DECODER_TABLES[decoder]
    for stage in table["stages"]:
        stage |= {"passes": 6, "learning_rate": 8e-3, "encoder_learning_rate": 2e-3, "views": 2}
    table["validation"] = {"every_passes": 99}
    return table


class Interrupted(Progress):
    """Ctrl+C in the middle of the second stage."""

    def step(self, stage: str, done: int, total: int, loss: float, photos_per_second: float) -> None:
        if (stage.split(",")[0], done) == ("end to end", 4):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("combinations")
    make_shapes(folder / "shapes")
    return folder


PAIRS = [
    (encoder, decoder)
    for encoder, decoder in itertools.product(ENCODER_TABLES, DECODER_TABLES)
    # A stem by itself is in every hybrid; torch's exporter takes its time for each pair.
    if encoder != "conv_stem" or decoder == "show_tell"
]


@pytest.fixture(scope="module", params=PAIRS, ids=" + ".join)
def made(request: pytest.FixtureRequest, root: Path) -> Iterator[Made]:
    """Trains with an interruption, exports in both precisions."""
    encoder, decoder = request.param
    run = root / f"{encoder} {decoder}"
    recipe = recipe_from_table(recipe_table(root, encoder, decoder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kiloword.train.loop.draw_curves", lambda *facts: None)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, run, progress=Interrupted())
        best = train(recipe, run, resume=True)
    bundles = export_bundle(best, run / "bundles", quantize=FORCED)
    fp32, int8 = (Captioner.load(path, provider="cpu", threads=1) for path in bundles)
    files = sorted((root / "shapes").glob("*.png"))[:7]
    spec = ImageSpec(height=SIZE, width=SIZE)
    pixels = np.stack([load_image(file, spec) for file in files])
    with fp32, int8:
        yield Made(run, load_checkpoint(best).model, fp32, int8, pixels)


def uncached_greedy(model: CaptionModel, pixels: NDArray[np.uint8]) -> tuple[tuple[int, ...], list[float]]:
    """One picture; every word by reading the whole sentence in torch, and its log-probability."""
    with torch.inference_mode():
        context = model.encode(torch.from_numpy(pixels[None]))
        ids, logprobs = [BOS], list[float]()
        while len(ids) <= LONGEST and ids[-1] != EOS:
            hidden, _ = model.decoder(torch.tensor([ids]), context)
            found = model.decoder.logits(hidden[0, -1]).log_softmax(-1)
            allowed = found.clone()
            allowed[list(SUPPRESSED)] = -torch.inf
            ids.append(int(allowed.argmax()))
            logprobs.append(float(found[ids[-1]]))
    return tuple(ids[1:]), logprobs


def test_every_kind_is_there() -> None:
    for tables, kinds, default in (
        (ENCODER_TABLES, ENCODERS, "vit"),
        (DECODER_TABLES, DECODERS, "transformer"),
    ):
        assert {table.get("kind", default) for table in tables.values()} == set(kinds)


def test_the_documented_encoder_is_one_file_and_one_line(
    root: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/ARCHITECTURE.md's example in the registry: recipe, training, export and captions follow."""
    text = (repository / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    source = text.split("```python\n")[1].split("```")[0].split("# Tried out")[0]
    (tmp_path / "mean_colour.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    config = importlib.import_module("mean_colour").MeanColourConfig
    monkeypatch.setattr(registry, "ENCODERS", {**ENCODERS, "mean_colour": config})
    table = recipe_table(root, "resnet", "transformer")
    table["encoder"] = {"image_size": SIZE, "kind": "mean_colour", "cell": 8, "width": 16}
    for stage in table["stages"]:
        stage["frozen_blocks"] = 0
    with pytest.raises(ConfigError, match="unknown key 'cells'"):
        recipe_from_table({**table, "encoder": {**table["encoder"], "cells": 8}})
    best = train(recipe_from_table(table), tmp_path / "run")
    (bundle,) = export_bundle(best, tmp_path / "bundle")
    files = sorted((root / "shapes").glob("*.png"))[:3]
    pixels = np.stack([load_image(file, ImageSpec(height=SIZE, width=SIZE)) for file in files])
    model = load_checkpoint(best).model
    with Captioner.load(bundle, provider="cpu", threads=1) as captioner:
        for caption, picture in zip(
            captioner.caption_pixels(pixels, num_beams=1, max_new_tokens=LONGEST, attention=True),
            pixels,
            strict=True,
        ):
            assert caption.token_ids == uncached_greedy(model, picture)[0]
            assert caption.attention is not None
            assert caption.attention.shape[1:] == (SIZE // 8, SIZE // 8)


def test_it_learns_and_goes_on_after_an_interruption(made: Made) -> None:
    """20 pictures in batches of 8 are 3 steps a pass; none is missing and none is there twice."""
    lines = [line for line in read_journal(made.run / "metrics.jsonl") if "loss" in line]
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, step) for stage in (0, 1) for step in range(1, 19)
    ]
    losses = [line["loss"] for line in lines]
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_greedy_equals_uncached_torch(made: Made) -> None:
    """Token by token and number by number, although pictures leave the batch when they are done."""
    found = made.fp32.caption_pixels(made.pixels, num_beams=1, max_new_tokens=LONGEST)
    for caption, picture in zip(found, made.pixels, strict=True):
        expected, logprobs = uncached_greedy(made.model, picture)
        assert caption.token_ids == expected
        np.testing.assert_allclose(caption.token_logprobs, logprobs, atol=2e-4)


def test_beams_equal_the_search_in_torch(made: Made) -> None:
    """The same search with the decoder in torch, one picture at a time: rows are reordered at each step."""
    settings = GenerationSettings(num_beams=3, max_new_tokens=LONGEST)
    tokens = TokenSpec(made.model.decoder.vocab_size, BOS, EOS, 0, (BOS,), SUPPRESSED)
    found = made.fp32.caption_pixels(made.pixels, num_beams=3, max_new_tokens=LONGEST)
    with torch.inference_mode():
        for caption, picture in zip(found, made.pixels, strict=True):
            decoder = TorchDecoder(made.model, made.model.encoder(torch.from_numpy(picture[None])))
            (expected,) = generate(decoder, decoder.pictures(), tokens, settings)
            assert caption.token_ids == expected.token_ids


def test_a_stream_ends_with_the_greedy_caption(made: Made) -> None:
    (expected,) = made.fp32.caption_pixels(made.pixels[:1], num_beams=1, max_new_tokens=LONGEST)
    pieces = list(made.fp32.stream(made.pixels[0], max_new_tokens=LONGEST))
    assert "".join(pieces) == expected.text


def test_int8_captions(made: Made) -> None:
    """Most words are those of fp32, and a picture does not depend on its batch."""
    exact = made.fp32.caption_pixels(made.pixels, num_beams=1)
    small = made.int8.caption_pixels(made.pixels, num_beams=1)
    pairs = [
        pair
        for a, b in zip(exact, small, strict=True)
        for pair in zip(a.token_ids, b.token_ids, strict=False)
    ]
    assert np.mean([first == second for first, second in pairs]) > 0.5
    alone = [made.int8.caption_pixels(picture[None], num_beams=1)[0] for picture in made.pixels[:3]]
    assert [caption.token_ids for caption in alone] == [caption.token_ids for caption in small[:3]]


def test_it_says_where_it_looked(made: Made) -> None:
    """A map for each word that sums to 1, from the int8 bundle too; a decoder without attention says so."""
    image = made.model.encoder.output
    for captioner in (made.fp32, made.int8):
        if made.model.decoder.attention_spec() is None:
            with pytest.raises(ConfigError, match="attention"):
                captioner.caption_pixels(made.pixels[:1], attention=True)
            continue
        for caption in captioner.caption_pixels(made.pixels[:2], attention=True):
            assert caption.attention is not None
            assert caption.attention.shape == (len(caption.text.split()), image.rows, image.columns)
            np.testing.assert_allclose(caption.attention.sum(axis=(1, 2)), 1, rtol=1e-4)
