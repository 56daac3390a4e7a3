"""Other ways to run the shipped graphs, in turns with the way that the runtime takes.

    python -m benchmarks.ways

Session settings, graphs saved after onnxruntime's optimization, the loop inside one graph, and single
operators written in another form. docs/BENCHMARKS.md says what was expected, what came out and what was kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.machine import REPOSITORY, write_result
from kiloword.runtime.bench.photo import on_cpus
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.steps import decoder_feeds, encoder_feeds
from kiloword.runtime.bench.timing import Sample, paired_ratio, summarize, take_turns
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.generation import generate
from kiloword.runtime.manifest import GenerationSettings
from kiloword.runtime.sessions import Sessions, Tensors, load_sessions, session_options

PHOTOS = REPOSITORY / "examples" / "photos"
BASE = "as the runtime does"
REPEATED = 12
"""Nodes of an operator in one graph, so that starting a run counts little."""
LOADS = 7


@dataclass(frozen=True)
class Way:
    """Settings of a session that differ from the runtime's."""

    threads: int = 1
    level: str | None = None
    """Of onnxruntime's graph optimization."""
    entries: tuple[tuple[str, str], ...] = ()
    spins: bool = False
    """Whether threads that wait for work keep their processors busy."""
    arena: bool = True
    saved: bool = False
    """Load the graph as onnxruntime saved it after its optimization."""

    def open(self, graph: Path, folder: Path) -> onnxruntime.InferenceSession:
        """Load a graph so."""
        if self.saved:
            graph = _saved(graph, folder)
        options = session_options(self.threads) if not self.spins else onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        if self.level is not None:
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self.level)
        options.enable_cpu_mem_arena = self.arena
        for key, value in self.entries:
            options.add_session_config_entry(key, value)
        with on_cpus(self.threads):
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


_STOP = ("session.force_spinning_stop", "1")
WAYS = {
    BASE: Way(),
    "basic optimization": Way(level="ORT_ENABLE_BASIC"),
    "saved after optimization": Way(level="ORT_DISABLE_ALL", saved=True),
    "no memory arena": Way(arena=False),
    "denormals are zero": Way(entries=(("session.set_denormal_as_zero", "1"),)),
    "2 threads": Way(threads=2),
    "2 threads that spin": Way(threads=2, spins=True),
    "2 threads that spin until a run ends": Way(threads=2, spins=True, entries=(_STOP,)),
}


def _saved(graph: Path, folder: Path) -> Path:
    target = folder / f"saved-{graph.name}"
    if not target.exists():
        options = session_options(1)
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return target


