"""From what the search found for a photo to a caption that says how far to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kiloword.runtime.captions import Caption, confidence
from kiloword.runtime.reliability import NOT_A_PHOTO, judge

if TYPE_CHECKING:
    from kiloword.runtime.bundle import Bundle
    from kiloword.runtime.hypotheses import Generated
    from kiloword.runtime.images import Photo
    from kiloword.runtime.labels import Labeller
    from kiloword.runtime.sessions import Tensors


class Assessor:
    """Judges captions by the numbers in a bundle.

    Args:
        bundle: Whose captions they are.
        min_confidence: Least confidence of a reliable caption, in place of the bundle's.
    """

    def __init__(self, bundle: Bundle, min_confidence: float | None) -> None:
        self._bundle = bundle
        self._min_confidence = min_confidence
        self._labeller: Labeller | None = None

    def caption(
        self, result: Generated, text: str, latency_ms: float, photo: Photo, encoded: Tensors
    ) -> Caption:
        """A caption with all that is to be said of it.

        Args:
            result: What the search found.
            text: Its tokens as text.
            latency_ms: What it took.
            photo: The photo.
            encoded: The encoder's outputs for it, without the batch axis.
        """
        spec = self._bundle.manifest.reliability
        judged = judge(spec, photo.pixels, encoded, result.token_logprobs, self._min_confidence)
        return Caption(
            text=text,
            confidence=judged.confidence,
            reliable=judged.reliable,
            reason=judged.reason,
            sure=judged.sure,
            labels=() if judged.reason == NOT_A_PHOTO else self._labels(encoded),
            mean_token_probability=confidence(result.token_logprobs),
            token_ids=result.token_ids,
            token_logprobs=result.token_logprobs,
            latency_ms=latency_ms,
            bundle=self._bundle.name,
            warnings=photo.warnings,
        )

    def _labels(self, encoded: Tensors) -> tuple[str, ...]:
        spec = self._bundle.manifest.labels
        if spec is None:
            return ()
        if self._labeller is None:  # not at the start: it would delay the first caption of those without
            from kiloword.runtime.labels import Labeller

            self._labeller = Labeller(spec, self._bundle.directory)
        return self._labeller(encoded)
