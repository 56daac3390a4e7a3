"""Concepts: which words there are, what the model makes of them, and that runs and exports carry them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kiloword import Captioner
from kiloword.export.export import export_bundle
from kiloword.runtime.errors import ConfigError
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.concepts import (
    ConceptLessons,
    concept_loss,
    concept_words,
    concepts_in,
    draw_sentences,
    sentence_lessons,
)
from kiloword.train.journal import read_journal
from kiloword.train.loop import train
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.concepts import Concepts, ConceptsConfig
from kiloword.train.models.encoder import FeatureShape
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig
from kiloword.train.recipe_file import recipe_from_table
from kiloword.train.tokenizers import train_word_tokenizer
from kiloword.train.validation import TorchDecoder
from tests.shapes import make_shapes, tiny_recipe

CAPTIONS = [
    ["A dog runs on the grass.", "The brown Dog and the grass"],
    ["A dog sleeps.", "One dog is sleeping"],
    ["Two cats, one dog."],
]
TOKENIZER = train_word_tokenizer([text for photo in CAPTIONS for text in photo], min_count=1, vocab_size=50)


def concepts(source: str = "captions", words: int = 6, best: int = 2) -> Concepts:
    torch.manual_seed(0)
    config = ConceptsConfig(source, words, best)  # type: ignore[arg-type]
    return Concepts(config, FeatureShape(4, 2, 2, leading=1))


def head_of(module: Concepts) -> nn.Linear:
    assert isinstance(module.head, nn.Linear)
    return module.head


def test_words_are_counted_by_photo_without_those_that_nobody_sees() -> None:
    """By hand: dog in three photos, the others in one each, in the order of the alphabet."""
    expected = ("dog", "brown", "cats", "grass", "runs", "sleeping", "sleeps")
    assert concept_words(CAPTIONS, TOKENIZER, 50) == expected
    assert concept_words(CAPTIONS, TOKENIZER, 2) == expected[:2]


def test_concepts_of_texts_are_those_that_any_of_them_says() -> None:
    words = ("dog", "grass", "cats")
    assert concepts_in(CAPTIONS[0], words, TOKENIZER).tolist() == [0, 1]
    assert concepts_in(["nothing of it"], words, TOKENIZER).tolist() == []


def test_the_best_words_become_tokens_as_loud_as_they_are_sure() -> None:
    module = concepts()
    features = torch.randn(3, 5, 4)
    with torch.no_grad():
        head_of(module).weight.normal_()
    tokens = module(features)
    pooled = torch.cat([features.mean(1), features.max(1).values], 1)
    chances = torch.sigmoid(head_of(module)(pooled))
    for row in range(3):
        for place, word in enumerate(chances[row].argsort(descending=True)[:2]):
            expected = module.embedding.weight[word] * chances[row, word]
            assert torch.allclose(tokens[row, place], expected, atol=1e-6)


def test_what_the_decoder_does_with_a_word_teaches_the_head() -> None:
    module = concepts()
    module(torch.randn(2, 5, 4)).sum().backward()
    gradient = head_of(module).weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_padding_says_nothing() -> None:
    module = concepts()
    told = module.told(torch.tensor([[3, 0]]), torch.tensor([[True, False]]))
    assert torch.equal(told[0, 0], module.embedding.weight[3])
    assert (told[0, 1] == 0).all()


def test_the_decoder_reads_words_before_cells_and_places_stay_places() -> None:
    encoder = VitConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2)
    decoder = TransformerConfig(width=16, depth=1, heads=2, max_length=8)
    model = CaptionModel(encoder, decoder, 9, ConceptsConfig(words=6, best=3)).eval()
    assert model.decoder.image == FeatureShape(16, 2, 2, leading=1 + 3)
    context = model.context(torch.randn(2, 5, 16))
    assert [tuple(item.shape) for item in context] == [(2, 2, 8, 8)] * 2
    assert tuple(context[0].shape[1:]) == model.decoder.context_specs()[0].axes


def test_the_loss_is_the_cross_entropy_of_each_word() -> None:
    """An untaught head says 1 in 55 for each of 6 words; three of twelve are there."""
    loss = concept_loss(concepts(), torch.randn(2, 5, 4), [np.array([0, 5]), np.array([1])])
    there, not_there = -np.log(1 / (1 + np.exp(4))), -np.log(1 / (1 + np.exp(-4)))
    assert float(loss.detach()) == pytest.approx((3 * there + 9 * not_there) / 3, rel=1e-5)


def test_sentences_bring_their_own_words() -> None:
    words = ("dog", "grass", "cats")
    ids, said = sentence_lessons(["A dog on grass", "Nothing", "cats"], words, TOKENIZER, max_tokens=10)
    assert [item.tolist() for item in said] == [[0, 1], [2]]
    torch.manual_seed(0)
    tokens, drawn, known = draw_sentences(ConceptLessons(words, (), ids, said), 20, best=3, pad=0)
    for row in range(20):
        which = int(known[row].sum() == 1)
        assert set(drawn[row][known[row]].tolist()) == set(said[which].tolist())
        assert tokens[row][tokens[row] != 0].tolist() == ids[which].tolist()
    _, drawn, known = draw_sentences(ConceptLessons(words, (), ids, said), 20, best=1, pad=0)
    assert known.all()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concepts")
    make_shapes(folder / "shapes")
    lines = ["A red circle.", "There is a blue square on grey.", "A yellow triangle", "Nothing here"]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def table_of(root: Path, **concepts: Any) -> dict[str, Any]:
    table: dict[str, Any] = tiny_recipe(root)
    table["concepts"] = {"words": 10, "best": 3, **concepts}
    return table


def test_a_run_learns_concepts_exports_them_and_captions_as_torch_does(root: Path, tmp_path: Path) -> None:
    """Both stages, with sentences; the exported graphs write what torch writes."""
    table = table_of(root, sentences="text.txt")
    table["stages"] = [stage | {"concepts": 1.0, "sentences": 0.5} for stage in table["stages"]]
    best = train(recipe_from_table(table), tmp_path / "run")
    losses = [
        line["concepts"] for line in read_journal(tmp_path / "run" / "metrics.jsonl") if "concepts" in line
    ]
    assert losses[-1] < 0.5 * losses[0], "which shape and colour it is can be seen"
    loaded = load_checkpoint(best)
    assert "circle" in loaded.training["concepts"]
    assert loaded.training["sentences"] == 3
    (bundle,) = export_bundle(best, tmp_path / "bundles")
    assert "- Concepts: the decoder is told the " in (bundle / "CARD.md").read_text(encoding="utf-8")
    with Captioner.load(bundle, provider="cpu") as captioner:
        for photo in sorted((root / "shapes").glob("*.png"))[:3]:
            context = loaded.model.encode(torch.from_numpy(_pixels(photo))[None])
            assert captioner.caption(photo, num_beams=1).text == _greedy(loaded, context)


def _pixels(photo: Path) -> Any:
    from kiloword.runtime.images import load_image
    from kiloword.runtime.manifest import ImageSpec

    return load_image(photo, ImageSpec(height=32, width=32))


def _greedy(loaded: Any, context: Any) -> str:
    """The whole sentence is read again for each word; neither <pad>, <bos> nor <unk> is written."""
    written = [1]
    while len(written) <= 10 and (len(written) == 1 or written[-1] != 2):
        hidden = loaded.model.decoder.read(torch.tensor([written]), context).hidden
        logits = loaded.model.decoder.logits(hidden[0, -1])
        logits[[0, 1, 3]] = -torch.inf
        written.append(int(logits.argmax()))
    text: str = loaded.tokenizer.decode(written)
    return text


def test_validation_and_export_read_the_same_context(root: Path) -> None:
    model = CaptionModel(
        VitConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2),
        TransformerConfig(width=16, depth=1, heads=2, max_length=8),
        9,
        ConceptsConfig(words=6, best=3),
    ).eval()
    features = torch.randn(2, 5, 16)
    seen = TorchDecoder(model, features)._context
    assert all(torch.equal(one, other) for one, other in zip(seen, model.context(features), strict=True))


def test_a_run_that_goes_on_keeps_the_numbers_of_the_words(root: Path, tmp_path: Path) -> None:
    """Other captions would give another order; the checkpoint's counts."""
    table = table_of(root)
    table["stages"] = [table["stages"][0] | {"concepts": 1.0, "passes": 1}]
    best = train(recipe_from_table(table), tmp_path / "first")
    facts = json.loads((best / "checkpoint.json").read_text())
    facts["training"]["concepts"].reverse()
    (best / "checkpoint.json").write_text(json.dumps(facts))
    table |= {"start": str(best)}
    second = train(recipe_from_table(table), tmp_path / "second")
    assert load_checkpoint(second).training["concepts"] == facts["training"]["concepts"]


