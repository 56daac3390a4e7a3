"""Writing captions token by token: one beam search for every decoder; greedy search is the beam of one.

The search knows context, state and logits, and no architecture. Context stays, state is replaced by what the
decoder returns, and `beam_rows` tells the graph which row of the old state each hypothesis continues; that
alone lets beams grow after the prompt, reorder at each step, and vanish when their image is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from kiloword.runtime.errors import BundleError, ConfigError
from kiloword.runtime.hypotheses import Generated, ImageSearch
from kiloword.runtime.manifest import GenerationSettings, TokenSpec, check_generation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.draft import Drafter
    from kiloword.runtime.sessions import Tensors
    from kiloword.runtime.wording import WordRules

Floats: TypeAlias = "NDArray[np.float32]"
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


def generate(
    decoder: Decoder,
    encoded: Tensors,
    tokens: TokenSpec,
    settings: GenerationSettings,
    rules: WordRules | None = None,
    on_step: Callable[[list[tuple[int, ...]]], None] | None = None,
    drafter: Drafter | None = None,
) -> list[Generated]:
    """Write a caption for each image of a batch.

    Args:
        decoder: The decoder to ask.
        encoded: What `EncoderSession.encode` returned for the batch.
        tokens: The token ids that steer the search.
        settings: How wide and how long to search.
        rules: Which words may be written; all of them by default.
        on_step: Called after each step with what the best hypothesis of each image has written so far; a beam
            wider than 1 may still change its beginning.
        drafter: Guesses tokens for this decoder to check, where one image is captioned greedily: the same
            caption in fewer steps, some of which write several tokens.

    Returns:
        The best hypothesis of each image, in order.

    Raises:
        ConfigError: The settings make no sense for this decoder.
        BundleError: The decoder computed values that are no numbers.

    Source: beam search as in Hugging Face transformers: a hypothesis that ends is set aside if it is among
        the best ``num_beams`` candidates; an image is done when ``num_beams`` are set aside and, with
        ``early_stopping=False``, the best that goes on scores, at its present length, no better than the
        worst of them.
    """
    search = _BeamSearch(decoder, encoded, tokens, settings, rules, drafter)
    while search.is_running:
        search.advance()
        if on_step is not None:
            on_step(search.written())
    return search.best()


def generate_stream(
    decoder: Decoder,
    encoded: Tensors,
    tokens: TokenSpec,
    settings: GenerationSettings,
    rules: WordRules | None = None,
    drafter: Drafter | None = None,
) -> Iterator[tuple[int, ...]]:
    """Write a caption for one image greedily, and show it as it grows.

    Args:
        decoder: The decoder to ask.
        encoded: What `EncoderSession.encode` returned for one image.
        tokens: The token ids that steer the search.
        settings: ``num_beams`` is taken as 1: a wider beam may change the first word at the very end.
        rules: Which words may be written; all of them by default.
        drafter: As for `generate`.

    Yields:
        All tokens so far, after each one; the last are those that `generate` returns.

    Raises:
        ConfigError: The settings make no sense for this decoder.
        BundleError: The decoder computed values that are no numbers.
    """
    search = _BeamSearch(decoder, encoded, tokens, replace(settings, num_beams=1), rules, drafter)
    shown = 0
    while search.is_running:
        search.advance()
        (written,) = search.written()
        yield from (written[:end] for end in range(shown + 1, len(written) + 1))
        shown = len(written)


class _BeamSearch:
    """All images of a batch in one search; each step is one call of the decoder.

    There is one hypothesis per image until the prompt is read, then ``num_beams``.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoded: Tensors,
        tokens: TokenSpec,
        settings: GenerationSettings,
        rules: WordRules | None,
        drafter: Drafter | None = None,
    ) -> None:
        problems = check_generation(settings, tokens)
        if problems:
            raise ConfigError(problems)
        batch_size = len(next(iter(encoded.values())))
        self._decoder = decoder
        self._tokens = tokens
        self._settings = settings
        self._rules = rules
        self._drafter = drafter if batch_size == settings.num_beams == 1 else None
        self._banned = np.array(tokens.suppressed_token_ids, dtype=np.int64)
        self._context = decoder.context(encoded)
        self._state = decoder.initial_state(encoded, batch_size)
        self._images = [ImageSearch(tokens, settings) for _ in range(batch_size)]
        self._running = self._images
        self._rows: Ids = np.arange(batch_size, dtype=np.int64)[:, None]
        self._unread: Ids = np.tile(np.array(tokens.prompt_token_ids, dtype=np.int64), (batch_size, 1, 1))

    @property
    def is_running(self) -> bool:
        """True while an image is not done."""
        return len(self._running) > 0

    def written(self) -> list[tuple[int, ...]]:
        """What the best hypothesis of each image has written so far."""
        return [image.written() for image in self._images]

    def best(self) -> list[Generated]:
        """The best finished hypothesis of each image."""
        return [image.best() for image in self._images]

    def advance(self) -> None:
        """Let the decoder read once; write one more token of every hypothesis, or some that were guessed."""
        if self._drafter is None:
            self._extend(self._decode())
        else:
            self._check(self._drafter)

    def _check(self, drafter: Drafter) -> None:
        """Write the guesses that the only image's hypothesis would have gone on with, and one more token."""
        (hypothesis,) = self._running[0].hypotheses
        room = self._settings.max_new_tokens - len(hypothesis.logprobs) - 1
        guesses = drafter.guess(hypothesis.tokens, room)
        unread = np.append(self._unread, np.array(guesses, dtype=np.int64)[None, None], axis=2)
        logits, self._state = drafter.decoder.read(unread, self._rows, self._context, self._state)
        for wrong, guess in zip(range(len(guesses), -1, -1), (*guesses, None), strict=True):
            self._extend(logits[:, :, -1 - wrong])
            if not self._running:
                return
            if self._unread[0, 0, 0] != guess:
                break
        if wrong:
            self._state = drafter.decoder.without_last(self._state, wrong)

    def _extend(self, logits: Floats) -> None:
        """Write one more token of every hypothesis; images that are done leave the batch.

        Args:
            logits: float32 (batch_size, hypotheses, vocab_size), overwritten.
        """
        beams = logits.shape[1]
        choices = zip(self._running, *self._best_tokens(logits), strict=True)
        continued = [image.extend(tokens, logprobs) for image, tokens, logprobs in choices]
        kept = [place for place, parents in enumerate(continued) if parents is not None]
        if len(kept) < len(self._running):
            self._running = [self._running[place] for place in kept]
            self._context = {name: value.take(kept, axis=0) for name, value in self._context.items()}
        rows = [[place * beams + beam for beam in continued[place] or ()] for place in kept]
        self._rows = np.array(rows, dtype=np.int64)
        last = [[one.tokens[-1:] for one in image.hypotheses] for image in self._running]
        self._unread = np.array(last, dtype=np.int64)

    def _decode(self) -> Floats:
        """Let the decoder read what it has not read yet: logits (batch_size, hypotheses, vocab_size)."""
        length = self._unread.shape[2]
        stride = 1 if self._decoder.token_by_token else length
        for start in range(0, length, stride):
            piece = self._unread[:, :, start : start + stride]
            logits, self._state = self._decoder.step(piece, self._rows, self._context, self._state)
            self._rows = np.arange(self._rows.size, dtype=np.int64).reshape(self._rows.shape)
        return logits

    def _best_tokens(self, logits: Floats) -> tuple[list[list[list[int]]], list[list[list[float]]]]:
        """The best next tokens of each hypothesis of each image, and their log-probabilities.

        2 * num_beams of each, or one when searching greedily: greedy search ends with the first end of
        sequence and never needs a second choice.
        """
        count = 2 * self._settings.num_beams if self._settings.num_beams > 1 else 1
        rows = logits.reshape(-1, logits.shape[2])
        normalizer = log_sum_exp(rows)
        # Bans overwrite logits only now: a chosen token was not banned and keeps the decoder's probability.
        rows[:, self._banned] = -np.inf
        if self._rules is not None:
            self._rules.apply(rows, [one.tokens for image in self._running for one in image.hypotheses])
        if self._settings.no_repeat_ngram_size:
            self._ban_repeats(rows)
        self._keep_length(rows, normalizer)
        tokens = _largest(rows, count)
        logprobs = rows[np.arange(len(rows))[:, None], tokens] - normalizer
        shape = (*logits.shape[:2], count)
        return tokens.reshape(shape).tolist(), logprobs.reshape(shape).tolist()

    def _keep_length(self, rows: Floats, normalizer: Floats) -> None:
        """Rule out, in place, an end that comes too early, and write what is forced.

        Args:
            rows: float32 (hypotheses of all images, V), logits.
            normalizer: float32 (hypotheses of all images, 1); a token with this logit has probability 1.
        """
        written = len(self._running[0].hypotheses[0].logprobs)
        is_last = written + 1 == self._settings.max_new_tokens
        forced = self._tokens.forced_first_token_id if written == 0 else None
        if is_last and self._tokens.forced_last_token_id is not None:
            forced = self._tokens.forced_last_token_id
        if forced is not None:
            rows[:] = -np.inf
            rows[:, forced] = normalizer[:, 0]
        elif written < self._settings.min_new_tokens:
            rows[:, self._tokens.eos_token_id] = -np.inf

    def _ban_repeats(self, rows: Floats) -> None:
        """Rule out, in place, what would repeat an n-gram; rows float32 (hypotheses of all images, V)."""
        hypotheses = (one for image in self._running for one in image.hypotheses)
        size, eos = self._settings.no_repeat_ngram_size, self._tokens.eos_token_id
        for row, hypothesis in enumerate(hypotheses):
            banned = repeating_tokens(hypothesis.tokens, size) - {eos}
            if banned:
                rows[row, list(banned)] = -np.inf


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


def _largest(rows: Floats, count: int) -> Ids:
    """Indices of the ``count`` largest values of each row, in no order."""
    if count == 1:
        largest: Ids = rows.argmax(axis=1, keepdims=True)  # a tenth of the time of argpartition
        return largest
    return np.argpartition(rows, -count, axis=1)[:, -count:].astype(np.int64, copy=False)


def repeating_tokens(tokens: Sequence[int], size: int) -> set[int]:
    """Each token that would complete a sequence of ``size`` tokens a second time.

    The prompt counts as written, as in transformers. A caller must not ban the end of sequence: there is only
    one, and a prompt may begin with the same token.

    Args:
        tokens: Prompt and what was written.
        size: Tokens in a sequence that must not repeat, at least 1.

    >>> repeating_tokens([5, 6, 7, 5, 6], 3)
    {7}
    """
    start = len(tokens) - size + 1
    if start < 1:
        return set()
    ending = tokens[start:]
    return {tokens[at + size - 1] for at in range(start) if tokens[at : at + size - 1] == ending}
