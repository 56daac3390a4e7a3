"""A decoder learns sentences from text alone, and a captioner starts from it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file

from kiloword.runtime.errors import ConfigError
from kiloword.train.batches import Share
from kiloword.train.captioning import CaptionTask
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import CheckpointError, load_checkpoint, load_tokenizer
from kiloword.train.journal import read_journal
from kiloword.train.language import LanguageTask
from kiloword.train.loop import train
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import recipe_from_table
from tests.shapes import COLOURS, SHAPES, make_shapes, tiny_recipe
from tests.unit.train.test_loop import StopAt

SENTENCES = [f"A {colour} {shape}, and a {shape}." for colour in COLOURS for shape in SHAPES]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language")
    make_shapes(folder / "shapes")
    (folder / "text.txt").write_text("\n".join([*SENTENCES, "", "  "]), encoding="utf-8")
    return folder


def language_table(root: Path) -> dict[str, Any]:
    table = tiny_recipe(root)
    del table["stages"][0]
    table["task"] = "language"
    table["data"]["train"] = [{"source": "text.txt"}, {"source": "shapes", "split": "train"}]
    table["data"]["validation"] = [{"source": "shapes", "split": "dev"}]
    table["stages"][0] |= {"passes": 15, "learning_rate": 5e-3}
    table["validation"] = {"every_passes": 5}
    return table


@pytest.fixture(scope="module")
def learned(root: Path) -> Path:
    """The folder of a run on text."""
    train(recipe_from_table(language_table(root)), root / "learned")
    return root / "learned"


def captioner(root: Path, start: Path) -> Recipe:
    table = tiny_recipe(root)
    table["start"] = str(start)
    table["tokenizer"]["checkpoint"] = str(start)
    return recipe_from_table(table)


def task_of(recipe: Recipe) -> CaptionTask:
    return CaptionTask(recipe, torch.device("cpu"), lambda *facts: None)


def test_the_loss_falls_and_perplexity_chooses_the_best(learned: Path) -> None:
    """Twelve lines of text, blank ones left out, and the 40 captions of the 20 training pictures."""
    journal = read_journal(learned / "metrics.jsonl")
    losses = [line["loss"] for line in journal if "loss" in line]
    perplexities = [line["perplexity"]["mean"] for line in journal if "perplexity" in line]
    facts = facts_of(learned)
    assert facts["sentences"] == 52
    assert losses[0] == pytest.approx(math.log(facts["vocabulary"]), rel=0.1)
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    assert facts["validation_perplexity"]["mean"] == min(perplexities)
    assert 1 < min(perplexities) < facts["vocabulary"] / 3


def facts_of(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "best" / "checkpoint.json").read_text())["training"]
    return facts


def test_perplexity_is_what_a_plain_pass_over_each_sentence_gives(root: Path) -> None:
    recipe = recipe_from_table(language_table(root))
    task = LanguageTask(recipe, torch.device("cpu"), lambda *facts: None)
    torch.manual_seed(4)
    model = task.build_model()
    task.prepare(model, recipe.stages[0], 0, Share())
    found = task.judge().scores["shapes"]
    ids, terms = TokenIds.of(task.tokenizer), []
    for sentence in task.validation[0].token_ids:
        tokens = torch.from_numpy(sentence)[None]
        logprobs = task.model.decoder.logits(task.model(tokens[:, :-1]))[0].log_softmax(-1)
        terms += [
            -logprobs[place, token].item() for place, token in enumerate(sentence[1:]) if token != ids.unk
        ]
    assert found == pytest.approx(math.exp(sum(terms) / len(terms)), rel=1e-4)


def test_nothing_that_looks_at_pictures_is_stored(learned: Path) -> None:
    names = load_file(learned / "best" / "model.safetensors").keys()
    assert all(name.startswith("decoder.") for name in names)
    assert not [name for name in names if "cross" in name]
    assert [name for name in names if "self_qkv" in name]


def test_a_captioner_starts_from_it(root: Path, learned: Path) -> None:
    """Shared tensors are those of the file; cross-attention is what a fresh model has with the same seed."""
    recipe = captioner(root, learned / "best")
    task = task_of(recipe)
    torch.manual_seed(recipe.seed)
    state = task.build_model().state_dict()
    given = load_file(learned / "best" / "model.safetensors")
    assert given.keys() <= state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items())
    plain = recipe_from_table({**recipe.as_table(), "start": None})
    torch.manual_seed(recipe.seed)
    fresh = task_of(plain).build_model().state_dict()
    rest = fresh.keys() - given.keys()
    assert [name for name in rest if "cross_key_value" in name]
    assert all(torch.equal(state[name], fresh[name]) for name in rest)


def test_it_trains_on_from_there(root: Path, learned: Path, tmp_path: Path) -> None:
    """With what it knows of sentences it starts far below a guess."""
    table = captioner(root, learned / "best").as_table()
    del table["stages"][1]
    table["stages"][0] |= {"passes": 1, "label_smoothing": 0.0}
    train(recipe_from_table(table), tmp_path / "run")
    journal = read_journal(tmp_path / "run" / "metrics.jsonl")
    first = next(line["loss"] for line in journal if "loss" in line)
    vocabulary = load_checkpoint(tmp_path / "run" / "best").tokenizer.get_vocab_size()
    assert first < 0.7 * math.log(vocabulary)


def test_a_captioner_takes_the_eyes_of_one_run_and_the_language_of_another(
    root: Path, learned: Path, tmp_path: Path
) -> None:
    """The captioner whose encoder is taken has another vocabulary; that does not matter."""
    eyes = tiny_recipe(root)
    del eyes["stages"][1]
    train(recipe_from_table(eyes), tmp_path / "eyes")
    recipe = captioner(root, learned / "best")
    both = replace(recipe, start_encoder=str(tmp_path / "eyes" / "best"))
    state = task_of(both).build_model().state_dict()
    seeing, writing = (load_file(run / "best" / "model.safetensors") for run in (tmp_path / "eyes", learned))
    assert all(torch.equal(state[name], seeing[name]) for name in seeing if name.startswith("encoder."))
    assert all(torch.equal(state[name], tensor) for name, tensor in writing.items())


def test_a_checkpoint_without_an_encoder_gives_none(root: Path, learned: Path) -> None:
    recipe = replace(captioner(root, learned / "best"), start_encoder=str(learned / "best"))
    with pytest.raises(ConfigError, match=r"shares no encoder tensor .*`start_encoder`"):
        task_of(recipe).build_model()


def test_only_captioners_take_another_encoder(root: Path, learned: Path) -> None:
    with pytest.raises(ConfigError, match=r"start_encoder: expected none for task language"):
        recipe_from_table({**language_table(root), "start_encoder": str(learned / "best")})


def test_another_vocabulary_is_refused_with_what_helps(root: Path, learned: Path, tmp_path: Path) -> None:
    table = captioner(root, learned / "best").as_table()
    table["tokenizer"]["checkpoint"] = None
    with pytest.raises(
        ConfigError, match=r"another vocabulary than this run \(.*\[tokenizer\] checkpoint = "
    ):
        train(recipe_from_table(table), tmp_path / "run")


def test_with_start_words_each_word_finds_its_own_vector(root: Path, learned: Path, tmp_path: Path) -> None:
    """What both vocabularies have is as it was learned; of the run's own words one is new."""
    shutil.copytree(root / "shapes", tmp_path / "shapes")
    named = tmp_path / "shapes" / "captions.jsonl"
    named.write_text(named.read_text(encoding="utf-8").replace("circle", "roundel"), encoding="utf-8")
    table = captioner(root, learned / "best").as_table()
    table["data"]["root"] = str(tmp_path)
    table["tokenizer"]["checkpoint"] = None
    table["start_words"] = True
    task = task_of(recipe_from_table(table))
    before, now = load_tokenizer(learned / "best").get_vocab(), task.tokenizer.get_vocab()
    assert before != now
    torch.manual_seed(1)
    state = task.build_model().state_dict()
    given = load_file(learned / "best" / "model.safetensors")
    for name in ("decoder.token_embedding.weight", "decoder.output_bias"):
        assert len(state[name]) == len(now)
        for word in before.keys() & now.keys():
            assert torch.equal(state[name][now[word]], given[name][before[word]])
    fresh = [number for word, number in now.items() if word not in before]
    assert fresh == [now["roundel"]]
    assert all(state["decoder.output_bias"][fresh] == given["decoder.output_bias"].min())
    rest = given.keys() - {"decoder.token_embedding.weight", "decoder.output_bias"}
    assert all(torch.equal(state[name], given[name]) for name in rest)


