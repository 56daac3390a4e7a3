"""CIDEr of the captions that a model in training writes for photos it never learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from kiloword.train.captions import TokenIds
from kiloword.train.datasets import CaptionRecord
from kiloword.train.metrics import score
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.photos import Photos

_BATCH = 64


@dataclass(frozen=True)
class ValidationSet:
    """Photos with reference captions."""

    name: str
    records: Sequence[CaptionRecord]
    photos: Photos


@torch.inference_mode()
def validate(
    model: CaptionModel, sets: Sequence[ValidationSet], tokenizer: Tokenizer, ids: TokenIds, max_tokens: int
) -> dict[str, float]:
    """Greedy captions of every set, scored.

    Returns:
        CIDEr of each set by its name, times 100, and their mean as ``mean``, which chooses the best
        checkpoint.
    """
    model.eval()
    scores = {item.name: _cider(model, item, tokenizer, ids, max_tokens) for item in sets}
    return {**scores, "mean": sum(scores.values()) / len(scores)}


def _cider(
    model: CaptionModel, item: ValidationSet, tokenizer: Tokenizer, ids: TokenIds, max_tokens: int
) -> float:
    candidates: dict[str, str] = {}
    for start in range(0, len(item.records), _BATCH):
        features = item.photos.plain_features(model.encoder, slice(start, start + _BATCH))
        texts = tokenizer.decode_batch(greedy(model, features, ids, max_tokens).tolist())
        records = item.records[start : start + _BATCH]
        candidates |= {record.image_id: text for record, text in zip(records, texts, strict=True)}
    references = {record.image_id: record.captions for record in item.records}
    # Our own tokenizer, for the reference needs Java: fine for comparing checkpoints with each other.
    return score(references, candidates, tokenizer="own").cider


def greedy(model: CaptionModel, features: Tensor, ids: TokenIds, max_tokens: int) -> Tensor:
    """The most probable next token, again and again, with a key/value cache.

    Args:
        model: in evaluation mode.
        features: (B, N, image_width).
        ids: ``pad``, ``bos`` and ``unk`` are never written; a finished row is filled with ``eos``.
        max_tokens: most new tokens.

    Returns:
        int64 (B, at most max_tokens).
    """
    context = model.decoder.image_context(features)
    last = torch.full((len(features), 1), ids.bos, dtype=torch.int64, device=features.device)
    past, written, finished = None, [], torch.zeros_like(last, dtype=torch.bool)
    while len(written) < max_tokens and not finished.all():
        hidden, past = model.decoder(last, context, past)
        logits = model.decoder.logits(hidden[:, -1])
        logits[:, [ids.pad, ids.bos, ids.unk]] = -torch.inf
        last = logits.argmax(-1, keepdim=True).masked_fill(finished, ids.eos)
        finished = finished | (last == ids.eos)
        written.append(last)
    return torch.cat(written, dim=1)
