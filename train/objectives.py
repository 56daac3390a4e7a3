"""What a captioner learns from: losses that a stage of a recipe switches on, weighs and adds up.

A new objective is a function or a small class that turns what a step has seen into a `Term`, and one entry in
`objectives_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kiloword.train.captions import EncodedCaptions, TokenIds
from kiloword.train.concepts import ConceptLessons, concept_loss, draw_sentences, told_context
from kiloword.train.contrastive import info_nce, no_counterexamples, sentence_vectors
from kiloword.train.distillation import UntouchedEncoder, class_divergence
from kiloword.train.models.captioner import CaptionModel
from kiloword.train.models.decoder import Decoder
from kiloword.train.recipe import Stage
from kiloword.train.self_critical import CaptionReward, sample_captions, self_critical_loss


@dataclass(frozen=True)
class Seen:
    """One step's photos and captions, as every objective gets them."""

    model: CaptionModel
    features: Tensor
    """(B, N, image_width) of the encoder, with gradients where it learns."""
    rows: NDArray[np.int64]
    """(B,) the photos' numbers."""
    tokens: Tensor
    """int64 (B, captions, L), from ``<bos>`` to ``<eos>`` and padding."""
    pixels: Tensor | None = None
    """uint8 (B, height, width, 3) that the encoder saw; ``None`` where frozen blocks were cached."""


