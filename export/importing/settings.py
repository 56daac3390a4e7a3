"""A checkpoint's generation settings as the manifest's: every one is taken over, or the import is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import GenerationSettings, TokenSpec

logger = logging.getLogger(__name__)

_DEFAULT_NEW_TOKENS = 20  # what transformers takes where a checkpoint sets no length
# Settings of transformers that change what greedy and beam search write, and what each means "off".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1, 1.0),
    "exponential_decay_length_penalty": (None,),
    "begin_suppress_tokens": (None, []),
    "constraints": (None,),
    "force_words_ids": (None,),
    "diversity_penalty": (None, 0.0),
    "num_beam_groups": (None, 1),
    "renormalize_logits": (None, False),
    "penalty_alpha": (None, 0.0),
    "watermarking_config": (None,),
    "stop_strings": (None, []),
    "token_healing": (None, False),
    "max_time": (None,),
    "dola_layers": (None,),
}


@dataclass(frozen=True)
class Start:
    """What a decoder reads first, and where it may stop."""

    prompt_token_ids: tuple[int, ...]
    eos_token_id: int
    vocab_size: int
    longest: int
    """Most tokens that the decoder can read."""


def prompt_and_end(
    directory: Path, *, start: int | None, end: int | list[int] | None, vocab: int, longest: int
) -> Start:
    """Checks that a caption has a beginning and one end.

    Args:
        directory: of the checkpoint, for messages.
        start: the token that is read first.
        end: the token that ends a caption.
        vocab: number of tokens.
        longest: most tokens that the decoder can read.

    Raises:
        ExportError: there is none, or there are several ends.
    """
    ends = [end] if isinstance(end, int) else sorted(set(end or ()))
    if not isinstance(start, int) or len(ends) != 1:
        raise ExportError(
            "the generation settings name no single first and last token",
            path=directory,
            expected="one decoder_start_token_id (or bos_token_id) and one eos_token_id",
            found=f"{start} and {ends or None}",
            hint="set them in generation_config.json",
        )
    if not (0 <= start < vocab and 0 <= ends[0] < vocab):
        raise ExportError(
            "the first or the last token is not in the vocabulary",
            path=directory,
            expected=f"less than {vocab}",
            found=f"{start} and {ends[0]}",
            hint="set decoder_start_token_id and eos_token_id in generation_config.json",
        )
    return Start((start,), ends[0], vocab, longest)


def token_spec(config: Any, start: Start, bos: int | None, pad: int | None = None) -> TokenSpec:
    """The manifest's tokens.

    Args:
        config: transformers' GenerationConfig of the checkpoint.
        start: see `prompt_and_end`.
        bos: the beginning of a text, where the checkpoint names one.
        pad: what fills up rows, where it is not what ``config`` says.
    """
    first = start.prompt_token_ids[0]
    pad = config.pad_token_id if pad is None else pad
    return TokenSpec(
        vocab_size=start.vocab_size,
        bos_token_id=_within(bos, start, first),
        eos_token_id=start.eos_token_id,
        pad_token_id=_within(pad, start, start.eos_token_id),
        prompt_token_ids=start.prompt_token_ids,
        suppressed_token_ids=_suppressed(config, start),
        max_sequence_length=start.longest,
        forced_first_token_id=_forced(config.forced_bos_token_id, start),
        forced_last_token_id=_forced(config.forced_eos_token_id, start),
    )


def _within(token: int | None, start: Start, otherwise: int) -> int:
    """A token that no caption depends on; some checkpoints have -1 for none."""
    return token if isinstance(token, int) and 0 <= token < start.vocab_size else otherwise


def generation_settings(config: Any, start: Start) -> GenerationSettings:
    """The manifest's generation section.

    Args:
        config: transformers' GenerationConfig of the checkpoint.
        start: see `prompt_and_end`.

    Raises:
        ExportError: a setting is in use that the runtime's search does not know.
    """
    _refuse_unsupported(config)
    if config.do_sample:
        logger.warning("the checkpoint draws words by chance; the bundle takes the likeliest instead")
    prompt = len(start.prompt_token_ids)
    if config.max_new_tokens is not None:
        longest = int(config.max_new_tokens)
    else:
        longest = _DEFAULT_NEW_TOKENS if config.max_length is None else int(config.max_length) - prompt
    shortest = max(int(config.min_length or 0) - prompt, int(config.min_new_tokens or 0), 0)
    room = start.longest - prompt + 1
    if longest > room:
        logger.warning("captions of %d tokens would need more places than there are: %d", longest, room)
    return GenerationSettings(
        num_beams=int(config.num_beams or 1),
        max_new_tokens=max(min(longest, room), 1),
        length_penalty=1.0 if config.length_penalty is None else float(config.length_penalty),
        no_repeat_ngram_size=int(config.no_repeat_ngram_size or 0),
        min_new_tokens=shortest,
        early_stopping=_early_stopping(config.early_stopping),
    )


def _early_stopping(value: Any) -> bool | Literal["never"]:
    return "never" if value == "never" else bool(value)


def _refuse_unsupported(config: Any) -> None:
    found = [
        f"{name}={value}"
        for name, off in _UNSUPPORTED.items()
        if (value := getattr(config, name, None)) not in off
    ]
    if found:
        raise ExportError(
            "the checkpoint's generation settings hold what kiloword's search does not know",
            found=", ".join(found),
            hint="take them out of generation_config.json if captions may be written without them",
        )


def _suppressed(config: Any, start: Start) -> tuple[int, ...]:
    """Tokens that are never written; banned words of several tokens are refused."""
    words = [list(word) for word in config.bad_words_ids or ()]
    if any(len(word) != 1 for word in words):
        raise ExportError("bad_words_ids of more than one token are not supported", found=str(words))
    banned = {word[0] for word in words if word != [start.eos_token_id]} | set(config.suppress_tokens or ())
    if start.eos_token_id in banned:
        raise ExportError(
            "suppress_tokens holds the end of the sequence", found=f"eos_token_id {start.eos_token_id}"
        )
    return tuple(sorted(token for token in banned if 0 <= token < start.vocab_size))


def _forced(token: int | list[int] | None, start: Start) -> int | None:
    ids = [token] if isinstance(token, int) else list(token or ())
    if len(ids) > 1:
        raise ExportError("several forced tokens at one place are not supported", found=str(ids))
    if ids and not 0 <= ids[0] < start.vocab_size:
        raise ExportError(
            "a forced token is not in the vocabulary",
            expected=f"less than {start.vocab_size}",
            found=str(ids[0]),
        )
    return int(ids[0]) if ids else None
