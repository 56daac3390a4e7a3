"""Averaged checkpoints: the arithmetic mean, and only of what has one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from kiloword.cli import main  # noqa: E402
from kiloword.runtime.errors import ConfigError  # noqa: E402
from kiloword.train.checkpoint import load_checkpoint, save_model  # noqa: E402
from kiloword.train.models.transformer import TransformerConfig  # noqa: E402
from kiloword.train.recipe import Recipe  # noqa: E402
from kiloword.train.soup import average_checkpoints  # noqa: E402
from kiloword.train.tokenizers import train_word_tokenizer  # noqa: E402
from tests.checkpoints import RECIPE, WORDS, tiny_model, tiny_tokenizer  # noqa: E402


def written(directory: Path, seed: int, recipe: Recipe = RECIPE) -> Path:
    facts = {"passes": 2, "validation_cider": {"mean": 10.0 + seed}}
    model = tiny_model(recipe, seed)
    save_model(directory, model.state_dict(), tiny_tokenizer(), replace(recipe, seed=seed), facts)
    return directory


def test_the_mean_of_three(tmp_path: Path) -> None:
    """Every tensor, held against torch's own mean; what was measured of one is not said of the mean."""
    directories = [written(tmp_path / str(seed), seed) for seed in (1, 2, 3)]
    done = CliRunner().invoke(main, ["average", *map(str, directories), "-o", str(tmp_path / "mean")])
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "mean"))
    mean = load_checkpoint(tmp_path / "mean")
    states = [load_file(directory / "model.safetensors") for directory in directories]
    for name, value in mean.model.state_dict().items():
        torch.testing.assert_close(value, sum(state[name] for state in states) / 3, rtol=1e-6, atol=1e-7)
    assert "validation_cider" not in mean.training
    assert mean.training["passes"] == 2
    assert [one["seed"] for one in mean.training["averaged"]] == [1, 2, 3]
    assert len({one["sha256"] for one in mean.training["averaged"]}) == 3


def test_one_has_no_mean(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 checkpoints or more, found 1"):
        average_checkpoints([written(tmp_path / "a", 1)], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "a", 1)
    deeper = replace(RECIPE, decoder=replace(RECIPE.decoder, depth=3))
    assert isinstance(deeper.decoder, TransformerConfig)
    with pytest.raises(ConfigError, match=r"b: decoder\..*expected shape none, found"):
        average_checkpoints([first, written(tmp_path / "b", 2, deeper)], tmp_path / "mean")
    other = train_word_tokenizer([word[::-1] for word in WORDS], min_count=1, vocab_size=1000)
    save_model(tmp_path / "c", tiny_model().state_dict(), other, RECIPE, {})
    with pytest.raises(ConfigError, match="c: its token ids mean other words"):
        average_checkpoints([first, tmp_path / "c"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