def test_classes_of_the_published_weights_are_tags(root: Path, tmp_path: Path) -> None:
    """The classifier comes with the encoder's file, and stays as it is whatever is trained."""
    encoder = VitConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2).build()
    head = {"head.weight": torch.randn(7, 32), "head.bias": torch.randn(7)}
    save_file({**encoder.state_dict(), **head}, root / "published.safetensors")
    table = table_of(root, source="classes", words=7, best=2)
    table["encoder"]["weights"] = "published.safetensors"
    table["stages"] = [stage | {"passes": 1} for stage in table["stages"]]
    best = train(recipe_from_table(table), tmp_path / "run")
    model = load_checkpoint(best).model
    assert model.concepts is not None
    assert torch.equal(model.concepts.head.state_dict()["weight"], head["head.weight"])
    features = torch.randn(2, 17, 32)
    expected = features[:, 0] @ head["head.weight"].t() + head["head.bias"]
    assert torch.allclose(model.concepts.scores(features), expected, atol=1e-5)
    assert export_bundle(best, tmp_path / "bundles")
    table["concepts"]["words"] = 8
    with pytest.raises(ConfigError, match=r"expected head.weight of shape \(8, 32\), found \(7, 32\)"):
        train(recipe_from_table(table), tmp_path / "other")


