"""One graph from pixels to token ids, for callers in any language: encoder, decoder, and the loop.

    captioner.onnx    pixels uint8 (batch_size, height, width, 3) -> token_ids int64 (batch_size, length) and
                      scores float32 (batch_size,)
    captioner.json    the size of the pixels, the ids that are no words, and how was searched
    tokenizer.json    as in the bundle

It is made of a bundle's graphs as they are, fp32 or int8, with `kiloword.export.search_graph` around the
decoder, and is compared with the runtime's search before it is kept.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, helper

from kiloword.export.onnx_nodes import MOST_BYTES, Nodes, joined_opsets, prefixed_shapes, prefixed_weights
from kiloword.export.search_graph import SearchGraph
from kiloword.runtime.bundle import TOKENIZER_FILE, Bundle
from kiloword.runtime.errors import ConfigError, ExportError, ParityError
from kiloword.runtime.generation import generate
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.manifest import (
    PAST_LENGTH_AXIS,
    STATE_ROLES,
    GenerationSettings,
    TensorSpec,
    check_generation,
)
from kiloword.runtime.sessions import load_sessions, session_options

logger = logging.getLogger(__name__)

GRAPH_FILE = "captioner.onnx"
FACTS_FILE = "captioner.json"
FORMAT_VERSION = 1
# Of a score. Halves are rounded between the two graphs of a bundle, and not where both are one.
_TOLERANCES = {"fp32": 1e-4, "int8": 1e-4, "fp16": 5e-3}
_PRODUCER = "kiloword"


@dataclass(frozen=True)
class SearchOverrides:
    """How the single graph searches; what is None is as in the bundle."""

    num_beams: int | None = None
    max_new_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def settings(self, bundle: Bundle) -> GenerationSettings:
        """The bundle's own settings with what is overridden.

        Raises:
            ConfigError: they make no sense for this bundle.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = replace(bundle.manifest.generation, **given)
        problems = check_generation(settings, bundle.manifest.tokens)
        if problems:
            raise ConfigError(problems)
        return settings


def write_single_graph(
    bundle: Bundle,
    directory: Path,
    pixels: NDArray[np.uint8],
    overrides: SearchOverrides = SearchOverrides(),
) -> Path:
    """Makes the graph of a bundle, compares it with the bundle, and writes it with what a caller must know.

    Args:
        bundle: of any precision and kind of decoder.
        directory: to write; must not be there yet.
        pixels: uint8 (photos, height, width, 3), to compare on.
        overrides: other settings than the bundle's.

    Returns:
        The directory.

    Raises:
        ConfigError: the settings make no sense.
        ExportError: both graphs are too large for one file.
        ParityError: the graph writes something else than the bundle.
    """
    settings = overrides.settings(bundle)
    _check_size(bundle)
    directory.mkdir(parents=True)
    onnx.save(single_graph(bundle, settings), directory / GRAPH_FILE)
    compared = check_single_graph(bundle, directory / GRAPH_FILE, pixels, settings)
    logger.info("single graph: the same tokens as the bundle for %d pictures", compared)
    shutil.copy(bundle.tokenizer_path, directory / TOKENIZER_FILE)
    facts = json.dumps(_facts(bundle, settings, compared), indent=2, ensure_ascii=False)
    (directory / FACTS_FILE).write_text(facts + "\n", encoding="utf-8")
    return directory


def _check_size(bundle: Bundle) -> None:
    found = sum(bundle.graph_bytes(spec) for spec in (bundle.manifest.encoder, bundle.manifest.decoder))
    if found > MOST_BYTES:
        raise ExportError(
            "both graphs are too large for one file",
            path=bundle.directory,
            expected=f"{MOST_BYTES / 1e9:.1f} GB or less",
            found=f"{found / 1e9:.1f} GB",
            hint="kiloword export BUNDLE --quantize, or --precision fp16, and --single-graph of that",
        )