def session_rows(bundle: Bundle, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Loading, encoding and a token in every way, in turns."""
    photos = pixels_of([str(photo) for photo in sorted(PHOTOS.glob("*.jpg"))], bundle.manifest.image)
    given = [encoder_feeds(bundle, one) for one in photos]
    steps = _steps(bundle, photos[0])
    encoders = {name: way.open(bundle.encoder_path, folder) for name, way in WAYS.items()}
    decoders = {name: way.open(bundle.decoder_path, folder) for name, way in WAYS.items()}
    loads = take_turns({name: partial(_load, way, bundle, folder) for name, way in WAYS.items()}, LOADS, 1)
    encoding = take_turns(
        {name: partial(_run_one, encoders[name], way, given) for name, way in WAYS.items()}, rounds
    )
    writing = take_turns(
        {name: partial(_run_all, decoders[name], way, steps) for name, way in WAYS.items()}, rounds
    )
    for name in WAYS:
        yield {
            "measurement": "session",
            "way": name,
            **_beside("load", loads, name),
            **_beside("encoder", encoding, name),
            **_beside("token", writing, name),
            "same_values": _same(encoders[BASE], encoders[name], given[0])
            and _same(decoders[BASE], decoders[name], steps[1]),
        }


def _steps(bundle: Bundle, pixels: Any) -> list[Tensors]:
    sessions = load_sessions(bundle, "cpu", 1)
    greedy = replace(bundle.manifest.generation, num_beams=1)
    return decoder_feeds(bundle, sessions.decoder, sessions.encoder.encode(pixels[None]), greedy)


def _load(way: Way, bundle: Bundle, folder: Path, _turn: int) -> None:
    way.open(bundle.encoder_path, folder)
    way.open(bundle.decoder_path, folder)


def _run_one(session: onnxruntime.InferenceSession, way: Way, listed: Sequence[Tensors], turn: int) -> None:
    with on_cpus(way.threads):
        session.run(None, listed[turn % len(listed)])


def _run_all(session: onnxruntime.InferenceSession, way: Way, listed: Sequence[Tensors], _turn: int) -> float:
    with on_cpus(way.threads):
        for feeds in listed:
            session.run(None, feeds)
    return len(listed)


def _beside(prefix: str, taken: Mapping[str, Sequence[Sample]], name: str) -> dict[str, float]:
    times = summarize(taken[name])
    return {
        f"{prefix}_ms": times.median,
        f"{prefix}_cpu_ms": times.cpu_median,
        f"{prefix}_times_as_fast": paired_ratio(taken[BASE], taken[name]),
    }


def _same(one: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession, feeds: Tensors) -> bool:
    pairs = zip(one.run(None, feeds), other.run(None, feeds), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def loop_rows(bundle: Bundle, rounds: int) -> Iterator[dict[str, Any]]:
    """The search in Python beside the search inside the graph."""
    from kiloword.export.single_graph import SearchOverrides, single_graph

    photos = pixels_of([str(photo) for photo in sorted(PHOTOS.glob("*.jpg"))], bundle.manifest.image)
    sessions = load_sessions(bundle, "cpu", 1)
    for beams in (1, 3):
        settings = SearchOverrides(num_beams=beams).settings(bundle)
        graph = single_graph(bundle, settings).SerializeToString()
        whole = onnxruntime.InferenceSession(graph, session_options(1), providers=["CPUExecutionProvider"])
        in_python = partial(_search_in_python, bundle, sessions, settings, photos)
        in_graph = partial(_search_in_graph, whole, photos)
        same = [
            list(in_graph(turn)[0][: len(in_python(turn))]) == list(in_python(turn))
            for turn in range(len(photos))
        ]
        searches = {"python": _unheard(in_python), "graph": _unheard(in_graph)}
        taken = take_turns(searches, rounds)
        yield {
            "measurement": "loop",
            "num_beams": beams,
            "python_ms": summarize(taken["python"]).median,
            "graph_ms": summarize(taken["graph"]).median,
            "times_as_fast": paired_ratio(taken["python"], taken["graph"]),
            "same_captions": round(sum(same) / len(same), 3),
        }


def _unheard(work: Callable[[int], object]) -> Callable[[int], None]:
    """The same without its result."""

    def run(turn: int) -> None:
        work(turn)

    return run


def _search_in_python(
    bundle: Bundle, sessions: Sessions, settings: GenerationSettings, photos: Sequence[Any], turn: int
) -> tuple[int, ...]:
    encoded = sessions.encoder.encode(photos[turn % len(photos)][None])
    return generate(sessions.decoder, encoded, bundle.manifest.tokens, settings)[0].token_ids


def _search_in_graph(whole: onnxruntime.InferenceSession, photos: Sequence[Any], turn: int) -> Any:
    return whole.run(["token_ids"], {"pixels": photos[turn % len(photos)][None]})[0]


def operator_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """One operator beside another form of it, at the shapes of the shipped encoder."""
    for name, forms in _forms().items():
        runs = {form: _repeated(nodes) for form, nodes in forms.items()}
        taken = take_turns(runs, rounds)
        first, *others = forms
        for other in others:
            yield {
                "measurement": "operator",
                "what": name,
                "form": first,
                "other": other,
                "us": round(1e3 * summarize(taken[first]).median / REPEATED, 1),
                "other_us": round(1e3 * summarize(taken[other]).median / REPEATED, 1),
                "other_times_as_fast": paired_ratio(taken[first], taken[other]),
            }


_ROWS, _WIDTH, _WIDE, _HEADS = 197, 192, 768, 3
Form = list[tuple[str, str, list[str], list[str], dict[str, Any]]]
"""Domain, operator, inputs, outputs and attributes of nodes; what they read is made by `_value`."""
_OURS = "com.microsoft"


def _forms() -> dict[str, dict[str, Form]]:
    heads = {"q_num_heads": _HEADS, "kv_num_heads": _HEADS}
    product = ["rows_u8", "square_i8", "scale", "scales", "zero_u8"]
    return {
        "attention": {
            "Attention": [("", "Attention", ["query", "key", "value"], ["r"], heads)],
            "MultiHeadAttention": [
                (_OURS, "MultiHeadAttention", ["query", "key", "value"], ["r"], {"num_heads": _HEADS})
            ],
            "products of bytes, softmax of floats": _attention_with_byte_products(),
            "products and softmax of bytes": _attention_of_bytes(),
        },
        "activation": {
            "Gelu": [("", "Gelu", ["wide"], ["r"], {})],
            "Gelu by tanh": [("", "Gelu", ["wide"], ["r"], {"approximate": "tanh"})],
            "QuickGelu": [(_OURS, "QuickGelu", ["wide"], ["r"], {})],
        },
        "bias and activation": {
            "Add, Gelu": [("", "Add", ["wide", "wide_bias"], ["s"], {}), ("", "Gelu", ["s"], ["r"], {})],
            "BiasGelu": [(_OURS, "BiasGelu", ["wide", "wide_bias"], ["r"], {})],
        },
        "residual and norm": {
            "Add, LayerNormalization": [
                ("", "Add", ["query", "key"], ["s"], {}),
                ("", "LayerNormalization", ["s", "gain", "bias"], ["r"], {}),
            ],
            "SkipLayerNormalization": [
                (_OURS, "SkipLayerNormalization", ["query", "key", "gain", "bias"], ["r"], {})
            ],
        },
        "product of bytes": {
            "with a zero point for each column": [
                (_OURS, "MatMulIntegerToFloat", [*product, "zeros_i8", "bias"], ["r"], {})
            ],
            "without": [(_OURS, "MatMulIntegerToFloat", [*product, "", "bias"], ["r"], {})],
        },
    }


def _bytes_by_head() -> Form:
    """Query, key and value as bytes, cut into heads; the key is transposed, too."""
    return [
        node
        for name, zero, axes in (
            ("query", "zero_u8", [0, 2, 1, 3]),
            ("key", "zero_i8", [0, 2, 3, 1]),
            ("value", "zero_i8", [0, 2, 1, 3]),
        )
        for node in (
            ("", "QuantizeLinear", [name, "scale", zero], [f"{name}_8"], {}),
            ("", "Reshape", [f"{name}_8", "by_head"], [f"{name}_by_head"], {}),
            ("", "Transpose", [f"{name}_by_head"], [f"{name}_heads"], {"perm": axes}),
        )
    ]


_JOINED: Form = [
    ("", "Transpose", ["mixed"], ["mixed_rows"], {"perm": [0, 2, 1, 3]}),
    ("", "Reshape", ["mixed_rows", "joined"], ["r"], {}),
]


def _attention_with_byte_products() -> Form:
    """Attention whose two products multiply bytes; its weights are made of floats."""
    return [
        *_bytes_by_head(),
        ("", "MatMulInteger", ["query_heads", "key_heads", "zero_u8", "zero_i8"], ["sums"], {}),
        ("", "Cast", ["sums"], ["sums_float"], {"to": TensorProto.FLOAT}),
        ("", "Mul", ["sums_float", "scale"], ["scores"], {}),
        ("", "Softmax", ["scores"], ["weights"], {}),
        ("", "QuantizeLinear", ["weights", "share", "none_u8"], ["weights_8"], {}),
        ("", "MatMulInteger", ["weights_8", "value_heads", "none_u8", "zero_i8"], ["mixed_sums"], {}),
        ("", "Cast", ["mixed_sums"], ["mixed_float"], {"to": TensorProto.FLOAT}),
        ("", "Mul", ["mixed_float", "share"], ["mixed"], {}),
        *_JOINED,
    ]


def _attention_of_bytes() -> Form:
    """Attention in which nothing but bytes goes from node to node: `exp` is a table of 256 values."""
    query, key, value = (
        [f"{name}_heads", "scale", zero]
        for name, zero in (("query", "zero_u8"), ("key", "zero_i8"), ("value", "zero_i8"))
    )
    scores, weights = ["scores_8", "scale", "zero_u8"], ["weights_8", "share", "none_u8"]
    softmax = {"axis": -1, "opset": 13}
    return [
        *_bytes_by_head(),
        ("", "QLinearMatMul", [*query, *key, "scale", "zero_u8"], ["scores_8"], {}),
        (_OURS, "QLinearSoftmax", [*scores, "share", "none_u8"], ["weights_8"], softmax),
        ("", "QLinearMatMul", [*weights, *value, "scale", "zero_u8"], ["mixed_8"], {}),
        ("", "DequantizeLinear", ["mixed_8", "scale", "zero_u8"], ["mixed"], {}),
        *_JOINED,
    ]


def _value(name: str) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(0)
    values: dict[str, np.ndarray[Any, Any]] = {
        "wide": random.standard_normal((1, _ROWS, _WIDE)).astype(np.float32),
        "wide_bias": np.ones(_WIDE, np.float32),
        "rows_u8": random.integers(0, 256, (1, _ROWS, _WIDTH)).astype(np.uint8),
        "square_i8": random.integers(-63, 64, (_WIDTH, _WIDTH)).astype(np.int8),
        "scale": np.array(0.02, np.float32),
        "scales": np.full(_WIDTH, 0.01, np.float32),
        "share": np.array(1 / 255, np.float32),
        "zero_u8": np.array(128, np.uint8),
        "none_u8": np.array(0, np.uint8),
        "zero_i8": np.array(0, np.int8),
        "by_head": np.array([1, _ROWS, _HEADS, _WIDTH // _HEADS]),
        "joined": np.array([1, _ROWS, _WIDTH]),
        "zeros_i8": np.zeros(_WIDTH, np.int8),
        "gain": np.ones(_WIDTH, np.float32),
        "bias": np.ones(_WIDTH, np.float32),
    }
    rows = random.standard_normal((1, _ROWS, _WIDTH)).astype(np.float32)
    return values.get(name, rows)


_FED = ("query", "key", "value", "wide", "rows_u8")


def _repeated(form: Form) -> Callable[[int], None]:
    """A graph with a form some times over; all of its results are put out, so that none is left out."""
    nodes: list[NodeProto] = []
    for number in range(REPEATED):
        rename = {name: f"{name}{number}" for _, _, _, outputs, _ in form for name in outputs}
        nodes += [
            helper.make_node(
                operator,
                [rename.get(name, name) for name in inputs],
                [rename[name] for name in outputs],
                domain=domain,
                **attributes,
            )
            for domain, operator, inputs, outputs, attributes in form
        ]
    made = {name for node in nodes for name in node.output}
    read = sorted({name for node in nodes for name in node.input if name} - made)
    graph = helper.make_graph(
        nodes,
        "repeated",
        [_info(name) for name in read if name in _FED],
        [helper.make_tensor_value_info(f"r{number}", TensorProto.FLOAT, None) for number in range(REPEATED)],
        [numpy_helper.from_array(_value(name), name) for name in read if name not in _FED],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(_OURS, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {name: _value(name) for name in read if name in _FED}

    def run(_turn: int) -> None:
        session.run(None, feeds)

    return run


def _info(name: str) -> Any:
    value = _value(name)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


@click.command()
@click.option("--rounds", default=40, show_default=True, help="Calls of each.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(rounds: int, bundle: Path | None, output: Path | None) -> None:
    """Measure other ways to run the same graphs."""
    checked = load_bundle(bundle)
    with tempfile.TemporaryDirectory() as folder:
        rows = [*session_rows(checked, Path(folder), rounds)]
    with on_cpus(1):
        rows += [*loop_rows(checked, rounds), *operator_rows(rounds)]
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    click.echo(f"wrote {write_result('ways', {'rounds': rounds}, rows, output)}", err=True)


if __name__ == "__main__":
    main()
