"""`VisionEncoderDecoderModel`: ViT, DeiT, BEiT or Swin, and GPT-2, BERT or RoBERTa with cross-attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kiloword.export.importing.bert import bert_decoder, roberta_decoder
from kiloword.export.importing.decoder import TextDecoder
from kiloword.export.importing.encoder import HiddenStates, PictureEncoder
from kiloword.export.importing.foreign import (
    Foreign,
    Request,
    count_image_tokens,
    load_model,
    refuse_style,
)
from kiloword.export.importing.gpt2 import gpt2_decoder
from kiloword.export.importing.pixels import load_processor, pixel_rule
from kiloword.export.importing.settings import generation_settings, prompt_and_end, token_spec
from kiloword.export.importing.text import load_tokenizer
from kiloword.runtime.errors import ExportError

ENCODERS = ("vit", "deit", "beit", "swin")
DECODERS: Mapping[str, Callable[[Any], TextDecoder]] = {
    "gpt2": gpt2_decoder,
    "bert": bert_decoder,
    "roberta": roberta_decoder,
    "xlm-roberta": roberta_decoder,
    "camembert": roberta_decoder,
}
PARTS = f"encoder {', '.join(ENCODERS)}; decoder {', '.join(DECODERS)}"


def vision_encoder_decoder(config: Mapping[str, Any], request: Request) -> Foreign:
    """A checkpoint of this family.

    Args:
        config: its `config.json`.
        request: where it is.

    Raises:
        ExportError: its parts are not known, or its files are not whole.
    """
    from transformers import VisionEncoderDecoderModel

    kinds = {part: str(config.get(part, {}).get("model_type")) for part in ("encoder", "decoder")}
    if kinds["encoder"] not in ENCODERS or kinds["decoder"] not in DECODERS:
        raise ExportError(
            "these parts are not known",
            path=request.directory,
            expected=PARTS,
            found=f"{kinds['encoder']} and {kinds['decoder']}",
        )
    refuse_style(request, "VisionEncoderDecoderModel")
    processor = load_processor(request.directory)
    rule = pixel_rule(processor)
    tokenizer = load_tokenizer(request.directory)
    model = load_model(VisionEncoderDecoderModel, request)
    if not model.decoder.config.add_cross_attention:
        raise ExportError(
            "the decoder does not look at the picture",
            path=request.directory,
            expected="add_cross_attention: true in the decoder's part of config.json",
        )
    decoder = DECODERS[kinds["decoder"]](model.decoder)
    vision = HiddenStates(model.encoder, getattr(model, "enc_to_dec_proj", None))
    encoder = PictureEncoder(rule, vision, decoder)
    settings = model.generation_config
    first = settings.decoder_start_token_id
    start = prompt_and_end(
        request.directory,
        start=settings.bos_token_id if first is None else first,
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
        generate=lambda pixel_values, **given: model.generate(pixel_values=pixel_values, **given),
        facts={**kinds, "parameters": sum(one.numel() for one in model.parameters())},
        image_tokens=count_image_tokens(encoder),
        grid=_grid(model.encoder.config, kinds["encoder"], rule.image.height, rule.image.width),
    )


def _grid(config: Any, kind: str, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the image tokens; Swin's stages after the first halve both and pad what is odd."""
    patch = config.patch_size
    patches = (patch, patch) if isinstance(patch, int) else tuple(patch)
    if kind != "swin":
        return height // patches[0], width // patches[1]
    halves: int = 2 ** (len(config.depths) - 1)
    return -(-height // (patches[0] * halves)), -(-width // (patches[1] * halves))
