"""Tiny bundles with random weights, made by `onnx.helper` in milliseconds: runtime tests need no torch.

Three kinds cover all roles that a state can have. The captions are nonsense, but they are the same nonsense
each time, differ from image to image and end at different lengths, which is what tests of search need.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from kiloword.runtime.bundle import (
    Bundle,
    GenerationSettings,
    GraphSpec,
    ImageSpec,
    Manifest,
    TensorSpec,
    TokenSpec,
    write_manifest,
)
from kiloword.runtime.manifest import AttentionSpec

Kind = Literal["transformer", "recurrent", "image_prefix"]

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
WORDS = (
    *("a", "the", "dog", "cat", "man", "woman", "child", "horse", "ball", "field", "beach", "street", "red"),
    *("blue", "green", "small", "big", "two", "three", "runs", "sits", "jumps", "plays", "on", "in", "near"),
)
VOCABULARY = (*SPECIAL_TOKENS, *WORDS)
MAX_SEQUENCE_LENGTH = 24

IMAGE_SIZE = 16
_TOKENS = 4  # image tokens: bands of 4 rows
_WIDTH = 16
_HEADS = 2
_LAYERS = 2
_HEAD_DIM = _WIDTH // _HEADS

_ONNX_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8}


def make_tiny_bundle(
    directory: Path,
    *,
    kind: Kind = "transformer",
    recurrent: bool = False,
    seed: int = 0,
    num_beams: int = 1,
    max_new_tokens: int = 12,
    prompt_token_ids: Sequence[int] = (1,),
    name: str = "tiny",
) -> Bundle:
    """Write a bundle with random weights.

    Args:
        directory: Where to; made if it is not there.
        kind: ``transformer`` has context (cross-attention keys and values) and a cache; ``recurrent`` has
            context (a grid of features), two recurrent states and reads one token per call; ``image_prefix``
            has no context, and its cache starts with the image's keys and values.
        recurrent: Short for ``kind="recurrent"``.
        seed: Chooses the weights.
        num_beams: Default of the bundle.
        max_new_tokens: Default of the bundle.
        prompt_token_ids: What captions start from.
        name: Name of the bundle.

    Returns:
        The bundle, as `load_bundle` would give it.
    """
    kind = "recurrent" if recurrent else kind
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    make_encoder, make_decoder = _KINDS[kind]
    encoder, decoder = _Graph(random), _Graph(random)
    make_encoder(encoder)
    make_decoder(decoder)
    encoder.save(directory / "encoder.onnx")
    decoder.save(directory / "decoder.onnx")
    make_tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "CARD.md").write_text("# tiny\n\nRandom weights, for tests.\n", encoding="utf-8")
    manifest = Manifest(
        name=name,
        precision="fp32",
        architecture={"encoder": "bands", "decoder": kind, "layers": _LAYERS},
        image=ImageSpec(height=IMAGE_SIZE, width=IMAGE_SIZE),
        tokens=TokenSpec(
            vocab_size=len(VOCABULARY),
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            prompt_token_ids=tuple(prompt_token_ids),
            suppressed_token_ids=(0, 1, 3),
            max_sequence_length=None if kind == "recurrent" else MAX_SEQUENCE_LENGTH,
        ),
        generation=GenerationSettings(num_beams=num_beams, max_new_tokens=max_new_tokens),
        encoder=encoder.spec("encoder.onnx"),
        decoder=decoder.spec("decoder.onnx"),
        attention=None if kind == "image_prefix" else AttentionSpec(grid_height=_TOKENS, grid_width=1),
        files={},
        provenance={"seed": seed, "licence": "Apache-2.0"},
        report={},
    )
    return write_manifest(directory, manifest)


def make_tokenizer() -> Tokenizer:
    """A word-level tokenizer that joins words with spaces."""
    vocabulary = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


class _Graph:
    """An ONNX graph in the making; every method returns the name of a tensor."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[TensorSpec] = []
        self._outputs: list[TensorSpec] = []

    def input(self, name: str, role: Any, dtype: str, *axes: int | str) -> str:
        self._inputs.append(TensorSpec(name, role, dtype, axes))
        return name

    def output(
        self, tensor: str, name: str, role: Any, dtype: str, *axes: int | str, feeds: str | None = None
    ) -> None:
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(TensorSpec(name, role, dtype, axes, feeds))

    def normal(self, *shape: int) -> NDArray[np.float32]:
        return self._random.standard_normal(shape).astype(np.float32)

    def weight(self, *shape: int, scale: float) -> str:
        """Random numbers that keep the size of what they are multiplied with, times ``scale``."""
        return self.constant(self.normal(*shape) * np.float32(scale / np.sqrt(shape[0])))

    def constant(self, values: NDArray[Any] | Sequence[int]) -> str:
        name = f"constant_{len(self._weights)}"
        array = values if isinstance(values, np.ndarray) else np.array(values, dtype=np.int64)
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def split(self, tensor: str, count: int) -> list[str]:
        names = [f"split_{len(self._nodes)}_{index}" for index in range(count)]
        self._nodes.append(helper.make_node("Split", [tensor], names, axis=-1, num_outputs=count))
        return names

    def reshape(self, tensor: str, *sizes: int | str) -> str:
        """Reshape; a text names a tensor (1,) that holds the size, 0 keeps an axis and -1 is the rest."""
        parts = [size if isinstance(size, str) else self.constant([size]) for size in sizes]
        return self.op("Reshape", tensor, self.op("Concat", *parts, axis=0))

    def size(self, tensor: str, axis: int) -> str:
        """The size of an axis, as a tensor (1,)."""
        return self.op("Shape", tensor, start=axis, end=axis + 1)

    def attend(self, query: str, key: str, value: str, mask: str | None = None) -> tuple[str, str]:
        """softmax(QK^T / sqrt(d)) V and its weights, for (rows, heads, length, head_dim)."""
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.constant(np.array(_HEAD_DIM**-0.5, dtype=np.float32)))
        if mask is not None:
            scores = self.op("Where", mask, scores, self.constant(np.array(-1e9, dtype=np.float32)))
        weights = self.op("Softmax", scores, axis=-1)
        return self.op("MatMul", weights, value), weights

    def heads(self, tensor: str) -> str:
        """(rows, length, width) -> (rows, heads, length, head_dim)."""
        return self.op("Transpose", self.reshape(tensor, 0, 0, _HEADS, _HEAD_DIM), perm=[0, 2, 1, 3])

    def join_heads(self, tensor: str) -> str:
        """(rows, heads, length, head_dim) -> (rows, length, width)."""
        return self.reshape(self.op("Transpose", tensor, perm=[0, 2, 1, 3]), 0, 0, _WIDTH)

    def spec(self, file: str) -> GraphSpec:
        return GraphSpec(file=file, inputs=tuple(self._inputs), outputs=tuple(self._outputs))

    def save(self, path: Path) -> None:
        inputs, outputs = (
            [helper.make_tensor_value_info(one.name, _ONNX_TYPES[one.dtype], one.axes) for one in side]
            for side in (self._inputs, self._outputs)
        )
        graph = helper.make_graph(self._nodes, path.stem, inputs, outputs, initializer=self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _image_tokens(graph: _Graph) -> str:
    """Pixels -> features (batch_size, image_tokens, width); normalised in the graph."""
    pixels = graph.input("pixels", "pixels", "uint8", "batch_size", IMAGE_SIZE, IMAGE_SIZE, 3)
    band = IMAGE_SIZE * IMAGE_SIZE * 3 // _TOKENS
    values = graph.op("Cast", pixels, to=TensorProto.FLOAT)
    values = graph.op("Div", values, graph.constant(np.array(127.5, dtype=np.float32)))
    values = graph.op("Sub", values, graph.constant(np.array(1.0, dtype=np.float32)))
    bands = graph.reshape(values, 0, _TOKENS, band)
    return graph.op("Tanh", graph.op("MatMul", bands, graph.weight(band, _WIDTH, scale=3.0)))


def _cross_attention_encoder(graph: _Graph) -> None:
    """Keys and values for each layer's cross-attention."""
    features = _image_tokens(graph)
    for layer in range(_LAYERS):
        for part in ("key", "value"):
            name = f"cross_key_values.{layer}.{part}"
            heads = graph.heads(graph.op("MatMul", features, graph.weight(_WIDTH, _WIDTH, scale=2.0)))
            # The output and the decoder input have the same name, as in the bundles that the project exports.
            axes = ("batch_size", _HEADS, _TOKENS, _HEAD_DIM)
            graph.output(heads, name, "context", "float32", *axes, feeds=name)


def _prefix_encoder(graph: _Graph) -> None:
    """The image as the first tokens of the decoder's own cache."""
    features = _image_tokens(graph)
    for layer in range(_LAYERS):
        for part in ("key", "value"):
            heads = graph.heads(graph.op("MatMul", features, graph.weight(_WIDTH, _WIDTH, scale=2.0)))
            axes = ("batch_size", _HEADS, _TOKENS, _HEAD_DIM)
            feeds = f"past_key_values.{layer}.{part}"
            graph.output(heads, f"image.{layer}.{part}", "cache", "float32", *axes, feeds=feeds)


def _recurrent_encoder(graph: _Graph) -> None:
    """A grid of features, and the first hidden state from their mean; the cell state starts at zero."""
    features = _image_tokens(graph)
    graph.output(
        features, "image_grid", "context", "float32", "batch_size", _TOKENS, _WIDTH, feeds="image_grid"
    )
    mean = graph.op("ReduceMean", features, graph.constant([1]), keepdims=0)
    hidden = graph.op("Tanh", graph.op("MatMul", mean, graph.weight(_WIDTH, _WIDTH, scale=3.0)))
    graph.output(hidden, "first_hidden", "recurrent", "float32", "batch_size", _WIDTH, feeds="hidden")


def _transformer_decoder(graph: _Graph) -> None:
    _attention_decoder(graph, cross=True)


def _prefix_decoder(graph: _Graph) -> None:
    _attention_decoder(graph, cross=False)


def _attention_decoder(graph: _Graph, *, cross: bool) -> None:
    """One graph for prefill and step: the past may be empty, beams share their image's context."""
    ids, beam_rows = _token_inputs(graph, "sequence_length")
    context, past = _attention_inputs(graph, cross)
    beams, length = graph.size(ids, 1), graph.size(ids, 2)
    rows = graph.reshape(beam_rows, -1)
    past_length = graph.size(past[0][0], 2)
    total = graph.op("Add", past_length, length)
    positions, mask = _positions_and_mask(graph, past_length, total)
    table = graph.weight(MAX_SEQUENCE_LENGTH + _TOKENS, _WIDTH, scale=5.0)
    words = graph.op("Gather", graph.weight(len(VOCABULARY), _WIDTH, scale=5.0), ids, axis=0)
    hidden = graph.op("Add", words, graph.op("Gather", table, positions, axis=0))
    hidden = graph.reshape(graph.op("Tanh", hidden), -1, length, _WIDTH)  # (rows, length, width)
    weights = ""
    for layer in range(_LAYERS):
        query, key, value = (
            graph.heads(graph.op("MatMul", hidden, graph.weight(_WIDTH, _WIDTH, scale=1.5))) for _ in range(3)
        )
        states = [
            graph.op("Concat", graph.op("Gather", old, rows, axis=0), new, axis=2)
            for old, new in zip(past[layer], (key, value), strict=True)
        ]
        attended, _ = graph.attend(query, states[0], states[1], mask)
        hidden = graph.op("Add", hidden, graph.join_heads(attended))
        for part, state in zip(("key", "value"), states, strict=True):
            graph.output(
                state,
                f"present.{layer}.{part}",
                "cache",
                "float32",
                *("rows", _HEADS, "total_sequence_length", _HEAD_DIM),
                feeds=f"past_key_values.{layer}.{part}",
            )
        if cross:
            seen, weights = _look(graph, hidden, context[layer], beams, length)
            hidden = graph.op("Add", hidden, seen)
    of_all = _logits(graph, ids, graph.reshape(hidden, -1, beams, length, _WIDTH), scale=0.7)
    if cross:
        _weights_of_last(graph, weights, beams, length)
    axes = ("batch_size", "num_beams", "sequence_length", len(VOCABULARY))
    graph.output(of_all, "sequence_logits", "sequence_logits", "float32", *axes)


def _token_inputs(graph: _Graph, length: int | str) -> tuple[str, str]:
    ids = graph.input("input_ids", "token_ids", "int64", "batch_size", "num_beams", length)
    return ids, graph.input("beam_rows", "beam_rows", "int64", "batch_size", "num_beams")


def _attention_inputs(graph: _Graph, cross: bool) -> tuple[list[list[str]], list[list[str]]]:
    """Context and cache inputs, by layer: [key, value]."""
    parts = ("key", "value")
    sizes: tuple[int | str, ...] = ("batch_size", _HEADS, _TOKENS, _HEAD_DIM)
    context = [
        [graph.input(f"cross_key_values.{n}.{part}", "context", "float32", *sizes) for part in parts]
        for n in range(_LAYERS if cross else 0)
    ]
    sizes = ("past_rows", _HEADS, "past_sequence_length", _HEAD_DIM)
    past = [
        [graph.input(f"past_key_values.{n}.{part}", "cache", "float32", *sizes) for part in parts]
        for n in range(_LAYERS)
    ]
    return context, past


def _positions_and_mask(graph: _Graph, past_length: str, total: str) -> tuple[str, str]:
    """Positions (length,) of the new tokens, and which of all (length, total) each of them may see."""
    zero, one, axis = (graph.constant(np.array(n, dtype=np.int64)) for n in (0, 1, 1))
    start, end = (graph.op("Squeeze", size) for size in (past_length, total))
    positions = graph.op("Range", start, end, one)
    everything = graph.op("Range", zero, end, one)
    mask = graph.op("LessOrEqual", everything, graph.op("Unsqueeze", positions, axis))
    return positions, mask


def _look(graph: _Graph, hidden: str, context: Sequence[str], beams: str, length: str) -> tuple[str, str]:
    """Cross-attention with all beams of an image as rows of one query, and its weights."""
    query = graph.op("MatMul", hidden, graph.weight(_WIDTH, _WIDTH, scale=1.5))
    query = graph.reshape(query, -1, graph.op("Mul", beams, length), _WIDTH)
    seen, weights = graph.attend(graph.heads(query), context[0], context[1])
    return graph.reshape(graph.join_heads(seen), -1, length, _WIDTH), weights


def _weights_of_last(graph: _Graph, weights: str, beams: str, length: str) -> None:
    """Cross-attention of the last position, averaged over heads."""
    mean = graph.op("ReduceMean", weights, graph.constant([1]), keepdims=0)
    by_position = graph.reshape(mean, -1, beams, length, _TOKENS)
    last = graph.op("Gather", by_position, graph.constant(np.array(-1, dtype=np.int64)), axis=2)
    graph.output(last, "cross_attention", "cross_attention", "float32", "batch_size", "num_beams", _TOKENS)


def _recurrent_decoder(graph: _Graph) -> None:
    """An LSTM cell that looks at the grid with its last hidden state; one token per call."""
    ids, beam_rows = _token_inputs(graph, 1)
    grid = graph.input("image_grid", "context", "float32", "batch_size", _TOKENS, _WIDTH)
    hidden = graph.input("hidden", "recurrent", "float32", "past_rows", _WIDTH)
    cell = graph.input("cell", "recurrent", "float32", "past_rows", _WIDTH)
    beams = graph.size(ids, 1)
    rows = graph.reshape(beam_rows, -1)
    hidden, cell = (graph.op("Gather", state, rows, axis=0) for state in (hidden, cell))
    words = graph.op("Gather", graph.weight(len(VOCABULARY), _WIDTH, scale=5.0), ids, axis=0)
    seen, weights = _look_at_grid(graph, grid, graph.reshape(hidden, -1, beams, _WIDTH))
    parts = [graph.reshape(words, -1, _WIDTH), graph.reshape(seen, -1, _WIDTH), hidden]
    gates = graph.op(
        "MatMul", graph.op("Concat", *parts, axis=1), graph.weight(3 * _WIDTH, 4 * _WIDTH, scale=3.0)
    )
    forget, write, read, value = graph.split(gates, 4)
    kept = graph.op("Mul", graph.op("Sigmoid", forget), cell)
    cell = graph.op("Add", kept, graph.op("Mul", graph.op("Sigmoid", write), graph.op("Tanh", value)))
    hidden = graph.op("Mul", graph.op("Sigmoid", read), graph.op("Tanh", cell))
    _logits(graph, ids, graph.reshape(hidden, -1, beams, 1, _WIDTH), scale=4.0)
    graph.output(hidden, "next_hidden", "recurrent", "float32", "rows", _WIDTH, feeds="hidden")
    graph.output(cell, "next_cell", "recurrent", "float32", "rows", _WIDTH, feeds="cell")
    graph.output(weights, "cross_attention", "cross_attention", "float32", "batch_size", "num_beams", _TOKENS)


def _look_at_grid(graph: _Graph, grid: str, hidden: str) -> tuple[str, str]:
    query = graph.op("MatMul", hidden, graph.weight(_WIDTH, _WIDTH, scale=2.0))
    scores = graph.op("MatMul", query, graph.op("Transpose", grid, perm=[0, 2, 1]))
    weights = graph.op("Softmax", scores, axis=-1)
    return graph.op("MatMul", weights, grid), weights


def _logits(graph: _Graph, ids: str, hidden: str, scale: float) -> str:
    """Logits of the last position: what was seen, and which word likes to follow which.

    Takes (batch_size, num_beams, sequence_length, width), and returns the logits of each position.
    """
    size = len(VOCABULARY)
    following = graph.normal(size, size)
    following[:, 2] += 1.0  # captions end now and then,
    following[1, 2] = -20.0  # but not before the first word
    liked = graph.op("Gather", graph.constant(following), ids, axis=0)
    seen = graph.op("MatMul", hidden, graph.weight(_WIDTH, size, scale=scale))
    of_all = graph.op("Add", seen, liked)
    logits = graph.op("Gather", of_all, graph.constant(np.array(-1, dtype=np.int64)), axis=2)
    graph.output(logits, "logits", "logits", "float32", "batch_size", "num_beams", size)
    return of_all


_KINDS = {
    "transformer": (_cross_attention_encoder, _transformer_decoder),
    "recurrent": (_recurrent_encoder, _recurrent_decoder),
    "image_prefix": (_prefix_encoder, _prefix_decoder),
}
