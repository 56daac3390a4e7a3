"""Where a checkpoint is, and what of it may be read: JSON and safetensors, and pickles only when allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kiloword.runtime.errors import ExportError

CONFIG_FILE = "config.json"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
# Everything that an import reads. Code (*.py) is never fetched.
_FETCHED = ("*.json", "*.txt", "*.model", "README.md")
_SETTINGS = (
    CONFIG_FILE,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_LONGEST_REASON = 200
_SAFE = "*.safetensors"
_PICKLES = "pytorch_model*.bin"


def find_checkpoint(given: str, *, allow_pickle: bool) -> Path:
    """The directory of a checkpoint; one on the hub is fetched.

    Args:
        given: a directory, or a hub id such as ``Salesforce/blip-image-captioning-base``.
        allow_pickle: whether weights may be a pickle.

    Raises:
        ExportError: there is none, the hub cannot be reached, or the weights are a pickle.
    """
    directory = Path(given)
    if not directory.is_dir():
        if directory.exists() or not _HUB_ID.fullmatch(given):
            raise ExportError(
                "is no checkpoint",
                path=given,
                expected="a directory with config.json, or a hub id such as NAME/MODEL",
                found="a file" if directory.exists() else "no such directory",
            )
        directory = _fetch(given, allow_pickle=allow_pickle)
    _check_weights(directory, allow_pickle=allow_pickle)
    return directory


def read_config(directory: Path) -> Mapping[str, Any]:
    """`config.json` of a checkpoint.

    Raises:
        ExportError: there is none, or it is not JSON.
    """
    return _read_object(directory / CONFIG_FILE)


def check_settings(directory: Path) -> None:
    """Whether each file with settings that is there can be read.

    Transformers passes over some that it cannot read, a half-copied `generation_config.json` among them, and
    writes other captions without a word.

    Raises:
        ExportError: one cannot.
    """
    for name in _SETTINGS:
        path = directory / name
        if path.exists() or path.is_symlink():
            _read_object(path)


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "is missing"
        raise ExportError(what, path=path, expected="a checkpoint of transformers") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else reason_of(error)
        raise ExportError("cannot be read", path=path, expected="JSON", found=reason) from error
    if not isinstance(found, dict):
        raise ExportError("holds no settings", path=path, expected="an object")
    return found


def weight_files(directory: Path, *, allow_pickle: bool) -> list[Path]:
    """The files with weights: safetensors where there are any, else pickles where they are allowed."""
    safe = sorted(directory.glob(_SAFE))
    return safe or (sorted(directory.glob(_PICKLES)) if allow_pickle else [])


def reason_of(error: BaseException) -> str:
    """What a library says went wrong, in one line that fits into a message."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # A first line that ends with a colon says nothing yet.
    line = " ".join(lines[: 2 if lines[0].rstrip().endswith(":") else 1]).rstrip(": ")
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ..."


def licence_of(directory: Path) -> str:
    """What the model card says of the licence, in the header that the hub reads."""
    card = directory / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    found = re.search(r"\A---\n(?:.*\n)*?license:[ \t]*([^\n]+)\n", text)
    return found.group(1).strip(" '\"") if found else "unknown: the checkpoint does not say"


def _check_weights(directory: Path, *, allow_pickle: bool) -> None:
    if weight_files(directory, allow_pickle=allow_pickle):
        return
    pickles = sorted(directory.glob(_PICKLES))
    if pickles:
        raise ExportError(
            "the weights are a pickle, which can run code when it is loaded",
            path=pickles[0],
            expected="safetensors",
            hint="save it as safetensors; or --allow-pickle, which loads tensors alone (weights_only)",
        )
    raise ExportError("has no weights", path=directory, expected="model.safetensors")


def _fetch(name: str, *, allow_pickle: bool) -> Path:
    """A copy of a checkpoint of the hub on this machine."""
    from huggingface_hub import snapshot_download

    try:
        directory = Path(snapshot_download(name, allow_patterns=[*_FETCHED, _SAFE]))
        if allow_pickle and not weight_files(directory, allow_pickle=False):
            directory = Path(snapshot_download(name, allow_patterns=[*_FETCHED, _PICKLES]))
    except Exception as error:  # the network's errors, the hub's and the file system's share no base
        raise ExportError(
            "there is no such directory, and the hub could not be asked for it",
            path=name,
            found=f"{type(error).__name__}: {reason_of(error)}",
            hint="fetch it where there is a network, and import the directory",
        ) from error
    return directory
