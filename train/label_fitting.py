"""Teaches a bundle the names of what is in photos, from an image classifier and photos without any labels.

The classifier looks at the same pixels as the bundle's encoder; a linear layer over what the encoder hands to
the decoder learns to say what the classifier says. Nothing of the bundle's graphs changes.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kiloword.runtime.bundle import Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ConfigError, ImageError
from kiloword.runtime.images import load_image
from kiloword.runtime.labels import LabelSpec, label_features
from kiloword.runtime.outputs import replace_file
from kiloword.runtime.sessions import Sessions, load_sessions
from kiloword.train.datasets import CaptionRecord
from kiloword.train.models.vit import VisionTransformer, VitConfig
from kiloword.train.observations import pooled_output_of
from kiloword.train.pictures import random_views
from kiloword.train.recipe import AugmentationRecipe

logger = logging.getLogger(__name__)

WEIGHTS_FILE, NAMES_FILE = "labels.npz", "labels.txt"

_BATCH = 8
_LOG_EVERY = 50
_CHECKED_SHARE = 5  # one in so many photos is kept to choose and to measure on
_PENALTIES = (1e-5, 1e-4, 1e-3)
_ITERATIONS = 60
_HEAD_WIDTH = 64
_PARTS = AugmentationRecipe(crop=0.25, colour=0.0)
_SURE = 0.5  # what the classifier itself says with this probability is what it knows

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Teacher:
    """An image classifier."""

    encoder: VisionTransformer
    head: nn.Linear
    names: tuple[str, ...]

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Floats:
        """Logits float32 (B, classes) of uint8 (B, height, width, 3)."""
        logits: Floats = self.head(self.encoder(torch.from_numpy(pixels))[:, 0]).numpy()
        return logits


def load_teacher(weights: Path, names: Path, image_size: int) -> Teacher:
    """A ViT with its classifier, named as in timm, and its classes.

    Args:
        weights: safetensors file with ``head.weight`` and ``head.bias``; pixels with mean and deviation 0.5.
        names: a class a line, in the classifier's order; of synonyms, the first one is kept.
        image_size: height and width of the pictures that it will see.

    Raises:
        ConfigError: a file cannot be read, or they do not fit each other.
    """
    tensors, lines = _read_tensors(weights), _read_names(names)
    head = tensors.get("head.weight"), tensors.get("head.bias")
    if head[0] is None or head[1] is None:
        raise ConfigError(["has no classifier: head.weight and head.bias"], path=weights)
    if head[0].ndim != 2 or head[1].shape != head[0].shape[:1]:
        shapes = f"{tuple(head[0].shape)} and {tuple(head[1].shape)}"
        raise ConfigError([f"has no classifier: head.weight and head.bias are {shapes}"], path=weights)
    if len(lines) != len(head[0]):
        raise ConfigError([f"expected {len(head[0])} names, found {len(lines)}"], path=names)
    encoder = _config_of(tensors, image_size, weights).build().eval()
    try:
        encoder.load_state_dict(encoder.adapted(tensors))
    except RuntimeError as error:
        raise ConfigError([f"is no ViT: {str(error).splitlines()[-1].strip()}"], path=weights) from error
    linear = nn.Linear(head[0].shape[1], len(lines))
    linear.load_state_dict({"weight": head[0], "bias": head[1]})
    return Teacher(encoder, linear.eval(), tuple(line.split(",")[0].strip() for line in lines))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(["there is no such file"], path=path, hint="a .safetensors file of a ViT")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError([f"cannot be read: {error}"], path=path) from error


def _read_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], path=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"is no text in UTF-8: {error}"], path=path) from error


def _config_of(tensors: Mapping[str, Tensor], image_size: int, path: Path) -> VitConfig:
    """What the weights are of; heads are 64 wide, as in every ViT of timm."""
    try:
        patch_size, width = tensors["patch_embed.proj.weight"].shape[-1], tensors["cls_token"].shape[-1]
    except KeyError as error:
        raise ConfigError([f"is no ViT: {error} is missing"], path=path) from error
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    config = VitConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=len(blocks),
        heads=max(1, width // _HEAD_WIDTH),
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
    )
    if problems := config.problems():
        raise ConfigError(problems, path=path)
    return config


def teach_labels(
    directory: Path,
    records: Sequence[CaptionRecord],
    teacher: Teacher,
    *,
    least: float = 0.3,
    views: int = 2,
    threads: int | None = None,
) -> LabelSpec:
    """Fit labels and write them into a bundle.

    Args:
        directory: the bundle; its ``bundle.json`` changes and two files join it.
        records: photos, whose captions are not looked at.
        teacher: says what is in them.
        least: least probability of a name that is said.
        views: how often each photo is looked at: whole, then parts of it, half of them mirrored.
        threads: of the encoder; ``None`` for all that are allowed.

    Returns:
        What was written into the manifest, with how well it does in ``facts``.

    Raises:
        BundleError: there is no bundle.
        ConfigError: the bundle's encoder gives nothing to tell by, or there are too few photos.
    """
    bundle = load_bundle(directory)
    output = pooled_output_of(bundle)
    if output is None:
        raise ConfigError(["no encoder output has heads and image tokens to tell labels by"], path=directory)
    if len(records) < 2 * _CHECKED_SHARE:
        raise ConfigError([f"expected {2 * _CHECKED_SHARE} photos or more, found {len(records)}"])
    sessions = load_sessions(bundle, "cpu", threads)
    checked = [record for number, record in enumerate(records) if number % _CHECKED_SHARE == 0]
    learned = [record for number, record in enumerate(records) if number % _CHECKED_SHARE]
    seen = _look(bundle, sessions, output, teacher, learned, views)
    check = _look(bundle, sessions, output, teacher, checked, 1)
    layer, penalty = _best_layer(seen, check)
    arrays = _as_int8(layer)
    spec = LabelSpec(WEIGHTS_FILE, NAMES_FILE, output, least)
    facts = {"photos": len(learned), "views": views, "penalty": penalty, **_measure(arrays, check, spec)}
    stored = io.BytesIO()
    np.savez_compressed(stored, weight=arrays["weight"], scale=arrays["scale"], bias=arrays["bias"])
    replace_file(directory / WEIGHTS_FILE, stored.getvalue())
    replace_file(directory / NAMES_FILE, "".join(f"{name}\n" for name in teacher.names).encode())
    spec = replace(spec, facts=facts)
    write_manifest(directory, replace(bundle.manifest, labels=spec))
    return spec


@dataclass(frozen=True)
class _Seen:
    """What encoder and classifier say of pictures."""

    features: Tensor
    """float32 (pictures, features)."""
    logits: Tensor
    """float32 (pictures, classes)."""


def _look(
    bundle: Bundle,
    sessions: Sessions,
    output: str,
    teacher: Teacher,
    records: Sequence[CaptionRecord],
    views: int,
) -> _Seen:
    features: list[Floats] = []
    logits: list[Floats] = []
    remaining = iter(_views(bundle, records, views))
    while batch := list(islice(remaining, _BATCH)):
        pixels = np.stack(batch)
        context = sessions.encoder.encode(pixels)[output]
        features += [label_features(one) for one in context]
        logits += list(teacher(pixels))
        if len(logits) // _BATCH % _LOG_EVERY == 0:
            logger.info("%d of %d pictures", len(logits), views * len(records))
    if not logits:
        raise ConfigError(["no photo can be read"])
    return _Seen(torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(logits)))


def _views(bundle: Bundle, records: Iterable[CaptionRecord], views: int) -> Iterator[Pixels]:
    """Each photo whole and in part; one that cannot be read is named and left out."""
    spec, generator = bundle.manifest.image, torch.Generator().manual_seed(0)
    for record in records:
        try:
            pixels = load_image(record.image, spec)
        except ImageError as error:
            logger.warning("left out: %s", error)
            continue
        yield pixels
        if views > 1:
            copies = torch.from_numpy(pixels).expand(views - 1, *pixels.shape)
            mirror = torch.rand(views - 1, generator=generator) < 0.5
            yield from random_views(copies, generator, mirror, _PARTS).numpy()


def _best_layer(seen: _Seen, check: _Seen) -> tuple[nn.Linear, float]:
    """The layer whose ridge penalty does best on the pictures kept back."""
    fitted = [(_fit(seen, penalty), penalty) for penalty in _PENALTIES]
    wanted = check.logits.softmax(-1)
    return min(fitted, key=lambda item: float(F.cross_entropy(item[0](check.features), wanted)))


def _fit(seen: _Seen, penalty: float) -> nn.Linear:
    """Softmax regression on the classifier's probabilities, on features of unit variance."""
    mean, deviation = seen.features.mean(dim=0), seen.features.std(dim=0).clamp_min(1e-6)
    scaled, wanted = (seen.features - mean) / deviation, seen.logits.softmax(-1)
    layer = nn.Linear(scaled.shape[1], wanted.shape[1])
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(scaled), wanted) + penalty * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # back to features as they come
        layer.weight.div_(deviation)
        layer.bias.sub_(layer.weight @ mean)
    return layer.requires_grad_(False)


