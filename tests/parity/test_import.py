"""Imported bundles against transformers: pixels, token ids, scores and text, for checkpoints from a config.

Expected values are those of transformers' own classes, loaded again from the checkpoint's files; nothing of
`kiloword.export.importing` is asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.export.importing.bundle import Options, import_bundle  # noqa: E402
from kiloword.export.single_graph import single_graph  # noqa: E402
from kiloword.runtime.errors import ParityError  # noqa: E402
from kiloword.runtime.generation import generate  # noqa: E402
from kiloword.runtime.images import load_image  # noqa: E402
from kiloword.runtime.sessions import load_sessions  # noqa: E402
from tests import foreign  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    # What transformers and torch say about themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

PICTURES = 32
BATCH = 8
TOLERANCE = 1e-4


def deit_cut() -> Any:
    """DeiT's processor: stretched first, then cut from the middle, by another filter than the default."""
    size, crop = {"height": 37, "width": 37}, {"height": foreign.SIZE, "width": foreign.SIZE}
    return transformers.DeiTImageProcessor(size=size, crop_size=crop, resample=3)


def odd_numbers(path: Path) -> Path:
    """No width is a multiple of 8, no number of heads is even, no picture and no patch is a square."""
    processor = transformers.BlipImageProcessor(size={"height": 24, "width": 40})
    return foreign.make_vision_encoder_decoder(
        path,
        lambda: foreign.vit_of((24, 40), (8, 4), hidden_size=27, num_attention_heads=3),
        lambda: foreign.gpt2(n_embd=35, n_head=5, n_inner=51, tie_word_embeddings=False),
        processor=processor,
        no_repeat_ngram_size=2,
    )


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "vit-gpt2": lambda path: foreign.make_vision_encoder_decoder(path, foreign.vit, foreign.gpt2),
    "deit-bert": lambda path: foreign.make_vision_encoder_decoder(
        path,
        foreign.deit,
        foreign.bert,
        processor=deit_cut(),
        num_beams=2,
        no_repeat_ngram_size=2,
        length_penalty=2.0,
    ),
    "beit-roberta": lambda path: foreign.make_vision_encoder_decoder(
        path, foreign.beit, lambda: foreign.roberta(width=24), num_beams=3, early_stopping=True
    ),
    "swin-gpt2": lambda path: foreign.make_vision_encoder_decoder(
        path, foreign.swin, lambda: foreign.gpt2(scale_attn_by_inverse_layer_idx=True)
    ),
    "odd numbers": odd_numbers,
    "blip": lambda path: foreign.make_blip(path),
    "git": lambda path: foreign.make_git(path),
    "florence2": lambda path: foreign.make_florence2(path, max_length=16),
}


@dataclass(frozen=True)
class Imported:
    """A checkpoint, its bundle, and transformers' own model of it."""

    checkpoint: Path
    bundle: Path
    model: Any
    prompt: Any
    """Keyword arguments of ``generate`` besides the pixels."""


@pytest.fixture(scope="module", params=FAMILIES)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp(request.param)
    return bring(FAMILIES[request.param](folder / "checkpoint"), folder / "bundles")


