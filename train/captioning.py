"""Learning to caption photos: the task that all others prepare for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from kiloword.train.batches import BatchPlan, Share
from kiloword.train.checkpoint import build_model, load_class_head, load_encoder_weights, start_from
from kiloword.train.distillation import UntouchedEncoder
from kiloword.train.material import Material, load_material
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.objectives import Objectives, Seen, objectives_of
from kiloword.train.photos import Photos
from kiloword.train.pictures import Progress
from kiloword.train.recipe import Recipe, Stage
from kiloword.train.tasks import Judgement, Measure, StepResult, Steps
from kiloword.train.validation import CAPTION_MEASURES, ValidationSet, retrieval, validate

MEASURES = {
    "cider": Measure("cider", "CIDEr (greedy)", "nats per token"),
    "exact": Measure("exact", "captions equal to a reference (%, greedy)", "nats per token"),
}
"""What ``validation.measure`` may name; `validation.CAPTION_MEASURES` computes them."""


class CaptionTask:
    """Photos in, sentences out, by the objectives that each stage names."""

    def __init__(self, recipe: Recipe, device: torch.device, progress: Progress) -> None:
        self.recipe = recipe
        self.measure = MEASURES[recipe.validation.measure]
        self.device = device
        self.progress = progress
        self.material: Material = load_material(recipe, progress)
        self.tokenizer: Tokenizer = self.material.tokenizer
        self.facts = self.material.facts

    def digest(self) -> str:
        """A hash of all tokens and the photos' order."""
        return self.material.digest()

    def build_model(self) -> nn.Module:
        """A captioner, from the weights and checkpoints that the recipe names."""
        recipe = self.recipe
        model = build_model(recipe, self.tokenizer.get_vocab_size())
        if recipe.encoder.weights:
            weights = Path(recipe.data.root) / recipe.encoder.weights
            load_encoder_weights(model, weights)
            if recipe.concepts is not None and recipe.concepts.source == "classes":
                load_class_head(model, weights)
        if recipe.start:
            start_from(model, Path(recipe.start), self.tokenizer, by_word=recipe.start_words)
        if recipe.start_encoder:
            start_from(model, Path(recipe.start_encoder), None, part="encoder.")
        return model

    def prepare(self, model: nn.Module, stage: Stage, number: int, share: Share) -> Steps:
        """Cached features where blocks are frozen, the plan of all steps, what the stage learns from."""
        if not isinstance(model, CaptionModel):
            raise TypeError(f"expected a CaptionModel, found {type(model).__name__}")
        self.model = model
        recipe, material = self.recipe, self.material
        self.photos: Photos = self._seen_through(material.photos, stage, stage.views)
        self.validation = [
            ValidationSet(item.name, item.records, self._seen_through(item.photos, stage, 1))
            for item in material.validation
        ]
        seed = (recipe.seed, number)
        self.plan = BatchPlan(
            stage,
            seed,
            material.rows,
            material.captions,
            self.photos.views,
            material.ids.pad,
            recipe.augmentation,
            share,
        )
        untouched = UntouchedEncoder(recipe, self.device) if stage.distillation else None
        longest = recipe.generation.max_new_tokens
        self.objectives: Objectives = objectives_of(
            stage, material.captions, material.ids, longest, material.lessons, untouched
        )
        return Steps(self.plan.steps_per_pass, self.plan.steps)

    def _seen_through(self, photos: Photos, stage: Stage, views: int) -> Photos:
        cache = Path(self.recipe.data.cache)
        return photos.frozen_at(self.model.encoder, stage.frozen_blocks, views, cache, self.progress)

    def step(self, number: int) -> StepResult:
        """Photos and captions of one batch, and what the stage's objectives say of them."""
        batch = self.plan.batch(number)
        self.model.train(not self.objectives.samples)
        tokens = torch.from_numpy(batch.token_ids).to(self.device)
        features, pixels = self.photos.features_and_pixels(self.model.encoder, batch.rows, batch.views)
        term = self.objectives(Seen(self.model, features, batch.rows, tokens, pixels))
        return StepResult(term.loss, len(batch.rows), term.facts, term.weight)

    def judge(self) -> Judgement:
        """Greedy captions scored; with a joint space, how well pictures and sentences find each other."""
        material, limit = self.material, self.recipe.generation.max_new_tokens
        measure = CAPTION_MEASURES[self.recipe.validation.measure]
        scores = validate(self.model, self.validation, material.tokenizer, material.ids, limit, measure)
        if self.model.joint is None:
            return Judgement(scores)
        return Judgement(scores, retrieval(self.model, self.validation, material.tokenizer, material.ids))

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """All of them."""
        return weights
