"""The search inside one graph against the search in Python: every kind of decoder, greedy and beams."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from kiloword import load_bundle  # noqa: E402
from kiloword.export import single_graph as module  # noqa: E402
from kiloword.export.single_graph import (  # noqa: E402
    FACTS_FILE,
    GRAPH_FILE,
    SearchOverrides,
    check_single_graph,
    single_graph,
    write_single_graph,
)
from kiloword.runtime.bundle import Bundle  # noqa: E402
from kiloword.runtime.errors import ConfigError, ParityError  # noqa: E402
from kiloword.runtime.generation import generate  # noqa: E402
from kiloword.runtime.manifest import GenerationSettings  # noqa: E402
from kiloword.runtime.sessions import load_sessions, session_options  # noqa: E402
from tests.bundles import IMAGE_SIZE, Kind, make_tiny_bundle  # noqa: E402
from tests.checkpoints import TinyExport  # noqa: E402

PHOTOS = 6
SEARCHES: tuple[dict[str, Any], ...] = (
    {"num_beams": 1},
    {"num_beams": 1, "no_repeat_ngram_size": 3},
    {"num_beams": 3, "length_penalty": 0.5},
    {"num_beams": 4, "no_repeat_ngram_size": 2, "length_penalty": 2.0},
    {"num_beams": 2, "no_repeat_ngram_size": 1},
    {"num_beams": 3, "max_new_tokens": 1},
    {"num_beams": 1, "min_new_tokens": 5},
    {"num_beams": 3, "min_new_tokens": 5, "length_penalty": 0.3},
    {"num_beams": 3, "early_stopping": True},
    {"num_beams": 1, "early_stopping": "never"},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": -0.5},
)
FORCED: tuple[dict[str, Any], ...] = (
    {"forced_first_token_id": 9},
    {"forced_last_token_id": 2},
    {"forced_first_token_id": 2},
    {"forced_first_token_id": 9, "forced_last_token_id": 7, "suppressed_token_ids": (9, 5)},
)


def pixels(seed: int = 0, count: int = PHOTOS) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


def run(path: Path, batch: Any) -> tuple[list[list[int]], list[float]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids, scores = session.run(["token_ids", "scores"], {"pixels": batch})
    return ids.tolist(), scores.tolist()


@pytest.mark.parametrize("prompt", [(1,), (1, 5, 6)], ids=["bos", "prompt"])
@pytest.mark.parametrize("kind", ["transformer", "recurrent", "image_prefix"])
@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_the_same_tokens_and_scores_as_in_python(
    tmp_path: Path, kind: Kind, prompt: tuple[int, ...], search: dict[str, Any]
) -> None:
    """The recurrent decoder reads a prompt token by token, the others at once."""
    bundle = make_tiny_bundle(tmp_path / "bundle", kind=kind, prompt_token_ids=prompt)
    assert_like_python(bundle, replace(bundle.manifest.generation, **search), tmp_path / "one.onnx")


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("forced", FORCED, ids=str)
def test_forced_tokens(tmp_path: Path, forced: dict[str, Any], num_beams: int) -> None:
    """What some checkpoints write first and last; a caption of one token is both."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    manifest = replace(bundle.manifest, tokens=replace(bundle.manifest.tokens, **forced))
    for length in (1, 2, 6):
        settings = replace(manifest.generation, num_beams=num_beams, max_new_tokens=length)
        assert_like_python(replace(bundle, manifest=manifest), settings, tmp_path / "one.onnx")


def assert_like_python(bundle: Bundle, settings: GenerationSettings, path: Path) -> None:
    """Expected: `runtime.generation`, photo by photo; found: all photos in one batch and one run."""
    onnx.save(single_graph(bundle, settings), path)
    photos = pixels()
    ids, scores = run(path, photos)
    sessions = load_sessions(bundle, "cpu", 1)
    for place in range(PHOTOS):
        encoded = sessions.encoder.encode(photos[place : place + 1])
        (wanted,) = generate(sessions.decoder, encoded, bundle.manifest.tokens, settings)
        length = len(wanted.token_ids)
        assert tuple(ids[place][:length]) == wanted.token_ids
        assert set(ids[place][length:]) <= {bundle.manifest.tokens.pad_token_id}
        assert scores[place] == pytest.approx(wanted.score, rel=1e-5)


