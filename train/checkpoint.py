"""Checkpoints: a directory of safetensors and JSON, written whole or not at all. No pickle anywhere.

A *model* directory (``model.safetensors``, ``checkpoint.json``, ``tokenizer.json``) is what export reads.
A *resume* directory holds the plain and the averaged weights and the optimizer, and lets a killed run go on
exactly as if it had not been killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from kiloword.runtime.errors import ConfigError, KilowordError
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.classifier import Classifier
from kiloword.train.models.decoder import Decoder
from kiloword.train.models.joint import JointSpace
from kiloword.train.models.positions import interpolate_positions
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import recipe_from_table

FORMAT_VERSION = 1
MODEL_FILE, FACTS_FILE, TOKENIZER_FILE = "model.safetensors", "checkpoint.json", "tokenizer.json"
_HINT = "kiloword train RECIPE.toml, or name a directory that holds checkpoint.json"


class CheckpointError(KilowordError):
    """A directory that should be a checkpoint is not one, or is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and all that is known of it."""

    model: CaptionModel
    """In evaluation mode, on the CPU, float32."""
    tokenizer: Tokenizer
    recipe: Recipe
    training: Mapping[str, Any]
    """What the run knew when this was written: passes, validation scores, data, versions."""
    digest: str
    """sha256 of the weights' file."""


def build_model(recipe: Recipe, vocab_size: int) -> CaptionModel:
    """A captioner with fresh weights, as the recipe describes it."""
    model = CaptionModel(recipe.encoder, recipe.decoder, vocab_size, recipe.concepts)
    if any(stage.contrastive for stage in recipe.stages):
        model.joint = JointSpace(model.encoder.output.channels, model.decoder.output_weight.shape[1])
    return model


def build_decoder(recipe: Recipe, vocab_size: int) -> Decoder:
    """The decoder of such a captioner alone."""
    return recipe.decoder.build(vocab_size, recipe.encoder.build().output)


