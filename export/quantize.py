"""fp32 graphs to int8: how each matrix product is stored and computed, and why.

A recipe is chosen for each graph; `export/recipes.py` names them, `export/gate.py` judges the result:

``static`` (encoder, decoder)
    uint8 activations times int8 weights with a scale for each output channel. The ranges of activations are
    measured once, on photos and on the captions that fp32 writes of them, so that the result for a photo does
    not depend on what else is in its batch (dynamic ranges do). The result is float again, with the bias
    added by the same operator. Products whose input has *outliers* would lose everything else: ViT-Tiny feeds
    one of its 48 products values up to 216 where 99.9 % are below 4, and quantizing that one product alone
    turned 9 % of error into 34 %. These few take 8-bit weights with activations quantized in blocks.
``dynamic`` (encoder, decoder)
    The same products, but each activation's range is that of the whole batch as it comes: nothing to measure,
    and a photo's caption depends on its neighbours. Outliers are treated as above.
``weight-only`` (encoder, decoder)
    8-bit weights in blocks of 64 (``MatMulNBits``, activations quantized on the fly in blocks of a row):
    independent of the batch, and for a decoder as fast as ``static`` where onnxruntime has kernels for it. In
    WebAssembly it has none and multiplies floats: our decoder took 127 ms a photo there, ``static`` 31 ms.

Convolutions stay in float32: MobileNetV2's 52 as ``QLinearConv``, with a scale for each channel and every
sum in int8, took 0.79 of the time and put 32 % of error into the cells and 20 % into their mean (Flickr8k
photos, ranges from 32 others), where ViT-Tiny's int8 has 14 %. The report counts them. A decoder's token
embedding is kept as int8 rows with a scale each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from kiloword.export.calibration import Activations, Pixels, measure, measure_decoder
from kiloword.export.graph_files import save_graph
from kiloword.export.integers import int8_rows
from kiloword.export.products import constant_products, prepare_products, replace_products
from kiloword.export.recipes import DecoderRecipe, EncoderRecipe
from kiloword.export.simplify import drop_unused_initializers
from kiloword.export.tied import store_once, tied_tables
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.errors import ExportError

logger = logging.getLogger(__name__)

BLOCK_SIZE = 64
"""Weights that share a scale in 8-bit weight-only products.

With 128, onnxruntime 1.31 gives a row other values (by 3e-5) when it is computed together with others; in
ViT-Tiny's encoder this grew to 4 % of change in a photo by its neighbours in the batch. With 64 every row is
the same to the bit, at the same speed and for 3 % more bytes.
"""
DECODER_PHOTOS = 32
"""Captions on which a decoder's ranges are measured, each with some thirty rows."""
_INT8_ACCURACY_LEVEL = 4  # onnxruntime's number for: multiply in int8
_SMALLEST_TABLE = 64


def quantize_encoder(
    source: Path,
    target: Path,
    photos: Pixels,
    recipe: EncoderRecipe = "static",
    *,
    reduce_range: bool = False,
) -> list[str]:
    """Int8 for all matrix products of an encoder.

    Args:
        source: fp32 ONNX file with one input, the pixels.
        target: the int8 ONNX file to write.
        photos: uint8 (photos, height, width, 3), to measure ranges on; some dozens are enough.
        recipe: see the top of this module.
        reduce_range: keep weights to 7 bits; see `kiloword.export.integers.int8_columns`.

    Returns:
        Names of the products that have outliers.

    Raises:
        ExportError: there are no photos to measure on.
    """
    _check_photos(photos)
    model = onnx.load(source)
    prepare_products(model)
    outliers: list[str] = []
    if recipe != "weight-only":
        products = constant_products(model)
        seen = measure(model, _inputs_of(products), photos)
        outliers = _replace_tame(model, products, seen, recipe, reduce_range)
    _quantize_weights(model, target)
    return outliers


def count_convolutions(path: Path) -> int:
    """Convolutions of a graph; all of them compute with floats."""
    return sum(node.op_type == "Conv" for node in onnx.load(path).graph.node)


