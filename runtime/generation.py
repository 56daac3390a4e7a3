"""Writing captions token by token: one beam search for every decoder; greedy search is the beam of one.

The search knows context, state and logits, and no architecture. Context stays, state is replaced by what the
decoder returns, and `beam_rows` tells the graph which row of the old state each hypothesis continues; that
alone lets beams grow after the prompt, reorder at each step, and vanish when their image is finished.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from kiloword.runtime.errors import BundleError, ConfigError
from kiloword.runtime.manifest import GenerationSettings, TokenSpec, check_generation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.sessions import Tensors

Floats: TypeAlias = "NDArray[np.float32]"
Scores: TypeAlias = "NDArray[np.float64]"
Ids: TypeAlias = "NDArray[np.int64]"


class Decoder(Protocol):
    """What the search asks of a decoder; `runtime.sessions.DecoderSession` says what each method does.

    A model in training is asked the same (`train/validation.py`), so that it is judged by the captions that
    its exported form will write.
    """

    @property
    def token_by_token(self) -> bool:
        """True when one call reads one token."""
        ...

    def context(self, encoded: Tensors) -> Tensors:
        """Pick what stays the same at each step."""
        ...

    def initial_state(self, encoded: Tensors, batch_size: int) -> Tensors:
        """Make the states of before the first token."""
        ...

    def step(
        self, input_ids: Ids, beam_rows: Ids, context: Tensors, state: Tensors
    ) -> tuple[Floats, Tensors]:
        """Read tokens and predict the one that follows."""
        ...


@dataclass(frozen=True)
class Generated:
    """The best hypothesis for one image."""

    token_ids: tuple[int, ...]
    """What was written, without the prompt; ends with the end-of-sequence token unless the length ran out."""
    token_logprobs: tuple[float, ...]
    """Natural logarithm of each token's probability, as the decoder gave it, before any token was banned."""
    score: float
    """Sum of the log-probabilities / number of tokens ** length_penalty: what hypotheses compete with."""


def generate(
    decoder: Decoder, encoded: Tensors, tokens: TokenSpec, settings: GenerationSettings
) -> list[Generated]:
    """Write a caption for each image of a batch.

    Args:
        decoder: The decoder to ask.
        encoded: What `EncoderSession.encode` returned for the batch.
        tokens: The token ids that steer the search.
        settings: How wide and how long to search.

    Returns:
        The best hypothesis of each image, in order.

    Raises:
        ConfigError: The settings make no sense for this decoder.
        BundleError: The decoder computed values that are no numbers.

    Source: beam search as in Hugging Face transformers with ``early_stopping=False``: a hypothesis that ends
        is set aside if it is among the best ``num_beams`` candidates; an image is done when ``num_beams`` are
        set aside and the best that goes on scores, at its present length, no better than the worst of them.
    """
    search = _BeamSearch(decoder, encoded, tokens, settings)
    while search.is_running:
        search.advance()
    return search.best()


def generate_stream(
    decoder: Decoder, encoded: Tensors, tokens: TokenSpec, settings: GenerationSettings
) -> Iterator[tuple[int, ...]]:
    """Write a caption for one image greedily, and show it as it grows.

    Args:
        decoder: The decoder to ask.
        encoded: What `EncoderSession.encode` returned for one image.
        tokens: The token ids that steer the search.
        settings: ``num_beams`` is taken as 1: a wider beam may change the first word at the very end.

    Yields:
        All tokens so far, after each one; the last are those that `generate` returns.

    Raises:
        ConfigError: The settings make no sense for this decoder.
        BundleError: The decoder computed values that are no numbers.
    """
    search = _BeamSearch(decoder, encoded, tokens, replace(settings, num_beams=1))
    while search.is_running:
        search.advance()
        yield search.first_tokens()


@dataclass(frozen=True)
class _Candidates:
    """The best ways to go on: arrays (batch_size, candidates), best first."""

    beams: Ids
    """Which hypothesis it continues."""
    tokens: Ids
    logprobs: Floats
    totals: Scores
    """Sum of log-probabilities with this token."""

    def take(self, order: Ids) -> _Candidates:
        """Choose and order along the candidates' axis."""
        # Plain indexing: np.take_along_axis takes three times as long for arrays as small as these.
        chosen = (np.arange(len(order))[:, None], order)
        return _Candidates(
            self.beams[chosen], self.tokens[chosen], self.logprobs[chosen], self.totals[chosen]
        )


