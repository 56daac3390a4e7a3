"""One contestant of `benchmarks.imported`, in a process and an environment of its own.

    python benchmarks/imported_worker.py KIND DIRECTORY THREADS

KIND is `kiloword` (DIRECTORY is a bundle), `transformers` (a checkpoint) or `optimum` (what `prepare-optimum`
made of a checkpoint). It reads requests from stdin, one JSON object in each line, and answers each with one.
Nothing of kiloword is imported for the others: their environments do not have it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 224
NEW_TOKENS = 16

Generate = Callable[[Any, int], list[list[int]]]
"""Pixels as `prepare` returns them, and beams, to the tokens of each picture without the prompt."""


def kiloword(directory: Path, threads: int) -> tuple[Callable[[Any], Any], Generate]:
    """A bundle; it takes bytes."""
    from dataclasses import replace

    from kiloword.runtime.bundle import load_bundle
    from kiloword.runtime.generation import generate
    from kiloword.runtime.sessions import load_sessions

    bundle = load_bundle(directory)
    sessions, manifest = load_sessions(bundle, "cpu", threads), bundle.manifest

    def run(pixels: Any, beams: int) -> list[list[int]]:
        settings = replace(
            manifest.generation, num_beams=beams, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
        )
        found = generate(sessions.decoder, sessions.encoder.encode(pixels), manifest.tokens, settings)
        return [list(one.token_ids) for one in found]

    return lambda pixels: pixels, run


def transformers(directory: Path, threads: int) -> tuple[Callable[[Any], Any], Generate]:
    """PyTorch, eager, as most people run it."""
    import torch
    from transformers import VisionEncoderDecoderModel

    torch.set_num_threads(threads)
    model = VisionEncoderDecoderModel.from_pretrained(directory).eval()
    return _normalized, _with_generate(model)


def optimum(directory: Path, threads: int) -> tuple[Callable[[Any], Any], Generate]:
    """The int8 of optimum, which runs by onnxruntime as well."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForVision2Seq

    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    names = {
        f"{part}_file_name": name
        for part, name in (
            ("encoder", "encoder_model_quantized.onnx"),
            ("decoder", "decoder_model_quantized.onnx"),
            ("decoder_with_past", "decoder_with_past_model_quantized.onnx"),
        )
        if (directory / name).is_file()
    }
    model = ORTModelForVision2Seq.from_pretrained(
        directory, session_options=options, use_cache=True, use_merged=False, **names
    )
    return _normalized, _with_generate(model)


def prepare_optimum(directory: Path, target: Path) -> None:
    """Exports a checkpoint by optimum and quantizes each graph as its documentation says: dynamic int8."""
    from optimum.onnxruntime import ORTModelForVision2Seq, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    model = ORTModelForVision2Seq.from_pretrained(directory, export=True, use_cache=True, use_merged=False)
    model.save_pretrained(target)
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    for path in sorted(target.glob("*_model.onnx")):
        ORTQuantizer.from_pretrained(target, file_name=path.name).quantize(
            save_dir=target, quantization_config=settings
        )


def _normalized(pixels: Any) -> Any:
    import torch

    return torch.from_numpy((pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) / 0.5)


def _with_generate(model: Any) -> Generate:
    import torch

    def run(pixels: Any, beams: int) -> list[list[int]]:
        with torch.inference_mode():
            found = model.generate(
                pixel_values=pixels,
                num_beams=beams,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
            )
        return [row[1:] for row in found.tolist()]

    return run


def _answer(prepare: Callable[[Any], Any], run: Generate, request: dict[str, int]) -> dict[str, Any]:
    random = np.random.default_rng(request["seed"])
    pixels = prepare(random.integers(0, 256, (request["batch_size"], SIZE, SIZE, 3), dtype=np.uint8))
    start = time.perf_counter()
    tokens = run(pixels, request["num_beams"])
    elapsed_ms = 1e3 * (time.perf_counter() - start)
    return {"ms": elapsed_ms, "tokens": tokens, "peak_rss_bytes": _peak_rss_bytes()}


def _peak_rss_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Load, say so, and answer until stdin ends."""
    kind, directory, last = sys.argv[1:4]
    if kind == "prepare-optimum":
        prepare_optimum(Path(directory), Path(last))
        return
    contestants = {"kiloword": kiloword, "transformers": transformers, "optimum": optimum}
    start = time.perf_counter()
    prepare, run = contestants[kind](Path(directory), int(last))
    loaded = {"load_ms": 1e3 * (time.perf_counter() - start), "peak_rss_bytes": _peak_rss_bytes()}
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(prepare, run, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
