"""Decoders built like BERT: post-norm blocks, a norm after the embedding, names that many families share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kiloword.export.importing.decoder import (
    BlockParts,
    DecoderParts,
    Image,
    Positions,
    Projections,
    TextDecoder,
)
from kiloword.runtime.errors import ExportError


def bert_decoder(model: Any) -> TextDecoder:
    """The decoder of a `BertLMHeadModel` or a `BlipTextLMHeadModel`."""
    refuse_relative_positions(model.config)
    head = model.cls.predictions
    final = Head(head.transform.dense, head.transform.transform_act_fn, head.transform.LayerNorm)
    return bert_like(model.bert.embeddings, model.bert.encoder.layer, final, head.decoder)


def roberta_decoder(model: Any) -> TextDecoder:
    """The decoder of a `RobertaForCausalLM` or its like: places are counted from behind the padding token."""
    refuse_relative_positions(model.config)
    head = model.lm_head
    final = Head(head.dense, nn.functional.gelu, head.layer_norm)
    padding = int(model.roberta.embeddings.padding_idx)
    return bert_like(model.roberta.embeddings, model.roberta.encoder.layer, final, head.decoder, padding)


def bert_like(
    embeddings: Any,
    layers: Sequence[Any],
    final: nn.Module,
    output: nn.Linear,
    padding: int | None = None,
    image: Image = "cross",
) -> TextDecoder:
    """A decoder with BERT's names for its parts.

    Args:
        embeddings: has ``word_embeddings``, ``position_embeddings``, ``LayerNorm``, perhaps
            ``token_type_embeddings``.
        layers: each has ``attention``, ``intermediate``, ``output``, perhaps ``crossattention``.
        final: between the last layer and the output matrix.
        output: from hidden states to logits.
        padding: see `Positions`.
        image: how the picture is seen.
    """
    bias: Tensor | None = getattr(output, "bias", None)
    parts = DecoderParts(
        words=embeddings.word_embeddings.weight,
        positions=Positions(_places(embeddings), padding),
        embedding_norm=embeddings.LayerNorm,
        blocks=[_block(layer, with_cross=image == "cross") for layer in layers],
        heads=int(layers[0].attention.self.num_attention_heads),
        pre_norm=False,
        final=final,
        output=output.weight,
        output_bias=None if bias is None else bias.detach(),
        image=image,
    )
    return TextDecoder(parts)


def refuse_relative_positions(config: Any) -> None:
    """Transformers 5 dropped BERT's positions that are relative to each other, and passes over the weights.

    Raises:
        ExportError: the checkpoint was trained with them; it would write something else without.
    """
    kind = getattr(config, "position_embedding_type", None)
    if kind not in (None, "absolute"):
        raise ExportError(
            "the decoder's kind of positions is not known",
            expected="position_embedding_type: absolute",
            found=str(kind),
        )


class Head(nn.Module):
    """What BERT puts between the last block and the output matrix."""

    def __init__(self, dense: nn.Linear, activation: Any, norm: nn.Module) -> None:
        super().__init__()
        self.dense, self.activation, self.norm = dense, activation, norm

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, W) -> (R, W)."""
        return self.norm(self.activation(self.dense(hidden)))  # type: ignore[no-any-return]


def _places(embeddings: Any) -> Tensor:
    """The table of places, with the kind of token added that all tokens of a caption are of."""
    places: Tensor = embeddings.position_embeddings.weight
    kinds = getattr(embeddings, "token_type_embeddings", None)
    with torch.no_grad():
        return places if kinds is None else places + kinds.weight[0]


def _block(layer: Any, *, with_cross: bool) -> BlockParts:
    return BlockParts(
        attention=_projections(layer.attention),
        attention_norm=layer.attention.output.LayerNorm,
        cross=_projections(layer.crossattention) if with_cross else None,
        cross_norm=layer.crossattention.output.LayerNorm if with_cross else None,
        first=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        second=layer.output.dense,
        mlp_norm=layer.output.LayerNorm,
    )


def _projections(attention: Any) -> Projections:
    inner = attention.self
    return Projections(inner.query, inner.key, inner.value, attention.output.dense)
