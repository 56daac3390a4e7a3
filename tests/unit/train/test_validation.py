"""Validation writes what the runtime's search writes with the decoder in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.generation import generate
from kiloword.runtime.manifest import GenerationSettings, ImageSpec, TokenSpec
from kiloword.train.captions import TokenIds
from kiloword.train.datasets import CaptionRecord
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig
from kiloword.train.photos import Photos
from kiloword.train.tokenizers import train_word_tokenizer
from kiloword.train.validation import TorchDecoder, ValidationSet, validate, write_captions
from tests.shapes import make_shapes

IDS = TokenIds(pad=0, bos=1, eos=2, unk=3)
WORDS = ["red", "green", "blue", "circle", "square"]
LENGTH = 7


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    """Large random weights, so that captions differ, and ends of several lengths."""
    torch.manual_seed(8)
    decoder = TransformerConfig(width=16, depth=2, heads=2, max_length=LENGTH)
    made = CaptionModel(
        VitConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2), decoder, 9
    ).eval()
    for parameter in made.decoder.parameters():
        parameter.data.mul_(8 if parameter.dim() > 1 else 1)
    return made


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(12, 5, 16, generator=torch.Generator().manual_seed(6))


def plain_greedy(model: CaptionModel, features: Tensor) -> list[int]:
    """One picture, no cache: the whole caption through the decoder for each word."""
    written = [IDS.bos]
    while len(written) <= LENGTH and written[-1] != IDS.eos:
        hidden, _ = model.decoder(torch.tensor([written]), model.decoder.image_context(features[None]))
        logits = model.decoder.logits(hidden[0, -1])
        allowed = [token for token in range(9) if token not in (IDS.pad, IDS.bos, IDS.unk)]
        written.append(max(allowed, key=lambda token: logits[token].item()))
    return written[1:]


@torch.inference_mode()
def test_captions_equal_an_uncached_search_of_each_picture(model: CaptionModel, features: Tensor) -> None:
    """Pictures that are finished leave the batch, which must not mix up the context of the others."""
    expected = [plain_greedy(model, picture) for picture in features]
    assert len({len(caption) for caption in expected}) > 2
    assert write_captions(model, features, IDS, LENGTH) == expected


@torch.inference_mode()
def test_beams_work_with_the_decoder_in_torch(model: CaptionModel, features: Tensor) -> None:
    """A search with rows that are reordered at each step; expected: each picture searched alone."""
    tokens = TokenSpec(9, IDS.bos, IDS.eos, IDS.pad, (IDS.bos,), (IDS.pad, IDS.bos, IDS.unk))
    settings = GenerationSettings(num_beams=3, max_new_tokens=LENGTH)

    def search(chosen: Tensor) -> list[tuple[int, ...]]:
        decoder = TorchDecoder(model, chosen)
        return [found.token_ids for found in generate(decoder, decoder.pictures(), tokens, settings)]

    assert search(features) == [search(picture[None])[0] for picture in features]


@torch.inference_mode()
def test_more_tokens_than_positions_are_refused(model: CaptionModel, features: Tensor) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens: expected 7 or fewer"):
        write_captions(model, features, IDS, LENGTH + 1)


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    files = sorted(make_shapes(tmp_path / "shapes", count=6).glob("*.png"))
    return Photos.load(files, ImageSpec(height=32, width=32), tmp_path / "cache", lambda *facts: None)


def test_perfect_captions_score_high_and_wrong_ones_nothing(
    model: CaptionModel, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions that repeat the reference score 1000 (CIDEr-D is ten times a cosine, times 100)."""
    tokenizer = train_word_tokenizer([" ".join(WORDS)], min_count=1, vocab_size=99)
    texts = [" ".join(np.roll(WORDS, turn)[:4]) for turn in range(6)]
    texts[5] = "square circle red green"
    records = [CaptionRecord(Path(f"{i}"), (text,), f"{i}") for i, text in enumerate(texts)]
    sets = [ValidationSet("mine", records, photos), ValidationSet("wrong", records, photos)]
    perfect = [tokenizer.encode(text).ids[1:] for text in texts]
    answers = iter([perfect, [[2]] * 6])
    monkeypatch.setattr("kiloword.train.validation.write_captions", lambda *facts: next(answers))
    scores = validate(model.train(), sets, tokenizer, IDS, LENGTH)
    assert not model.training
    assert scores == {"mine": pytest.approx(1000), "wrong": 0.0, "mean": pytest.approx(500)}