def test_the_material_is_worth_comparing(tmp_path: Path) -> None:
    """Captions differ, end at different lengths, and beams find others than greedy search."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    found = []
    for beams in (1, 4):
        settings = SearchOverrides(num_beams=beams).settings(bundle)
        onnx.save(single_graph(bundle, settings), tmp_path / f"{beams}.onnx")
        found.append(run(tmp_path / f"{beams}.onnx", pixels())[0])
    assert len({tuple(ids) for ids in found[0]}) > PHOTOS / 2
    assert len({ids.index(2) if 2 in ids else len(ids) for ids in found[0]}) > 1
    assert found[0] != found[1]


def test_what_is_written_is_all_that_a_caller_needs(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    made = write_single_graph(bundle, tmp_path / "one", pixels(count=2), SearchOverrides(num_beams=2))
    assert sorted(path.name for path in made.iterdir()) == [FACTS_FILE, GRAPH_FILE, "tokenizer.json"]
    facts = json.loads((made / FACTS_FILE).read_text(encoding="utf-8"))
    assert (facts["image"]["height"], facts["image"]["resample"]) == (IMAGE_SIZE, "bicubic")
    assert facts["generation"]["num_beams"] == 2
    assert (facts["eos_token_id"], facts["pad_token_id"], facts["compared_photos"]) == (2, 0, 2)
    model = onnx.load(made / GRAPH_FILE)
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.input] == ["pixels"]
    assert [item.name for item in model.graph.output] == ["token_ids", "scores"]


def test_weights_are_stored_once(tmp_path: Path) -> None:
    """The loop's body sees those of the graph around it."""
    bundle = make_tiny_bundle(tmp_path / "bundle", kind="recurrent", prompt_token_ids=(1, 5, 6, 7))
    model = single_graph(bundle, bundle.manifest.generation)
    parts = bundle.encoder_path.stat().st_size + bundle.decoder_path.stat().st_size
    weights = sum(len(item.raw_data) for item in model.graph.initializer)
    assert 0.3 * parts < weights < parts
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    (body,) = (item.g for item in loop.attribute if item.name == "body")
    assert len(body.initializer) == 0


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    """Every word was banned: no caption, and a score of minus infinity, as in Python."""
    bundle = make_tiny_bundle(tmp_path / "bundle", prompt_token_ids=(1,))
    tokens = bundle.manifest.tokens
    everything = tuple(one for one in range(tokens.vocab_size) if one != tokens.eos_token_id)
    banned = replace(
        bundle, manifest=replace(bundle.manifest, tokens=replace(tokens, suppressed_token_ids=everything))
    )
    settings = GenerationSettings(num_beams=2, max_new_tokens=5)
    onnx.save(single_graph(banned, settings), tmp_path / "one.onnx")
    assert check_single_graph(banned, tmp_path / "one.onnx", pixels(count=3), settings) == 3


def test_a_graph_that_writes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its search has another length penalty than the one that it is compared with."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    real = module.single_graph

    def other(bundle: Bundle, settings: GenerationSettings) -> Any:
        return real(bundle, GenerationSettings(settings.num_beams, settings.max_new_tokens, 0.1))

    monkeypatch.setattr(module, "single_graph", other)
    with pytest.raises(ParityError, match="the single graph"):
        write_single_graph(
            bundle, tmp_path / "one", pixels(), SearchOverrides(num_beams=3, length_penalty=2.0)
        )


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(ConfigError, match="num_beams"):
        write_single_graph(bundle, tmp_path / "one", pixels(), SearchOverrides(num_beams=100))
    assert not (tmp_path / "one").exists()


def test_the_bundle_in_the_package(tmp_path: Path, repository: Path) -> None:
    """int8, trained, with its own beams and banned repetitions, on photos."""
    from kiloword.runtime.images import load_image

    bundle = load_bundle()
    files = sorted((repository / "examples" / "photos").glob("*.jpg"))[:3]
    photos = np.stack([load_image(file, bundle.manifest.image) for file in files])
    assert write_single_graph(bundle, tmp_path / "one", photos).is_dir()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_encoder_runs_as_the_same_nodes(tiny_export: TinyExport, tmp_path: Path, precision: str) -> None:
    """Joined otherwise they round otherwise: the single graph of a deep int8 model gave other scores."""
    bundle = load_bundle(getattr(tiny_export, precision))
    path = tmp_path / "captioner.onnx"
    onnx.save(single_graph(bundle, bundle.manifest.generation), path)
    apart, together = (operators_that_run(file, tmp_path) for file in (bundle.encoder_path, path))
    assert apart["SkipLayerNormalization"] > 0  # what needs the axes of the tensors
    assert {name: together[name] for name in COMPUTING} == {name: apart[name] for name in COMPUTING}


COMPUTING = ("Attention", "Gelu", "LayerNormalization", "MatMul", "QuantizeLinear", "SkipLayerNormalization")


def operators_that_run(path: Path, scratch: Path) -> Counter[str]:
    """How often each operator stands in a graph as onnxruntime runs it, loops left out."""
    options = session_options(threads=1)
    options.log_severity_level = 4
    options.optimized_model_filepath = str(scratch / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
