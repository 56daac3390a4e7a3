"""Tiny checkpoints of Hugging Face transformers, made from a config with random weights.

The weights are larger than fresh ones: the captions are nonsense, but they differ from picture to picture and
end at different lengths, which is what comparisons need.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn

SIZE = 32
WIDTH = 32
LAYERS = 2
HEADS = 4
PAD, BOS, EOS, UNK = 0, 1, 2, 3
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
_BYTES = (
    "a Ġdog Ġcat Ġman Ġruns Ġon Ġthe Ġbeach Ġred Ġsmall s ing Ġ. Ġ, "
    "Ġtwo Ġplay Ġwith Ġin Ġfield Ġand Ġn't Ġ's er Ġgreen Ġball Ġnear"
)
_PIECES = (
    "a dog cat man runs on the beach red small ##s ##ing . , "
    "two play with in field and n't 's ##er green ball near"
)
VOCABULARY = len(SPECIAL) + len(_BYTES.split())


def byte_tokenizer(**settings: Any) -> Any:
    """Byte-level, as GPT-2's, RoBERTa's and BART's."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *_BYTES.split()))}
    library = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return _wrapped(library, **settings)


def piece_tokenizer(**settings: Any) -> Any:
    """Word pieces, as BERT's."""
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *_PIECES.split()))}
    library = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(cleanup=False)
    return _wrapped(library, clean_up_tokenization_spaces=True, **settings)


def _wrapped(library: Tokenizer, **settings: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    library.add_special_tokens(list(SPECIAL))
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=library, **names, **settings)


def grown(model: nn.Module, seed: int) -> nn.Module:
    """Gives a model larger weights, and its norms and biases something to do."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=random)
            embeds = ("word_embeddings", "wte", "shared", "embed_tokens", "lm_head", "output.weight")
            is_scale = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name)
            if is_scale and parameter.dim() < 2:
                # Half of the signs turned, or tied embeddings would repeat the last word for ever.
                parameter.copy_((1 + 0.1 * values.abs()) * values.sign())
            elif parameter.dim() < 2:
                parameter.copy_(values * 0.1)
            elif any(part in name for part in embeds):
                parameter.copy_(values * 0.5)
            elif parameter.dim() == 2:
                parameter.copy_(values * 1.5 * min(parameter.shape) ** -0.5)
            else:
                parameter.copy_(values * 1.5 * parameter[0].numel() ** -0.5)
    return model.eval()


def vit(**settings: Any) -> Any:
    """A ViT."""
    from transformers import ViTConfig

    return ViTConfig(**_encoder_sizes(), image_size=SIZE, patch_size=8, **settings)


def vit_of(image_size: tuple[int, int], patch_size: tuple[int, int], **settings: Any) -> Any:
    """A ViT whose pictures and patches are no squares."""
    from transformers import ViTConfig

    return ViTConfig(**{**_encoder_sizes(), **settings}, image_size=image_size, patch_size=patch_size)


def deit() -> Any:
    """A DeiT, whose tokens begin with two that are no places."""
    from transformers import DeiTConfig

    return DeiTConfig(**_encoder_sizes(), image_size=SIZE, patch_size=8)


def beit() -> Any:
    """A BEiT with positions relative to each other, as the published ones."""
    from transformers import BeitConfig

    return BeitConfig(**_encoder_sizes(), image_size=SIZE, patch_size=8, use_relative_position_bias=True)


def swin() -> Any:
    """A Swin of two stages whose second is half as high and twice as wide."""
    return swin_of(SIZE)


def swin_of(image_size: int) -> Any:
    """A Swin for square pictures of this size."""
    from transformers import SwinConfig

    return SwinConfig(
        image_size=image_size, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )


def _encoder_sizes() -> dict[str, int]:
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
    }


def gpt2(**settings: Any) -> Any:
    """A GPT-2 that looks at pictures."""
    from transformers import GPT2Config

    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 40}
    return GPT2Config(vocab_size=VOCABULARY, **{**sizes, **settings}, **_ids(), add_cross_attention=True)


def bert() -> Any:
    """A BERT that writes."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=VOCABULARY,
        **_encoder_sizes(),
        max_position_embeddings=40,
        **_ids(),
        is_decoder=True,
        add_cross_attention=True,
    )