def load_encoder_weights(model: CaptionModel | Classifier, path: Path) -> None:
    """Starts the encoder from published weights; what it does not need, such as a classifier, is left out.

    Raises:
        ConfigError: the file is no safetensors file, or its tensors are not those of this encoder.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError([f"encoder.weights: not a safetensors file: {error}"], path=path) from error
    weights = model.encoder.adapted(weights)
    wanted = model.encoder.state_dict()
    fresh = {name for name in wanted if model.encoder.may_start_fresh(name)}
    problems = [f"lacks {name}" for name in wanted.keys() - weights.keys() - fresh]
    problems += [f"has {name}, which this encoder does not" for name in weights.keys() - wanted.keys()]
    problems += [
        f"{name}: expected shape {tuple(wanted[name].shape)}, found {tuple(weights[name].shape)}"
        for name in wanted.keys() & weights.keys()
        if wanted[name].shape != weights[name].shape
    ]
    if problems:
        raise ConfigError(
            sorted(problems), path=path, hint="a recipe whose [encoder] has the sizes of these weights"
        )
    model.encoder.load_state_dict(weights, strict=False)


def load_class_head(model: CaptionModel, path: Path) -> None:
    """Gives the concepts of a model the classifier that published encoder weights bring along.

    Raises:
        ConfigError: there is none in the file, or it has other sizes.
    """
    classifier = model.taught_concepts().head
    head = classifier.state_dict()
    with safe_open(path, "pt") as file:
        given = set(file.keys())
        found = {name: file.get_tensor(f"head.{name}") for name in head if f"head.{name}" in given}
    problems = [
        f"concepts.source: expected head.{name} of shape {tuple(wanted.shape)}, found "
        + (f"{tuple(found[name].shape)}" if name in found else "none")
        for name, wanted in head.items()
        if name not in found or found[name].shape != wanted.shape
    ]
    if problems:
        raise ConfigError(
            problems, path=path, hint="concepts.words as many as the classifier has, or captions"
        )
    classifier.load_state_dict(found)


def training_facts(directory: Path) -> Mapping[str, Any]:
    """What a run knew when it wrote a checkpoint. Raises ``CheckpointError`` where there is none."""
    return dict(_read_facts(directory).get("training", {}))


def start_from(
    model: nn.Module,
    directory: Path,
    tokenizer: Tokenizer | None,
    *,
    part: str = "",
    by_word: bool = False,
) -> None:
    """Starts a model from a checkpoint's weights; what the checkpoint lacks stays as it was made.

    A captioner may start from another captioner, from a classifier (its encoder) or from a language model
    (its decoder, without what looks at pictures). Learned positions are resampled for pictures of another
    size.

    Args:
        model: of any recipe whose parts have the checkpoint's sizes.
        directory: of the checkpoint, of any task.
        tokenizer: of the new run; token ids must mean the same words.
        part: only tensors whose names begin with this are taken.
        by_word: the vocabularies may differ; each word finds its own vectors.

    Raises:
        CheckpointError: the directory is no checkpoint.
        ConfigError: tokens or sizes are not the same, or nothing fits at all.
    """
    _read_facts(directory)
    own, given = model.state_dict(), _read_weights(directory)
    if "encoder.pos_embed" in own.keys() & given.keys():
        given["encoder.pos_embed"] = _resampled(given["encoder.pos_embed"], own["encoder.pos_embed"])
    reads = any(name.startswith("decoder.") for name in own.keys() & given.keys())
    if by_word and reads and tokenizer is not None:
        _rearrange_words(given, own, load_tokenizer(directory).get_vocab(), tokenizer.get_vocab())
    shared = {name for name in own.keys() & given.keys() if name.startswith(part)}
    problems = [
        f"{name}: expected shape {tuple(own[name].shape)}, found {tuple(given[name].shape)}"
        for name in sorted(shared)
        if own[name].shape != given[name].shape
    ]
    if reads and tokenizer and not by_word and tokenizer.get_vocab() != load_tokenizer(directory).get_vocab():
        problems.append(
            "the checkpoint has another vocabulary than this run "
            f'(a recipe keeps it with [tokenizer] checkpoint = "{directory}", or goes on with its own by '
            "start_words = true)"
        )
    if not shared:
        problems.append(f"the checkpoint shares no {part.replace('.', ' ')}tensor with this model")
    if problems:
        raise ConfigError(
            problems, path=directory, hint=f"another checkpoint in `{'start_encoder' if part else 'start'}`"
        )
    model.load_state_dict({name: given[name] for name in shared}, strict=False)


_BY_WORD = ("decoder.token_embedding.weight", "decoder.output.weight", "decoder.output_bias")


def _rearrange_words(
    given: dict[str, Tensor], own: Mapping[str, Tensor], before: Mapping[str, int], now: Mapping[str, int]
) -> None:
    """Gives the tensors with a row for each word the rows of another vocabulary.

    Args:
        given: a checkpoint's tensors; those are replaced.
        own: a fresh model's, whose rows new words keep.
        before: the checkpoint's vocabulary, numbers by word.
        now: that of the model.
    """
    known = sorted(before.keys() & now.keys())
    rows, their_rows = [now[word] for word in known], [before[word] for word in known]
    for name in _BY_WORD:
        if name in given and name in own and given[name].shape[1:] == own[name].shape[1:]:
            values = own[name].clone()
            if values.dim() == 1:
                values[:] = given[name].min()
            values[rows] = given[name][their_rows]
            given[name] = values


def _resampled(positions: Tensor, wanted: Tensor) -> Tensor:
    """Learned positions of a square grid for pictures of another size; as they are where that is not it."""
    tokens, given = wanted.shape[1], positions.shape[1]
    leading = 0 if math.isqrt(tokens) ** 2 == tokens else 1  # a class token
    side, other = math.isqrt(tokens - leading), math.isqrt(given - leading)
    if given == tokens or side * side + leading != tokens or other * other + leading != given:
        return positions
    return interpolate_positions(positions, side, side, leading)


def save_model(
    directory: Path,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    recipe: Recipe,
    training: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Writes a model directory in place of an older one; a reader sees either the old or the new, whole.

    Args:
        directory: where.
        weights: the model's state.
        tokenizer: trained on the captions; ``None`` for a model that reads and writes no sentences.
        recipe: all choices of the run.
        training: facts for the record, plain JSON values.
        half: store float16, half the bytes; the weights are float32 again when loaded.
    """
    partial = _fresh_sibling(directory)
    stored = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }
    save_file({name: tensor.contiguous().cpu() for name, tensor in stored.items()}, partial / MODEL_FILE)
    if tokenizer is not None:
        tokenizer.save(str(partial / TOKENIZER_FILE))
    facts = {"format_version": FORMAT_VERSION, "recipe": recipe.as_table(), "training": dict(training)}
    (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    replace_directory(partial, directory)


def load_checkpoint(directory: str | Path) -> Checkpoint:
    """Reads a model directory.

    Raises:
        CheckpointError: the directory is missing, is no checkpoint, or does not fit this release.
    """
    path = Path(directory)
    facts = _read_facts(path)
    _require_captioner(path, facts)
    tokenizer, weights = load_tokenizer(path), _read_weights(path)
    try:
        recipe, training = recipe_from_table(facts["recipe"]), dict(facts["training"])
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    model = build_model(recipe, tokenizer.get_vocab_size())
    _load_weights(model, weights, path)
    digest = hashlib.sha256((path / MODEL_FILE).read_bytes()).hexdigest()
    return Checkpoint(model.eval(), tokenizer, recipe, training, digest)


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    _require_file(directory, TOKENIZER_FILE)
    try:
        return Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # tokenizers raises plain Exception for a bad file
        if isinstance(error, MemoryError):
            raise
        raise _damaged(directory, error) from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint as float32."""
    try:
        stored = load_file(path / MODEL_FILE)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return {name: tensor.float() for name, tensor in stored.items()}


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"damaged checkpoint: {error}", path=path, hint="train again, or copy it again")


def _read_facts(path: Path) -> dict[str, Any]:
    for name in (FACTS_FILE, MODEL_FILE):
        _require_file(path, name)
    try:
        facts: dict[str, Any] = json.loads((path / FACTS_FILE).read_text(encoding="utf-8"))
        version = facts["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"not a checkpoint: {error}", path=path / FACTS_FILE, hint=_HINT) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            "checkpoint of another version",
            path=path,
            expected=f"format_version {FORMAT_VERSION}",
            found=repr(version),
            hint="pip install --upgrade kiloword",
        )
    return facts


def _require_file(path: Path, name: str) -> None:
    if not (path / name).is_file():
        expected = ", ".join((FACTS_FILE, MODEL_FILE, TOKENIZER_FILE))
        raise CheckpointError(
            "not a checkpoint", path=path, expected=expected, found=f"no {name}", hint=_HINT
        )


def _require_captioner(path: Path, facts: Mapping[str, Any]) -> None:
    """Other tasks' checkpoints are for starting from."""
    recipe = facts.get("recipe")
    task = recipe.get("task", "caption") if isinstance(recipe, Mapping) else "caption"
    if task != "caption":
        hint = f'a recipe for captions with start = "{path}"'
        raise CheckpointError(f"a checkpoint of task {task} writes no captions", path=path, hint=hint)


def _load_weights(model: CaptionModel, weights: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise CheckpointError(f"weights do not fit the recipe:{''.join(first)}", path=path) from error


def save_resume(directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Writes what a run needs to go on: tensors by name, and plain JSON values."""
    partial = _fresh_sibling(directory)
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial / "resume.safetensors"
    )
    (partial / "resume.json").write_text(json.dumps(state), encoding="utf-8")
    replace_directory(partial, directory)


def load_resume(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What ``save_resume`` wrote, or ``None`` when there is nothing.

    Raises:
        CheckpointError: it is damaged.
    """
    recover_directory(directory)
    if not (directory / "resume.json").is_file():
        return None
    try:
        state: dict[str, Any] = json.loads((directory / "resume.json").read_text(encoding="utf-8"))
        return load_file(directory / "resume.safetensors"), state
    except (OSError, ValueError, SafetensorError) as error:
        hint = "train anew in another folder"
        raise CheckpointError(f"cannot be resumed: {error}", path=directory, hint=hint) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors, in the order of its parameters."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value for index, item in state.items() for name, value in item.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what ``optimizer_tensors`` took."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            whole["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(whole)


def replace_directory(partial: Path, directory: Path) -> None:
    """Puts a finished directory in the place of an older one; ``recover_directory`` mends a kill midway."""
    older = directory.with_name(directory.name + ".old")
    shutil.rmtree(older, ignore_errors=True)
    if directory.exists():
        directory.rename(older)
    partial.rename(directory)
    shutil.rmtree(older, ignore_errors=True)


def recover_directory(directory: Path) -> None:
    """Brings the older directory back when a kill left none."""
    older = directory.with_name(directory.name + ".old")
    if not directory.exists() and older.exists():
        older.rename(directory)


def _fresh_sibling(directory: Path) -> Path:
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial
