"""Training recipes: every choice of a run, and which of them make no sense. `recipe_file` reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from kiloword.runtime.manifest import GenerationSettings
from kiloword.train.checks import too_small
from kiloword.train.models.concepts import ConceptsConfig
from kiloword.train.models.decoder import DecoderConfig
from kiloword.train.models.encoder import EncoderConfig
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.models.vit import VitConfig


@dataclass(frozen=True)
class DataSet:
    """One captioned data set, in any layout that ``train.datasets`` reads."""

    source: str
    """Folder or annotation file, relative to ``data.root``."""
    split: str | None = None
    """Which split of it; leave out for all of it."""
    images: str | None = None
    """Folder of the photos, relative to ``data.root``; by default found beside the annotations."""
    repeat: int = 1
    """How often each of its photos is seen in one pass."""
    limit: int | None = None
    """Use only this many photos, evenly spread over the set."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "repeat")
        return found + ([] if self.limit is None else too_small(self, 1, "limit"))


@dataclass(frozen=True)
class DataRecipe:
    """What is learned from, and what the choice of the best checkpoint looks at."""

    train: tuple[DataSet, ...]
    validation: tuple[DataSet, ...]
    root: str = "."
    """Folder that the sources are relative to; itself relative to the current directory."""
    max_bad_fraction: float = 0.05
    """Largest share of captions that may be unusable before the run refuses to start."""
    cache: str = "cache"
    """Folder for decoded photos and cached features, relative to the current directory."""
    licence: str = ""
    """Licence note of the data, copied into the card of each bundle."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = []
        for name, sets in (("train", self.train), ("validation", self.validation)):
            found += [] if sets else [f"{name}: expected at least one data set"]
            found += [f"{name}[{i}].{problem}" for i, item in enumerate(sets) for problem in item.problems()]
        return found


@dataclass(frozen=True)
class TokenizerRecipe:
    """How sentences become token ids."""

    checkpoint: str | None = None
    """Directory of a checkpoint whose vocabulary is kept, relative to the current directory, so that this run
    can ``start`` from it; the keys below but ``max_tokens`` are not used then."""
    kind: Literal["word", "bpe", "chars"] = "word"
    """Whole words, byte-pair encoding, or single characters."""
    min_count: int = 4
    """Rarest word (or pair) that gets a token of its own."""
    vocab_size: int = 8000
    """Most tokens."""
    max_tokens: int = 24
    """Longest training caption, ``<bos>`` and ``<eos>`` included; longer ones are cut."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        return too_small(self, 1, "min_count", "vocab_size") + too_small(self, 3, "max_tokens")


@dataclass(frozen=True)
class AugmentationRecipe:
    """How photos are varied in training, so that none looks the same twice."""

    mirror: bool = True
    """Whether photos are mirrored half of the time, where no caption says left or right."""
    crop: float = 0.6
    """Least share of its area that a random crop keeps of a photo; 1: neither cropped nor stretched."""
    colour: float = 0.2
    """Largest change of brightness, contrast and saturation, as a share; 0: none."""

    def mirrors(self, view: int) -> bool:
        """Whether left and right are exchanged in view number ``view``."""
        return self.mirror and view % 2 == 1

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = [] if 0 < self.crop <= 1 else [f"crop: expected more than 0, at most 1, found {self.crop}"]
        if not 0 <= self.colour < 1:
            found.append(f"colour: expected 0 or more and less than 1, found {self.colour}")
        return found


DEFAULT_AUGMENTATION = AugmentationRecipe()


_REWARD_KEYS = ("cross_entropy", "repetition_penalty")
"""Keys of a stage that only say something beside ``samples``."""


