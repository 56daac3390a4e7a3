"""The same checkpoint in plain torch: what a practitioner would run without exporting anything.

It is no straw man: keys and values of the image are computed once, those of earlier words are kept, beams
share the image's. Only what the runtime does for batches is left out: finished photos stay in the batch, as
they do in other eager implementations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiloword.runtime.manifest import GenerationSettings
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.tokenizers import BOS, EOS, PAD, UNK


class TorchCaptioner:
    """A checkpoint that writes token ids in torch eager mode."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        loaded = load_checkpoint(checkpoint)
        self._model = loaded.model
        vocabulary = loaded.tokenizer.get_vocab()
        self._ids = TokenIds(*(vocabulary[token] for token in (PAD, BOS, EOS, UNK)))

    @torch.inference_mode()
    def generate(self, pixels: NDArray[np.uint8], settings: GenerationSettings) -> list[tuple[int, ...]]:
        """Token ids for each photo of uint8 (batch_size, height, width, 3), up to the end of sequence."""
        features = self._model.encoder(torch.from_numpy(pixels))
        if settings.num_beams > 1:
            return beam_search(self._model, features, self._ids, settings)
        rows = greedy(self._model, features, self._ids, settings.max_new_tokens).tolist()
        return [_until(row, self._ids.eos) for row in rows]


def greedy(model: CaptionModel, features: Tensor, ids: TokenIds, max_tokens: int) -> Tensor:
    """The most probable next token, again and again, with a key/value cache.

    Args:
        model: In evaluation mode.
        features: (B, N, image_width), what the encoder returned.
        ids: ``pad``, ``bos`` and ``unk`` are never written; a finished row is filled with ``eos``.
        max_tokens: Most new tokens.

    Returns:
        int64 (B, at most max_tokens).
    """
    context = model.context(features)
    last = torch.full((len(features), 1), ids.bos, dtype=torch.int64, device=features.device)
    past, finished = None, torch.zeros_like(last, dtype=torch.bool)
    written: list[Tensor] = []
    while len(written) < max_tokens and not finished.all():
        hidden, past = model.decoder(last, context, past)
        logits = model.decoder.logits(hidden[:, -1])
        logits[:, [ids.pad, ids.bos, ids.unk]] = -torch.inf
        last = logits.argmax(-1, keepdim=True).masked_fill(finished, ids.eos)
        finished = finished | (last == ids.eos)
        written.append(last)
    return torch.cat(written, dim=1)


def beam_search(
    model: CaptionModel, features: Tensor, ids: TokenIds, settings: GenerationSettings
) -> list[tuple[int, ...]]:
    """Cached beam search, by the rule that `runtime/generation.py` states; no n-grams are banned.

    Args:
        model: In evaluation mode.
        features: (B, N, image_width), what the encoder returned.
        ids: Special tokens.
        settings: `num_beams`, `max_new_tokens` and `length_penalty` are used.
    """
    batch, beams = len(features), settings.num_beams
    context = model.context(features)
    last = torch.full((batch * beams, 1), ids.bos)
    totals = torch.full((batch, beams), -torch.inf)
    totals[:, 0] = 0.0  # all beams of a photo start alike, so only one may start at all
    written = torch.empty((batch * beams, 0), dtype=torch.int64)
    searches = [_Search(settings, ids.eos) for _ in range(batch)]
    past = None
    while not all(search.done for search in searches):
        hidden, past = model.decoder(last, context, past)
        logprobs = model.decoder.logits(hidden[:, -1]).log_softmax(-1)
        logprobs[:, [ids.pad, ids.bos, ids.unk]] = -torch.inf
        scores = (totals.view(-1, 1) + logprobs).view(batch, -1)
        best, flat = scores.topk(2 * beams, dim=1)
        tokens = flat % logprobs.shape[1]
        rows = flat // logprobs.shape[1] + beams * torch.arange(batch)[:, None]
        candidates = torch.cat([written[rows], tokens[:, :, None]], dim=2)
        steps = zip(searches, best, candidates, strict=True)
        kept = torch.tensor([search.advance(scored, continued) for search, scored, continued in steps])
        totals, last = best.gather(1, kept), tokens.gather(1, kept).view(-1, 1)
        chosen = rows.gather(1, kept).flatten()
        written = torch.cat([written[chosen], last], dim=1)
        past = tuple(tensor[chosen] for tensor in past)
    return [search.best() for search in searches]


class _Search:
    """What has ended of one photo's hypotheses."""

    def __init__(self, settings: GenerationSettings, eos: int) -> None:
        self._settings, self._eos = settings, eos
        self._ended: list[tuple[float, tuple[int, ...]]] = []
        self.done = False

    def advance(self, totals: Tensor, candidates: Tensor) -> list[int]:
        """Set aside what ends and choose what goes on.

        Args:
            totals: (2 * num_beams,) sums of log-probabilities, best first.
            candidates: int64 (2 * num_beams, length), their tokens.

        Returns:
            The ranks of the `num_beams` candidates that go on.
        """
        beams, length = self._settings.num_beams, candidates.shape[1]
        scores = (totals / length**self._settings.length_penalty).tolist()
        ends = (candidates[:, -1] == self._eos).tolist()
        running = [rank for rank, end in enumerate(ends) if not end][:beams]
        ended = [rank for rank, end in enumerate(ends[:beams]) if end]
        if length == self._settings.max_new_tokens:
            ended += running
        if not self.done:
            self._ended += [(scores[rank], tuple(candidates[rank].tolist())) for rank in ended]
            self._ended = sorted(self._ended, key=lambda item: -item[0])[:beams]
            full = len(self._ended) == beams
            unbeatable = full and scores[running[0]] <= self._ended[-1][0]
            self.done = unbeatable or length == self._settings.max_new_tokens
        return running

    def best(self) -> tuple[int, ...]:
        """The tokens of the hypothesis with the highest score."""
        return self._ended[0][1]


def _until(tokens: list[int], eos: int) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(eos) + 1]) if eos in tokens else tuple(tokens)
