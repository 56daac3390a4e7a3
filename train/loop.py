"""The training run: stages of steps, validation, checkpoints that resume exactly, a log and the curves."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kiloword.runtime.errors import ConfigError, KilowordError
from kiloword.runtime.threads import default_threads
from kiloword.train.batches import Share
from kiloword.train.checkpoint import load_optimizer, optimizer_tensors, save_model
from kiloword.train.curves import draw_curves
from kiloword.train.distributed import World, joined_world
from kiloword.train.journal import Journal
from kiloword.train.memory import keep_freed_memory
from kiloword.train.progress import Progress
from kiloword.train.recipe import Recipe, Stage
from kiloword.train.schedule import make_optimizer, rate_factor, rate_on_time, share_done
from kiloword.train.state import BEST, Position, RunState, find_state, save_state
from kiloword.train.tasks import Steps, Task, load_task

logger = logging.getLogger(__name__)


def train(recipe: Recipe, output: Path, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Trains what the recipe's task says.

    Args:
        recipe: every choice of the run.
        output: folder of the run: ``best/`` (the averaged weights that validation found best),
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
    with joined_world(recipe.device) as world:
        torch.set_num_threads(recipe.threads or max(1, default_threads() // world.local_size))
        run = _Run(recipe, output, progress or Progress(), world)
        run.start(resume)
        try:
            while run.position.stage < len(recipe.stages):
                run.train_stage()
        finally:
            run.journal.close()
    return output / BEST


class _StepModule(nn.Module):
    """A step of the task as the forward pass of a module, so that gradients can be averaged as usual."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self._step = task.step

    def forward(self, number: int) -> Tensor:
        """The loss of step ``number``; ``result`` has what else it found."""
        self.result = self._step(number)
        return self.result.loss


