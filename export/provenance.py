"""Where a bundle comes from: data, recipe, checkpoint, code and versions, but not whose machine it was."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, overload

from kiloword.train.checkpoint import Checkpoint
from kiloword.train.recipe import DataRecipe, DataSet, Recipe

_CHECKOUT = Path(__file__).resolve().parent.parent
_PACKAGES = ("kiloword", "torch", "onnx", "onnxruntime", "tokenizers")


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `bundle.json` says about a checkpoint's origin, as plain JSON values."""
    recipe = without_places(checkpoint.recipe)
    return {
        "recipe": recipe.as_table(),
        "training": dict(checkpoint.training),
        "checkpoint_sha256": checkpoint.digest,
        "git_commit": git_commit(_CHECKOUT),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "licence": recipe.data.licence,
    }


def without_places(recipe: Recipe) -> Recipe:
    """A recipe that no longer tells where things lay: bundles are published, home folders are not.

    ``data.root`` and ``data.cache`` are those of a recipe that does not name them. Absolute paths, and those
    that leave the root, become their last part.
    """
    default = DataRecipe((), ())
    data = replace(
        recipe.data,
        train=tuple(_data_set_without_places(item) for item in recipe.data.train),
        validation=tuple(_data_set_without_places(item) for item in recipe.data.validation),
        root=default.root,
        cache=default.cache,
    )
    concepts = recipe.concepts
    return replace(
        recipe,
        data=data,
        encoder=replace(recipe.encoder, weights=_inside(recipe.encoder.weights)),
        tokenizer=replace(recipe.tokenizer, checkpoint=_inside(recipe.tokenizer.checkpoint)),
        concepts=None if concepts is None else replace(concepts, sentences=_inside(concepts.sentences)),
        start=_inside(recipe.start),
        start_encoder=_inside(recipe.start_encoder),
    )


def _data_set_without_places(item: DataSet) -> DataSet:
    return replace(item, source=_inside(item.source), images=_inside(item.images))


@overload
def _inside(path: str) -> str: ...
@overload
def _inside(path: None) -> None: ...
def _inside(path: str | None) -> str | None:
    """The path, if it is relative and stays below where it starts; else its last part.

    >>> _inside("coco/captions_train.json"), _inside("/home/anna/coco.json")
    ('coco/captions_train.json', 'coco.json')
    """
    if path is None:
        return None
    # A checkpoint may be exported on another system than it was trained on, so both kinds are looked for.
    windows = PureWindowsPath(path)
    if PurePosixPath(path).is_absolute() or windows.anchor or ".." in windows.parts or path.startswith("~"):
        return windows.name
    return path


def git_commit(checkout: Path) -> str | None:
    """The commit of the code in a checkout; ``None`` where there is no checkout, git or commit."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    command = [git, "-C", str(checkout), "rev-parse", "--verify", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None