def quantize_decoder(
    source: Bundle,
    target: Path,
    photos: Pixels,
    recipe: DecoderRecipe = "static",
    *,
    reduce_range: bool = False,
) -> list[str]:
    """Int8 for all matrix products of a decoder, int8 rows for its token embedding.

    Args:
        source: the fp32 bundle; it captions photos where ranges are measured.
        target: the int8 ONNX file to write.
        photos: uint8 (photos, height, width, 3), to measure ranges on; a dozen is enough.
        recipe: see the top of this module.
        reduce_range: keep weights to 7 bits; see `kiloword.export.integers.int8_columns`.

    Returns:
        Names of the products that have outliers.

    Raises:
        ExportError: there are no photos to measure on.
    """
    model = onnx.load(source.decoder_path)
    prepare_products(model)
    outliers: list[str] = []
    products = constant_products(model)
    tied = tied_tables(model)
    if recipe == "static":
        _check_photos(photos)
        seen = measure_decoder(source, model, _inputs_of(products), photos[:DECODER_PHOTOS])
        outliers = _replace_tame(model, products, seen, "static", reduce_range)
    elif recipe == "dynamic":
        replace_products(model, products, None, reduce_range=reduce_range)
    _quantize_embeddings(model, tied)
    _quantize_weights(model, target)
    return outliers


def _check_photos(photos: Pixels) -> None:
    if len(photos) == 0:
        raise ExportError("quantization needs photos to measure ranges on", hint="--calibration FOLDER")


def _inputs_of(products: list[NodeProto]) -> list[str]:
    return sorted({node.input[0] for node in products})


def _replace_tame(
    model: onnx.ModelProto,
    products: list[NodeProto],
    seen: Mapping[str, Activations],
    recipe: str,
    reduce_range: bool,
) -> list[str]:
    """Replaces the products whose input one range can hold; names the others."""
    tame = {name: activations for name, activations in seen.items() if not activations.has_outliers}
    outliers = [node.name or node.output[0] for node in products if node.input[0] not in tame]
    logger.info("products with outliers: %s", ", ".join(outliers) or "none")
    grids = {name: activations.scale_and_zero_point() for name, activations in tame.items()}
    chosen = [node for node in products if node.input[0] in tame]
    replace_products(model, chosen, grids if recipe == "static" else None, reduce_range=reduce_range)
    return outliers


def _quantize_weights(model: onnx.ModelProto, target: Path) -> None:
    """Turns every product that still has a constant float matrix into ``MatMulNBits``; saves the graph."""
    with _quiet():
        from onnxruntime.quantization import matmul_nbits_quantizer as tools

        config = tools.DefaultWeightOnlyQuantConfig(
            block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=_INT8_ACCURACY_LEVEL, bits=8
        )
        quantizer = tools.MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
    save_graph(quantizer.model.model, target)


def _quantize_embeddings(model: onnx.ModelProto, tied: Mapping[str, str]) -> None:
    """Float tables that are looked up by token id become int8 rows, each with a scale for after the look-up.

    A table that is the output matrix, too, shares its bytes where that one is int8 already. Small tables are
    left as they are: positions are few and precise.
    """
    tables = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    looked_up: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or table.dims[0] < _SMALLEST_TABLE:
            nodes.append(node)
        else:
            nodes.extend(_int8_lookup(node, table.name))
            looked_up[table.name] = table
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, table in looked_up.items():
        if name not in tied or not store_once(model, name, tied[name]):
            _store_int8_rows(model.graph, table)
    drop_unused_initializers(model.graph)


def _store_int8_rows(graph: onnx.GraphProto, table: TensorProto) -> None:
    values, scales = int8_rows(numpy_helper.to_array(table))
    graph.initializer.append(numpy_helper.from_array(values, f"{table.name}_int8"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{table.name}_scales"))


def _int8_lookup(node: NodeProto, table: str) -> Iterable[NodeProto]:
    rows, row_scales = f"{table}_int8", f"{table}_scales"
    result, ids, name = node.output[0], node.input[1], node.name
    as_int8, as_float, their_scales = f"{result}_int8", f"{result}_cast", f"{result}_scales"
    return (
        helper.make_node("Gather", [rows, ids], [as_int8], name=f"{name}_int8"),
        helper.make_node("Cast", [as_int8], [as_float], name=f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [row_scales, ids], [their_scales], name=f"{name}_scales"),
        helper.make_node("Mul", [as_float, their_scales], [result], name=name),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps onnxruntime's quantizer from giving the root logger a handler and from reporting each node."""
    previous, handlers, level = logging.root.manager.disable, logging.root.handlers[:], logging.root.level
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
