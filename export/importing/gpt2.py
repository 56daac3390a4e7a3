"""Decoders built like GPT-2, with cross-attention: pre-norm blocks, weights stored transposed."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from kiloword.export.importing.decoder import (
    BlockParts,
    DecoderParts,
    Positions,
    Projections,
    TextDecoder,
    linear,
)


def gpt2_decoder(model: Any) -> TextDecoder:
    """The decoder of a `GPT2LMHeadModel`, distilgpt2 among them."""
    body = model.transformer
    parts = DecoderParts(
        words=body.wte.weight,
        positions=Positions(body.wpe.weight),
        embedding_norm=nn.Identity(),
        blocks=[_block(layer) for layer in body.h],
        heads=int(model.config.n_head),
        pre_norm=True,
        final=body.ln_f,
        output=model.lm_head.weight,
        output_bias=None,
    )
    return TextDecoder(parts)


def _block(layer: Any) -> BlockParts:
    return BlockParts(
        attention=_self_attention(layer.attn),
        attention_norm=layer.ln_1,
        cross=_cross_attention(layer.crossattention),
        cross_norm=layer.ln_cross_attn,
        first=_transposed(layer.mlp.c_fc),
        activation=layer.mlp.act,
        second=_transposed(layer.mlp.c_proj),
        mlp_norm=layer.ln_2,
    )


def _self_attention(attention: Any) -> Projections:
    query, key, value = _parts(attention.c_attn, 3)
    return Projections(_scaled(query, attention), key, value, _transposed(attention.c_proj))


def _cross_attention(attention: Any) -> Projections:
    key, value = _parts(attention.c_attn, 2)
    query = _transposed(attention.q_attn)
    return Projections(_scaled(query, attention), key, value, _transposed(attention.c_proj))


def _scaled(query: nn.Linear, attention: Any) -> nn.Linear:
    """The query, so that it may be divided by the root of the head's width whatever GPT-2 divides by."""
    factor = float(attention.scaling) * math.sqrt(attention.head_dim)
    return query if math.isclose(factor, 1.0) else linear(query.weight * factor, query.bias * factor)


def _transposed(layer: Any) -> nn.Linear:
    """GPT-2's `Conv1D`, a linear layer with its weight as (in, out)."""
    weight: Tensor = layer.weight
    return linear(weight.t().contiguous(), layer.bias)


def _parts(layer: Any, count: int) -> list[nn.Linear]:
    """A `Conv1D` that computes several things at once, one by one."""
    weights, biases = layer.weight.chunk(count, dim=1), layer.bias.chunk(count)
    return [
        linear(weight.t().contiguous(), bias.contiguous())
        for weight, bias in zip(weights, biases, strict=True)
    ]