@dataclass(frozen=True)
class Stage:
    """One part of a run, with its own schedule: linear warm-up, then half a cosine down to zero."""

    name: str
    passes: int
    """How often all photos are seen."""
    learning_rate: float
    """Peak rate of the decoder."""
    minutes: float = 0.0
    """Most wall-clock minutes, validation included, from which on ``passes`` counts only where they are over
    earlier: the rates fall with the clock, so that the stage is at its end and not cut off. 0: no limit."""
    frozen_blocks: int = 0
    """Lowest encoder blocks (and the embedding) that do not learn. Their output is computed once for each
    view of a photo and cached. 0: end to end, with fresh augmentation of the pixels each time."""
    encoder_learning_rate: float = 0.0
    """Peak rate of the last learning encoder block."""
    layer_decay: float = 1.0
    """Each block below learns this much slower than the one above it."""
    views: int = 2
    """Cached versions of each photo: as it is, mirrored, then random crops. Unused when nothing is frozen."""
    batch_size: int = 64
    """Photos in a step."""
    captions_per_image: int = 5
    """Captions of each photo in a step; they share its encoder pass. For task ``caption`` only."""
    warmup_steps: int = 100
    label_smoothing: float = 0.1
    samples: int = 0
    """Captions of each photo that the model samples itself in a step, to learn from their CIDEr-D: 2 or
    more for self-critical training; 0: cross-entropy on people's captions."""
    sample_temperature: float = 1.0
    """What logits are divided by when the model samples; less than 1 keeps to what it thinks probable."""
    cross_entropy: float = 0.0
    """Weight of cross-entropy on people's captions beside the reward of ``samples``, which alone makes
    captions more and more alike. 0: off. Without ``samples`` cross-entropy is the loss itself."""
    repetition_penalty: float = 0.0
    """What a sample's reward (CIDEr-D, 0 to 10) loses for each word that stands beside itself and for each
    pair of words that it says again."""
    contrastive: float = 0.0
    """Weight of the image-text contrastive loss beside the other one: how well each caption's own picture
    can be told from the others of the batch. 0: off."""
    concepts: float = 0.0
    """Weight of the loss that teaches the head of ``[concepts]`` which words a picture is about. 0: off."""
    sentences: float = 0.0
    """Weight of the loss of sentences without pictures, one for each photo of a batch, which the decoder
    writes from the words of ``[concepts]`` that they say (``concepts.sentences``). 0: off."""
    distillation: float = 0.0
    """Weight of the loss that keeps the classes which the published classifier of ``encoder.weights`` sees
    as the untouched encoder sees them, while the encoder learns. 0: off."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 1, "passes", "batch_size", "captions_per_image", "views")
        found += too_small(
            self, 0, "encoder_learning_rate", "layer_decay", "warmup_steps", "contrastive", "minutes"
        )
        found += too_small(self, 0, *_REWARD_KEYS, "concepts", "sentences", "distillation")
        if self.learning_rate <= 0:
            found.append(f"learning_rate: expected more than 0, found {self.learning_rate}")
        if not 0 <= self.label_smoothing < 1:
            found.append(f"label_smoothing: expected 0 or more and less than 1, found {self.label_smoothing}")
        if self.samples < 0 or self.samples == 1:
            found.append(f"samples: expected 0, or 2 or more, found {self.samples}")
        if self.sample_temperature <= 0:
            found.append(f"sample_temperature: expected more than 0, found {self.sample_temperature}")
        if not self.samples:
            found += [
                f"{name}: expected 0 without samples, found {getattr(self, name)}"
                for name in _REWARD_KEYS
                if getattr(self, name) > 0
            ]
        if self.distillation > 0 and self.frozen_blocks > 0:
            found.append(f"distillation: expected frozen_blocks 0, found {self.frozen_blocks}")
        return found


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW and what goes with it, the same in all stages."""

    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    max_gradient_norm: float = 1.0
    average_decay: float = 0.995
    """Decay of the running average of the weights that is validated and exported; 0 turns averaging off."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        found = too_small(self, 0, "weight_decay")
        if self.max_gradient_norm <= 0:
            found.append(f"max_gradient_norm: expected more than 0, found {self.max_gradient_norm}")
        for name in ("beta1", "beta2", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                found.append(f"{name}: expected 0 or more and less than 1, found {getattr(self, name)}")
        return found


@dataclass(frozen=True)
class ValidationRecipe:
    """When the model is judged, and when a run that gets no better stops."""

    measure: Literal["cider", "exact"] = "cider"
    """What chooses the best checkpoint of a captioner: CIDEr, or the share of captions that are equal to a
    reference, word for word, where there is one right answer. Other tasks have their own."""
    every_passes: int = 1
    patience: int = 0
    """Stop a stage after this many validations without a better one; 0: never."""
    checkpoint_minutes: float = 5.0
    """A checkpoint to resume from is written at least this often, and after each pass."""

    def problems(self) -> list[str]:
        """Values that make no sense."""
        return too_small(self, 1, "every_passes") + too_small(self, 0, "patience", "checkpoint_minutes")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run."""

    name: str
    data: DataRecipe
    stages: tuple[Stage, ...]
    task: Literal["caption", "language", "classification"] = "caption"
    """``caption``: sentences for photos. ``language``: the next word of text alone, by the decoder.
    ``classification``: the class of a picture, by the encoder. A captioner can ``start`` from both."""
    start: str | None = None
    """Directory of a checkpoint whose weights this run begins with, relative to the current directory; parts
    of the model that it lacks start fresh. By default everything but ``encoder.weights`` starts random."""
    start_words: bool = False
    """Whether ``start`` may have another vocabulary: the words that both have keep what is known of them,
    new ones start fresh and as unlikely as the unlikeliest. Otherwise another vocabulary is a mistake."""
    start_encoder: str | None = None
    """Directory of another checkpoint, whose encoder is taken instead: a captioner can begin with the eyes of
    one run and, by ``start``, the language of another."""
    seed: int = 1
    threads: int | None = None
    """CPU threads; by default what this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a CUDA device where there is one."""
    augmentation: AugmentationRecipe = DEFAULT_AUGMENTATION
    tokenizer: TokenizerRecipe = field(default_factory=TokenizerRecipe)
    encoder: EncoderConfig = field(default_factory=VitConfig)
    """``kind`` chooses it; each kind documents its own keys (`train.models.registry`)."""
    decoder: DecoderConfig = field(default_factory=TransformerConfig)
    """``kind`` chooses it; each kind documents its own keys (`train.models.registry`)."""
    concepts: ConceptsConfig | None = None
    """Words of the picture that a Transformer decoder reads beside what the encoder sees; by default none."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    generation: GenerationSettings = field(
        default_factory=lambda: GenerationSettings(num_beams=3, max_new_tokens=22)
    )
    """How the exported bundle writes captions unless told otherwise."""

    def problems(self) -> list[str]:
        """Values that do not fit together."""
        found = too_small(self, 0, "seed") + ([] if self.threads is None else too_small(self, 1, "threads"))
        for section in SECTIONS:
            found += [f"{section}.{problem}" for problem in getattr(self, section).problems()]
        found += [] if self.stages else ["stages: expected at least one"]
        for index, stage in enumerate(self.stages):
            found += [f"stages[{index}].{problem}" for problem in stage.problems()]
            if not 0 <= stage.frozen_blocks <= self.encoder.levels:
                found.append(
                    f"stages[{index}].frozen_blocks: expected 0 to {self.encoder.levels}, "
                    f"the encoder's depth, found {stage.frozen_blocks}"
                )
        distils = any(stage.distillation > 0 for stage in self.stages)
        if distils and (self.encoder.kind != "vit" or self.encoder.weights is None):
            found.append("distillation: expected an encoder of kind 'vit' with weights and their classifier")
        if self.start_words and self.start is None:
            found.append("start_words: expected a start, whose vocabulary it is about")
        found += self._length_problems() + self._task_problems() + self._concept_problems()
        found += [f"generation.{problem}" for problem in too_small(self.generation, 1, "num_beams")]
        return found

    def _length_problems(self) -> list[str]:
        """Captions that the decoder could not read."""
        longest, written = self.decoder.longest, self.generation.max_new_tokens
        if longest is None:
            return [f"generation.{problem}" for problem in too_small(self.generation, 1, "max_new_tokens")]
        found = []
        if self.tokenizer.max_tokens > longest:
            found.append(
                f"tokenizer.max_tokens {self.tokenizer.max_tokens} is more than decoder.max_length {longest}"
            )
        if not 1 <= written <= longest:
            found.append(
                f"generation.max_new_tokens: expected 1 to {longest}, decoder.max_length, found {written}"
            )
        return found

    def _concept_problems(self) -> list[str]:
        """Concepts that could not be learned, or not be read."""
        concepts = self.concepts
        source = None if concepts is None else concepts.source
        has_sentences = concepts is not None and concepts.sentences is not None
        found = []
        for index, stage in enumerate(self.stages):
            if stage.concepts > 0 and source != "captions":
                found.append(f"stages[{index}].concepts: expected [concepts] with source 'captions'")
            if stage.sentences > 0 and not has_sentences:
                found.append(f"stages[{index}].sentences: expected a text file in concepts.sentences")
        if concepts is None:
            return found
        found += [f"concepts.{problem}" for problem in concepts.problems()]
        if self.decoder.kind != "transformer":
            found.append(f"concepts: expected a decoder of kind 'transformer', found {self.decoder.kind!r}")
        taught = self.start is not None or any(stage.concepts > 0 for stage in self.stages)
        if source == "captions" and not taught:
            found.append("concepts: expected a stage with concepts = 1.0, which teaches them, or a start")
        if source == "classes" and self.encoder.kind != "vit":
            found.append(
                f"concepts.source 'classes': expected encoder.kind 'vit', found {self.encoder.kind!r}"
            )
        if source == "classes" and self.encoder.weights is None and self.start is None:
            found.append("concepts.source 'classes': expected encoder.weights, which has the classifier")
        return found

    def _task_problems(self) -> list[str]:
        """What only captioners can do, asked of another task."""
        if self.task == "caption":
            return []
        keys = (
            "samples",
            "contrastive",
            "concepts",
            "sentences",
            "distillation",
            *(["frozen_blocks"] if self.task == "language" else []),
        )
        elsewhere = (
            [] if self.start_encoder is None else [f"start_encoder: expected none for task {self.task}"]
        )
        return elsewhere + [
            f"stages[{index}].{key}: expected 0 for task {self.task}, found {getattr(stage, key)}"
            for index, stage in enumerate(self.stages)
            for key in keys
            if getattr(stage, key)
        ]

    def as_table(self) -> dict[str, Any]:
        """The recipe as plain JSON values, defaults written out."""
        table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return table

    def digest(self) -> str:
        """A short hash that changes whenever a choice does."""
        return hashlib.sha256(json.dumps(self.as_table(), sort_keys=True).encode()).hexdigest()[:16]


Section = (
    DataRecipe
    | AugmentationRecipe
    | TokenizerRecipe
    | EncoderConfig
    | DecoderConfig
    | Stage
    | OptimizerRecipe
    | ValidationRecipe
)
SECTIONS: dict[str, type[Section]] = {
    "data": DataRecipe,
    "augmentation": AugmentationRecipe,
    "tokenizer": TokenizerRecipe,
    "encoder": EncoderConfig,
    "decoder": DecoderConfig,
    "optimizer": OptimizerRecipe,
    "validation": ValidationRecipe,
}
"""The tables of a recipe but its stages."""