@dataclass(frozen=True)
class Term:
    """What one objective says of a step."""

    loss: Tensor
    """A scalar."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """For the log of the run."""
    weight: float = 1.0
    """Over how many tokens, or pictures, the loss is a mean."""


Objective = Callable[[Seen], Term]


@dataclass(frozen=True)
class Objectives:
    """The weighted sum of what a stage learns from."""

    terms: Sequence[tuple[float, Objective]]
    samples: bool
    """Whether the model's own captions are learned from. It is then in evaluation mode, without dropout:
    what is rewarded must be what was sampled."""

    def __call__(self, seen: Seen) -> Term:
        """The sum of the weighted losses, and what each says for the log."""
        terms = [(weight, objective(seen)) for weight, objective in self.terms]
        facts = {name: value for _, term in terms for name, value in term.facts.items()}
        weight, first = terms[0]
        terms_weight = first.weight  # of the words; the others' means are over nearly the same batch
        total = first.loss if weight == 1.0 else weight * first.loss
        for weight, term in terms[1:]:
            total = total + weight * term.loss
        return Term(total, facts, terms_weight)


def objectives_of(
    stage: Stage,
    captions: Sequence[EncodedCaptions],
    ids: TokenIds,
    max_new_tokens: int,
    lessons: ConceptLessons | None = None,
    untouched: UntouchedEncoder | None = None,
) -> Objectives:
    """What a stage asks for.

    Args:
        stage: of a recipe.
        captions: of each training photo.
        ids: the special tokens.
        max_new_tokens: longest caption that the model samples itself.
        lessons: for stages that teach concepts.
        untouched: for stages that distil from it.
    """
    terms: list[tuple[float, Objective]] = []
    if stage.samples:
        reward = CaptionReward(captions, ids, stage.repetition_penalty)
        terms.append((1.0, lambda seen: _self_critical(seen, reward, ids, stage, max_new_tokens)))
        if stage.cross_entropy:
            terms.append(
                (stage.cross_entropy, lambda seen: _said_by_people(seen, ids, stage.label_smoothing))
            )
    else:
        terms.append((1.0, lambda seen: _cross_entropy(seen, ids, stage.label_smoothing)))
    if stage.contrastive:
        terms.append((stage.contrastive, lambda seen: _contrastive(seen, ids)))
    if stage.concepts and lessons:
        terms.append((stage.concepts, lambda seen: _concepts(seen, lessons)))
    if stage.sentences and lessons:
        terms.append((stage.sentences, lambda seen: _sentences(seen, lessons, ids, stage.label_smoothing)))
    if stage.distillation and untouched:
        terms.append((stage.distillation, lambda seen: _distillation(seen, untouched)))
    return Objectives(terms, samples=stage.samples > 0)


def _cross_entropy(seen: Seen, ids: TokenIds, label_smoothing: float) -> Term:
    loss = caption_loss(seen.model, seen.features, seen.tokens, ids, label_smoothing)
    return Term(loss, weight=float(_learned(seen.tokens[:, :, 1:], ids).sum()))


def _said_by_people(seen: Seen, ids: TokenIds, label_smoothing: float) -> Term:
    """Cross-entropy beside another objective: in the log by its name, and computed without dropout."""
    term = _cross_entropy(seen, ids, label_smoothing)
    return Term(term.loss, {"cross_entropy": float(term.loss.detach())}, term.weight)


def _self_critical(
    seen: Seen, reward: CaptionReward, ids: TokenIds, stage: Stage, max_new_tokens: int
) -> Term:
    temperature = stage.sample_temperature
    features = seen.features.detach()
    sampled = sample_captions(seen.model, features, ids, stage.samples, max_new_tokens, temperature)
    rewards = reward(seen.rows, sampled)
    loss = self_critical_loss(seen.model, seen.features, sampled, rewards, ids, temperature)
    return Term(loss, {"reward": float(rewards.mean())}, float((sampled[:, :, 1:] != ids.pad).sum()))


def _contrastive(seen: Seen, ids: TokenIds) -> Term:
    """Pictures against the first of their captions, which is a random one."""
    joint = seen.model.joint
    if joint is None:
        raise ValueError("the model has no joint space")
    tokens = seen.tokens[:, 0]
    texts = sentence_vectors(seen.model, tokens, ids)
    ignored = no_counterexamples(seen.rows, tokens)
    loss = info_nce(joint.image_vectors(seen.features), texts, joint.temperature, ignored)
    return Term(loss, {"contrastive": float(loss.detach()), "temperature": float(joint.temperature.detach())})


def _concepts(seen: Seen, lessons: ConceptLessons) -> Term:
    """What the captions of each photo are about."""
    concepts = seen.model.taught_concepts()
    loss = concept_loss(concepts, seen.features, [lessons.of_photos[row] for row in seen.rows])
    return Term(loss, {"concepts": float(loss.detach())})


def _sentences(seen: Seen, lessons: ConceptLessons, ids: TokenIds, label_smoothing: float) -> Term:
    """As many sentences as there are photos, written from their own words."""
    drawn = draw_sentences(lessons, len(seen.rows), seen.model.taught_concepts().config.best, ids.pad)
    tokens, words, known = (item.to(seen.features.device) for item in drawn)
    hidden = seen.model.decoder.read(tokens[:, :-1], told_context(seen.model, words, known)).hidden
    loss = next_token_loss(seen.model.decoder, hidden, tokens[:, 1:], ids, label_smoothing)
    return Term(loss, {"sentences": float(loss.detach())})


def _distillation(seen: Seen, untouched: UntouchedEncoder) -> Term:
    """The published classes; for the log, how often the best of them is still the same."""
    if seen.pixels is None:
        raise ValueError("the untouched encoder must see the pixels")
    learned, before = untouched.classify(seen.features), untouched.scores(seen.pixels)
    kept = (learned.argmax(-1) == before.argmax(-1)).float().mean()
    loss = class_divergence(learned, before)
    return Term(loss, {"distillation": float(loss.detach()), "classes_kept": float(kept)})


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
        A scalar, in nats, with what the decoder adds for where it looked.
    """
    target = tokens[:, :, 1:].flatten(0, 1)
    reading = model.read(features, tokens[:, :, :-1])
    loss = next_token_loss(model.decoder, reading.hidden, target, ids, label_smoothing)
    return loss + model.decoder.penalty(reading.looks, _learned(target, ids))


def next_token_loss(
    decoder: Decoder, hidden: Tensor, target: Tensor, ids: TokenIds, label_smoothing: float
) -> Tensor:
    """Mean cross-entropy of the tokens that follow, over all but padding and unknown words.

    Args:
        decoder: makes scores of hidden states.
        hidden: (R, L, W), what is known after each token.
        target: int64 (R, L), the token that follows each.
        ids: which tokens are padding and unknown.
        label_smoothing: share of the probability that is spread over the whole vocabulary.

    Returns:
        A scalar, in nats.
    """
    counts = _learned(target, ids)
    logits = decoder.logits(hidden[counts]).float()
    return F.cross_entropy(logits, target[counts], label_smoothing=label_smoothing)


def _learned(target: Tensor, ids: TokenIds) -> Tensor:
    """The model is never taught to write <unk>, and padding is not worth a product with the vocabulary."""
    return (target != ids.pad) & (target != ids.unk)