def roberta(width: int = WIDTH) -> Any:
    """A RoBERTa that writes, of another width than the encoders."""
    from transformers import RobertaConfig

    sizes = _encoder_sizes() | {"hidden_size": width}
    return RobertaConfig(
        vocab_size=VOCABULARY,
        **sizes,
        max_position_embeddings=40,
        type_vocab_size=1,
        **_ids(),
        is_decoder=True,
        add_cross_attention=True,
    )


def _ids() -> dict[str, int]:
    return {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


def make_vision_encoder_decoder(
    directory: Path,
    encoder: Callable[[], Any],
    decoder: Callable[[], Any],
    *,
    seed: int = 0,
    processor: Any = None,
    safe: bool = True,
    **generation: Any,
) -> Path:
    """Writes a `VisionEncoderDecoderModel`.

    Args:
        directory: where to.
        encoder: makes its configuration.
        decoder: makes its configuration.
        seed: of the weights.
        processor: its image processor; by default the one of ViT, with bilinear stretching.
        safe: safetensors, else a pickle.
        generation: for `generation_config.json`.
    """
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTImageProcessor

    first, second = encoder(), decoder()
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(first, second)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = BOS, PAD, EOS
    model = grown(VisionEncoderDecoderModel(config), seed)
    size = {"height": SIZE, "width": SIZE}
    tokenizer = byte_tokenizer() if second.model_type != "bert" else piece_tokenizer()
    settings = {"decoder_start_token_id": BOS, "max_length": 14, **generation}
    return save(directory, model, tokenizer, processor or ViTImageProcessor(size=size), safe=safe, **settings)


def save(
    directory: Path, model: Any, tokenizer: Any, processor: Any, *, safe: bool = True, **generation: Any
) -> Path:
    """Writes a checkpoint as transformers does."""
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(directory)
    if not safe:
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
    tokenizer.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def make_blip(directory: Path, *, seed: int = 0, **generation: Any) -> Path:
    """Writes a `BlipForConditionalGeneration`."""
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    text = BlipTextConfig(
        vocab_size=VOCABULARY,
        **_encoder_sizes(),
        encoder_hidden_size=WIDTH,
        max_position_embeddings=40,
        **_ids(),
        sep_token_id=EOS,
        is_decoder=True,
        **generation,
    )
    vision = BlipVisionConfig(**_encoder_sizes(), image_size=SIZE, patch_size=8)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    model = grown(BlipForConditionalGeneration(config), seed)
    size = {"height": SIZE, "width": SIZE}
    return save(directory, model, piece_tokenizer(), BlipImageProcessor(size=size))


def make_git(directory: Path, *, seed: int = 0, **generation: Any) -> Path:
    """Writes a `GitForCausalLM`, with CLIP's crop."""
    from transformers import CLIPImageProcessor, GitConfig, GitForCausalLM

    vision = {**_encoder_sizes(), "image_size": SIZE, "patch_size": 8}
    config = GitConfig(
        vision_config=vision,
        vocab_size=VOCABULARY,
        **_encoder_sizes(),
        max_position_embeddings=40,
        **_ids(),
    )
    model = grown(GitForCausalLM(config), seed)
    processor = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return save(directory, model, piece_tokenizer(), processor, **generation)


def make_florence2(directory: Path, *, seed: int = 0, **generation: Any) -> Path:
    """Writes a `Florence2ForConditionalGeneration` with its usual forced tokens."""
    from transformers import (
        AddedToken,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = byte_tokenizer(extra_special_tokens={"image_token": "<image>"})
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    config = Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": WIDTH,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 2 * WIDTH,
            "decoder_ffn_dim": 2 * WIDTH,
            "max_position_embeddings": 128,
            "scale_embedding": True,
            **_ids(),
            "decoder_start_token_id": EOS,
            "forced_eos_token_id": EOS,
        },
        vision_config={
            "embed_dim": [8, 16],
            "depths": [1, 1],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "window_size": 3,
            "projection_dim": WIDTH,
            "max_position_embeddings": 20,
        },
        image_token_id=image_token,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = grown(Florence2ForConditionalGeneration(config), seed)
    image_processor = CLIPImageProcessor(size={"height": SIZE, "width": SIZE}, do_center_crop=False)
    image_processor.image_seq_length = 1 + (SIZE // 8) ** 2
    processor = Florence2Processor(image_processor, tokenizer)
    settings = {
        "decoder_start_token_id": EOS,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "forced_bos_token_id": BOS,
        "forced_eos_token_id": EOS,
        "no_repeat_ngram_size": 3,
        "num_beams": 3,
        "early_stopping": True,
        **generation,
    }
    return save(directory, model, tokenizer, processor, **settings)
