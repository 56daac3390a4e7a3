"""From a checkpoint to bundles: export, prove, quantize, compare, write."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from kiloword.export.card import write_card
from kiloword.export.graphs import (
    DECODER_FILE,
    ENCODER_FILE,
    DecoderGraph,
    EncoderGraph,
    decoder_spec,
    encoder_spec,
)
from kiloword.export.onnx_export import export_graph
from kiloword.export.parity import Parity, check_parity
from kiloword.export.photos import Calibration, calibration_photos
from kiloword.export.provenance import provenance
from kiloword.export.quantize import count_convolutions, quantize_decoder, quantize_encoder
from kiloword.export.report import as_table, compare
from kiloword.runtime.bundle import MANIFEST_FILE, TOKENIZER_FILE, write_manifest
from kiloword.runtime.errors import ConfigError, ExportError
from kiloword.runtime.manifest import Manifest, TokenSpec
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import (
    FACTS_FILE,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    replace_directory,
)
from kiloword.train.material import image_spec

logger = logging.getLogger(__name__)

CARD_FILE = "CARD.md"
FP32: Final = "fp32"
INT8: Final = "int8"
_REPOSITORY = Path(__file__).resolve().parent.parent


def export_bundle(
    checkpoint: Path | None, output: Path, *, quantize: bool = False, calibration: Path | None = None
) -> list[Path]:
    """Exports a checkpoint to ONNX bundles; nothing is written unless every check passes.

    Args:
        checkpoint: a directory with ``checkpoint.json``, or a run's folder (its best checkpoint is taken).
            ``None``: the newest run under ``runs/``, else the checkpoint that the repository carries.
        output: the bundles become ``output/fp32`` and ``output/int8``, in the place of older ones; what else
            lies there stays.
        quantize: make the int8 bundle, too, and compare both.
        calibration: folder of photos to measure the ranges of int8 on; only with ``quantize``.

    Returns:
        The directories of the bundles, fp32 first.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ParityError: a graph computes something else than torch.
        ExportError: torch cannot export the model, int8 is no good, or the bundles cannot be written there.
        ConfigError: there are photos to calibrate with and nothing to calibrate.
    """
    if calibration is not None and not quantize:
        raise ConfigError(["calibration photos are for int8 only"], hint="--quantize")
    loaded = load_checkpoint(find_checkpoint(checkpoint))
    # What takes seconds comes before what takes minutes.
    check_replaceable(output)
    photos = calibration_photos(calibration, loaded.recipe, image_spec(loaded.recipe)) if quantize else None
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".part-") as folder:
            made = _make_bundles(loaded, Path(folder), photos)
            for bundle in made:
                replace_directory(bundle, output / bundle.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            "bundles cannot be written here", path=output, found=reason, hint="-o DIR"
        ) from error
    if photos is None and (output / INT8).exists():
        logger.warning("%s is of an earlier export; --quantize replaces it", output / INT8)
    return [output / bundle.name for bundle in made]


def check_replaceable(output: Path) -> None:
    """An export replaces bundles; a directory of that name that is none belongs to somebody."""
    for name in (FP32, INT8):
        target = output / name
        if target.exists() and not (target / MANIFEST_FILE).is_file():
            raise ExportError(
                "will not be replaced",
                path=target,
                expected="a bundle",
                found="something else",
                hint="-o DIR",
            )


def _make_bundles(checkpoint: Checkpoint, folder: Path, photos: Calibration | None) -> list[Path]:
    fp32 = folder / FP32
    parity = _export_fp32(checkpoint, fp32)
    if photos is None:
        return [fp32]
    return [fp32, _quantize(checkpoint, fp32, folder / INT8, photos, parity)]


def find_checkpoint(given: Path | None) -> Path:
    """The checkpoint to export.

    Raises:
        CheckpointError: nothing was given and there is none.
    """
    if given is not None:
        return given / "best" if (given / "best" / FACTS_FILE).is_file() else given
    runs = sorted(Path("runs").glob(f"*/best/{FACTS_FILE}"), key=lambda path: path.stat().st_mtime)
    carried = sorted((_REPOSITORY / "checkpoints").glob(f"*/{FACTS_FILE}"))
    found = [*carried, *runs]
    if not found:
        raise CheckpointError(
            "there is no checkpoint", expected="a run under runs/", found="none", hint="kiloword train tiny"
        )
    logger.info("exporting %s", found[-1].parent)
    return found[-1].parent


def _export_fp32(checkpoint: Checkpoint, directory: Path) -> Parity:
    """Exports both graphs, checks them against torch and writes the bundle."""
    directory.mkdir()
    model, vocab_size = checkpoint.model, checkpoint.model.decoder.vocab_size
    for module, spec, positional in (
        (EncoderGraph(model), encoder_spec(model), 1),
        (DecoderGraph(model.decoder), decoder_spec(model), 2),
    ):
        path = directory / spec.file
        export_graph(module.eval(), spec, path, vocab_size=vocab_size, positional=positional)
        logger.info("exported %s, %.1f MB", spec.file, path.stat().st_size / 1e6)
    parity = check_parity(model, directory)
    logger.info("equal to torch in %d cases, to within %.1e", parity.cases, parity.largest_difference)
    _write_bundle(checkpoint, directory, FP32, {}, {"parity": asdict(parity)})
    return parity


def _quantize(checkpoint: Checkpoint, fp32: Path, int8: Path, photos: Calibration, parity: Parity) -> Path:
    """Makes the int8 bundle beside the fp32 one, compares them, and writes the comparison into it."""
    int8.mkdir()
    outliers = quantize_encoder(fp32 / ENCODER_FILE, int8 / ENCODER_FILE, photos.pixels)
    quantize_decoder(fp32 / DECODER_FILE, int8 / DECODER_FILE)
    facts = {
        "encoder": "static uint8 x int8 per channel",
        "decoder": "8-bit weights in blocks of 128; int8 embedding",
        "products_with_outliers": outliers,
        "convolutions_in_float32": count_convolutions(int8 / ENCODER_FILE),
        "calibration": {"photos": len(photos.pixels), "source": photos.source},
    }
    _write_bundle(checkpoint, int8, INT8, facts, {})
    report = compare(fp32, int8, photos.pixels)
    table = as_table(report)
    for line in ["int8 against fp32:", *table.splitlines()]:
        logger.info("%s", line)
    _write_bundle(checkpoint, int8, INT8, facts, {**report, "table": table, "parity": asdict(parity)})
    return int8


def _write_bundle(
    checkpoint: Checkpoint,
    directory: Path,
    precision: Literal["fp32", "int8"],
    quantization: Mapping[str, Any],
    report: Mapping[str, Any],
) -> None:
    """Adds tokenizer, card and manifest to the graphs in a directory."""
    model, recipe = checkpoint.model, checkpoint.recipe
    checkpoint.tokenizer.save(str(directory / TOKENIZER_FILE), pretty=False)
    card = write_card(checkpoint, precision, recipe.generation, report if "table" in report else {})
    (directory / CARD_FILE).write_text(card, encoding="utf-8")
    origin = provenance(checkpoint)
    if quantization:
        origin["quantization"] = dict(quantization)
    manifest = Manifest(
        name=recipe.name,
        precision=precision,
        architecture={
            "encoder": recipe.encoder.kind,
            "decoder": recipe.decoder.kind,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        image=image_spec(recipe),
        tokens=_token_spec(checkpoint),
        generation=recipe.generation,
        encoder=encoder_spec(model),
        decoder=decoder_spec(model),
        attention=model.decoder.attention_spec(),
        files={},
        provenance=origin,
        report=dict(report),
    )
    write_manifest(directory, manifest)


def _token_spec(checkpoint: Checkpoint) -> TokenSpec:
    ids = TokenIds.of(checkpoint.tokenizer)
    return TokenSpec(
        vocab_size=checkpoint.tokenizer.get_vocab_size(),
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
        pad_token_id=ids.pad,
        prompt_token_ids=(ids.bos,),
        suppressed_token_ids=(ids.pad, ids.bos, ids.unk),
        max_sequence_length=checkpoint.model.decoder.config.longest,
    )
