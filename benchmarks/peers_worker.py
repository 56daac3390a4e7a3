"""One contestant of `benchmarks.peers`, in a process and an environment of its own.

    python benchmarks/peers_worker.py KIND BUNDLE THREADS
    python benchmarks/peers_worker.py quantize BUNDLE PHOTOS

KIND says what runs the two graphs of BUNDLE: `kiloword` (onnxruntime, as the runtime does), `openvino`, or
`nncf`, which is OpenVINO with what `quantize` made of them: int8 by OpenVINO's own tool, with ranges measured
on photos and on the captions that the graphs write of them. The search and the photos are the same: requests
come on stdin, one JSON object in each line, and name a batch, beams, and which of the example photos comes
first. `kiloword` must be on PYTHONPATH.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.bench.steps import decoder_feeds
from kiloword.runtime.bundle import Bundle, load_bundle
from kiloword.runtime.footprint import own_peak_rss_bytes
from kiloword.runtime.generation import generate
from kiloword.runtime.images import load_image
from kiloword.runtime.sessions import DecoderSession, EncoderSession, Sessions, load_sessions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

PHOTOS = Path(__file__).resolve().parent.parent / "examples" / "photos"


class OpenVinoGraph:
    """A graph that OpenVINO compiled, with the one method of onnxruntime sessions that the runtime calls."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads}
        self._request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by their names; they are copies, for the next run overwrites the memory."""
        outputs = self._request.infer(dict(feeds), share_inputs=True)
        return [outputs[name] for name in names]


def quantized_path(graph: Path) -> Path:
    """Where `quantize` puts what it makes of a graph."""
    return graph.parent.with_name(f"{graph.parent.name}-nncf") / f"{graph.stem}.xml"


def openvino_sessions(bundle: Bundle, threads: int, *, quantized: bool = False) -> Sessions:
    """Both graphs in OpenVINO."""
    manifest = bundle.manifest
    paths = (bundle.encoder_path, bundle.decoder_path)
    encoder, decoder = (OpenVinoGraph(quantized_path(path) if quantized else path, threads) for path in paths)
    return Sessions(
        EncoderSession(encoder, manifest.encoder, bundle.encoder_path),
        DecoderSession(decoder, manifest.decoder, bundle.decoder_path),
        "openvino",
    )


def quantize(bundle: Bundle, photos: Path) -> None:
    """Make int8 of both graphs as OpenVINO's documentation does it for Transformers."""
    import nncf
    import openvino

    sessions, manifest = openvino_sessions(bundle, threads=1), bundle.manifest
    pixels = [load_image(path, manifest.image)[None] for path in sorted(photos.glob("*.jpg"))]
    steps = [
        feeds
        for one in pixels
        for feeds in decoder_feeds(
            bundle, sessions.decoder, sessions.encoder.encode(one), manifest.generation
        )
    ]
    encoder_inputs = [{manifest.encoder.inputs_of("pixels")[0].name: one} for one in pixels]
    for path, inputs in ((bundle.encoder_path, encoder_inputs), (bundle.decoder_path, steps)):
        int8 = nncf.quantize(
            openvino.Core().read_model(path),
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
        )
        openvino.save_model(int8, quantized_path(path), compress_to_fp16=False)


def _caption(bundle: Bundle, sessions: Sessions, pixels: NDArray[np.uint8], beams: int) -> list[list[int]]:
    settings = replace(bundle.manifest.generation, num_beams=beams)
    encoded = sessions.encoder.encode(pixels)
    found = generate(sessions.decoder, encoded, bundle.manifest.tokens, settings)
    return [list(one.token_ids) for one in found]


def main() -> None:
    """Load, say so, and answer until stdin ends."""
    kind, directory, threads = sys.argv[1:]
    bundle = load_bundle(Path(directory))
    if kind == "quantize":
        quantize(bundle, Path(threads))
        return
    photos = [load_image(path, bundle.manifest.image) for path in sorted(PHOTOS.glob("*.jpg"))]
    start = time.perf_counter()
    if kind == "kiloword":
        sessions = load_sessions(bundle, "cpu", int(threads))
    else:
        sessions = openvino_sessions(bundle, int(threads), quantized=kind == "nncf")
    loaded = time.perf_counter()
    sessions.encoder.encode(photos[0][None])
    encoded = time.perf_counter()
    took = {"load_ms": 1e3 * (loaded - start), "load_and_first_encode_ms": 1e3 * (encoded - start)}
    print(json.dumps(took), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        numbers = [(asked["seed"] + offset) % len(photos) for offset in range(asked["batch_size"])]
        pixels = np.stack([photos[number] for number in numbers])
        began = time.perf_counter()
        tokens = _caption(bundle, sessions, pixels, asked["num_beams"])
        elapsed_ms = 1e3 * (time.perf_counter() - began)
        answer = {"ms": elapsed_ms, "tokens": tokens, "peak_rss_bytes": own_peak_rss_bytes()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
