"""int8: what is multiplied in bytes, what is left alone, and that a photo's result is its own."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.export.calibration import Activations  # noqa: E402
from kiloword.export.integers import int8_columns, int8_rows  # noqa: E402
from kiloword.export.operators import count_products, products_that_run  # noqa: E402
from kiloword.export.products import constant_products  # noqa: E402
from kiloword.export.quantize import quantize_decoder, quantize_encoder  # noqa: E402
from kiloword.runtime.errors import ExportError  # noqa: E402
from kiloword.runtime.sessions import DecoderSession, load_sessions  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402

Floats = NDArray[np.float32]
TOKENS, WIDTH = 64, 48


@pytest.fixture(scope="module")
def int8(tiny_export: TinyExport) -> Iterator[Captioner]:
    with Captioner.load(tiny_export.int8, provider="cpu", threads=1) as captioner:
        yield captioner


@pytest.mark.parametrize("file", ["encoder.onnx", "decoder.onnx"])
def test_every_product_with_a_matrix_is_in_int8(tiny_export: TinyExport, file: str) -> None:
    """Counted in the graph that onnxruntime runs; as many as fp32 has with floats, and none is left."""
    integer, floats = count_products(tiny_export.fp32 / file)
    assert integer == 0
    assert floats > 10
    assert count_products(tiny_export.int8 / file) == (floats, 0)


def test_the_report_says_what_was_counted(tiny_export: TinyExport) -> None:
    """bundle.json holds the numbers of the comparison, those of fp32 beside those of int8."""
    manifest = load_bundle(tiny_export.int8).manifest
    spec = manifest.quantization
    assert spec is not None
    assert (spec.recipe, spec.encoder, spec.decoder) == ("static+weight-only", "static", "weight-only")
    for figures, directory in ((spec.fp32, tiny_export.fp32), (spec.chosen.figures, tiny_export.int8)):
        for graph, found in (("encoder", figures.encoder), ("decoder", figures.decoder)):
            products = products_that_run(directory / f"{graph}.onnx")
            assert found.integer_operators == products.integer_operators
            assert found.float_products == products.float_products
        assert 0 < figures.token_ms.median <= figures.photo_ms.median <= figures.photo_ms.p95
        assert figures.load_ms > 0
        assert figures.peak_rss_bytes is None or 30e6 < figures.peak_rss_bytes < 1e9
    assert set(spec.chosen.figures.encoder.integer_operators) == {"MatMulIntegerToFloat"}
    assert spec.chosen.figures.bytes < spec.fp32.bytes == load_bundle(tiny_export.fp32).size_bytes
    assert spec.chosen.equal_words > 0.8
    assert spec.batch_invariant
    assert (spec.chosen.alone_as_in_batch, spec.chosen.batch_difference) == (1, pytest.approx(0, abs=1e-5))
    # A model this small may be slower in int8: then, and only then, it was forced.
    assert all("too slow" in reason for reason in spec.refused)
    assert spec.forced == bool(spec.refused)
    assert manifest.report["parity"]["cases"] == 8
    assert manifest.provenance["quantization"]["calibration"]["photos"] == 48
    card = (tiny_export.int8 / "CARD.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny-test (int8)\n")
    assert "## int8 against fp32" in card
    assert f"{spec.fp32.photo_ms.median:.2f}" in card


def test_the_embedding_is_stored_as_int8_rows(tiny_export: TinyExport) -> None:
    """The token table is (67, 64); the 16 positions are too few to matter and stay exact."""
    graph = onnx.load(tiny_export.int8 / "decoder.onnx").graph
    tables = {tuple(item.dims): item.data_type for item in graph.initializer if len(item.dims) == 2}
    assert tables[67, 64] == TensorProto.INT8
    assert tables[16, 64] == TensorProto.FLOAT
    assert (64, 67) not in tables  # the output matrix is MatMulNBits' now


def test_int8_context_is_near_fp32(tiny_export: TinyExport) -> None:
    """Of the order of 1 % for uint8 x int8 products two blocks deep; a wrong scale gives far more."""
    pixels = random_pixels(4)
    encoded = [
        load_sessions(load_bundle(path), "cpu", 1).encoder.encode(pixels)
        for path in (tiny_export.fp32, tiny_export.int8)
    ]
    for name, exact in encoded[0].items():
        error = np.linalg.norm(encoded[1][name] - exact) / np.linalg.norm(exact)
        assert 0 < error < 0.1


def test_a_photo_does_not_depend_on_its_batch(tiny_export: TinyExport, int8: Captioner) -> None:
    """Dynamic int8, which measures ranges as it runs, lets the loudest photo of a batch blur the others."""
    pixels = random_pixels(8)
    pixels[1:4] = 255
    pixels[4:] = (pixels[4:] > 127) * 255
    encoder = load_sessions(load_bundle(tiny_export.int8), "cpu", 1).encoder
    together = encoder.encode(pixels)
    for index in (0, 1, 7):
        alone = encoder.encode(pixels[index : index + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(together[name][index], values[0], rtol=1e-5, atol=1e-5)
    captions = int8.caption_pixels(pixels, num_beams=1)
    assert [caption.token_ids for caption in captions] == [
        int8.caption_pixels(pixels[i : i + 1], num_beams=1)[0].token_ids for i in range(8)
    ]


def test_a_decoder_with_measured_ranges(tiny_export: TinyExport, tmp_path: Path) -> None:
    """All products in bytes, logits near those of fp32, and a row is the same to the bit among others."""
    fp32, pixels = load_bundle(tiny_export.fp32), random_pixels(6)
    assert quantize_decoder(fp32, tmp_path / "decoder.onnx", pixels, "static") == []
    found = products_that_run(tmp_path / "decoder.onnx")
    exact = products_that_run(fp32.decoder_path)
    assert (found.integer_operators, found.float_products) == (
        {"MatMulIntegerToFloat": exact.float_products},
        0,
    )
    sessions = load_sessions(fp32, "cpu", 1)
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    spec = fp32.manifest.decoder
    small = DecoderSession(session, spec, tmp_path / "decoder.onnx")
    encoded = sessions.encoder.encode(pixels)
    ids = np.array([[[1]], [[5]], [[9]], [[20]], [[33]], [[60]]])
    rows = np.arange(6)[:, None]
    logits, logits_int8 = (
        decoder.step(ids, rows, decoder.context(encoded), decoder.initial_state(encoded, 6))[0]
        for decoder in (sessions.decoder, small)
    )
    assert 0 < np.linalg.norm(logits_int8 - logits) < 0.1 * np.linalg.norm(logits - logits.mean())
    alone = {name: value[2:3] for name, value in encoded.items()}
    context, state = small.context(alone), small.initial_state(alone, 1)
    np.testing.assert_array_equal(small.step(ids[2:3], rows[:1], context, state)[0], logits_int8[2:3])


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_table_is_stored_once(tiny_export: TinyExport, tmp_path: Path, tied: bool) -> None:
    """As int8, (67, 64), for both uses, each as good as with its own; twice where the two differ."""
    bundle = shutil.copytree(tiny_export.fp32, tmp_path / "fp32")
    model = onnx.load(bundle / "decoder.onnx")
    if not tied:
        head = next(item for item in model.graph.initializer if tuple(item.dims) == (64, 67))
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * 1.01, head.name))
        onnx.save(model, bundle / "decoder.onnx")
    fp32 = replace(load_bundle(tiny_export.fp32), directory=bundle)
    quantize_decoder(fp32, tmp_path / "int8.onnx", random_pixels(6), "static")
    small = onnx.load(tmp_path / "int8.onnx")
    large = sorted(
        tuple(item.dims)
        for item in small.graph.initializer
        if item.data_type == TensorProto.INT8 and 67 in item.dims and len(item.dims) == 2
    )
    assert large == ([(67, 64)] if tied else [(64, 67), (67, 64)])
    assert count_products(tmp_path / "int8.onnx") == (count_products(bundle / "decoder.onnx")[1], 0)
    exact = embedded(model)
    np.testing.assert_allclose(embedded(small), exact, rtol=0, atol=0.02 * np.abs(exact).max())


def embedded(model: onnx.ModelProto) -> Floats:
    """What each token id becomes first."""
    graph = model.graph
    words = next(name for node in graph.node for name in node.output if name == "embedding")
    graph.output.append(helper.make_tensor_value_info(words, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        item.name: np.zeros(
            [size if isinstance(size, int) else 1 for size in item.shape],
            np.int64 if "int64" in item.type else np.float32,
        )
        for item in session.get_inputs()
    }
    every = np.arange(10)[None, None, :]
    result: Floats = session.run([words], feeds | {"input_ids": every})[0]
    return result


def test_a_decoder_needs_photos_for_ranges(tiny_export: TinyExport, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs photos"):
        quantize_decoder(load_bundle(tiny_export.fp32), tmp_path / "decoder.onnx", photos(0), "static")


def make_graph(path: Path, *, loud: float) -> None:
    """Two products; the input of the second has one value of 3072 multiplied by ``loud``.

    The first has a bias, which belongs into the operator; the second has a constant of another width added.
    """
    random = np.random.default_rng(3)
    mask = np.ones((TOKENS, WIDTH), np.float32)
    mask[5, 7] = loud
    constants = {
        "first_weight": random.normal(size=(12, WIDTH)).astype(np.float32) / 200,
        "first_bias": random.normal(size=WIDTH).astype(np.float32),
        "mask": mask,
        "second_weight": random.normal(size=(WIDTH, 32)).astype(np.float32),
        "second_bias": np.ones(1, np.float32),
        "shape": np.array([0, TOKENS, 12], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "shape"], ["patches"]),
        helper.make_node("MatMul", ["patches", "first_weight"], ["a"], name="first"),
        helper.make_node("Add", ["first_bias", "a"], ["b"]),
        helper.make_node("Mul", ["b", "mask"], ["c"]),
        helper.make_node("MatMul", ["c", "second_weight"], ["d"], name="second"),
        helper.make_node("Add", ["d", "second_bias"], ["result"]),
    ]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch_size", 16, 16, 3])]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, ["batch_size", TOKENS, 32])]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "products", inputs, outputs, initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def photos(count: int, brightest: int = 255) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, brightest + 1, (count, 16, 16, 3), dtype=np.uint8)


def run(path: Path, pixels: NDArray[np.uint8]) -> Floats:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: Floats = session.run(None, {"pixels": pixels})[0]
    return result


def operators(path: Path) -> dict[str, str]:
    return {node.name: node.op_type for node in onnx.load(path).graph.node if node.name}


@pytest.mark.parametrize(("loud", "outliers"), [(1.0, []), (300.0, ["second"])])
def test_a_product_with_outliers_is_kept_out_of_static_quantization(
    tmp_path: Path, loud: float, outliers: list[str]
) -> None:
    """One range for one huge value and all others would leave the others a few steps."""
    exact, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    make_graph(exact, loud=loud)
    assert quantize_encoder(exact, small, photos(8)) == outliers
    found = {operator for name, operator in operators(small).items() if name.startswith("second")}
    assert found & {"MatMulIntegerToFloat", "MatMulNBits"} == (
        {"MatMulNBits"} if outliers else {"MatMulIntegerToFloat"}
    )
    assert operators(small)["first"] == "MatMulIntegerToFloat"
    assert count_products(small) == (2, 0)
    fresh = photos(10)[8:]
    want, have = run(exact, fresh), run(small, fresh)
    quiet = np.arange(TOKENS) != 5  # the rows without the outlier
    error = np.linalg.norm((have - want)[:, quiet]) / np.linalg.norm(want[:, quiet])
    assert error < 0.02


def test_only_a_bias_of_the_right_width_becomes_part_of_the_product(tmp_path: Path) -> None:
    """The operator reads one value for each column; a single number would be read past its end."""
    exact, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    make_graph(exact, loud=1.0)
    quantize_encoder(exact, small, photos(8))
    nodes = {node.name: node for node in onnx.load(small).graph.node if node.name}
    assert nodes["first"].input[6] == "first_bias"
    assert not any(nodes["second"].input[6:])
    assert run(small, photos(1)).shape == (1, TOKENS, 32)


def test_dark_calibration_photos_do_not_cut_off_bright_pixels(tmp_path: Path) -> None:
    """Raw bytes have a grid of their own, 0 to 255, whatever the photos were that ranges were measured on."""
    exact, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    make_graph(exact, loud=1.0)
    quantize_encoder(exact, small, photos(8, brightest=60))
    stored = {item.name: item for item in onnx.load(small).graph.initializer}
    assert numpy_helper.to_array(stored["patches_scale"]) == 1
    assert numpy_helper.to_array(stored["patches_zero_point"]) == 0


def test_a_matrix_that_two_products_share_is_stored_once(tmp_path: Path) -> None:
    """Two initializers of one name are no valid graph."""
    exact, small = tmp_path / "exact.onnx", tmp_path / "small.onnx"
    make_graph(exact, loud=1.0)
    model = onnx.load(exact)
    nodes = list(model.graph.node)
    nodes.insert(3, helper.make_node("MatMul", ["patches", "first_weight"], ["a2"], name="again"))
    nodes.insert(4, helper.make_node("Add", ["a2", "first_bias"], ["b2"]))
    nodes[6] = helper.make_node("Mul", ["b", "b2"], ["c"])
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:5], nodes[5], *nodes[6:]])
    onnx.save(model, exact)
    quantize_encoder(exact, small, photos(8))
    onnx.checker.check_model(onnx.load(small))
    want, have = run(exact, photos(1)), run(small, photos(1))
    assert np.linalg.norm(have - want) / np.linalg.norm(want) < 0.02


def test_ranges_need_photos(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs photos"):
        quantize_encoder(tmp_path / "never-read.onnx", tmp_path / "out.onnx", photos(0))


def test_products_are_those_with_a_constant_matrix(tiny_export: TinyExport) -> None:
    """Patches, 2 blocks of query, key, value, out, fc1, fc2, and key and value for 2 decoder blocks."""
    products = constant_products(onnx.load(tiny_export.fp32 / "encoder.onnx"))
    assert len(products) == 1 + 2 * 6 + 2 * 2


def test_a_table_is_rounded_row_by_row() -> None:
    """By hand: scale = largest / 127 of each row; a row of zeros stays zero."""
    values, scales = int8_rows(np.array([[1.27, -0.635], [-2.0, 1.0], [0, 0]], np.float32))
    assert values.tolist() == [[127, -64], [-127, 64], [0, 0]]
    np.testing.assert_allclose(scales[:2, 0], [0.01, 2 / 127], rtol=1e-6)


def test_a_matrix_is_rounded_column_by_column() -> None:
    """As for rows, while no two neighbours of one sign are large."""
    values, scales = int8_columns(np.array([[1.27, -2.0, 0], [-0.635, 1.0, 0]], np.float32))
    assert values.tolist() == [[127, -127, 0], [-64, 64, 0]]
    np.testing.assert_allclose(scales[:2], [0.01, 2 / 127], rtol=1e-6)


@pytest.mark.parametrize("rows", [6, 7])
def test_no_pair_of_products_needs_more_than_sixteen_bits(rows: int) -> None:
    """Processors without VNNI add two products of bytes in 16 bits; with 127 everywhere that is 64770."""
    random = np.random.default_rng(0)
    matrix = np.concatenate([np.full((rows, 5), 3.0), random.normal(size=(rows, 40))], axis=1)
    values, scales = int8_columns(matrix.astype(np.float32))
    padded = np.concatenate([values, np.zeros((rows % 2, 45), np.int8)]).astype(int)
    for sign in (1, -1):
        pairs = np.maximum(sign * padded, 0).reshape(-1, 2, 45).sum(axis=1)
        assert 255 * pairs.max() <= 32767
    assert np.abs(values * scales - matrix).max() <= 0.51 * scales.max()


def test_the_quantizer_leaves_the_logging_alone(tmp_path: Path) -> None:
    """Importing onnxruntime's tool gave the root logger a handler: each message of a program came twice."""
    script = (
        "import logging, sys; from pathlib import Path; import numpy as np\n"
        "from kiloword.export.quantize import quantize_encoder\n"
        "from tests.unit.export.test_quantize import make_graph, photos\n"
        "folder = Path(sys.argv[1]); make_graph(folder / 'a.onnx', loud=1.0)\n"
        "quantize_encoder(folder / 'a.onnx', folder / 'b.onnx', photos(2))\n"
        "print(logging.root.handlers, logging.root.level)\n"
    )
    checkout = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (f"[] {logging.WARNING}", "")


