"""`Florence2ForConditionalGeneration`: DaViT, a prompt of words, and BART's encoder and decoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kiloword.export.importing.decoder import (
    BlockParts,
    DecoderParts,
    Positions,
    Projections,
    TextDecoder,
)
from kiloword.export.importing.encoder import PictureEncoder
from kiloword.export.importing.foreign import Foreign, Request, count_image_tokens, load_model
from kiloword.export.importing.pixels import PixelRule, load_processor, pixel_rule
from kiloword.export.importing.settings import generation_settings, prompt_and_end, token_spec
from kiloword.export.importing.source import reason_of
from kiloword.export.importing.text import load_tokenizer
from kiloword.runtime.errors import ExportError

logger = logging.getLogger(__name__)

PROMPTS = {
    "short": ("<CAPTION>", 32),
    "detailed": ("<DETAILED_CAPTION>", 128),
    "very-detailed": ("<MORE_DETAILED_CAPTION>", 256),
}
"""For each style Florence-2's name of the task, and the longest caption where its files set none."""
_PLACES_BEFORE = 2  # BART's table of places has two rows that are never read


def florence2(config: Mapping[str, Any], request: Request) -> Foreign:
    """A checkpoint of this family; the prompt of the style becomes a part of the encoder's graph.

    Args:
        config: its `config.json`.
        request: where it is, and the style.

    Raises:
        ExportError: it is in the format that only its own code reads, or its files are not whole.
    """
    from transformers import Florence2ForConditionalGeneration

    _refuse_own_code(config, request)
    task, longest = PROMPTS[request.style or "short"]
    processor = load_processor(request.directory)
    rule = pixel_rule(processor)
    tokenizer = load_tokenizer(request.directory)
    model = load_model(Florence2ForConditionalGeneration, request)
    prompt = _prompt(request, rule, task)
    decoder = _decoder(model)
    vision = PromptedVision(model, prompt)
    encoder = PictureEncoder(rule, vision, decoder)
    settings = model.generation_config
    start = prompt_and_end(
        request.directory,
        start=settings.decoder_start_token_id,
        end=settings.eos_token_id,
        vocab=decoder.vocab_size,
        longest=decoder.longest,
    )
    generation = generation_settings(settings, start)
    own_length = settings.max_length is None and settings.max_new_tokens is None
    if own_length:
        generation = replace(generation, max_new_tokens=min(longest, decoder.longest))
    return Foreign(
        encoder=encoder,
        decoder=decoder,
        tokens=token_spec(settings, start, settings.bos_token_id),
        generation=generation,
        tokenizer=tokenizer,
        processor=processor,
        generate=_Generate(model, prompt),
        facts={
            "encoder": "davit, bart",
            "decoder": "bart",
            "task": task,
            "parameters": sum(one.numel() for one in model.parameters()),
        },
        image_tokens=count_image_tokens(encoder),
        grid=vision.grid(rule),
        own_length=own_length,
    )


class PromptedVision(nn.Module):
    """Pixels to what BART's encoder makes of the picture and the prompt.

    Args:
        model: the whole model of transformers.
        prompt: int64 (1, tokens), with a placeholder for each image token.
    """

    def __init__(self, model: Any, prompt: Tensor) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.encoder = model.model.language_model.encoder
        is_image = prompt[0] == model.config.image_token_id
        places = is_image.nonzero().flatten()
        if len(places) == 0 or int(places[-1] - places[0]) + 1 != len(places):
            raise ExportError("the prompt does not hold the picture in one piece")
        with torch.no_grad():
            embedded = model.get_input_embeddings()(prompt).clone()
        self.image_tokens = len(places)
        self.register_buffer("before", embedded[:, : int(places[0])], persistent=False)
        self.register_buffer("after", embedded[:, int(places[-1]) + 1 :], persistent=False)
        self.before: Tensor
        self.after: Tensor

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, height, width) -> (B, N, W), the prompt's tokens first: cross-attention knows no order."""
        image = self.projector(self.tower(pixel_values).last_hidden_state)
        batch = image.shape[0]
        before, after = self.before.expand(batch, -1, -1), self.after.expand(batch, -1, -1)
        read = self.encoder(inputs_embeds=torch.cat([before, image, after], dim=1)).last_hidden_state
        end = before.shape[1] + image.shape[1]
        return torch.cat([read[:, : before.shape[1]], read[:, end:], read[:, before.shape[1] : end]], dim=1)

    def grid(self, rule: PixelRule) -> tuple[int, int]:
        """Rows and columns of the image tokens; the one before them is the mean of all."""
        stride = int(np.prod(self.tower.config.patch_stride))
        return rule.image.height // stride, rule.image.width // stride


class _Generate:
    """Transformers' ``generate`` with the prompt."""

    def __init__(self, model: Any, prompt: Tensor) -> None:
        self._model, self._prompt = model, prompt

    def __call__(self, pixel_values: Tensor, **given: Any) -> Any:
        ids = self._prompt.expand(len(pixel_values), -1)
        mask = torch.ones_like(ids)
        return self._model.generate(input_ids=ids, attention_mask=mask, pixel_values=pixel_values, **given)


def _refuse_own_code(config: Mapping[str, Any], request: Request) -> None:
    """Florence-2 was first published with code of its own and other names for its weights."""
    if "dim_embed" in config.get("vision_config", {}):
        raise ExportError(
            "this Florence-2 is in a format that only its own code reads, and a checkpoint's code is not run",
            path=request.directory,
            expected="the format of transformers",
            hint="the same weights in that format, such as florence-community/Florence-2-base",
        )


def _prompt(request: Request, rule: PixelRule, task: str) -> Tensor:
    """The token ids that transformers' processor makes of a task: int64 (1, tokens)."""
    from transformers import AutoProcessor

    black = np.zeros((rule.image.height, rule.image.width, 3), np.uint8)
    try:
        processor = AutoProcessor.from_pretrained(
            request.directory, backend="pil", trust_remote_code=False, local_files_only=True
        )
        ids: Tensor = processor(text=task, images=black, return_tensors="pt")["input_ids"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            "the processor cannot be loaded", path=request.directory, found=reason_of(error)
        ) from error
    return ids


def _decoder(model: Any) -> TextDecoder:
    body = model.model.language_model.decoder
    scale = float(getattr(body.embed_tokens, "embed_scale", 1.0))
    words: Tensor = body.embed_tokens.weight
    parts = DecoderParts(
        words=words if scale == 1.0 else words * scale,
        positions=Positions(body.embed_positions.weight[_PLACES_BEFORE:]),
        embedding_norm=body.layernorm_embedding,
        blocks=[_block(layer) for layer in body.layers],
        heads=int(body.config.decoder_attention_heads),
        pre_norm=False,
        final=nn.Identity(),
        output=model.lm_head.weight,
        output_bias=None,
    )
    return TextDecoder(parts)


def _block(layer: Any) -> BlockParts:
    return BlockParts(
        attention=_projections(layer.self_attn),
        attention_norm=layer.self_attn_layer_norm,
        cross=_projections(layer.encoder_attn),
        cross_norm=layer.encoder_attn_layer_norm,
        first=layer.fc1,
        activation=layer.activation_fn,
        second=layer.fc2,
        mlp_norm=layer.final_layer_norm,
    )


def _projections(attention: Any) -> Projections:
    return Projections(attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
