"""From a checkpoint to bundles: export, prove, quantize, compare, write."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kiloword.export.card import CARD_FILE, write_card
from kiloword.export.gate import CaptionedPhotos
from kiloword.export.graphs import (
    DecoderGraph,
    EncoderGraph,
    decoder_spec,
    encoder_spec,
)
from kiloword.export.half import half_bundle
from kiloword.export.onnx_export import export_graph
from kiloword.export.parity import Parity, check_parity
from kiloword.export.photos import Calibration, calibration_photos
from kiloword.export.plain_attention import write_attention_out
from kiloword.export.provenance import provenance
from kiloword.export.providers import check_on_providers
from kiloword.export.quantized import QuantizeOptions, quantize_bundle
from kiloword.export.single_graph import FACTS_FILE, SearchOverrides, write_single_graph
from kiloword.runtime.bundle import MANIFEST_FILE, TOKENIZER_FILE, Bundle, load_bundle, write_manifest
from kiloword.runtime.errors import ConfigError, ExportError
from kiloword.runtime.manifest import Manifest, TokenSpec
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import (
    FACTS_FILE as CHECKPOINT_FILE,
)
from kiloword.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    replace_directory,
)
from kiloword.train.material import image_spec

logger = logging.getLogger(__name__)

FP32: Final = "fp32"
INT8: Final = "int8"
FP16: Final = "fp16"
SINGLE_GRAPH: Final = "-single-graph"
"""What is appended to a precision for the directory of its single graph."""
_COMPARED_PHOTOS = 8
_REPOSITORY = Path(__file__).resolve().parent.parent


def export_bundle(
    source: Path | None,
    output: Path,
    *,
    quantize: QuantizeOptions | None = None,
    calibration: Path | None = None,
    captioned: CaptionedPhotos | None = None,
    half: bool = False,
    plain_attention: bool = False,
    single_graph: SearchOverrides | None = None,
    check_on: Sequence[str] = (),
) -> list[Path]:
    """Exports a checkpoint to ONNX bundles; nothing is written unless every check passes.

    Args:
        source: a directory with ``checkpoint.json``, a run's folder (its best checkpoint is taken), or a
            bundle, which is taken as it is. ``None``: the newest run under ``runs/``, else the checkpoint
            that the repository carries.
        output: the bundles become ``output/fp32``, ``output/int8`` and ``output/fp16``, in the place of older
            ones; what else lies there stays.
        quantize: how to make an int8 bundle, too; ``None``: none is made.
        calibration: folder of photos to measure ranges and to compare on.
        captioned: photos with captions to measure what int8 costs on; only with ``quantize``.
        half: make an fp16 bundle, too.
        plain_attention: write attention out in all bundles, for runtimes that lack the operator.
        single_graph: make of each bundle a graph with the search inside, which searches so.
        check_on: execution providers on which each bundle must say the same as on the processor.

    Returns:
        The directories that were written, fp32 first.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        ParityError: a graph computes something else than torch, or than the graph that it was made of.
        ExportError: torch cannot export the model, int8 is no good, or the bundles cannot be written there.
        ConfigError: there is nothing to do with what is given.
        ProviderError: a provider to check on is not there.
    """
    compares = half or plain_attention or single_graph is not None or bool(check_on)
    _check_usage(quantize, calibration, captioned, compares)
    given = _open_source(source)
    if isinstance(given, Bundle) and quantize is None and not (half or plain_attention or single_graph):
        hint = "--quantize, --precision fp16, --plain-attention or --single-graph"
        raise ConfigError([f"{given.directory} is a bundle already"], hint=hint)
    # What takes seconds comes before what takes minutes.
    check_replaceable(output)
    photos = _photos(given, calibration) if compares or quantize is not None else None
    plan = _Plan(quantize, captioned, half, plain_attention, single_graph, tuple(check_on))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".part-") as folder:
            made = _make(given, Path(folder), photos, plan)
            for bundle in made:
                replace_directory(bundle, output / bundle.name)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            "bundles cannot be written here", path=output, found=reason, hint="-o DIR"
        ) from error
    if quantize is None and not isinstance(given, Bundle) and (output / INT8).exists():
        logger.warning("%s is of an earlier export; --quantize replaces it", output / INT8)
    return [output / bundle.name for bundle in made]


@dataclass(frozen=True)
class _Plan:
    """What is made besides the fp32 bundle."""

    quantize: QuantizeOptions | None
    captioned: CaptionedPhotos | None
    half: bool
    plain_attention: bool
    single_graph: SearchOverrides | None
    check_on: tuple[str, ...]


def _check_usage(
    quantize: QuantizeOptions | None, calibration: Path | None, captioned: object, compares: bool
) -> None:
    if quantize is None and captioned is not None:
        raise ConfigError(["photos to evaluate on are for int8 only"], hint="--quantize")
    if quantize is None and calibration is not None and not compares:
        raise ConfigError(["calibration photos are for int8 only"], hint="--quantize")


def _make(given: Checkpoint | Bundle, folder: Path, photos: Calibration | None, plan: _Plan) -> list[Path]:
    """Writes everything into a folder, in the order in which it is reported."""
    made = [] if isinstance(given, Bundle) else [_export_fp32(given, folder / FP32)]
    if photos is None:
        return made
    source = given.directory if isinstance(given, Bundle) else made[0]
    few = photos.pixels[:_COMPARED_PHOTOS]
    if plan.quantize is not None:
        made.append(quantize_bundle(source, folder / INT8, photos, plan.quantize, plan.captioned).directory)
    if plan.half:
        made.append(half_bundle(source, folder / FP16, few).directory)
    if plan.plain_attention:
        if not made:
            precision = load_bundle(source).manifest.precision
            made.append(Path(shutil.copytree(source, folder / precision)))
        for directory in made:
            logger.info("attention written out: %d times", write_attention_out(directory, few))
    if plan.check_on:
        for directory in made:
            check_on_providers(directory, plan.check_on, few)
    if plan.single_graph is not None:
        for directory in tuple(made) or (source,):
            bundle = load_bundle(directory)
            target = folder / f"{bundle.manifest.precision}{SINGLE_GRAPH}"
            made.append(write_single_graph(bundle, target, few, plan.single_graph))
    return made


def _open_source(source: Path | None) -> Checkpoint | Bundle:
    if source is not None and (source / MANIFEST_FILE).is_file():
        return load_bundle(source)
    return load_checkpoint(find_checkpoint(source))


def _photos(source: Checkpoint | Bundle, calibration: Path | None) -> Calibration:
    if isinstance(source, Bundle):
        return calibration_photos(calibration, None, source.manifest.image)
    return calibration_photos(calibration, source.recipe, image_spec(source.recipe))


def check_replaceable(output: Path) -> None:
    """An export replaces bundles; a directory of that name that is none belongs to somebody."""
    for name in (FP32, INT8, FP16):
        for target, ours in ((output / name, MANIFEST_FILE), (output / f"{name}{SINGLE_GRAPH}", FACTS_FILE)):
            _require_ours(target, ours)


def _require_ours(target: Path, file: str) -> None:
    if target.exists() and not (target / file).is_file():
        raise ExportError(
            "will not be replaced",
            path=target,
            expected="a bundle",
            found="something else",
            hint="-o DIR",
        )


def find_checkpoint(given: Path | None) -> Path:
    """The checkpoint to export.

    Raises:
        CheckpointError: nothing was given and there is none.
    """
    if given is not None:
        return given / "best" if (given / "best" / CHECKPOINT_FILE).is_file() else given
    runs = sorted(Path("runs").glob(f"*/best/{CHECKPOINT_FILE}"), key=lambda path: path.stat().st_mtime)
    carried = sorted((_REPOSITORY / "checkpoints").glob(f"*/{CHECKPOINT_FILE}"))
    found = [*carried, *runs]
    if not found:
        raise CheckpointError(
            "there is no checkpoint", expected="a run under runs/", found="none", hint="kiloword train tiny"
        )
    logger.info("exporting %s", found[-1].parent)
    return found[-1].parent


def _export_fp32(checkpoint: Checkpoint, directory: Path) -> Path:
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
    checkpoint.tokenizer.save(str(directory / TOKENIZER_FILE), pretty=False)
    card = write_card(checkpoint, FP32, checkpoint.recipe.generation)
    (directory / CARD_FILE).write_text(card, encoding="utf-8")
    return write_manifest(directory, _manifest(checkpoint, parity)).directory


def _manifest(checkpoint: Checkpoint, parity: Parity) -> Manifest:
    model, recipe = checkpoint.model, checkpoint.recipe
    return Manifest(
        name=recipe.name,
        precision=FP32,
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
        provenance=provenance(checkpoint),
        report={"parity": asdict(parity)},
        checked_providers=("cpu",),
    )


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