def bring(checkpoint: Path, output: Path) -> Imported:
    """Imports a checkpoint, and loads it as its users do."""
    (bundle,) = import_bundle(str(checkpoint), output, Options(pictures=2))
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    kind = getattr(transformers, config.architectures[0])
    model, prompt = kind.from_pretrained(checkpoint).eval(), {}
    if "Florence2" in config.architectures[0]:
        processor = transformers.AutoProcessor.from_pretrained(checkpoint, backend="pil")
        black = Image.new("RGB", (foreign.SIZE, foreign.SIZE))
        prompt = {"input_ids": processor(text="<CAPTION>", images=black, return_tensors="pt").input_ids}
    elif "Git" in config.architectures[0]:
        prompt = {"input_ids": torch.tensor([[foreign.BOS]])}
    return Imported(checkpoint, bundle, model, prompt)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Noise of several grains, each picture of its own size."""
    random = np.random.default_rng(7)
    found = []
    for _ in range(PICTURES):
        small = random.integers(0, 256, (*random.integers(1, 9, 2), 3), dtype=np.uint8)
        size = tuple(int(edge) for edge in random.integers(20, 90, 2))
        found.append(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return found


@pytest.fixture
def captioner(imported: Imported) -> Iterator[Captioner]:
    with Captioner.load(imported.bundle, provider="cpu", threads=1) as loaded:
        yield loaded


def processor_of(checkpoint: Path) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(checkpoint, backend="pil")


def written_by_transformers(
    imported: Imported, pictures: list[Image.Image], prompt_length: int, **settings: Any
) -> list[tuple[tuple[int, ...], float | list[float]]]:
    """Token ids up to the end of sequence, with the score of a beam or the log-probability of each token."""
    processor, found = processor_of(imported.checkpoint), []
    eos = foreign.EOS
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        values = processor(images=batch, return_tensors="pt").pixel_values
        prompt = {name: ids.expand(len(batch), -1) for name, ids in imported.prompt.items()}
        with torch.inference_mode():
            output = imported.model.generate(
                pixel_values=values,
                **prompt,
                **settings,
                return_dict_in_generate=True,
                output_scores=True,
                output_logits=True,
            )
        for row, ids in enumerate(output.sequences[:, prompt_length:].tolist()):
            ids = tuple(ids[: ids.index(eos) + 1] if eos in ids else ids)
            if settings.get("num_beams", 1) > 1:
                found.append((ids, float(output.sequences_scores[row])))
            else:
                steps = [logits[row].log_softmax(0) for logits in output.logits]
                found.append((ids, [float(step[token]) for step, token in zip(steps, ids, strict=False)]))
    return found


def test_pixels_are_those_of_the_processor(imported: Imported, pictures: list[Image.Image]) -> None:
    """The checkpoint's processor, told to leave bytes as bytes."""
    spec = load_bundle(imported.bundle).manifest.image
    processor = processor_of(imported.checkpoint)
    for picture in pictures:
        raw = processor(images=picture, do_rescale=False, do_normalize=False, return_tensors="np")
        expected = np.asarray(raw["pixel_values"])[0].transpose(1, 2, 0)
        np.testing.assert_array_equal(load_image(picture, spec), expected)


def test_greedy(imported: Imported, captioner: Captioner, pictures: list[Image.Image]) -> None:
    """Ids, log-probabilities and text; captions that were all alike would prove nothing."""
    prompt = len(captioner.bundle.manifest.tokens.prompt_token_ids)
    expected = written_by_transformers(imported, pictures, prompt, num_beams=1)
    found = list(captioner.caption_many(pictures, num_beams=1))
    assert [caption.token_ids for caption in found] == [ids for ids, _ in expected]
    for caption, (_, logprobs) in zip(found, expected, strict=True):
        forced = [place for place, value in enumerate(caption.token_logprobs) if value == 0.0]
        wanted = [0.0 if place in forced else value for place, value in enumerate(logprobs)]  # type: ignore[arg-type]
        np.testing.assert_allclose(caption.token_logprobs, wanted, atol=TOLERANCE)
    tokenizer = transformers.AutoTokenizer.from_pretrained(imported.checkpoint)
    texts = [tokenizer.decode(list(ids), skip_special_tokens=True).strip() for ids, _ in expected]
    assert [caption.text for caption in found] == texts
    assert len(set(texts)) > 4


