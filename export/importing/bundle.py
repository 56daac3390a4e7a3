"""From a checkpoint of transformers to bundles: load, export, prove, quantize, write."""

from __future__ import annotations

import importlib.metadata
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kiloword.export.card import CARD_FILE
from kiloword.export.export import FP32, INT8, check_replaceable
from kiloword.export.gate import CaptionedPhotos
from kiloword.export.graph_files import graph_bytes
from kiloword.export.importing.card import write_card
from kiloword.export.importing.encoder import fused_attention
from kiloword.export.importing.foreign import Foreign, Request
from kiloword.export.importing.proof import PICTURES, as_report, prove
from kiloword.export.importing.registry import TESTED_TRANSFORMERS, load_foreign
from kiloword.export.importing.source import find_checkpoint, licence_of, read_config, weight_files
from kiloword.export.importing.text import save_tokenizer
from kiloword.export.onnx_export import export_graph
from kiloword.export.onnx_nodes import MOST_BYTES
from kiloword.export.parity import Graphs, Parity, check_graphs
from kiloword.export.photos import Calibration, calibration_photos
from kiloword.export.quantized import QuantizeOptions, quantize_bundle
from kiloword.runtime.bundle import TOKENIZER_FILE, hash_file, write_manifest
from kiloword.runtime.errors import ConfigError, ExportError
from kiloword.runtime.manifest import Manifest, check_generation
from kiloword.train.checkpoint import replace_directory

logger = logging.getLogger(__name__)

_PACKAGES = ("kiloword", "transformers", "torch", "onnx", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class Options:
    """What an import is asked for besides the checkpoint."""

    quantize: QuantizeOptions | None = None
    """How to make an int8 bundle beside the fp32 one; ``None``: none is made."""
    calibration: Path | None = None
    """Photos to measure the ranges of int8 on; ``None``: the example photos."""
    captioned: CaptionedPhotos | None = None
    """Photos with captions to measure what int8 costs on."""
    style: str | None = None
    """Which captions, for families that can write several kinds."""
    allow_pickle: bool = False
    """Whether weights may be a pickle."""
    max_new_tokens: int | None = None
    """Longest captions; ``None``: as the checkpoint says."""
    pictures: int = PICTURES
    """Random pictures that the bundle is compared with transformers on."""


def import_bundle(checkpoint: str, output: Path, options: Options | None = None) -> list[Path]:
    """Imports a checkpoint of transformers; nothing is written unless it writes what transformers writes.

    Where int8 is refused, the fp32 bundle is there all the same.

    Args:
        checkpoint: a directory, or a hub id where there is a network.
        output: the bundles become ``output/fp32`` and ``output/int8``, in the place of older ones.
        options: what else is asked for.

    Returns:
        The directories of the bundles, fp32 first.

    Raises:
        ParityError: pixels, tokens, scores or texts are not those of transformers.
        ExportError: the checkpoint is unknown or not whole, or a graph cannot be written.
        ConfigError: captions cannot be as long as is asked for.
    """
    asked = Options() if options is None else options
    check_replaceable(output)
    _note_version()
    with _quiet_transformers():
        directory = find_checkpoint(checkpoint, allow_pickle=asked.allow_pickle)
        request = Request(directory, asked.allow_pickle, asked.style)
        foreign = _shortened(load_foreign(read_config(directory), request), asked.max_new_tokens)
        problems = check_generation(foreign.generation, foreign.tokens)
        if problems:
            raise ConfigError(problems)
        photos = (
            None
            if asked.quantize is None
            else calibration_photos(asked.calibration, None, foreign.pixels.image)
        )
        origin = _origin(checkpoint, directory, asked)
        writer = _Writer(foreign, _name(checkpoint, asked.style), origin)
        try:
            output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=output, prefix=".part-") as folder:
                return _write(writer, Path(folder), output, photos, asked)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ExportError(
                "bundles cannot be written here", path=output, found=reason, hint="-o DIR"
            ) from error


def _write(
    writer: _Writer, folder: Path, output: Path, photos: Calibration | None, asked: Options
) -> list[Path]:
    """Makes the bundles in a folder beside their places, and moves each there when it is proved."""
    fp32, int8 = output / FP32, output / INT8
    replace_directory(_make_fp32(writer, folder / FP32, asked.pictures), fp32)
    if photos is None or asked.quantize is None:
        if int8.exists():
            logger.warning("%s is of an earlier import; --quantize replaces it", int8)
        return [fp32]
    # The fp32 bundle stays where int8 is refused: it is whole, and took minutes.
    logger.info("wrote %s", fp32)
    made = quantize_bundle(fp32, folder / INT8, photos, asked.quantize, asked.captioned)
    replace_directory(made.directory, int8)
    return [fp32, int8]


def _note_version() -> None:
    """Says that a version of transformers was not tested; the comparison decides all the same."""
    found = importlib.metadata.version("transformers")
    if found not in TESTED_TRANSFORMERS:
        logger.info("tested with transformers %s; here is %s", ", ".join(TESTED_TRANSFORMERS), found)