class _BeamSearch:
    """All images of a batch in one search; each step is one call of the decoder.

    Axis 0 of every array is the image among those that still run, axis 1 the hypothesis. There is one
    hypothesis per image until the prompt is read, then ``num_beams``.
    """

    def __init__(
        self, decoder: Decoder, encoded: Tensors, tokens: TokenSpec, settings: GenerationSettings
    ) -> None:
        problems = check_generation(settings, tokens)
        if problems:
            raise ConfigError(problems)
        batch_size = len(next(iter(encoded.values())))
        self._decoder = decoder
        self._tokens = tokens
        self._settings = settings
        self._banned = np.array(tokens.suppressed_token_ids, dtype=np.int64)
        self._context = decoder.context(encoded)
        self._state = decoder.initial_state(encoded, batch_size)
        self._images: Ids = np.arange(batch_size, dtype=np.int64)
        self._sequences: Ids = np.tile(np.array(tokens.prompt_token_ids, dtype=np.int64), (batch_size, 1, 1))
        self._unread: Ids = self._sequences
        self._logprobs: Floats = np.zeros((batch_size, 1, 0), dtype=np.float32)
        self._totals: Scores = np.zeros((batch_size, 1))
        self._rows: Ids = self._images[:, None]
        self._finished: list[list[Generated]] = [[] for _ in range(batch_size)]

    @property
    def is_running(self) -> bool:
        """True while an image is not done."""
        return len(self._images) > 0

    def first_tokens(self) -> tuple[int, ...]:
        """What the best hypothesis of the first image has written so far."""
        if self._finished[0]:
            return self.best()[0].token_ids
        return tuple(self._sequences[0, 0, len(self._tokens.prompt_token_ids) :].tolist())

    def best(self) -> list[Generated]:
        """The best finished hypothesis of each image; an empty one where every way was banned."""
        nothing = Generated((), (), -np.inf)
        return [max(found, key=lambda one: one.score, default=nothing) for found in self._finished]

    def advance(self) -> None:
        """Write one more token of every hypothesis."""
        candidates = self._candidates(self._decode())
        length = self._logprobs.shape[2] + 1
        is_last = length == self._settings.max_new_tokens
        ends = candidates.tokens == self._tokens.eos_token_id
        self._set_aside(candidates, ends | is_last)
        # At most one candidate per hypothesis ends, so 2 * num_beams candidates hold num_beams that go on.
        # The only candidate of a greedy search may have ended, but then its image is done.
        going_on = candidates
        if self._settings.num_beams > 1:
            going_on = candidates.take(np.argsort(ends, axis=1, kind="stable")[:, : self._settings.num_beams])
        best_totals = zip(self._images, going_on.totals[:, 0], strict=True)
        done = [is_last or self._is_done(int(image), total, length) for image, total in best_totals]
        self._continue(going_on, np.flatnonzero(~np.array(done)))

    def _decode(self) -> Floats:
        """Let the decoder read what it has not read yet: logits (batch_size, hypotheses, vocab_size)."""
        length = self._unread.shape[2]
        stride = 1 if self._decoder.token_by_token else length
        for start in range(0, length, stride):
            piece = self._unread[:, :, start : start + stride]
            logits, self._state = self._decoder.step(piece, self._rows, self._context, self._state)
            self._rows = np.arange(self._rows.size, dtype=np.int64).reshape(self._rows.shape)
        return logits

    def _candidates(self, logits: Floats) -> _Candidates:
        """The best ways to go on for each image: 2 * num_beams, or the best one when searching greedily."""
        width = self._settings.num_beams
        # Greedy search ends with the first end of sequence, so it never needs a second choice.
        count = 2 * width if width > 1 else 1
        normalizer = log_sum_exp(logits)
        # Bans overwrite logits only now: a chosen token was not banned and keeps the decoder's probability.
        logits[:, :, self._banned] = -np.inf
        repeat_size = self._settings.no_repeat_ngram_size
        _ban_repeats(logits, self._sequences, repeat_size, self._tokens.eos_token_id)
        # The best of an image are among the best of its hypotheses: no sort over their whole vocabularies.
        tokens = _largest(logits, count)
        beams = np.arange(tokens.shape[1], dtype=np.int64)[:, None]
        chosen = logits[np.arange(len(tokens))[:, None, None], beams, tokens] - normalizer
        rows = (len(tokens), -1)
        flat = _Candidates(
            beams=np.repeat(beams.T, len(tokens), axis=0).repeat(count, axis=1),
            tokens=tokens.reshape(rows),
            logprobs=chosen.reshape(rows),
            totals=(self._totals[:, :, None] + chosen).reshape(rows),
        )
        return flat if count == 1 else flat.take(np.argsort(-flat.totals, axis=1, kind="stable")[:, :count])

    def _set_aside(self, candidates: _Candidates, ends: NDArray[np.bool_]) -> None:
        """Keep the hypotheses that end here, if they are among the best num_beams candidates."""
        width = self._settings.num_beams
        usable = ends[:, :width] & np.isfinite(candidates.totals[:, :width])
        if not usable.any():
            return
        for position, rank in np.argwhere(usable):
            found = self._finished[self._images[position]]
            found.append(self._hypothesis(candidates, position, rank))
            found.sort(key=lambda one: -one.score)
            del found[width:]

    def _hypothesis(self, candidates: _Candidates, position: int, rank: int) -> Generated:
        beam = candidates.beams[position, rank]
        written = self._sequences[position, beam, len(self._tokens.prompt_token_ids) :]
        logprobs = self._logprobs[position, beam]
        return Generated(
            token_ids=(*written.tolist(), int(candidates.tokens[position, rank])),
            token_logprobs=(*logprobs.tolist(), float(candidates.logprobs[position, rank])),
            score=self._score(candidates.totals[position, rank], len(written) + 1),
        )

    def _score(self, total: float, length: int) -> float:
        return float(total / length**self._settings.length_penalty)

    def _is_done(self, image: int, best_total: float, length: int) -> bool:
        """True when nothing that goes on can be expected to beat what is set aside."""
        found = self._finished[image]
        if not np.isfinite(best_total):
            return True
        return len(found) == self._settings.num_beams and self._score(best_total, length) <= found[-1].score

    def _continue(self, chosen: _Candidates, kept: Ids) -> None:
        """Go on with the chosen candidates of the images at ``kept``; the other images leave the batch."""
        beams = chosen.beams[kept]
        images = kept[:, None]
        self._rows = images * self._sequences.shape[1] + beams
        self._unread = chosen.tokens[kept][:, :, None]
        self._sequences = np.concatenate([self._sequences[images, beams], self._unread], axis=2)
        self._logprobs = np.concatenate(
            [self._logprobs[images, beams], chosen.logprobs[kept][:, :, None]], axis=2
        )
        self._totals = chosen.totals[kept]
        if len(kept) < len(self._images):
            self._context = {name: value.take(kept, axis=0) for name, value in self._context.items()}
        self._images = self._images[kept]


