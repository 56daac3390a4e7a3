"""A joint space for pictures and sentences: near to each other where they belong together.

Shape legend:
    - P: pictures, S: sentences, J: width of the joint space
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kiloword.train.captions import TokenIds
from kiloword.train.models.captioner import CaptionModel

RECALL_AT = (1, 5, 10)


def info_nce(images: Tensor, texts: Tensor, temperature: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Which sentence belongs to the picture, and which picture to the sentence, among those of the batch.

    Args:
        images: (B, J) of length 1.
        texts: (B, J) of length 1; number i belongs to picture i.
        temperature: a scalar that similarities are divided by.
        ignored: boolean (B, B), True at pairs (picture, sentence) that are no counterexample although
            they are not given as a pair: a photo that comes twice, a sentence that fits both. The diagonal
            must be False.

    Returns:
        A scalar in nats: the mean of both directions' cross-entropy; log(B) for a guess.

    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv
        1807.03748; both directions: arXiv 2103.00020.
    """
    scores = images @ texts.t() / temperature
    if ignored is not None:
        scores = scores.masked_fill(ignored, -torch.inf)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.t(), right)) / 2


def no_counterexamples(rows: NDArray[np.int64], tokens: Tensor) -> Tensor:
    """Pairs that `info_nce` must ignore: the same photo again, or the same sentence.

    Args:
        rows: (B,) the photos' numbers.
        tokens: int64 (B, L), padded.

    Returns:
        Boolean (B, B), False on the diagonal.
    """
    photos = torch.from_numpy(rows).to(tokens.device)
    same = (photos[:, None] == photos[None, :]) | (tokens[:, None] == tokens[None, :]).all(dim=-1)
    return same & ~torch.eye(len(tokens), dtype=torch.bool, device=tokens.device)


def sentence_vectors(model: CaptionModel, tokens: Tensor, ids: TokenIds) -> Tensor:
    """Sentences int64 (S, L), padded, in the joint space: (S, J). They are read without a picture."""
    if model.joint is None:
        raise ValueError("the model has no joint space")
    return model.joint.text_vectors(model.decoder.read_text(tokens), (tokens != ids.pad).sum(dim=1) - 1)


def recall(
    images: NDArray[np.float32], texts: NDArray[np.float32], owners: Sequence[int]
) -> dict[str, float]:
    """How often what belongs together is found, in both directions.

    Args:
        images: (P, J) of length 1.
        texts: (S, J) of length 1.
        owners: the picture of each sentence.

    Returns:
        Percent of the pictures with one of their sentences among the nearest 1, 5 and 10 (``text@1`` ...),
        and of the sentences with their picture among the nearest (``image@1`` ...).
    """
    scores = images @ texts.T
    own = np.asarray(owners)[None, :] == np.arange(len(images))[:, None]
    best_own = np.where(own, scores, -np.inf).max(axis=1, keepdims=True)
    # Equal scores count against us: a space in which everything is one point finds nothing.
    text_ranks = ((scores >= best_own) & ~own).sum(axis=1)
    image_ranks = ((scores >= scores[own.argmax(axis=0), np.arange(len(texts))]) & ~own).sum(axis=0)
    found = {f"text@{count}": 100 * float((text_ranks < count).mean()) for count in RECALL_AT}
    return found | {f"image@{count}": 100 * float((image_ranks < count).mean()) for count in RECALL_AT}