class _Run:
    """One run: the task, its model, and where it stands."""

    def __init__(self, recipe: Recipe, output: Path, progress: Progress, world: World) -> None:
        self.recipe = recipe
        self.output = output
        self.progress = progress if world.leads else _Silent()
        self.world = world
        self.position = Position(processes=world.size)
        self.done = 0.0  # share of the stage
        self.device = _device(recipe, world.local_rank)

    def start(self, resume: bool) -> None:
        """Loads data, model and, when resuming, the state of the earlier start."""
        saved = find_state(self.output, self.recipe, resume=resume)
        self.output.mkdir(parents=True, exist_ok=True)
        with self.world.first_on_machine():  # and all have looked at the folder before anyone writes to it
            self.task: Task = load_task(self.recipe, self.device, self.progress.count)
        self.data_digest = self.task.digest()
        torch.manual_seed(self.recipe.seed)
        self.model = self.task.build_model().to(self.device)
        self.average = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.saved_optimizer: Mapping[str, Tensor] = {}
        if saved:
            self._restore(saved)
        else:
            self._save(with_optimizer=False)  # from here on, whatever happens can be resumed
        path = self.output / "metrics.jsonl" if self.world.leads else None
        self.journal = Journal(path, self.position.stage, self.position.step)

    def train_stage(self) -> None:
        """Trains the stage that the run stands in, to its end or until it gets no better."""
        stage = self.recipe.stages[self.position.stage]
        self._prepare(stage)
        last_saved = time.monotonic()
        began = last_saved - self.position.stage_seconds
        while self.done < 1 and not self._gives_up():
            self._step(stage)
            self.position.stage_seconds = time.monotonic() - began
            self.done = self._share_done(stage)
            if self.position.step % self.steps.in_pass == 0 or self.done == 1:
                self._end_pass(stage)
            elif time.monotonic() - last_saved < 60 * self.recipe.validation.checkpoint_minutes:
                continue
            self._save()
            last_saved = time.monotonic()
        # The next stage starts from the averaged weights, as the exported model has them.
        self.model.load_state_dict(self.average)
        self.position.stage, self.position.step, self.position.stale = self.position.stage + 1, 0, 0
        self.position.stage_seconds = 0.0
        self._save(with_optimizer=False)

    def _prepare(self, stage: Stage) -> None:
        """What the task needs for the stage, and a fresh or restored optimizer."""
        share = Share(self.world.rank, self.world.size)
        with self.world.first_on_machine():
            self.steps: Steps = self.task.prepare(self.model, stage, self.position.stage, share)
        self.optimizer = make_optimizer(self.model, stage, self.recipe.optimizer)
        self.step_module = _StepModule(self.model, self.task)
        self.averaging = self.world.averaging(self.step_module, self.device)
        if self.saved_optimizer:
            load_optimizer(self.optimizer, self.saved_optimizer)
            self.saved_optimizer = {}
        self.done = self._share_done(stage)

    def _share_done(self, stage: Stage) -> float:
        """How much of the stage is over; where the clock decides, the leader's clock decides for all."""
        at = self.position
        if not stage.minutes:
            return share_done(at.step, self.steps.total, 0.0, 0.0)
        return self.world.from_leader(share_done(at.step, self.steps.total, at.stage_seconds, stage.minutes))

    def _rate_factor(self, stage: Stage, step: int) -> float:
        if stage.minutes:
            return rate_on_time(step, self.done, stage.warmup_steps)
        return rate_factor(step, self.steps.total, stage.warmup_steps)

    def _step(self, stage: Stage) -> None:
        started = time.monotonic()
        step = self.position.step
        # All randomness of a step (dropout, augmentation) follows from its number: a resumed run repeats it.
        place = (self.recipe.seed, self.position.stage, step)
        torch.manual_seed(hash((*place, self.world.rank) if self.world.rank else place) % 2**63)
        factor = self._rate_factor(stage, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_rate"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss: Tensor = self.averaging(step)
        result = self.step_module.result
        # The mean over all processes of what each counts by is the loss of the whole batch.
        share = result.weight / max(self.world.total(result.weight, self.device), 1e-9)
        whole = self.world.total(float(loss.detach()) * share, self.device)
        self._require_finite(whole)
        self.optimizer.zero_grad(set_to_none=True)
        (loss * (share * self.world.size)).backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.max_gradient_norm)
        self.optimizer.step()
        self._update_average(step)
        self.position.step += 1
        seconds = time.monotonic() - started
        self.position.seconds += seconds
        if result.facts:
            self.journal.write(stage=self.position.stage, step=self.position.step, **result.facts)
        self._report(stage, whole, factor, result.items * self.world.size / seconds)

    def _require_finite(self, loss: float) -> None:
        """Weights that saw a loss of nan stay nan: better an end than hours for nothing."""
        if not math.isfinite(loss):
            stage, step = self.position.stage, self.position.step
            raise KilowordError(
                f"the loss is no number in step {step + 1} of stages.{stage}",
                path=self.output,
                expected="a finite loss",
                found=f"{loss}",
                hint=f"another folder and a lower rate, --set stages.{stage}.learning_rate=...",
            )

    def _update_average(self, step: int) -> None:
        """Running average of the weights; it follows quickly at first and slowly later."""
        decay = min(self.recipe.optimizer.average_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                if tensor.is_floating_point():
                    self.average[name].lerp_(tensor, 1 - decay)
                else:  # a batch norm counts its batches
                    self.average[name].copy_(tensor)

    def _report(self, stage: Stage, loss: float, factor: float, items_per_second: float) -> None:
        step = self.position.step
        rate = factor * stage.learning_rate
        self.journal.write(stage=self.position.stage, step=step, loss=loss, learning_rate=rate)
        passes = f"pass {-(-step // self.steps.in_pass)}/{stage.passes}"
        total = self.steps.total
        if stage.minutes and self.done:  # the clock may allow fewer
            total = max(step, round(step / self.done))
        self.progress.step(f"{stage.name}, {passes}", step, total, loss, items_per_second)

    def _end_pass(self, stage: Stage) -> None:
        done = self.position.step // self.steps.in_pass
        if done % self.recipe.validation.every_passes and self.done < 1:
            return
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        judged = self.world.from_leader(self.task.judge() if self.world.leads else None)
        self._keep_best(judged.scores, done)
        self.model.load_state_dict(weights)
        measure = self.task.measure
        found = {measure.key: judged.scores, **judged.others}
        self.journal.write(stage=self.position.stage, step=self.position.step, **found)
        if self.journal.path is not None:
            draw_curves(self.journal.path, self.output / "curves.png", measure)
        shown = ", ".join(f"{name} {value:.1f}" for name, value in judged.scores.items())
        self.progress.note(f"{stage.name}: validation {measure.title} after pass {done}: {shown}")
        for name, values in judged.others.items():
            self.progress.note(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in values.items()))

    def _keep_best(self, scores: Mapping[str, float], passes: int) -> None:
        self.position.stale += 1
        measure = self.task.measure
        rank = measure.rank(scores["mean"])
        if rank <= self.position.best_rank:
            return
        self.position.best_rank, self.position.stale = rank, 0
        if not self.world.leads:
            return
        facts = {
            "stage": self.recipe.stages[self.position.stage].name,
            "passes": passes,
            f"validation_{measure.key}": dict(scores),
            "training_seconds": round(self.position.seconds),
            **self.task.facts,
        }
        weights = self.task.stored(self.average)
        save_model(self.output / BEST, weights, self.task.tokenizer, self.recipe, facts)

    def _gives_up(self) -> bool:
        patience = self.recipe.validation.patience
        return 0 < patience <= self.position.stale

    def _save(self, with_optimizer: bool = True) -> None:
        if not self.world.leads:
            return
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
        if saved.position.processes != self.world.size:
            processes = f"expected {saved.position.processes} processes, found {self.world.size}"
            hint = "torchrun with as many as at its start, or another folder with -o"
            raise ConfigError([processes], path=self.output, hint=hint)
        self.model.load_state_dict(saved.model)
        self.average = {name: item.to(self.device) for name, item in saved.average.items()}
        self.saved_optimizer = saved.optimizer
        self.position = saved.position


class _Silent(Progress):
    """Of a process that leaves reporting to another one."""

    def count(self, task: str, done: int, total: int) -> None:
        """Nothing."""

    def step(self, stage: str, done: int, total: int, loss: float, photos_per_second: float) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


def _device(recipe: Recipe, number: int) -> torch.device:
    if recipe.device == "auto":
        return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            ["device: cuda was asked for, but torch finds no CUDA device"], hint="--set device=cpu"
        )
    return torch.device(recipe.device, number) if recipe.device == "cuda" else torch.device(recipe.device)
