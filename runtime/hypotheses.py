"""What the beams of one image have written, which of them go on, and which have ended."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kiloword.runtime.manifest import GenerationSettings, TokenSpec


@dataclass(frozen=True)
class Generated:
    """The best hypothesis for one image."""

    token_ids: tuple[int, ...]
    """What was written, without the prompt; ends with the end-of-sequence token unless the length ran out."""
    token_logprobs: tuple[float, ...]
    """Natural logarithm of each token's probability, as the decoder gave it, before any token was banned; a
    preferred word has that of the words that it stands for, too, and a forced token has 0."""
    score: float
    """Sum of the log-probabilities / number of tokens ** length_penalty: what hypotheses compete with."""


@dataclass(frozen=True)
class Hypothesis:
    """What one beam has written so far."""

    tokens: tuple[int, ...]
    """With the prompt."""
    logprobs: tuple[float, ...]
    """Of each token after the prompt."""
    total: float
    """Their sum."""


@dataclass(frozen=True)
class _Candidate:
    """A way to go on: one more token for one of the hypotheses."""

    total: float
    """Sum of log-probabilities with this token."""
    beam: int
    """Which hypothesis it continues."""
    token: int
    logprob: float


class ImageSearch:
    """The hypotheses of one image, and those that have ended.

    Plain lists: for a handful of hypotheses numpy's calls cost more than the work they do.
    """

    def __init__(self, tokens: TokenSpec, settings: GenerationSettings) -> None:
        self._eos = tokens.eos_token_id
        self._settings = settings
        self._prompt_length = len(tokens.prompt_token_ids)
        self.hypotheses = [Hypothesis(tuple(tokens.prompt_token_ids), (), 0.0)]
        self._finished: list[Generated] = []

    def extend(self, tokens: list[list[int]], logprobs: list[list[float]]) -> list[int] | None:
        """Choose among the best next tokens of each hypothesis.

        Args:
            tokens: For each hypothesis, its most probable next tokens.
            logprobs: Their log-probabilities; minus infinity where a token is banned.

        Returns:
            For each new hypothesis the number of the one that it continues; None when the image is done.
        """
        width = self._settings.num_beams
        candidates = self._candidates(tokens, logprobs)
        length = len(self.hypotheses[0].logprobs) + 1
        is_last = length == self._settings.max_new_tokens
        self._set_aside([one for one in candidates[:width] if is_last or one.token == self._eos], length)
        # At most one candidate per hypothesis ends, so 2 * num_beams candidates hold num_beams that go on.
        # The only candidate of a greedy search may have ended, but then its image is done.
        going_on = [one for one in candidates if one.token != self._eos][:width] or candidates
        if is_last or self._is_done(going_on[0].total, length):
            return None
        self.hypotheses = [self._continued(one) for one in going_on]
        return [one.beam for one in going_on]

    def written(self) -> tuple[int, ...]:
        """The best caption that has ended, else what the best hypothesis has written so far."""
        if self._finished:
            return self.best().token_ids
        return self.hypotheses[0].tokens[self._prompt_length :]

    def best(self) -> Generated:
        """The best finished hypothesis; an empty one where every way was banned."""
        return max(self._finished, key=lambda one: one.score, default=Generated((), (), -math.inf))

    def _candidates(self, tokens: list[list[int]], logprobs: list[list[float]]) -> list[_Candidate]:
        """The best ways to go on, best first: 2 * num_beams, or one when searching greedily."""
        found = [
            _Candidate(hypothesis.total + logprob, beam, token, logprob)
            for beam, hypothesis in enumerate(self.hypotheses)
            for token, logprob in zip(tokens[beam], logprobs[beam], strict=True)
        ]
        found.sort(key=lambda one: -one.total)
        return found[: 2 * self._settings.num_beams]

    def _set_aside(self, ended: list[_Candidate], length: int) -> None:
        """Keep what ends here, if it is among the best."""
        for candidate in ended:
            if candidate.total > -math.inf:
                whole = self._continued(candidate)
                score = self._score(whole.total, length)
                self._finished.append(Generated(whole.tokens[self._prompt_length :], whole.logprobs, score))
        self._finished.sort(key=lambda one: -one.score)
        del self._finished[self._settings.num_beams :]

    def _continued(self, candidate: _Candidate) -> Hypothesis:
        before = self.hypotheses[candidate.beam]
        return Hypothesis(
            (*before.tokens, candidate.token), (*before.logprobs, candidate.logprob), candidate.total
        )

    def _score(self, total: float, length: int) -> float:
        return float(total / length**self._settings.length_penalty)

    def _is_done(self, best_total: float, length: int) -> bool:
        """True when nothing that goes on can be expected to beat what is set aside."""
        if best_total == -math.inf:
            return True
        settings = self._settings
        if len(self._finished) < settings.num_beams:
            return False
        if settings.early_stopping is True or settings.num_beams == 1:
            return True
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            length = settings.max_new_tokens
        return self._score(best_total, length) <= self._finished[-1].score