def _shortened(foreign: Foreign, max_new_tokens: int | None) -> Foreign:
    if max_new_tokens is None:
        return foreign
    generation = replace(foreign.generation, max_new_tokens=max_new_tokens)
    return replace(foreign, generation=generation, own_length=True)


@dataclass(frozen=True)
class _Writer:
    """Writes what is not a graph into a bundle."""

    foreign: Foreign
    name: str
    origin: Mapping[str, Any]

    def write(
        self,
        directory: Path,
        report: Mapping[str, Any],
    ) -> None:
        """Adds tokenizer, card and manifest to the graphs in a directory."""
        foreign = self.foreign
        save_tokenizer(foreign.tokenizer, directory / TOKENIZER_FILE)
        card = write_card(self.name, FP32, foreign.facts, self.origin, report)
        (directory / CARD_FILE).write_text(card, encoding="utf-8")
        manifest = Manifest(
            name=self.name,
            precision=FP32,
            architecture=dict(foreign.facts),
            image=foreign.pixels.image,
            tokens=foreign.tokens,
            generation=foreign.generation,
            encoder=foreign.encoder_spec,
            decoder=foreign.decoder_spec,
            attention=foreign.attention,
            files={},
            provenance=self.origin,
            report=dict(report),
            checked_providers=("cpu",),
        )
        write_manifest(directory, manifest)


def _make_fp32(writer: _Writer, fp32: Path, pictures: int) -> Path:
    fp32.mkdir()
    parity = _export(writer.foreign, fp32)
    writer.write(fp32, {})
    proof = prove(writer.foreign, fp32, pictures)
    logger.info(
        "as transformers %s on %d random pictures: tokens of %d greedily and %d with 4 beams%s, scores to "
        "%.1e, pixels to %.1e, all texts",
        importlib.metadata.version("transformers"),
        proof.pictures,
        proof.greedy_equal,
        proof.beam_4_equal,
        f" ({proof.ties} ties)" if proof.ties else "",
        proof.largest_score_difference,
        proof.largest_pixel_difference,
    )
    report = {"parity": asdict(parity), "transformers": as_report(proof)}
    writer.write(fp32, report)
    return fp32


def check_sizes(foreign: Foreign) -> None:
    """Whether each graph fits into one file, before torch's exporter works on it for minutes.

    Raises:
        ExportError: one does not.
    """
    decoder = dict(foreign.decoder.named_parameters()) | dict(foreign.decoder.named_buffers())
    of_image = {
        name: tensor for name, tensor in decoder.items() if ".cross_key" in name or ".cross_value" in name
    }
    if foreign.decoder.image == "prefix":
        of_image = {name: tensor for name, tensor in decoder.items() if name.startswith("blocks.")}
    else:
        decoder = {name: tensor for name, tensor in decoder.items() if name not in of_image}
    encoder = [*foreign.encoder.vision.parameters(), *of_image.values()]
    for file, tensors in (
        (foreign.encoder_spec.file, encoder),
        (foreign.decoder_spec.file, decoder.values()),
    ):
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > MOST_BYTES:
            raise ExportError(
                f"{file} would be too large",
                expected=f"at most {MOST_BYTES / 1e9:.2f} GB of weights in fp32, as one ONNX file can hold",
                found=f"{size / 1e9:.2f} GB",
                hint="a smaller checkpoint of this family",
            )


def _export(foreign: Foreign, directory: Path) -> Parity:
    """Exports both graphs and checks them against torch."""
    check_sizes(foreign)
    encoder, decoder = foreign.encoder.eval(), foreign.decoder.eval()
    for module, spec, positional in (
        (encoder, foreign.encoder_spec, 1),
        (decoder, foreign.decoder_spec, 2),
    ):
        path = directory / spec.file
        with fused_attention(module):
            export_graph(module, spec, path, vocab_size=decoder.vocab_size, positional=positional)
        logger.info("exported %s, %.1f MB", spec.file, graph_bytes(path) / 1e6)
    graphs = Graphs(
        encoder,
        foreign.encoder_spec,
        decoder,
        foreign.decoder_spec,
        decoder.vocab_size,
        decoder.longest,
        placeless_token_id=decoder.positions.padding,
    )
    parity = check_graphs(graphs, directory)
    logger.info("equal to torch in %d cases, to within %.1e", parity.cases, parity.largest_difference)
    return parity


def _name(checkpoint: str, style: str | None) -> str:
    """The last part of a path or a hub id, with the style."""
    name = Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint.rpartition("/")[2]
    return name if style is None else f"{name}-{style}"


def _origin(checkpoint: str, directory: Path, options: Options) -> dict[str, Any]:
    """Where the bundle comes from, but not where on whose machine."""
    weights = weight_files(directory, allow_pickle=options.allow_pickle)
    return {
        "imported_from": checkpoint if not Path(checkpoint).is_dir() else directory.resolve().name,
        "checkpoint_sha256": {path.name: hash_file(path).sha256 for path in weights},
        **({} if options.style is None else {"style": options.style}),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "transformers_tested": list(TESTED_TRANSFORMERS),
        "licence": licence_of(directory),
    }


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps transformers from drawing bars and from giving advice that nobody who imports can act on."""
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="transformers")
            yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
