"""The training run: stages of steps, validation, checkpoints that resume exactly, a log and the curves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.threads import default_threads
from kiloword.train.batches import BatchPlan
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import (
    build_model,
    load_encoder_weights,
    load_optimizer,
    load_resume,
    optimizer_tensors,
    recover_directory,
    save_model,
    save_resume,
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
from kiloword.train.validation import ValidationSet, validate

logger = logging.getLogger(__name__)


@dataclass
class Position:
    """Where a run stands; with the tensors of a checkpoint, all that is needed to go on."""

    stage: int = 0
    step: int = 0
    """Steps done in this stage."""
    best_cider: float = -math.inf
    stale: int = 0
    """Validations since the best one."""
    seconds: float = 0.0
    """Training time so far, over all starts."""


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
    while run.position.stage < len(recipe.stages):
        run.train_stage()
    draw_curves(output / "metrics.jsonl", output / "curves.png")
    return output / "best"


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
        saved = self._saved_state(resume)
        self.output.mkdir(parents=True, exist_ok=True)
        self.material: Material = load_material(self.recipe, self.progress.count)
        torch.manual_seed(self.recipe.seed)
        self.model: CaptionModel = build_model(self.recipe, self.material.tokenizer.get_vocab_size())
        if self.recipe.encoder.weights:
            load_encoder_weights(self.model, Path(self.recipe.data.root) / self.recipe.encoder.weights)
        self.model.to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.saved_tensors: Mapping[str, Tensor] = {}
        if saved:
            self._restore(*saved)
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
        self.optimizer = make_optimizer(self.model, stage, self.recipe.optimizer)
        if self.saved_tensors:
            load_optimizer(self.optimizer, self.saved_tensors)
            self.saved_tensors = {}

    def _step(self, stage: Stage) -> None:
        started = time.monotonic()
        step = self.position.step
        batch = self.plan.batch(step)
        # All randomness of a step (dropout, augmentation) follows from its number: a resumed run repeats it.
        torch.manual_seed(hash((self.recipe.seed, self.position.stage, step)) % 2**63)
        factor = rate_factor(step, self.plan.steps, stage.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            features = self.photos.features(self.model.encoder, batch.rows, batch.views)
            tokens = torch.from_numpy(batch.token_ids).to(self.device)
            loss = caption_loss(self.model, features, tokens, self.material.ids, stage.label_smoothing)
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
        save_model(self.output / "best", self.average, self.material.tokenizer, self.recipe, facts)

    def _gives_up(self) -> bool:
        patience = self.recipe.validation.patience
        return 0 < patience <= self.position.stale

    def _save(self, with_optimizer: bool = True) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        if with_optimizer:
            tensors |= optimizer_tensors(self.optimizer)
        state = {"recipe": self.recipe.digest(), "position": vars(self.position)}
        save_resume(self.output / "resume", tensors, state)

    def _saved_state(self, resume: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What to resume from; a run is never overwritten or mixed with another by mistake."""
        recover_directory(self.output / "best")
        saved = load_resume(self.output / "resume")
        if resume and saved is None:
            raise ConfigError(
                ["there is no run to resume"], path=self.output, hint="the same command without --resume"
            )
        if not resume and saved is not None:
            hint = "--resume to go on with it, or another folder with -o"
            raise ConfigError(["the folder holds a run already"], path=self.output, hint=hint)
        if saved and saved[1]["recipe"] != self.recipe.digest():
            raise ConfigError(["the run in this folder was started with another recipe"], path=self.output)
        return saved

    def _restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): item for name, item in tensors.items() if name.startswith(prefix)
            }

        self.model.load_state_dict(part("model."))
        self.average = {name: item.to(self.device) for name, item in part("average.").items()}
        self.saved_tensors = {name: item for name, item in tensors.items() if name.startswith("optimizer.")}
        self.position = Position(**state["position"])


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