def _as_int8(layer: nn.Linear) -> dict[str, NDArray[Any]]:
    """Rows of bytes with a scale each."""
    weight = layer.weight.numpy()
    scale = np.maximum(np.abs(weight).max(axis=1) / 127, 1e-12).astype(np.float32)
    rounded = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
    return {"weight": rounded, "scale": scale, "bias": layer.bias.numpy().astype(np.float32)}


def _measure(arrays: dict[str, NDArray[Any]], check: _Seen, spec: LabelSpec) -> dict[str, Any]:
    """How often the classifier's answer is named, on pictures that fitted nothing."""
    weight = arrays["weight"].astype(np.float32) * arrays["scale"][:, None]
    chances = torch.from_numpy(check.features.numpy() @ weight.T + arrays["bias"]).softmax(-1)
    wanted = check.logits.softmax(-1)
    confidence, answer = wanted.max(dim=-1)
    best = chances.topk(min(spec.most, chances.shape[1]), dim=-1)
    named = (best.indices == answer[:, None]) & (best.values >= spec.least)
    sure, speaks = confidence >= _SURE, chances.max(dim=-1).values >= spec.least
    of_five = wanted.topk(min(5, wanted.shape[1]), dim=-1).indices
    fits = (of_five == chances.argmax(dim=-1)[:, None]).any(dim=-1)
    return {
        "checked_on": len(answer),
        "says_something": _share(speaks),
        "first_name_among_the_classifiers_five": _share(fits[speaks]),
        "classifiers_answer_named_where_it_is_sure": _share(named.any(dim=-1)[sure]),
        "classifier_is_sure": _share(sure),
    }


def _share(values: Tensor) -> float:
    return round(float(values.float().mean()), 4) if len(values) else 0.0
