"""Decoders against torch's own layers and plain loops; what every kind must keep to."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from kiloword.train.models.decoder import Decoder, DecoderConfig
from kiloword.train.models.encoder import FeatureShape
from kiloword.train.models.recurrent import AdditiveAttention, lstm_step
from kiloword.train.models.registry import DECODERS
from kiloword.train.models.show_attend_tell import ShowAttendTell, ShowAttendTellConfig
from kiloword.train.models.show_tell import ShowTellConfig
from kiloword.train.models.transformer import TransformerConfig
from kiloword.train.recipe_file import load_recipe

IMAGE = FeatureShape(12, 2, 3, leading=1)
VOCABULARY = 11
ORIGINAL = TransformerConfig(
    12, 2, 3, 9, 0.0, feed_forward_width=20, norm="post", positions="sinusoidal", activation="relu",
    scale_embedding=True,
)  # fmt: skip
CONFIGS: dict[str, DecoderConfig] = {
    "transformer": TransformerConfig(16, 2, 2, 9),
    "transformer, post-norm": ORIGINAL,
    "show_attend_tell": ShowAttendTellConfig(10, 8, 6),
    "show_tell": ShowTellConfig(10, 8),
    "show_tell from a state": ShowTellConfig(10, 8, image_as="initial_state"),
}
each = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: DecoderConfig) -> Decoder:
    torch.manual_seed(1)
    decoder = config.build(VOCABULARY, IMAGE).eval()
    for parameter in decoder.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return decoder


def features(pictures: int) -> Tensor:
    return torch.randn(pictures, IMAGE.tokens, 12, generator=torch.Generator().manual_seed(2))


def tokens(rows: int, length: int = 6) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(3))


def test_every_kind_is_looked_at() -> None:
    assert {config.kind for config in CONFIGS.values()} == set(DECODERS)
    assert all(type(config) is DECODERS[config.kind] for config in CONFIGS.values())
    assert [config.problems() for config in CONFIGS.values()] == [[]] * len(CONFIGS)


@each
@torch.inference_mode()
@pytest.mark.parametrize("pieces", [[1] * 6, [2, 4]])
def test_cached_equals_uncached(config: DecoderConfig, pieces: list[int]) -> None:
    """Token by token, or in two readings: hidden states and state of one reading; a start may be left out."""
    decoder = build(config)
    context = decoder.image_context(features(3))
    steady = context[: sum(spec.starts is None for spec in decoder.context_specs())]
    ids = tokens(3)
    whole = decoder.read(ids, context)
    reading, hidden = None, []
    for piece in ids.split(pieces, dim=1):  # type: ignore[no-untyped-call]
        reading = decoder.read(piece, steady, reading.state) if reading else decoder.read(piece, context)
        hidden.append(reading.hidden)
    assert reading is not None
    torch.testing.assert_close(torch.cat(hidden, dim=1), whole.hidden, rtol=1e-4, atol=1e-5)
    for found, expected in zip(reading.state, whole.state, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@each
@torch.inference_mode()
def test_rows_share_the_context_of_their_picture(config: DecoderConfig) -> None:
    """Three rows for each of two pictures equal the same rows with a copy of the picture each."""
    decoder, ids = build(config), tokens(6)
    shared = decoder.read(ids, decoder.image_context(features(2)))
    copied = decoder.read(ids, decoder.image_context(features(2).repeat_interleave(3, dim=0)))
    torch.testing.assert_close(shared.hidden, copied.hidden, rtol=1e-4, atol=1e-5)


@each
@torch.inference_mode()
def test_shapes_are_those_that_are_declared(config: DecoderConfig) -> None:
    decoder, ids = build(config), tokens(4)
    context = decoder.image_context(features(2))
    assert [tensor.shape[1:] for tensor in context] == [spec.axes for spec in decoder.context_specs()]
    reading = decoder.read(ids, context)
    for tensor, spec in zip(reading.state, decoder.state_specs(), strict=True):
        named = dict(zip(spec.present.axes, tensor.shape, strict=True))
        assert all(size == axis for axis, size in named.items() if isinstance(axis, int))
        assert named["rows"] == 4
        assert spec.present.feeds == spec.past.name
    assert decoder.logits(reading.hidden).shape == (4, 6, VOCABULARY)
    assert len(reading.looks) == len(decoder.look_specs())
    assert (decoder.attention_spec() is None) == (len(reading.looks) == 0)


@each
@torch.inference_mode()
def test_the_picture_is_looked_at(config: DecoderConfig) -> None:
    """Another picture, other words to come; the class token is no part of an LSTM's picture."""
    decoder, ids = build(config), tokens(1)
    seen = features(1)
    other = seen.clone()
    other[:, 4] += 1
    first, second = (decoder.read(ids, decoder.image_context(item)).hidden for item in (seen, other))
    assert not torch.allclose(first, second)


@torch.inference_mode()
def test_an_lstm_step_equals_torchs() -> None:
    """Expected values: nn.LSTMCell, whose gates stand in the same order."""
    torch.manual_seed(4)
    cell = nn.LSTMCell(5, 7)
    word, hidden, memory = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    sums = word @ cell.weight_ih.T + cell.bias_ih + hidden @ cell.weight_hh.T + cell.bias_hh
    for found, expected in zip(lstm_step(sums, memory), cell(word, (hidden, memory)), strict=True):
        torch.testing.assert_close(found, expected)


@torch.inference_mode()
@pytest.mark.parametrize("image_as", ["first_input", "initial_state"])
def test_show_and_tell_equals_torchs_lstm(image_as: str) -> None:
    """nn.LSTM over the picture and the words; or over the words, from the state that the picture gives."""
    decoder = build(CONFIGS["show_tell" if image_as == "first_input" else "show_tell from a state"])
    assert isinstance(decoder.from_word, nn.Linear)
    assert isinstance(decoder.from_state, nn.Linear)
    lstm = nn.LSTM(8, 10, batch_first=True)
    lstm.weight_ih_l0.data, lstm.bias_ih_l0.data = decoder.from_word.weight.data, decoder.from_word.bias.data
    lstm.weight_hh_l0.data = decoder.from_state.weight.data
    lstm.bias_hh_l0.data.zero_()
    seen, ids = features(2), tokens(2)
    embedding, mean = decoder.get_parameter("token_embedding.weight"), seen[:, 1:].mean(dim=1)
    words, state = embedding[ids], None
    if image_as == "first_input":
        image = decoder.get_submodule("image_word")(mean)
        words = torch.cat([image[:, None], words], dim=1)
    else:
        start = decoder.get_submodule("start")
        assert isinstance(start.hidden, nn.Module)
        assert isinstance(start.cell, nn.Module)
        state = (start.hidden(mean)[None], start.cell(mean)[None])
    expected, _ = lstm(words, state)
    found, _ = decoder(ids, decoder.image_context(seen))
    torch.testing.assert_close(found, expected[:, -6:], rtol=1e-4, atol=1e-5)


def plain_attention(attention: AdditiveAttention, hidden: Tensor, cells: Tensor) -> Tensor:
    """One row: v . tanh(W_k a_i + b + W_q h), cell by cell."""
    scores = [
        attention.score.weight[0]
        @ torch.tanh(attention.key.weight @ cell + attention.key.bias + attention.query.weight @ hidden)
        for cell in cells
    ]
    return torch.stack(scores).softmax(dim=0)