def test_beams(imported: Imported, captioner: Captioner, pictures: list[Image.Image]) -> None:
    """Ids and scores of four beams, in batches, with the checkpoint's own settings."""
    manifest = captioner.bundle.manifest
    prompt = len(manifest.tokens.prompt_token_ids)
    expected = written_by_transformers(imported, pictures, prompt, num_beams=4)
    found = list(captioner.caption_many(pictures, num_beams=4))
    assert [caption.token_ids for caption in found] == [ids for ids, _ in expected]
    power = manifest.generation.length_penalty
    scores = [sum(one.token_logprobs) / len(one.token_logprobs) ** power for one in found]
    np.testing.assert_allclose(scores, [score for _, score in expected], atol=TOLERANCE)


SETTINGS: dict[str, dict[str, Any]] = {
    "early": {"early_stopping": True},
    "never": {"early_stopping": "never", "length_penalty": 1.5},
    "never, short": {"early_stopping": "never", "length_penalty": -0.5},
    "long": {"min_new_tokens": 6, "length_penalty": 0.3},
    "trigrams": {"no_repeat_ngram_size": 3},
    "single": {"no_repeat_ngram_size": 1, "max_new_tokens": 10},
    "forced": {"forced_bos_token_id": 9, "forced_eos_token_id": foreign.EOS},
    "suppressed": {"suppress_tokens": [5, 6, 7, 8, 9, 10, 11]},
}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("settings")
    return bring(FAMILIES["vit-gpt2"](folder / "checkpoint"), folder / "bundles")


@pytest.mark.parametrize("num_beams", [1, 2, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings(
    one: Imported, pictures: list[Image.Image], tmp_path: Path, name: str, num_beams: int
) -> None:
    """The search with each setting that a checkpoint may have, in Python and in one graph, against
    transformers' own.
    """
    given = {"max_new_tokens": 12, **SETTINGS[name]}
    bundle = load_bundle(one.bundle)
    manifest, sessions = bundle.manifest, load_sessions(bundle, "cpu", 1)
    ours = {"forced_bos_token_id": "forced_first_token_id", "forced_eos_token_id": "forced_last_token_id"}
    tokens = {ours[key]: value for key, value in given.items() if key in ours}
    tokens["suppressed_token_ids"] = tuple(given.get("suppress_tokens", ()))
    search = {key: value for key, value in given.items() if key not in {*ours, "suppress_tokens"}}
    pixels = np.stack([load_image(picture, manifest.image) for picture in pictures])
    settings = replace(manifest.generation, num_beams=num_beams, **search)
    encoded = sessions.encoder.encode(pixels)
    found = generate(sessions.decoder, encoded, replace(manifest.tokens, **tokens), settings)
    expected = written_by_transformers(one, pictures, 1, num_beams=num_beams, **given)
    assert [result.token_ids for result in found] == [ids for ids, _ in expected]
    single = replace(bundle, manifest=replace(manifest, tokens=replace(manifest.tokens, **tokens)))
    onnx.save(single_graph(single, settings), tmp_path / "one.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    ids, single_scores = session.run(["token_ids", "scores"], {"pixels": pixels})
    for row, (wanted, _) in zip(ids.tolist(), expected, strict=True):
        assert row == [*wanted, *[manifest.tokens.pad_token_id] * (len(row) - len(wanted))]
    if num_beams > 1:
        scores = [score for _, score in expected]
        np.testing.assert_allclose([result.score for result in found], scores, atol=TOLERANCE)
        np.testing.assert_allclose(single_scores, scores, atol=TOLERANCE)


def test_a_mistake_is_found_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An importer that is wrong about GPT-2: both graphs equal their own modules, but not transformers."""
    from kiloword.export.importing import gpt2

    monkeypatch.setattr(gpt2, "_scaled", lambda query, attention: gpt2.linear(query.weight * 1.1, query.bias))
    checkpoint = FAMILIES["vit-gpt2"](tmp_path / "checkpoint")
    with pytest.raises(ParityError, match="than transformers"):
        import_bundle(str(checkpoint), tmp_path / "bundles", Options(pictures=4))
    assert list((tmp_path / "bundles").iterdir()) == []
