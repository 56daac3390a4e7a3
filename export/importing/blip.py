"""`BlipForConditionalGeneration`: a ViT, and a decoder like BERT's that looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiloword.export.importing.bert import bert_decoder
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


def blip(config: Mapping[str, Any], request: Request) -> Foreign:  # noqa: ARG001
    """A checkpoint of this family; captions begin without a prompt of words.

    Args:
        config: its `config.json`.
        request: where it is.

    Raises:
        ExportError: its files are not whole.
    """
    from transformers import BlipForConditionalGeneration

    refuse_style(request, "BLIP")
    processor = load_processor(request.directory)
    rule = pixel_rule(processor)
    tokenizer = load_tokenizer(request.directory)
    model = load_model(BlipForConditionalGeneration, request)
    decoder = bert_decoder(model.text_decoder)
    encoder = PictureEncoder(rule, HiddenStates(model.vision_model), decoder)
    # What BLIP's own `generate` hands to its decoder: the decoder's settings, but the text's ids.
    settings, text = model.text_decoder.generation_config, model.config.text_config
    start = prompt_and_end(
        request.directory,
        start=text.bos_token_id,
        end=text.sep_token_id,
        vocab=decoder.vocab_size,
        longest=decoder.longest,
    )
    patch = model.config.vision_config.patch_size
    return Foreign(
        encoder=encoder,
        decoder=decoder,
        tokens=token_spec(settings, start, text.bos_token_id, pad=text.pad_token_id),
        generation=generation_settings(settings, start),
        tokenizer=tokenizer,
        processor=processor,
        generate=model.generate,
        facts={
            "encoder": "vit",
            "decoder": "blip",
            "parameters": sum(one.numel() for one in model.parameters()),
        },
        image_tokens=count_image_tokens(encoder),
        grid=(rule.image.height // patch, rule.image.width // patch),
    )