@torch.inference_mode()
def test_show_attend_and_tell_equals_a_plain_recomputation() -> None:
    """The paper's equations for one row and one word at a time, with nn.LSTMCell."""
    decoder = build(CONFIGS["show_attend_tell"])
    assert isinstance(decoder, ShowAttendTell)
    cell = nn.LSTMCell(8 + 12, 10)
    cell.weight_ih.data = torch.cat([decoder.from_word.weight, decoder.from_image.weight], dim=1)
    cell.bias_ih.data = decoder.from_word.bias.data
    cell.weight_hh.data = decoder.from_state.weight.data
    cell.bias_hh.data.zero_()
    seen, ids = features(2), tokens(4)
    reading = decoder.read(ids, decoder.image_context(seen))
    for row in range(4):
        cells = seen[row // 2, 1:]
        mean = cells.mean(dim=0)
        hidden, memory = decoder.start.hidden(mean), decoder.start.cell(mean)
        for place, token in enumerate(ids[row]):
            word = decoder.token_embedding.weight[token]
            alpha = plain_attention(decoder.attention, hidden, cells)
            beta = torch.sigmoid(decoder.gate.weight[0] @ hidden + decoder.gate.bias[0])
            view = beta * (alpha[:, None] * cells).sum(dim=0)
            hidden, memory = (
                item[0] for item in cell(torch.cat([word, view])[None], (hidden[None], memory[None]))
            )
            told = word + decoder.state_output(hidden) + decoder.image_output.weight @ view
            torch.testing.assert_close(reading.looks[0][row, place], alpha, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(reading.hidden[row, place], told, rtol=1e-4, atol=1e-5)


def test_the_penalty_asks_for_each_cell_once() -> None:
    """By hand: cell 1 was looked at 0.9 in all, cell 2 1.1; the third word is padding and does not count."""
    decoder = build(CONFIGS["show_attend_tell"])
    looks = torch.tensor([[[0.2, 0.8], [0.7, 0.3], [1.0, 0.0]]])
    counts = torch.tensor([[True, True, False]])
    assert decoder.penalty((looks,), counts).item() == pytest.approx((0.1**2 + 0.1**2) / 2)
    assert build(CONFIGS["show_tell"]).penalty((), counts).item() == 0


@torch.inference_mode()
def test_post_norm_equals_torchs_transformer() -> None:
    """nn.TransformerDecoder as "Attention Is All You Need" has it; positions and scaling done by hand."""
    decoder = build(ORIGINAL)
    own: dict[str, Tensor] = {}
    weights = decoder.state_dict()
    for index in range(2):
        mine, theirs = f"blocks.{index}.", f"layers.{index}."
        for part, name in (("self_qkv", "self_attn.in_proj_"), ("self_out", "self_attn.out_proj."),
                           ("cross_out", "multihead_attn.out_proj."), ("mlp.fc1", "linear1."),
                           ("mlp.fc2", "linear2."), ("self_norm", "norm1."), ("cross_norm", "norm2."),
                           ("mlp_norm", "norm3.")):  # fmt: skip
            own |= {f"{theirs}{name}{kind}": weights[f"{mine}{part}.{kind}"] for kind in ("weight", "bias")}
        own |= {
            f"{theirs}multihead_attn.in_proj_{kind}": torch.cat(
                [weights[f"{mine}cross_query.{kind}"], weights[f"{mine}cross_key_value.{kind}"]]
            )
            for kind in ("weight", "bias")
        }
    layer = nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, activation="relu", batch_first=True)
    reference = nn.TransformerDecoder(layer, 2).eval()
    reference.load_state_dict(own)
    ids, seen = tokens(2), features(2)
    places, rates = torch.arange(6.0)[:, None], 10000 ** (-torch.arange(0, 12, 2) / 12)
    positions = torch.stack([(places * rates).sin(), (places * rates).cos()], dim=2).flatten(1)
    embedded = weights["token_embedding.weight"][ids] * 12**0.5 + positions
    expected = reference(embedded, seen, tgt_mask=nn.Transformer.generate_square_subsequent_mask(6))
    found, _ = decoder(ids, decoder.image_context(seen))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_base_model_of_the_paper_is_one_recipe() -> None:
    """N = 6, d_model = 512, h = 8, d_ff = 2048: 25.2 M parameters in the blocks, as counted by hand."""
    config = load_recipe("vaswani_base").decoder
    assert isinstance(config, TransformerConfig)
    assert (config.norm, config.positions, config.activation) == ("post", "sinusoidal", "relu")
    image = FeatureShape(512, 2, 2)
    decoder = config.build(100, image)
    attention, norms = 4 * (512 * 512 + 512), 3 * 2 * 512
    feed_forward = 512 * 2048 + 2048 + 2048 * 512 + 512
    blocks = sum(p.numel() for name, p in decoder.named_parameters() if name.startswith("blocks."))
    assert blocks == 6 * (2 * attention + feed_forward + norms)
    others = {name for name, _ in decoder.named_parameters() if not name.startswith("blocks.")}
    assert others == {"token_embedding.weight", "output_bias"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TransformerConfig(width=15, heads=5, positions="sinusoidal"), "need an even width, found 15"),
        (TransformerConfig(feed_forward_width=0), "feed_forward_width: expected 1 or more"),
        (ShowAttendTellConfig(attention_width=0), "attention_width: expected 1 or more"),
        (ShowAttendTellConfig(attention_penalty=-1), "attention_penalty: expected 0 or more"),
        (ShowTellConfig(dropout=1.0), "dropout: expected 0 or more and less than 1"),
    ],
)
def test_senseless_sizes_are_named(config: DecoderConfig, expected: str) -> None:
    assert any(expected in problem for problem in config.problems()), config.problems()


def test_kinds_read_their_own_keys(tmp_path: Path) -> None:
    """Each kind knows its keys and no others', and an unknown kind is told the known ones."""
    from kiloword.runtime.errors import ConfigError

    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\n[data]\ntrain = [{source = "a"}]\nvalidation = [{source = "b"}]\n'
        '[[stages]]\nname = "one"\npasses = 1\nlearning_rate = 1e-3\n'
    )
    changes = ["encoder.kind=hybrid", "encoder.cnn.kind=resnet", "decoder.kind=show_attend_tell"]
    found = load_recipe(recipe, [*changes, "encoder.cnn.widths=[8, 16]", "encoder.cnn.blocks=[1, 1]"])
    assert (found.encoder.levels, found.decoder.longest) == (2 + 4, None)
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, [*changes, "encoder.cnn.kind=resnext", "decoder.heads=4"])
    assert sorted(caught.value.problems) == [
        "recipe.decoder has the unknown key 'heads'",
        "recipe.encoder.cnn.kind: expected one of 'vit', 'mobilenet_v2', 'resnet', 'conv_stem', 'hybrid', "
        "found 'resnext'",
    ]
