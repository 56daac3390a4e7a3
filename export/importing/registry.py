"""Which architectures can be imported, by the name that `config.json` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kiloword.export.importing.blip import blip
from kiloword.export.importing.florence2 import florence2
from kiloword.export.importing.foreign import Foreign, Request
from kiloword.export.importing.git import git
from kiloword.export.importing.source import check_settings, reason_of
from kiloword.export.importing.vision_encoder_decoder import PARTS, vision_encoder_decoder
from kiloword.runtime.errors import ExportError

FAMILIES: Mapping[str, Callable[[Mapping[str, Any], Request], Foreign]] = {
    "VisionEncoderDecoderModel": vision_encoder_decoder,
    "BlipForConditionalGeneration": blip,
    "GitForCausalLM": git,
    "Florence2ForConditionalGeneration": florence2,
}
TESTED_TRANSFORMERS = ("5.23.0",)
"""The versions that the parity tests ran with."""


def known_architectures() -> str:
    """All that can be imported, for a message."""
    notes = {"VisionEncoderDecoderModel": f" ({PARTS})"}
    return ", ".join(name + notes.get(name, "") for name in FAMILIES)


def load_foreign(config: Mapping[str, Any], request: Request) -> Foreign:
    """Reads a checkpoint by the family that its `config.json` names.

    Args:
        config: `config.json`.
        request: where the checkpoint is, and what is asked for.

    Raises:
        ExportError: the architecture is not known, or the checkpoint is not whole.
    """
    named = config.get("architectures") or ()
    names = [str(name) for name in named] if isinstance(named, list) else [str(named)] if named else []
    family = next((name for name in names if name in FAMILIES), None)
    if family is None:
        found = ", ".join(names) or f"no architectures, model_type {config.get('model_type')!r}"
        raise ExportError(
            "this architecture is not known",
            path=request.directory,
            expected=known_architectures(),
            found=found,
        )
    check_settings(request.directory)
    try:
        return FAMILIES[family](config, request)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # Files by a stranger may hold anything at any place, and what is read of them is all over a family.
        raise ExportError(
            "its files hold something that cannot be used", path=request.directory, found=reason_of(error)
        ) from error
