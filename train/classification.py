"""Learning to tell classes of pictures apart, so that a captioner can start from an encoder that sees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec
from kiloword.train.arrays import cached_array
from kiloword.train.batches import Share, shuffled_rows
from kiloword.train.checkpoint import load_encoder_weights, start_from
from kiloword.train.labels import LabelledPictures, load_labelled
from kiloword.train.material import image_spec, validation_names
from kiloword.train.models.classifier import Classifier
from kiloword.train.photos import Photos
from kiloword.train.pictures import Pixels, Progress
from kiloword.train.recipe import DataSet, Recipe, Stage
from kiloword.train.tasks import Judgement, Measure, StepResult, Steps

_BATCH = 256


@dataclass(frozen=True)
class _LabelledPhotos:
    """Pictures as the encoder takes them, with their labels."""

    name: str
    photos: Photos
    labels: NDArray[np.int64]


class ClassificationTask:
    """Pictures in, classes out; judged by the share that is right."""

    measure = Measure("accuracy", "accuracy (%)", "nats per picture")
    tokenizer = None

    def __init__(self, recipe: Recipe, device: torch.device, progress: Progress) -> None:
        self.recipe = recipe
        self.device = device
        self.progress = progress
        self.classes: tuple[str, ...] = ()
        self.rows = np.zeros(0, np.int64)
        self.training = self._load_training()
        names = validation_names(recipe.data.validation)
        self.validation = [
            self._photos(self._load(item), name)
            for name, item in zip(names, recipe.data.validation, strict=True)
        ]
        self.facts: dict[str, Any] = {"pictures": len(self.training.labels), "classes": list(self.classes)}

    def _load_training(self) -> _LabelledPhotos:
        if len(self.recipe.data.train) != 1:
            raise ConfigError(["data.train: expected one data set for classification"])
        item = self.recipe.data.train[0]
        pictures = _limited(load_labelled(Path(self.recipe.data.root) / item.source, item.split), item)
        self.classes = pictures.classes
        self.rows = np.tile(np.arange(len(pictures.labels)), item.repeat)
        return self._photos(pictures, "train")

    def _load(self, item: DataSet) -> LabelledPictures:
        """A validation set, with the labels of the training set's classes."""
        source = Path(self.recipe.data.root) / item.source
        pictures = _limited(load_labelled(source, item.split), item)
        unknown = sorted(set(pictures.classes) - set(self.classes))
        if unknown:
            raise ConfigError([f"classes that training does not have: {', '.join(unknown[:5])}"], path=source)
        labels = np.array([self.classes.index(name) for name in pictures.classes])[pictures.labels]
        return LabelledPictures(self.classes, labels, pictures.files, pictures.pixels, pictures.source)

    def _photos(self, pictures: LabelledPictures, name: str) -> _LabelledPhotos:
        spec, cache = image_spec(self.recipe), Path(self.recipe.data.cache)
        augmentation = self.recipe.augmentation
        if pictures.files is not None:
            photos = Photos.load(pictures.files, spec, cache, self.progress, augmentation)
        else:
            packed, key = _resized(pictures, spec, cache, self.progress)
            photos = Photos(packed, key, augmentation)
        return _LabelledPhotos(name, photos, pictures.labels)

    def digest(self) -> str:
        """A hash of the classes, the labels and the pictures."""
        digest = hashlib.sha256("\n".join((*self.classes, self.training.photos.key)).encode())
        digest.update(self.training.labels.tobytes() + self.rows.tobytes())
        return digest.hexdigest()[:16]

    def build_model(self) -> nn.Module:
        """An encoder and a linear layer, from ``encoder.weights`` and ``start`` where these are given."""
        model = Classifier(self.recipe.encoder.build(), len(self.classes))
        if self.recipe.encoder.weights:
            load_encoder_weights(model, Path(self.recipe.data.root) / self.recipe.encoder.weights)
        if self.recipe.start:
            start_from(model, Path(self.recipe.start), None)
        return model

    def prepare(self, model: nn.Module, stage: Stage, number: int, share: Share) -> Steps:
        """Cached features where blocks are frozen."""
        if not isinstance(model, Classifier):
            raise TypeError(f"expected a Classifier, found {type(model).__name__}")
        self.model, self.stage, self.number, self.share = model, stage, number, share
        self.seen = self._seen_through(self.training, stage.views)
        self.judged = [self._seen_through(item, 1) for item in self.validation]
        self.in_pass = share.steps_in_pass(len(self.rows), stage.batch_size)
        return Steps(self.in_pass, self.in_pass * stage.passes)

    def _seen_through(self, item: _LabelledPhotos, views: int) -> _LabelledPhotos:
        cache, frozen = Path(self.recipe.data.cache), self.stage.frozen_blocks
        photos = item.photos.frozen_at(self.model.encoder, frozen, views, cache, self.progress)
        return _LabelledPhotos(item.name, photos, item.labels)

    def step(self, number: int) -> StepResult:
        """Cross-entropy of one batch."""
        seed = (self.recipe.seed, self.number)
        batch_size = self.stage.batch_size * self.share.of
        rows = shuffled_rows(self.rows, batch_size, seed, divmod(number, self.in_pass))
        views = np.random.default_rng([*seed, 2, number]).integers(self.seen.photos.views, size=len(rows))
        rows, views = self.share.take(rows), self.share.take(views)
        self.model.train()
        scores = self.model(self.seen.photos.features(self.model.encoder, rows, views))
        labels = torch.from_numpy(self.seen.labels[rows]).to(self.device)
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=self.stage.label_smoothing)
        return StepResult(loss, len(rows), weight=len(rows))

    @torch.inference_mode()
    def judge(self) -> Judgement:
        """The share of pictures whose class has the highest score."""
        self.model.eval()
        scores = {item.name: self._accuracy(item) for item in self.judged}
        return Judgement({**scores, "mean": sum(scores.values()) / len(scores)})

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """All of them."""
        return weights

    def _accuracy(self, item: _LabelledPhotos) -> float:
        right = 0
        for start in range(0, len(item.labels), _BATCH):
            part = slice(start, start + _BATCH)
            found = self.model(item.photos.plain_features(self.model.encoder, part)).argmax(dim=-1)
            right += int((found.cpu().numpy() == item.labels[part]).sum())
        return 100 * right / len(item.labels)


def _limited(pictures: LabelledPictures, item: DataSet) -> LabelledPictures:
    """At most ``limit`` of them, evenly spread over each class in turn."""
    if item.limit is None or item.limit >= len(pictures.labels):
        return pictures
    order = np.argsort(pictures.labels, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, item.limit).astype(int)]
    return pictures.only(np.sort(chosen))


def _resized(
    pictures: LabelledPictures, spec: ImageSpec, cache: Path, progress: Progress
) -> tuple[Pixels, str]:
    """Pictures of an array at the encoder's size, kept in a file where that is another one."""
    if pictures.pixels is None:
        raise TypeError("expected pictures in an array")
    pixels: Pixels = pictures.pixels
    digest = hashlib.sha256(repr(spec).encode() + pixels.tobytes())
    key = digest.hexdigest()[:16]
    if pixels.shape[1:3] == (spec.height, spec.width):
        return pixels, key

    def fill(store: Pixels) -> None:
        for index, picture in enumerate(pixels):
            store[index] = load_image(picture, spec)
            progress("resizing pictures", index + 1, len(pixels))

    shape = (len(pixels), spec.height, spec.width, 3)
    return cached_array(cache / f"pixels-{key}.npy", shape, np.uint8, fill), key
