"""What a family makes of a checkpoint: two graphs, facts for the manifest, and a model to compare with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from kiloword.export.importing.decoder import TextDecoder
from kiloword.export.importing.encoder import PictureEncoder
from kiloword.export.importing.pixels import PixelRule
from kiloword.export.importing.source import reason_of
from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import AttentionSpec, GenerationSettings, GraphSpec, TokenSpec

# Weights of transformers' modules that no caption depends on; checkpoints may lack them.
_NEVER_USED = ("pooler", "mask_token", "position_ids", "decoder.bias")
# Constants that older versions of transformers stored beside the weights.
_ONCE_STORED = (
    ".attn.bias",
    ".attn.masked_bias",
    ".crossattention.bias",
    ".crossattention.masked_bias",
    "position_ids",
    "relative_position_index",
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of transformers, ready to be exported."""

    encoder: PictureEncoder
    decoder: TextDecoder
    tokens: TokenSpec
    generation: GenerationSettings
    tokenizer: Any
    """transformers' own."""
    processor: Any
    """transformers' image processor."""
    generate: Callable[..., Any]
    """transformers' ``model.generate``, for float pixels (B, 3, height, width) and its keyword arguments."""
    facts: Mapping[str, Any]
    """For ``architecture`` in the manifest."""
    image_tokens: int
    """Of one picture, N."""
    grid: tuple[int, int] | None
    """Rows and columns that the last image tokens form; ``None``: they are no places in the picture."""
    own_length: bool = False
    """Whether the length of captions is not the checkpoint's but was chosen for it."""

    @property
    def pixels(self) -> PixelRule:
        """How pictures are prepared."""
        return self.encoder.pixels.rule

    @property
    def encoder_spec(self) -> GraphSpec:
        """What `encoder.onnx` takes and gives."""
        return self.encoder.spec(self.image_tokens)

    @property
    def decoder_spec(self) -> GraphSpec:
        """What `decoder.onnx` takes and gives."""
        return self.decoder.spec(self.image_tokens)

    @property
    def attention(self) -> AttentionSpec | None:
        """How to tell where the decoder looked."""
        queries = {
            spec.name: spec.name.replace("cross_query", "cross_key_values") + ".key"
            for spec in self.decoder_spec.outputs_of("cross_query")
        }
        if self.grid is None or not queries:
            return None
        rows, columns = self.grid
        leading = self.image_tokens - rows * columns
        return AttentionSpec(rows, columns, leading, queries) if leading >= 0 else None


@dataclass(frozen=True)
class Request:
    """What an import is asked for."""

    directory: Path
    """The checkpoint on this machine."""
    allow_pickle: bool = False
    style: str | None = None
    """Which captions, for families that can write several kinds."""


def load_model(kind: Any, request: Request) -> Any:
    """A model of transformers with a checkpoint's weights, in float32 and evaluation mode.

    Args:
        kind: its class.
        request: where it is.

    Raises:
        ExportError: it cannot be loaded, or weights are missing.
    """
    try:
        model, info = kind.from_pretrained(
            request.directory,
            dtype=torch.float32,
            use_safetensors=not request.allow_pickle or None,
            weights_only=True,
            trust_remote_code=False,
            # The usual one: a checkpoint may name another, even one whose code is fetched from the hub.
            attn_implementation=None,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, safetensors and torch share no base for a file that is damaged
        if isinstance(error, UnpicklingError):
            raise ExportError(
                "the pickle holds more than tensors, which is never loaded", path=request.directory
            ) from error
        if "ignore_mismatched_sizes" in str(error):
            raise ExportError(
                "its weights are of other shapes than its config.json says", path=request.directory
            ) from error
        raise ExportError(
            "transformers cannot load it", path=request.directory, found=reason_of(error)
        ) from error
    missing = [name for name in info["missing_keys"] if not any(part in name for part in _NEVER_USED)]
    if missing:
        raise ExportError(
            "the checkpoint lacks weights",
            path=request.directory,
            expected=f"{len(missing)} more tensors",
            found=f"without {', '.join(sorted(missing)[:3])}, ...",
        )
    broken = [name for name, tensor in model.named_parameters() if not torch.isfinite(tensor).all()]
    if broken:
        raise ExportError(
            "the checkpoint's weights hold values that are no numbers",
            path=request.directory,
            found=", ".join(broken[:3]),
        )
    unused = sorted(name for name in info["unexpected_keys"] if not name.endswith(_ONCE_STORED))
    if unused:
        shown = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        logger.warning("transformers has no use for %d tensors of the checkpoint: %s", len(unused), shown)
    return model.eval().requires_grad_(False)


def count_image_tokens(encoder: PictureEncoder) -> int:
    """Image tokens of one picture, by looking at a black one.

    Raises:
        ExportError: the vision model does not take what the processor makes.
    """
    image = encoder.pixels.rule.image
    black = torch.zeros(1, image.height, image.width, 3, dtype=torch.uint8)
    try:
        with torch.inference_mode():
            first: Tensor = encoder(black)[0]
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"the vision model does not take pictures of {image.height} x {image.width}",
            expected="an image processor that makes pictures of the model's image_size",
            found=reason_of(error),
        ) from error
    return int(first.shape[2])


def refuse_style(request: Request, family: str) -> None:
    """For families that write one kind of caption.

    Raises:
        ExportError: another one is asked for.
    """
    if request.style is not None:
        raise ExportError(
            f"--style {request.style} is not for {family}", expected="Florence-2, which takes prompts"
        )
