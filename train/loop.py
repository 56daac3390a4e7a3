"""The training run: stages of steps, validation, checkpoints that resume exactly, a log and the curves."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError, KilowordError
from kiloword.runtime.threads import default_threads
from kiloword.train.batches import Batch, BatchPlan
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import (
    build_model,
    load_encoder_weights,
    load_optimizer,
    optimizer_tensors,
    save_model,
    start_from,
)
from kiloword.train.curves import draw_curves
from kiloword.train.journal import Journal
from kiloword.train.material import Material, load_material
from kiloword.train.memory import keep_freed_memory
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.photos import Photos
from kiloword.train.progress import Progress
from kiloword.train.recipe import Recipe, Stage
from kiloword.train.schedule import make_optimizer, rate_factor
from kiloword.train.self_critical import CaptionReward, sample_captions, self_critical_loss
from kiloword.train.state import BEST, Position, RunState, find_state, save_state
from kiloword.train.validation import ValidationSet, validate

logger = logging.getLogger(__name__)


def train(recipe: Recipe, output: Path, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Trains a captioner.

    Args:
        recipe: every choice of the run.
        output: folder of the run: ``best/`` (the averaged weights with the highest validation CIDEr),
            ``resume/``, ``metrics.jsonl``, ``curves.png``.
        resume: go on where an earlier start of the same recipe stopped.
        progress: shown how far the run is; by default it only logs.

    Returns:
        The directory of the best checkpoint.

    Raises:
        ConfigError: data or weights are missing or bad, the output holds another run, or there is nothing to
            resume.
    """
    keep_freed_memory()
    torch.set_num_threads(recipe.threads or default_threads())
    run = _Run(recipe, output, progress or Progress())
    run.start(resume)
    try:
        while run.position.stage < len(recipe.stages):
            run.train_stage()
    finally:
        run.journal.close()
    return output / BEST