def test_start_words_without_a_start_are_refused(root: Path, learned: Path) -> None:
    table = captioner(root, learned / "best").as_table()
    with pytest.raises(ConfigError, match="start_words: expected a start"):
        recipe_from_table({**table, "start": None, "start_words": True})


def test_it_writes_no_captions(learned: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of task language writes no captions.*start = "):
        load_checkpoint(learned / "best")


def test_interrupted_and_resumed_equals_undisturbed(root: Path, learned: Path, tmp_path: Path) -> None:
    recipe = recipe_from_table(language_table(root))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=StopAt("end to end", 40))
    train(recipe, tmp_path / "run", resume=True)
    assert read_journal(tmp_path / "run" / "metrics.jsonl") == read_journal(learned / "metrics.jsonl")
    found, expected = (
        load_file(run / "resume" / "resume.safetensors") for run in (tmp_path / "run", learned)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("content", "source", "split", "message"),
    [
        (b"", "text.txt", None, "one sentence a line, found none"),
        (b"\xff\xfe\x00", "text.txt", None, "not a text file in UTF-8"),
        (b"a dog", "text.txt", "train", "a text file has no splits"),
        (b"a dog", "other.txt", None, "not a text file"),
    ],
)
def test_text_that_is_none(
    tmp_path: Path, content: bytes, source: str, split: str | None, message: str
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    table = language_table(tmp_path)
    table["data"] |= {"train": [{"source": source, "split": split}], "validation": [{"source": source}]}
    with pytest.raises(ConfigError, match=message):
        train(recipe_from_table(table), tmp_path / "run")


def test_what_text_has_not_is_refused_in_the_recipe(root: Path) -> None:
    table = language_table(root)
    table["stages"][0] |= {"frozen_blocks": 1, "samples": 2, "contrastive": 0.5}
    with pytest.raises(ConfigError) as caught:
        recipe_from_table(table)
    for key in ("frozen_blocks", "samples", "contrastive"):
        assert any(f"stages[0].{key}: expected 0 for task language" in item for item in caught.value.problems)
