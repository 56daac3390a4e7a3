"""The proof that a bundle writes what transformers would: pixels, token ids, scores and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kiloword.export.importing.foreign import Foreign
from kiloword.export.importing.pixels import pixel_difference, random_pictures
from kiloword.export.importing.source import reason_of
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.errors import ExportError, ParityError
from kiloword.runtime.generation import generate
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.sessions import Sessions, load_sessions
from kiloword.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

PICTURES = 32
TOLERANCE = 1e-4
"""Largest difference of a score or a normalised pixel; what lies closer together than this is a tie."""
_BEAMS = (1, 4)
_BATCH = 4
_LONGEST = 32  # tokens that are compared; longer captions would take transformers many minutes
_MOST_TIES = 0.125


@dataclass(frozen=True)
class Proof:
    """What was compared with transformers."""

    pictures: int
    greedy_equal: int
    """Pictures whose token ids are the same."""
    beam_4_equal: int
    ties: int
    """Pictures with two captions that are equally likely to within ``TOLERANCE``: rounding decides."""
    largest_score_difference: float
    largest_pixel_difference: float
    max_new_tokens: int


@dataclass(frozen=True)
class _Written:
    """What one of the two wrote for one picture."""

    token_ids: tuple[int, ...]
    score: float
    logprobs: tuple[float, ...]
    """Of each token; empty where only a score is known."""
    best: tuple[NDArray[np.float32], ...] = ()
    """Log-probabilities of all tokens at each step, where they are known."""


def prove(foreign: Foreign, directory: Path, pictures: int = PICTURES) -> Proof:
    """Compares a bundle with transformers on random pictures, greedily and with four beams.

    Args:
        foreign: the checkpoint; its own settings hold for both.
        directory: of the fp32 bundle.
        pictures: how many; at least 1.

    Returns:
        How equal they are.

    Raises:
        ParityError: a pixel, a token, a score or a text differs.
    """
    bundle = load_bundle(directory)
    shown = random_pictures(pictures, bundle.manifest.image)
    pixels = np.stack([load_image(picture, bundle.manifest.image) for picture in shown])
    largest_pixel_difference = _compare_pixels(foreign, shown, pixels)
    sessions, tokenizer = load_sessions(bundle, "cpu"), Tokenizer(bundle.tokenizer_path)
    equal, ties, differences = {}, 0, [0.0]
    for beams in _BEAMS:
        settings = replace(
            bundle.manifest.generation,
            num_beams=beams,
            max_new_tokens=min(bundle.manifest.generation.max_new_tokens, _LONGEST),
        )
        ours = _write(sessions, foreign, pixels, settings)
        theirs = _write_with_transformers(foreign, pixels, settings)
        same = [_same(mine, other, settings.length_penalty) for mine, other in zip(ours, theirs, strict=True)]
        equal[beams] = sum(one is not None for one in same)
        differences += [one for one in same if one is not None]
        ties += _count_ties(ours, theirs, same, beams)
        _compare_texts(foreign, tokenizer, theirs)
    return Proof(
        pictures,
        equal[1],
        equal[4],
        ties,
        max(differences),
        largest_pixel_difference,
        settings.max_new_tokens,
    )


def as_report(proof: Proof) -> dict[str, Any]:
    """For the report in the manifest."""
    return asdict(proof)


def _compare_pixels(foreign: Foreign, pictures: Sequence[Image], pixels: NDArray[np.uint8]) -> float:
    """The numbers that the vision model gets, against those of the checkpoint's processor."""
    worst = pixel_difference(foreign.processor, foreign.pixels, pictures, pixels)
    if worst > TOLERANCE:
        raise ParityError(
            "pixels are not those of the checkpoint's processor",
            expected=f"at most {TOLERANCE} apart",
            found=f"{worst:.3g}",
        )
    return worst


def _write(
    sessions: Sessions, foreign: Foreign, pixels: NDArray[np.uint8], settings: GenerationSettings
) -> list[_Written]:
    found: list[Generated] = []
    for start in range(0, len(pixels), _BATCH):
        encoded = sessions.encoder.encode(pixels[start : start + _BATCH])
        found += generate(sessions.decoder, encoded, foreign.tokens, settings)
    return [_Written(one.token_ids, one.score, one.token_logprobs) for one in found]