def single_graph(bundle: Bundle, settings: GenerationSettings) -> onnx.ModelProto:
    """Puts encoder, decoder and search into one model.

    Args:
        bundle: whose graphs to take.
        settings: of the search; they become constants.
    """
    manifest = bundle.manifest
    encoder, decoder = onnx.load(bundle.encoder_path), onnx.load(bundle.decoder_path)
    nodes = Nodes("search/")
    weights = {
        prefix: prefixed_weights(model.graph, prefix)
        for prefix, model in (("encoder/", encoder), ("decoder/", decoder))
    }
    (pixels,) = manifest.encoder.inputs_of("pixels")
    own = {name: item.name for name, item in weights["encoder/"].items()}
    encoded = nodes.inline(encoder.graph, {pixels.name: "pixels", **own}, "encoder/")
    fed = {tensor.feeds: encoded[tensor.name] for tensor in manifest.encoder.outputs if tensor.feeds}
    build = _Decoder(
        bundle, decoder.graph, {name: item.name for name, item in weights["decoder/"].items()}, fed
    )
    ids, scores = build.search(nodes, settings)
    graph = helper.make_graph(
        [*nodes.nodes, *_named(ids, "token_ids"), *_named(scores, "scores")],
        "captioner",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, list(pixels.axes))],
        [
            helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["batch_size", "length"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch_size"]),
        ],
        initializer=[
            *(item for group in weights.values() for item in group.values()),
            *nodes.constants.values(),
        ],
        # Where onnxruntime knows an axis in one graph and not in another, it joins nodes in one alone, and
        # rounds otherwise; int8 makes a step of that.
        value_info=prefixed_shapes(encoder.graph, "encoder/"),
    )
    return helper.make_model(
        graph,
        opset_imports=joined_opsets([encoder, decoder]),
        ir_version=max(encoder.ir_version, decoder.ir_version),
        producer_name=_PRODUCER,
    )


def _named(tensor: str, name: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Identity", [tensor], [name])]


class _Decoder:
    """A bundle's decoder as nodes in other graphs; its weights are stored once."""

    def __init__(
        self, bundle: Bundle, graph: GraphProto, weights: dict[str, str], fed: dict[str, str]
    ) -> None:
        spec = bundle.manifest.decoder
        self._manifest = bundle.manifest
        self._graph = graph
        self._fed = fed
        self._given = {**weights, **{one.name: fed[one.name] for one in spec.inputs_of("context")}}
        self._ids = spec.inputs_of("token_ids")[0]
        self._rows = spec.inputs_of("beam_rows")[0].name
        self._states = spec.inputs_of(*STATE_ROLES)
        self._logits = spec.outputs_of("logits")[0].name
        feeding = {one.feeds: one.name for one in spec.outputs_of(*STATE_ROLES)}
        self._next_states = [feeding[one.name] for one in self._states]
        self._copies = 0

    def search(self, nodes: Nodes, settings: GenerationSettings) -> tuple[str, str]:
        """Adds the whole search: token ids (B, length) and scores (B,)."""
        batch = nodes.size("pixels", 0)
        prompt = list(self._manifest.tokens.prompt_token_ids)
        count = nodes.op("Squeeze", batch)
        images = nodes.op("Range", nodes.constant(0), count, nodes.constant(1))
        rows = nodes.op("Unsqueeze", images, nodes.constant([1]))
        states = [self._initial(nodes, tensor, batch) for tensor in self._states]
        if self._ids.axes[2] == 1:  # one token at a time: all but the last are read before the loop
            for token in prompt[:-1]:
                _, states = self.decode(nodes, self._tokens(nodes, [token], batch), rows, states)
            prompt = prompt[-1:]
        kinds = [helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)) for tensor in self._states]
        search = SearchGraph(self._manifest.tokens, settings, self.decode, kinds)
        return search.add(nodes, self._tokens(nodes, prompt, batch), rows, states)

    def decode(
        self, nodes: Nodes, input_ids: str, beam_rows: str, states: Sequence[str]
    ) -> tuple[str, list[str]]:
        """Adds the decoder's nodes: the logits, and the states for the next step."""
        self._copies += 1
        own = dict(zip((one.name for one in self._states), states, strict=True))
        inputs = {**self._given, self._ids.name: input_ids, self._rows: beam_rows, **own}
        outputs = nodes.inline(self._graph, inputs, f"decoder_{self._copies}/")
        return outputs[self._logits], [outputs[name] for name in self._next_states]

    def _tokens(self, nodes: Nodes, tokens: Sequence[int], batch: str) -> str:
        """The same tokens for each image: (B, 1, n)."""
        shape = nodes.op("Concat", batch, nodes.constant([1, len(tokens)]), axis=0)
        return nodes.op("Expand", nodes.constant(np.array([[list(tokens)]], np.int64)), shape)

    def _initial(self, nodes: Nodes, tensor: TensorSpec, batch: str) -> str:
        """The state of before the first token: the encoder's, else empty or zero."""
        if tensor.name in self._fed:
            return self._fed[tensor.name]
        sizes = [0 if axis == PAST_LENGTH_AXIS else int(axis) for axis in tensor.axes[1:]]
        shape = nodes.op("Concat", batch, nodes.constant(sizes), axis=0)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        return nodes.op("ConstantOfShape", shape, value=helper.make_tensor("zero", kind, [1], [0]))