def log_sum_exp(logits: Floats) -> Floats:
    """Logarithm of the sum of exponentials over the last axis: what turns a logit into a log-probability.

    Args:
        logits: float32 (..., vocab_size).

    Returns:
        float32 (..., 1); ``logits - log_sum_exp(logits)`` is the logarithm of the softmax.

    Raises:
        BundleError: A logit is not a number, or all of them are minus infinity.

    >>> log_sum_exp(np.zeros((1, 4), dtype=np.float32)).round(3)
    array([[1.386]], dtype=float32)
    """
    highest = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(highest).all():
        raise BundleError(
            "the decoder computed values that are no numbers",
            expected="finite logits",
            found=str(highest[~np.isfinite(highest)][0]),
            hint="--provider cpu, or make the bundle again with `kiloword export`",
        )
    shifted = logits - highest
    total: Floats = np.exp(shifted, out=shifted).sum(axis=-1, keepdims=True)
    normalizer: Floats = np.log(total, out=total) + highest
    return normalizer


def _largest(logits: Floats, count: int) -> Ids:
    """Indices of the ``count`` largest values along the last axis, in no order."""
    if count == 1:
        largest: Ids = logits.argmax(axis=-1, keepdims=True)  # a tenth of the time of argpartition
        return largest
    return np.argpartition(logits, -count, axis=2)[:, :, -count:].astype(np.int64, copy=False)


def _ban_repeats(logits: Floats, sequences: Ids, size: int, eos_token_id: int) -> None:
    """Ban, in place, each token that would complete a sequence of ``size`` tokens a second time.

    The prompt counts as written, as in transformers. The end of sequence is never banned: there is only one,
    and a prompt may begin with the same token.

    Args:
        logits: float32 (batch_size, hypotheses, vocab_size).
        sequences: int64 (batch_size, hypotheses, length), prompt and what was written.
        size: Tokens in a sequence that must not repeat; 0 bans nothing.
        eos_token_id: The token that ends a caption.
    """
    length = sequences.shape[2]
    if size == 0 or length < size:
        return
    windows = np.lib.stride_tricks.sliding_window_view(sequences, size, axis=2)
    ending = sequences[:, :, None, length - size + 1 :]
    repeats = (windows[..., :-1] == ending).all(axis=3)
    image, beam, start = np.nonzero(repeats)
    completions = windows[image, beam, start, -1]
    allowed = completions != eos_token_id
    logits[image[allowed], beam[allowed], completions[allowed]] = -np.inf