def _write_with_transformers(
    foreign: Foreign, pixels: NDArray[np.uint8], settings: GenerationSettings
) -> list[_Written]:
    """What transformers' generate writes, by the checkpoint's own settings but for beams and length."""
    found: list[_Written] = []
    length = {}
    if (
        settings.max_new_tokens != foreign.generation.max_new_tokens
        or foreign.own_length
        or _is_full(foreign)
    ):
        length = {"max_new_tokens": settings.max_new_tokens}
    for start in range(0, len(pixels), _BATCH):
        values = torch.from_numpy(foreign.pixels.normalized(pixels[start : start + _BATCH]))
        try:
            with torch.inference_mode():
                output = foreign.generate(
                    values,
                    num_beams=settings.num_beams,
                    do_sample=False,
                    num_return_sequences=1,
                    return_dict_in_generate=True,
                    output_scores=True,
                    output_logits=settings.num_beams == 1,
                    **length,
                )
        except Exception as error:  # whatever a stranger's settings made of it
            raise ExportError(
                "transformers itself cannot write captions with this checkpoint", found=reason_of(error)
            ) from error
        found += _read_output(foreign, output, settings)
    return found


def _is_full(foreign: Foreign) -> bool:
    """Whether captions are as long as the decoder can read; the checkpoint's own length may be longer."""
    most = foreign.decoder.longest - len(foreign.tokens.prompt_token_ids) + 1
    return foreign.generation.max_new_tokens == most


def _read_output(foreign: Foreign, output: Any, settings: GenerationSettings) -> list[_Written]:
    prompt = len(foreign.tokens.prompt_token_ids)
    rows = output.sequences[:, prompt:].tolist()
    ids = [_until_end(row, foreign.tokens.eos_token_id) for row in rows]
    if settings.num_beams > 1:
        scores = output.sequences_scores.tolist()
        return [_Written(one, score, ()) for one, score in zip(ids, scores, strict=True)]
    steps = [logits.float().log_softmax(-1).numpy() for logits in output.logits]
    return [
        _Written(
            one,
            0.0,
            tuple(float(steps[at][row, token]) for at, token in enumerate(one)),
            tuple(step[row] for step in steps),
        )
        for row, one in enumerate(ids)
    ]


def _until_end(ids: Sequence[int], eos: int) -> tuple[int, ...]:
    """Tokens up to the first end of sequence; what follows is padding."""
    end = ids.index(eos) + 1 if eos in ids else len(ids)
    return tuple(ids[:end])


def _same(ours: _Written, theirs: _Written, length_penalty: float) -> float | None:
    """How far apart the scores of the same tokens are; ``None`` for other tokens."""
    if ours.token_ids != theirs.token_ids:
        return None
    if not theirs.logprobs:
        # A length penalty below 0 multiplies a score, and what was rounded with it.
        grown = float(len(ours.token_ids) ** -length_penalty)
        return abs(ours.score - theirs.score) / max(1.0, grown)
    # A forced token has probability 1 here and is whatever the decoder thinks of it there.
    pairs = zip(ours.logprobs, theirs.logprobs, strict=True)
    return max((abs(mine - other) for mine, other in pairs if mine != 0.0), default=0.0)


def _count_ties(
    ours: Sequence[_Written], theirs: Sequence[_Written], same: Sequence[float | None], beams: int
) -> int:
    """Checks what is not equal, and that there is little of it.

    Raises:
        ParityError: something else was written, or with another score.
    """
    how = "greedily" if beams == 1 else f"with {beams} beams"
    for index, (mine, other, difference) in enumerate(zip(ours, theirs, same, strict=True)):
        if difference is None and not _is_tie(mine, other):
            raise ParityError(
                f"random picture {index}, {how}: other tokens than transformers",
                expected=str(list(other.token_ids)),
                found=str(list(mine.token_ids)),
            )
        if difference is not None and difference > TOLERANCE:
            raise ParityError(
                f"random picture {index}, {how}: another score than transformers",
                expected=f"at most {TOLERANCE} apart",
                found=f"{difference:.3g}",
            )
    ties = sum(one is None for one in same)
    if ties > max(1, _MOST_TIES * len(same)):
        raise ParityError(
            f"{how}, rounding decides too often", expected=f"{_MOST_TIES:.0%}", found=f"{ties} of {len(same)}"
        )
    return ties


def _is_tie(ours: _Written, theirs: _Written) -> bool:
    if not theirs.best:
        return abs(ours.score - theirs.score) <= TOLERANCE
    pairs = enumerate(zip(ours.token_ids, theirs.token_ids, strict=False))
    at = next((place for place, (mine, other) in pairs if mine != other), None)
    if at is None:
        return False
    step = theirs.best[at]
    return abs(float(step[ours.token_ids[at]] - step[theirs.token_ids[at]])) <= TOLERANCE


def _compare_texts(foreign: Foreign, tokenizer: Tokenizer, written: Sequence[_Written]) -> None:
    for one in written:
        ids = list(one.token_ids)
        expected = foreign.tokenizer.decode(ids, skip_special_tokens=True).strip()
        found = tokenizer.decode(ids)
        if expected != found:
            raise ParityError(
                "other text than transformers' tokenizer", expected=repr(expected), found=repr(found)
            )