def check_single_graph(
    bundle: Bundle, path: Path, pixels: NDArray[np.uint8], settings: GenerationSettings
) -> int:
    """Compares a single graph with the runtime's search, photo by photo and all in one batch.

    A bundle with dynamic ranges is compared photo by photo alone: in the graph a photo that is done stays in
    the batch, in Python it leaves, and either changes what the others get.

    Returns:
        How many photos were compared.

    Raises:
        ParityError: other tokens, or a score that differs by more than rounding.
    """
    tolerance = _TOLERANCES[bundle.manifest.precision]
    session = onnxruntime.InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
    made = bundle.manifest.quantization
    together = [] if made is not None and not made.batch_invariant else [(0, len(pixels))]
    for start, stop in [*((at, at + 1) for at in range(len(pixels))), *together]:
        part = pixels[start:stop]
        ids, scores = session.run(["token_ids", "scores"], {"pixels": part})
        for place, wanted in enumerate(_written(bundle, part, settings)):
            found = ids[place, : len(wanted.token_ids)].tolist()
            padding = ids[place, len(wanted.token_ids) :]
            where = f"photo {start + place}, {stop - start} in the batch"
            if found != list(wanted.token_ids) or (padding != bundle.manifest.tokens.pad_token_id).any():
                raise ParityError(
                    f"the single graph writes something else ({where})",
                    path=path,
                    expected=str(list(wanted.token_ids)),
                    found=str(ids[place].tolist()),
                )
            if not np.isclose(scores[place], wanted.score, rtol=tolerance, atol=tolerance):
                raise ParityError(
                    f"the single graph gives another score ({where})",
                    path=path,
                    expected=f"{wanted.score:.6f}",
                    found=f"{scores[place]:.6f}",
                )
    return len(pixels)


def _written(bundle: Bundle, pixels: NDArray[np.uint8], settings: GenerationSettings) -> list[Generated]:
    sessions = load_sessions(bundle, "cpu", 1)
    encoded = sessions.encoder.encode(pixels)
    return generate(sessions.decoder, encoded, bundle.manifest.tokens, settings)


def _facts(bundle: Bundle, settings: GenerationSettings, compared: int) -> dict[str, Any]:
    """What a caller in another language must know, and where the graph comes from."""
    manifest = bundle.manifest
    tokens = manifest.tokens
    return {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "precision": manifest.precision,
        "graph": GRAPH_FILE,
        "image": asdict(manifest.image),
        "eos_token_id": tokens.eos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "generation": asdict(settings),
        "compared_photos": compared,
        "licence": manifest.provenance.get("licence"),
    }
