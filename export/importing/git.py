"""`GitForCausalLM`: CLIP's ViT, whose tokens are the beginning of what a decoder like BERT's reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kiloword.export.importing.bert import bert_like, refuse_relative_positions
from kiloword.export.importing.encoder import HiddenStates, PictureEncoder
from kiloword.export.importing.foreign import (
    Foreign,
    Request,
    count_image_tokens,
    load_model,
    refuse_style,
)
from kiloword.export.importing.pixels import load_processor, pixel_rule
from kiloword.export.importing.settings import generation_settings, prompt_and_end, token_spec
from kiloword.export.importing.text import load_tokenizer
from kiloword.runtime.errors import ExportError


def git(config: Mapping[str, Any], request: Request) -> Foreign:
    """A checkpoint of this family.

    Image tokens see each other and no text, so their keys and values in every block depend on the picture
    alone: the encoder's graph computes them, as context that beams share.

    Args:
        config: its `config.json`.
        request: where it is.

    Raises:
        ExportError: it is one for videos, or its files are not whole.
    """
    from transformers import GitForCausalLM

    refuse_style(request, "GIT")
    if config.get("num_image_with_embedding"):
        raise ExportError(
            "this GIT describes videos", path=request.directory, expected="one for single pictures"
        )
    processor = load_processor(request.directory)
    rule = pixel_rule(processor)
    tokenizer = load_tokenizer(request.directory)
    model = load_model(GitForCausalLM, request)
    refuse_relative_positions(model.config)
    body = model.git
    decoder = bert_like(body.embeddings, body.encoder.layer, nn.Identity(), model.output, image="prefix")
    vision = HiddenStates(body.image_encoder, body.visual_projection)
    encoder = PictureEncoder(rule, vision, decoder)
    settings = model.generation_config
    start = prompt_and_end(
        request.directory,
        start=settings.bos_token_id,
        end=settings.eos_token_id,
        vocab=decoder.vocab_size,
        longest=decoder.longest,
    )
    return Foreign(
        encoder=encoder,
        decoder=decoder,
        tokens=token_spec(settings, start, settings.bos_token_id),
        generation=generation_settings(settings, start),
        tokenizer=tokenizer,
        processor=processor,
        generate=_Generate(model, start.prompt_token_ids),
        facts={
            "encoder": "clip-vit",
            "decoder": "git",
            "parameters": sum(one.numel() for one in model.parameters()),
        },
        image_tokens=count_image_tokens(encoder),
        grid=None,
    )


class _Generate:
    """Transformers' ``generate`` from the first token on, which 5.23 cannot find for GIT by itself."""

    def __init__(self, model: Any, prompt: tuple[int, ...]) -> None:
        self._model, self._prompt = model, torch.tensor([prompt])

    def __call__(self, pixel_values: Tensor, **given: Any) -> Any:
        ids = self._prompt.expand(len(pixel_values), -1)
        return self._model.generate(input_ids=ids, pixel_values=pixel_values, **given)
