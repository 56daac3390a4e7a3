"""Learning to write from text alone: a decoder that knows sentences before it sees its first picture."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from kiloword.runtime.errors import ConfigError
from kiloword.train.batches import Share, shuffled_rows
from kiloword.train.captions import TokenIds, pad_captions
from kiloword.train.checkpoint import build_decoder, start_from
from kiloword.train.concepts import read_lines
from kiloword.train.material import load_captions, tokenizer_of, validation_names
from kiloword.train.models.language import LanguageModel
from kiloword.train.objectives import next_token_loss
from kiloword.train.pictures import Progress
from kiloword.train.recipe import DataSet, Recipe, Stage
from kiloword.train.tasks import Judgement, Measure, StepResult, Steps

_BATCH = 256


@dataclass(frozen=True)
class _Sentences:
    """Encoded sentences of a data set."""

    name: str
    token_ids: Sequence[NDArray[np.int64]]


class LanguageTask:
    """Sentences in, the next word out; judged by perplexity."""

    measure = Measure("perplexity", "perplexity", "nats per token", higher_is_better=False)

    def __init__(self, recipe: Recipe, device: torch.device, progress: Progress) -> None:  # noqa: ARG002
        self.recipe = recipe
        self.device = device
        texts = [text for item in recipe.data.train for text in _sentences(item, recipe) * item.repeat]
        self.tokenizer: Tokenizer = tokenizer_of(recipe, texts)
        self.ids = TokenIds.of(self.tokenizer)
        self.sentences = self._encoded(texts)
        names = validation_names(recipe.data.validation)
        self.validation = [
            _Sentences(name, self._encoded(_sentences(item, recipe)))
            for name, item in zip(names, recipe.data.validation, strict=True)
        ]
        self.facts: dict[str, Any] = {
            "sentences": len(texts),
            "tokens": sum(len(ids) - 1 for ids in self.sentences),
            "vocabulary": self.tokenizer.get_vocab_size(),
        }

    def _encoded(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        longest = self.recipe.tokenizer.max_tokens
        encoded = self.tokenizer.encode_batch(list(texts))
        return [np.asarray(item.ids[:longest], np.int64) for item in encoded]

    def digest(self) -> str:
        """A hash of the vocabulary and all tokens."""
        digest = hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        for ids in self.sentences:
            digest.update(ids.tobytes() + b"|")
        return digest.hexdigest()[:16]

    def build_model(self) -> nn.Module:
        """The decoder alone, from ``start`` where the recipe names it."""
        model = LanguageModel(build_decoder(self.recipe, self.tokenizer.get_vocab_size()))
        if self.recipe.start:
            start_from(model, Path(self.recipe.start), self.tokenizer, by_word=self.recipe.start_words)
        return model

    def prepare(self, model: nn.Module, stage: Stage, number: int, share: Share) -> Steps:
        """Nothing but the number of steps."""
        if not isinstance(model, LanguageModel):
            raise TypeError(f"expected a LanguageModel, found {type(model).__name__}")
        self.model, self.stage, self.number, self.share = model, stage, number, share
        self.in_pass = share.steps_in_pass(len(self.sentences), stage.batch_size)
        return Steps(self.in_pass, self.in_pass * stage.passes)

    def step(self, number: int) -> StepResult:
        """Cross-entropy of the next token of one batch."""
        every = np.arange(len(self.sentences))
        seed, batch_size = (self.recipe.seed, self.number), self.stage.batch_size * self.share.of
        rows = self.share.take(shuffled_rows(every, batch_size, seed, divmod(number, self.in_pass)))
        self.model.train()
        sentences = [self.sentences[row] for row in rows]
        loss = self._loss(sentences, self.stage.label_smoothing)
        return StepResult(loss, len(rows), weight=self._learned(sentences))

    def _loss(self, sentences: Sequence[NDArray[np.int64]], label_smoothing: float) -> Tensor:
        tokens = torch.from_numpy(pad_captions([[ids] for ids in sentences], self.ids.pad)[:, 0])
        tokens = tokens.to(self.device)
        hidden = self.model(tokens[:, :-1])
        return next_token_loss(self.model.decoder, hidden, tokens[:, 1:], self.ids, label_smoothing)

    @torch.inference_mode()
    def judge(self) -> Judgement:
        """Perplexity over all tokens but unknown ones."""
        self.model.eval()
        scores = {item.name: self._perplexity(item) for item in self.validation}
        return Judgement({**scores, "mean": sum(scores.values()) / len(scores)})

    def stored(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Without what looks at pictures: it learned nothing and starts fresh in a captioner."""
        return {name: tensor for name, tensor in weights.items() if not self.model.decoder.looks(name)}

    def _perplexity(self, item: _Sentences) -> float:
        total, count = 0.0, 0
        ordered = sorted(item.token_ids, key=len)  # little padding
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            known = self._learned(batch)
            if known:
                total += float(self._loss(batch, 0.0)) * known
                count += known
        return math.exp(total / max(1, count))

    def _learned(self, sentences: Sequence[NDArray[np.int64]]) -> int:
        """How many tokens count: all that are written, but unknown ones."""
        return sum(int((ids[1:] != self.ids.unk).sum()) for ids in sentences)


def _sentences(item: DataSet, recipe: Recipe) -> list[str]:
    """The lines of a text file, or the captions of a captioned data set."""
    source = Path(recipe.data.root) / item.source
    if source.suffix.lower() != ".txt":
        records, _ = load_captions(item, recipe.data)
        return [caption for record in records for caption in record.captions]
    if item.split is not None:
        raise ConfigError([f"a text file has no splits, and not {item.split!r}"], path=source)
    texts = read_lines(source)
    if not texts:
        raise ConfigError(["expected one sentence a line, found none"], path=source)
    if item.limit is not None and item.limit < len(texts):
        texts = [texts[index] for index in np.linspace(0, len(texts) - 1, item.limit).astype(int)]
    return texts