@pytest.mark.parametrize(
    ("concepts", "changes", "message"),
    [
        (None, {"stages.0.concepts": 1.0}, r"stages\[0\].concepts: expected \[concepts\]"),
        ({}, {}, "expected a stage with concepts = 1.0"),
        ({}, {"stages.0.concepts": -1.0}, "concepts: expected 0 or more"),
        ({"best": 11}, {"stages.0.concepts": 1.0}, "best: expected at most words, 10, found 11"),
        ({"words": 0}, {"stages.0.concepts": 1.0}, "words: expected 1 or more"),
        ({}, {"stages.0.concepts": 1.0, "stages.0.sentences": 1.0}, "a text file in concepts.sentences"),
        ({"source": "classes"}, {}, "expected encoder.weights"),
        ({"source": "classes"}, {"stages.0.concepts": 1.0}, "source 'captions'"),
    ],
)
def test_concepts_that_make_no_sense_are_refused(
    root: Path, concepts: dict[str, Any] | None, changes: dict[str, Any], message: str
) -> None:
    table = tiny_recipe(root)
    if concepts is not None:
        table["concepts"] = {"words": 10, "best": 3, **concepts}
    for key, value in changes.items():
        _, number, name = key.split(".")
        table["stages"][int(number)][name] = value
    with pytest.raises(ConfigError, match=message):
        recipe_from_table(table)


def test_only_a_transformer_reads_concepts(root: Path) -> None:
    table = table_of(root)
    table["stages"][0]["concepts"] = 1.0
    table["decoder"] = {"kind": "show_tell", "width": 16, "word_width": 8}
    with pytest.raises(ConfigError, match="expected a decoder of kind 'transformer'"):
        recipe_from_table(table)