class _Run:
    """One run: the model, what it learns from, and where it stands."""

    def __init__(self, recipe: Recipe, output: Path, progress: Progress) -> None:
        self.recipe = recipe
        self.output = output
        self.progress = progress
        self.position = Position()
        self.device = _device(recipe)

    def start(self, resume: bool) -> None:
        """Loads data, model and, when resuming, the state of the earlier start."""
        saved = find_state(self.output, self.recipe, resume=resume)
        self.output.mkdir(parents=True, exist_ok=True)
        self.material: Material = load_material(self.recipe, self.progress.count)
        self.data_digest = self.material.digest()
        torch.manual_seed(self.recipe.seed)
        self.model: CaptionModel = build_model(self.recipe, self.material.tokenizer.get_vocab_size())
        if self.recipe.encoder.weights:
            load_encoder_weights(self.model, Path(self.recipe.data.root) / self.recipe.encoder.weights)
        if self.recipe.start:
            start_from(self.model, Path(self.recipe.start), self.material.tokenizer)
        self.model.to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.saved_optimizer: Mapping[str, Tensor] = {}
        if saved:
            self._restore(saved)
        else:
            self._save(with_optimizer=False)  # from here on, whatever happens can be resumed
        self.journal = Journal(self.output / "metrics.jsonl", self.position.stage, self.position.step)

    def train_stage(self) -> None:
        """Trains the stage that the run stands in, to its end or until it gets no better."""
        stage = self.recipe.stages[self.position.stage]
        self._prepare(stage)
        last_saved = time.monotonic()
        while self.position.step < self.plan.steps and not self._gives_up():
            self._step(stage)
            if self.position.step % self.plan.steps_per_pass == 0:
                self._end_pass(stage)
            elif time.monotonic() - last_saved < 60 * self.recipe.validation.checkpoint_minutes:
                continue
            self._save()
            last_saved = time.monotonic()
        # The next stage starts from the averaged weights, as the exported model has them.
        self.model.load_state_dict(self.average)
        self.position.stage, self.position.step, self.position.stale = self.position.stage + 1, 0, 0
        self._save(with_optimizer=False)

    def _prepare(self, stage: Stage) -> None:
        """Cached features where blocks are frozen, the plan of all steps, a fresh or restored optimizer."""
        cache = Path(self.recipe.data.cache)
        encoder, block, count = self.model.encoder, stage.frozen_blocks, self.progress.count
        self.photos: Photos = self.material.photos.frozen_at(encoder, block, stage.views, cache, count)
        self.validation = [
            ValidationSet(item.name, item.records, item.photos.frozen_at(encoder, block, 1, cache, count))
            for item in self.material.validation
        ]
        self.plan = BatchPlan(
            stage,
            (self.recipe.seed, self.position.stage),
            self.material.rows,
            self.material.captions,
            self.photos.views,
            self.material.ids.pad,
        )
        if stage.samples:
            self.reward = CaptionReward(self.material.captions, self.material.ids)
        self.optimizer = make_optimizer(self.model, stage, self.recipe.optimizer)
        if self.saved_optimizer:
            load_optimizer(self.optimizer, self.saved_optimizer)
            self.saved_optimizer = {}

    def _step(self, stage: Stage) -> None:
        started = time.monotonic()
        step = self.position.step
        batch = self.plan.batch(step)
        # All randomness of a step (dropout, augmentation) follows from its number: a resumed run repeats it.
        torch.manual_seed(hash((self.recipe.seed, self.position.stage, step)) % 2**63)
        factor = rate_factor(step, self.plan.steps, stage.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._self_critical(stage, batch) if stage.samples else self._cross_entropy(stage, batch)
        self._require_finite(loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_gradient_norm)
        self.optimizer.step()
        self._update_average(step)
        self.position.step += 1
        seconds = time.monotonic() - started
        self.position.seconds += seconds
        self._report(stage, float(loss.detach()), factor * stage.learning_rate, len(batch.rows), seconds)

    def _cross_entropy(self, stage: Stage, batch: Batch) -> Tensor:
        self.model.train()
        features = self.photos.features(self.model.encoder, batch.rows, batch.views)
        tokens = torch.from_numpy(batch.token_ids).to(self.device)
        return caption_loss(self.model, features, tokens, self.material.ids, stage.label_smoothing)

    def _self_critical(self, stage: Stage, batch: Batch) -> Tensor:
        # No dropout: what is rewarded must be what was sampled.
        self.model.eval()
        ids, limit = self.material.ids, self.recipe.generation.max_new_tokens
        features = self.photos.features(self.model.encoder, batch.rows, batch.views)
        sampled = sample_captions(self.model, features.detach(), ids, stage.samples, limit)
        rewards = self.reward(batch.rows, sampled)
        number = self.position.step + 1
        self.journal.write(stage=self.position.stage, step=number, reward=float(rewards.mean()))
        return self_critical_loss(self.model, features, sampled, rewards, ids)

    def _require_finite(self, loss: Tensor) -> None:
        """Weights that saw a loss of nan stay nan: better an end than hours for nothing."""
        if not torch.isfinite(loss):
            stage, step = self.position.stage, self.position.step
            raise KilowordError(
                f"the loss is no number in step {step + 1} of stages.{stage}",
                path=self.output,
                expected="a finite loss",
                found=f"{float(loss.detach())}",
                hint=f"another folder and a lower rate, --set stages.{stage}.learning_rate=...",
            )

    def _update_average(self, step: int) -> None:
        """Running average of the weights; it follows quickly at first and slowly later."""
        decay = min(self.recipe.optimizer.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)

    def _report(self, stage: Stage, loss: float, rate: float, photos: int, seconds: float) -> None:
        step = self.position.step
        self.journal.write(stage=self.position.stage, step=step, loss=loss, learning_rate=rate)
        passes = f"pass {-(-step // self.plan.steps_per_pass)}/{stage.passes}"
        self.progress.step(f"{stage.name}, {passes}", step, self.plan.steps, loss, photos / seconds)

    def _end_pass(self, stage: Stage) -> None:
        done = self.position.step // self.plan.steps_per_pass
        if done % self.recipe.validation.every_passes and self.position.step < self.plan.steps:
            return
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        material = self.material
        scores = validate(
            self.model,
            self.validation,
            material.tokenizer,
            material.ids,
            self.recipe.generation.max_new_tokens,
        )
        self._keep_best(scores, done)
        self.model.load_state_dict(weights)
        self.journal.write(stage=self.position.stage, step=self.position.step, cider=scores)
        draw_curves(self.journal.path, self.output / "curves.png")
        shown = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        self.progress.note(f"{stage.name}: validation CIDEr after pass {done}: {shown}")

    def _keep_best(self, scores: Mapping[str, float], passes: int) -> None:
        self.position.stale += 1
        if scores["mean"] <= self.position.best_cider:
            return
        self.position.best_cider, self.position.stale = scores["mean"], 0
        facts = {
            "stage": self.recipe.stages[self.position.stage].name,
            "passes": passes,
            "validation_cider": dict(scores),
            "training_seconds": round(self.position.seconds),
            **self.material.facts,
        }
        save_model(self.output / BEST, self.average, self.material.tokenizer, self.recipe, facts)

    def _gives_up(self) -> bool:
        patience = self.recipe.validation.patience
        return 0 < patience <= self.position.stale

    def _save(self, with_optimizer: bool = True) -> None:
        optimizer = optimizer_tensors(self.optimizer) if with_optimizer else {}
        weights = self.model.state_dict()
        save_state(
            self.output,
            self.recipe,
            RunState(self.position, weights, self.average, optimizer, self.data_digest),
        )

    def _restore(self, saved: RunState) -> None:
        if saved.data_digest not in (None, self.data_digest):
            hint = "the data of its start, or another folder with -o"
            raise ConfigError(["the data changed since this run started"], path=self.output, hint=hint)
        self.model.load_state_dict(saved.model)
        self.average = {name: item.to(self.device) for name, item in saved.average.items()}
        self.saved_optimizer = saved.optimizer
        self.position = saved.position


def caption_loss(
    model: CaptionModel, features: Tensor, tokens: Tensor, ids: TokenIds, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of the next token, over all tokens but padding and unknown words.

    Args:
        model: the captioner.
        features: (B, N, image_width) from its encoder.
        tokens: int64 (B, captions, L), from ``<bos>`` to ``<eos>`` and padding.
        ids: which tokens are padding and unknown.
        label_smoothing: share of the probability that is spread over the whole vocabulary.

    Returns:
        A scalar, in nats.
    """
    target = tokens[:, :, 1:]
    # The model is never taught to write <unk>, and padding is not worth a product with the vocabulary.
    counts = (target != ids.pad) & (target != ids.unk)
    hidden = model(features, tokens[:, :, :-1])
    return F.cross_entropy(
        model.decoder.logits(hidden[counts]).float(), target[counts], label_smoothing=label_smoothing
    )


def _device(recipe: Recipe) -> torch.device:
    if recipe.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            ["device: cuda was asked for, but torch finds no CUDA device"], hint="--set device=cpu"
        )
    return torch.device(recipe.device)
