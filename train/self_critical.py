"""Self-critical training: captions that the model samples itself, rewarded by how well people would agree.

Cross-entropy teaches the next word after the words of a person; when the model writes on its own, it follows
its own words. Here it does so while it learns: it samples a few captions of each photo, CIDEr-D judges them,
and what is better than the photo's other samples becomes more probable.

Source: Rennie et al., "Self-critical Sequence Training", arXiv 1612.00563; the mean of the other samples as
    baseline, instead of the greedy caption: Luo, arXiv 2003.09971.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiloword.train.captions import EncodedCaptions, TokenIds
from kiloword.train.metrics.cider import CiderScorer
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.validation import TorchDecoder


class CaptionReward:
    """CIDEr-D of token ids against the training captions of their photo.

    The end of a sentence counts as a word, or the best captions would be those that stop in the middle
    ("a dog runs through a").

    Args:
        captions: of each training photo.
        ids: the special tokens.
        repetition_penalty: what a caption loses for each of its `repetitions`. CIDEr-D by itself only
            does not pay for them.
    """

    def __init__(
        self, captions: Sequence[EncodedCaptions], ids: TokenIds, repetition_penalty: float = 0.0
    ) -> None:
        self._repetition_penalty = repetition_penalty
        # Every unknown word is another word, and none that the model could write.
        self._ids = ids
        self._scorer = CiderScorer([[self._words(one) for one in photo.all] for photo in captions])

    def __call__(self, rows: NDArray[np.int64], sampled: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rewards of sampled captions.

        Args:
            rows: (B,) the photos' numbers.
            sampled: int64 (B, samples, L), beginning with ``<bos>``, padded after ``<eos>``.

        Returns:
            (B, samples), 0 to 10, less the penalty.
        """
        photos = np.repeat(rows, sampled.shape[1])
        words = [self._words(one) for one in sampled.reshape(len(photos), -1)]
        scores = self._scorer.scores(words, photos.tolist())
        if self._repetition_penalty:
            scores = scores - self._repetition_penalty * np.array([repetitions(one) for one in words])
        return scores.reshape(sampled.shape[:2]).astype(np.float32)

    def _words(self, token_ids: NDArray[np.int64]) -> tuple[str, ...]:
        kept = token_ids[(token_ids != self._ids.pad) & (token_ids != self._ids.bos)]
        return tuple(map(str, kept.tolist()))


def repetitions(words: Sequence[str]) -> int:
    """How often a sentence says a word twice in a row, or two words again that it said before.

    >>> repetitions("a dog on a dog on on grass".split())  # "a dog", "dog on" again, "on on"
    3
    """
    pairs = list(itertools.pairwise(words))
    return len(pairs) - len(set(pairs)) + sum(first == second for first, second in set(pairs))


@torch.no_grad()
def sample_captions(
    model: CaptionModel,
    features: Tensor,
    ids: TokenIds,
    samples: int,
    max_tokens: int,
    temperature: float = 1.0,
) -> NDArray[np.int64]:
    """Captions drawn word by word with the probabilities that the model gives them.

    Args:
        model: in evaluation mode.
        features: (B, N, image_width), what the encoder returned.
        ids: ``pad``, ``bos`` and ``unk`` are never drawn.
        samples: captions of each picture.
        max_tokens: most new tokens.
        temperature: logits are divided by it. Less than 1 makes what is probable more probable: label
            smoothing teaches a model to keep a tenth of each step for any word at all, and few of its samples
            would be sentences.

    Returns:
        int64 (B, samples, L + 1), beginning with ``<bos>``, padded after ``<eos>``.
    """
    decoder = TorchDecoder(model, features)
    encoded = decoder.pictures()
    context, state = decoder.context(encoded), decoder.initial_state(encoded, len(features))
    rows = np.repeat(np.arange(len(features)), samples).reshape(-1, samples)
    token_ids = np.full((len(features), samples, 1), ids.bos, np.int64)
    following = np.arange(rows.size).reshape(rows.shape)
    running = np.ones(rows.shape, bool)
    first = np.full((len(features), 1, 1), ids.bos, np.int64)
    logits, state = decoder.step(first, np.arange(len(features))[:, None], context, state)
    logits = logits.repeat(samples, axis=1)
    while True:
        drawn = np.where(running, _draw(logits / temperature, ids), ids.pad)
        token_ids = np.concatenate([token_ids, drawn[:, :, None]], axis=2)
        running &= drawn != ids.eos
        if not running.any() or token_ids.shape[2] > max_tokens:
            return token_ids
        logits, state = decoder.step(drawn[:, :, None], rows, context, state)
        rows = following


def _draw(logits: NDArray[np.float32], ids: TokenIds) -> NDArray[np.int64]:
    """One token for each row of logits (B, samples, V)."""
    chances = _only_words(torch.from_numpy(logits), ids).softmax(-1)
    drawn: NDArray[np.int64] = torch.multinomial(chances.flatten(0, 1), 1).reshape(logits.shape[:2]).numpy()
    return drawn


def _only_words(logits: Tensor, ids: TokenIds) -> Tensor:
    """Logits with what is never written ruled out."""
    never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    never[[ids.pad, ids.bos, ids.unk]] = True
    return logits.masked_fill(never, -torch.inf)


def self_critical_loss(
    model: CaptionModel,
    features: Tensor,
    sampled: NDArray[np.int64],
    rewards: NDArray[np.float32],
    ids: TokenIds,
    temperature: float = 1.0,
) -> Tensor:
    """Policy-gradient loss of sampled captions; each sample's baseline is the mean of the others.

    Args:
        model: the captioner; in evaluation mode, so that the probabilities are those of the sampling.
        features: (B, N, image_width).
        sampled: int64 (B, samples, L) from ``sample_captions``, at least two samples.
        rewards: (B, samples).
        ids: the special tokens.
        temperature: that of the sampling.

    Returns:
        A scalar: minus the mean over tokens of advantage times log-probability.
    """
    samples = rewards.shape[1]
    advantage = torch.from_numpy((rewards - rewards.mean(axis=1, keepdims=True)) * samples / (samples - 1))
    tokens = torch.from_numpy(sampled).to(features.device)
    target = tokens[:, :, 1:]
    counts = target != ids.pad
    hidden = model(features, tokens[:, :, :-1])
    logits = model.decoder.logits(hidden[counts]).float() / temperature
    logprobs = _only_words(logits, ids).log_softmax(-1)
    chosen = logprobs.gather(-1, target[counts][:, None])[:, 0]
    weight = advantage.to(features.device)[:, :, None].expand(target.shape)[counts]
    return -(weight * chosen).mean()