def seen(values: Floats) -> Activations:
    activations = Activations()
    activations.see(values)
    return activations


def test_a_grid_holds_zero_and_the_values() -> None:
    """0 must be exact, because GELU produces many; others within half a step."""
    values = np.linspace(0.5, 2.0, 5000, dtype=np.float32)
    scale, zero_point = seen(values).scale_and_zero_point()
    assert zero_point == 0
    assert scale == pytest.approx(2 / 255, rel=0.06)
    mixed = np.random.default_rng(0).uniform(-1, 3, 5000).astype(np.float32)
    scale, zero_point = seen(mixed).scale_and_zero_point()
    assert int(zero_point) == round(255 / 4)
    back = (np.clip(np.round(mixed / scale) + zero_point, 0, 255) - zero_point) * scale
    assert np.abs(back - mixed).max() <= 0.51 * scale


def test_what_counts_as_an_outlier() -> None:
    """A single value far above the 99.9th percentile; a broad distribution is none."""
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    assert not seen(values).has_outliers
    values[17] = -100
    assert seen(values).has_outliers
    assert not seen(np.full(20_000, 100, np.float32)).has_outliers


def test_bytes_are_known_by_being_whole_numbers() -> None:
    """Pixels, even dark ones; a tensor of zeros or of fractions is something else."""
    assert seen(np.arange(0, 60, dtype=np.float32)).are_bytes
    assert not seen(np.zeros(100, np.float32)).are_bytes
    assert not seen(np.arange(-1, 60, dtype=np.float32)).are_bytes
    assert not seen(np.linspace(0, 60, 100, dtype=np.float32)).are_bytes
