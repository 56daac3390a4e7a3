"""One contestant of `benchmarks.imported`, in a process and an environment of its own.

    python benchmarks/imported_worker.py KIND DIRECTORY THREADS

KIND is `kiloword` or `kiloword-draft` (DIRECTORY is a bundle), `transformers` (a checkpoint), `optimum` or
`optimum-fp32` (what `prepare-optimum` made of a checkpoint, in int8 or before that). It reads requests from
stdin, one JSON object in each line, and answers each with one.
Nothing of kiloword is imported for the others: their environments do not have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 224
NEW_TOKENS = 16


@dataclass(frozen=True)
class Captioner:
    """What all contestants can do."""

    prepare: Callable[[Any], Any]
    """Bytes (batch, height, width, 3) to what the other two take; not timed."""
    encode: Callable[[Any], object]
    """Let the encoder look at pictures."""
    generate: Callable[[Any, int], list[list[int]]]
    """Pictures and beams to the tokens of each picture, without the prompt."""


def kiloword(directory: Path, threads: int) -> Captioner:
    """A bundle; it takes bytes."""
    from dataclasses import replace

    from kiloword.runtime.bundle import loading_bundle
    from kiloword.runtime.generation import generate
    from kiloword.runtime.sessions import load_sessions

    with loading_bundle(directory) as bundle:
        sessions, manifest = load_sessions(bundle, "cpu", threads), bundle.manifest

    def run(pixels: Any, beams: int) -> list[list[int]]:
        settings = replace(
            manifest.generation, num_beams=beams, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
        )
        found = generate(sessions.decoder, sessions.encoder.encode(pixels), manifest.tokens, settings)
        return [list(one.token_ids) for one in found]

    return Captioner(lambda pixels: pixels, sessions.encoder.encode, run)


def kiloword_draft(directory: Path, threads: int) -> Captioner:
    """A bundle with a draft that is right as often as the one of the bundle in the package.

    Captions of random weights repeat themselves as no trained captioner's do, and a table counted on them
    would guess nearly all. So the right tokens are found before the time is taken, and guessed with a chance
    that lets a step write as many as in the package.
    """
    import random
    from dataclasses import replace

    from kiloword.runtime.bundle import load_bundle, loading_bundle
    from kiloword.runtime.draft import Drafter
    from kiloword.runtime.generation import generate
    from kiloword.runtime.sessions import load_sessions

    with loading_bundle(directory) as bundle:
        sessions, manifest = load_sessions(bundle, "cpu", threads), bundle.manifest
    spec = load_bundle().manifest.draft
    if spec is None:
        sys.exit("the bundle in the package has no draft to take the share of right guesses from")
    most = spec.most
    share = share_of_right_guesses(spec.facts["tokens_a_step"], most)
    settings = replace(manifest.generation, num_beams=1, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    chance = random.Random(0)

    class Guesses(Drafter):
        right: list[int]

        def guess(self, tokens: Sequence[int], room: int) -> list[int]:
            rest = self.right[len(tokens) - len(manifest.tokens.prompt_token_ids) :]
            return [
                token if chance.random() < share else (token + 1) % manifest.tokens.vocab_size
                for token in rest[: min(room, most)]
            ]

    drafter = Guesses(sessions.decoder, directory, spec, manifest.tokens)

    def write(pixels: Any, beams: int, guessing: Drafter | None) -> list[list[int]]:
        encoded, searched = sessions.encoder.encode(pixels), replace(settings, num_beams=beams)
        found = generate(sessions.decoder, encoded, manifest.tokens, searched, drafter=guessing)
        return [list(one.token_ids) for one in found]

    def prepare(pixels: Any) -> Any:
        (drafter.right, *_) = write(pixels, 1, None)
        return pixels

    return Captioner(prepare, sessions.encoder.encode, lambda pixels, beams: write(pixels, beams, drafter))


def share_of_right_guesses(tokens_a_step: float, most: int) -> float:
    """The chance of each of ``most`` guesses with which a step writes so many tokens on average.

    >>> round(share_of_right_guesses(1.75, 2), 6)
    0.5
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        written = sum(middle**guesses for guesses in range(most + 1))
        low, high = (middle, high) if written < tokens_a_step else (low, middle)
    return low


def transformers(directory: Path, threads: int) -> Captioner:
    """PyTorch, eager, as most people run it."""
    import torch
    from transformers import VisionEncoderDecoderModel

    torch.set_num_threads(threads)
    model = VisionEncoderDecoderModel.from_pretrained(directory).eval()
    return _of_transformers(model)


def optimum_fp32(directory: Path, threads: int) -> Captioner:
    """What optimum exports, without its int8."""
    return optimum(directory, threads, ending="")


def optimum(directory: Path, threads: int, ending: str = "_quantized") -> Captioner:
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
            ("encoder", f"encoder_model{ending}.onnx"),
            ("decoder", f"decoder_model{ending}.onnx"),
            ("decoder_with_past", f"decoder_with_past_model{ending}.onnx"),
        )
        if (directory / name).is_file()
    }
    model = ORTModelForVision2Seq.from_pretrained(
        directory, session_options=options, use_cache=True, use_merged=False, **names
    )
    return _of_transformers(model)


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


def _of_transformers(model: Any) -> Captioner:
    """A model with the interface of transformers."""
    import torch

    def encode(pixels: Any) -> object:
        with torch.inference_mode():
            return model.get_encoder()(pixel_values=pixels)

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

    return Captioner(_normalized, encode, run)


def _pictures(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def _answer(captioner: Captioner, request: dict[str, int]) -> dict[str, Any]:
    pixels = captioner.prepare(_pictures(request["batch_size"], request["seed"]))
    start = time.perf_counter()
    tokens = captioner.generate(pixels, request["num_beams"])
    elapsed_ms = 1e3 * (time.perf_counter() - start)
    return {"ms": elapsed_ms, "tokens": tokens, "peak_rss_bytes": _peak_rss_bytes()}


def _peak_rss_bytes() -> int:
    """Linux; ``ru_maxrss`` would count the process that started this one, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Load, say so, and answer until stdin ends."""
    kind, directory, last = sys.argv[1:4]
    if kind == "prepare-optimum":
        prepare_optimum(Path(directory), Path(last))
        return
    contestants = {
        "kiloword": kiloword,
        "kiloword-draft": kiloword_draft,
        "transformers": transformers,
        "optimum": optimum,
        "optimum-fp32": optimum_fp32,
    }
    picture = _pictures(1, 0)
    start = time.perf_counter()
    captioner = contestants[kind](Path(directory), int(last))
    loaded = time.perf_counter()
    captioner.encode(captioner.prepare(picture))
    encoded = time.perf_counter()
    took = {"load_ms": 1e3 * (loaded - start), "load_and_first_encode_ms": 1e3 * (encoded - start)}
    print(json.dumps(took), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(captioner, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
