"""Photos per second on a GPU: an fp16 bundle on the CUDA provider, torch eager and torch.compile beside it.

    kiloword export --precision fp16 -o outputs/export
    python -m benchmarks.gpu --bundle outputs/export/fp16

All have the same weights, search greedily and take turns, batch by batch; batches go from 1 to 256 photos.
`--device cpu` runs the same code on a processor with a bundle of any precision, which is how it is tested.
torch computes in fp16 by autocast; what is compiled is its encoder, whose shapes do not change.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.checkpoints import find_checkpoint
from benchmarks.machine import pin_to_cpus, shown_path, write_result
from benchmarks.torch_eager import greedy
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.timing import paired_ratio, summarize, take_turns
from kiloword.runtime.captioner import Captioner
from kiloword.train.captions import TokenIds
from kiloword.train.checkpoint import load_checkpoint
from kiloword.train.tokenizers import BOS, EOS, PAD, UNK

Pixels = NDArray[np.uint8]
Caption = Callable[[Pixels], list[tuple[int, ...]]]
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OURS = "kiloword"


class OnDevice:
    """A checkpoint in torch on a device: greedy captions."""

    def __init__(self, checkpoint: Path, device: str, max_new_tokens: int, *, compiled: bool) -> None:
        loaded = load_checkpoint(checkpoint)
        self._device, self._max_new_tokens = torch.device(device), max_new_tokens
        self._model = loaded.model.eval().to(self._device)
        self._encoder: Any = torch.compile(self._model.encoder) if compiled else self._model.encoder
        vocabulary = loaded.tokenizer.get_vocab()
        self._ids = TokenIds(*(vocabulary[token] for token in (PAD, BOS, EOS, UNK)))

    @torch.inference_mode()
    def caption(self, pixels: Pixels) -> list[tuple[int, ...]]:
        """Token ids of each photo of uint8 (batch_size, height, width, 3), up to the end of sequence."""
        on_gpu = self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16, enabled=on_gpu):
            features = self._encoder(torch.from_numpy(pixels).to(self._device))
            rows = greedy(self._model, features, self._ids, self._max_new_tokens).tolist()
        eos = self._ids.eos
        return [tuple(row[: row.index(eos) + 1] if eos in row else row) for row in rows]


def contestants(bundle: Path | None, checkpoint: Path, device: str, *, compiled: bool) -> dict[str, Caption]:
    """What takes turns, by the name that results give it."""
    captioner = Captioner.load(bundle, provider=device)
    longest = captioner.bundle.manifest.generation.max_new_tokens

    def ours(pixels: Pixels) -> list[tuple[int, ...]]:
        captions = captioner.caption_pixels(pixels, num_beams=1, no_repeat_ngram_size=0)
        return [caption.token_ids for caption in captions]

    found: dict[str, Caption] = {OURS: ours}
    found["torch eager"] = OnDevice(checkpoint, device, longest, compiled=False).caption
    if compiled:
        found["torch.compile"] = OnDevice(checkpoint, device, longest, compiled=True).caption
    return found


def measure(
    given: dict[str, Caption], photos: Sequence[Pixels], batch_size: int, rounds: int
) -> list[dict[str, Any]]:
    """One record for each contestant at one batch size.

    Args:
        given: What captions.
        photos: uint8 (height, width, 3) each; a batch goes around them.
        batch_size: Photos at once.
        rounds: Batches of each contestant.
    """
    batch = np.stack([photos[at % len(photos)] for at in range(batch_size)])
    written = {name: caption(batch) for name, caption in given.items()}

    def work(name: str) -> Callable[[int], float]:
        def caption(_turn: int) -> float:
            given[name](batch)
            return batch_size

        return caption

    taken = take_turns({name: work(name) for name in given}, rounds)
    return [
        {
            "variant": name,
            "batch_size": batch_size,
            "photos_per_s": round(1e3 / summarize(samples).median, 1),
            "p95_ms_per_photo": summarize(samples).p95,
            "kiloword_times_as_fast": paired_ratio(samples, taken[OURS]),
            "same_captions_as_kiloword": round(
                statistics.fmean(a == b for a, b in zip(written[name], written[OURS], strict=True)), 3
            ),
        }
        for name, samples in taken.items()
    ]


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, or cpu to try it out.")
@click.option("--bundle", type=click.Path(path_type=Path), help="An fp16 bundle; for cpu the one that ships.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="For torch; by default the repository's.")
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=BATCH_SIZES, show_default=True)
@click.option("--rounds", default=20, show_default=True, help="Batches of each at each size.")
@click.option("--compile/--no-compile", "compiled", default=True, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    device: str,
    bundle: Path | None,
    checkpoint: Path | None,
    batch_sizes: tuple[int, ...],
    rounds: int,
    compiled: bool,
    output: Path | None,
) -> None:
    """Measure photos per second by batch size."""
    checkpoint = checkpoint or find_checkpoint()
    if device == "cpu":  # one thread each, or the libraries' own choice would be compared
        pin_to_cpus(1)
        torch.set_num_threads(1)
    given = contestants(bundle, checkpoint, device, compiled=compiled)
    photos = pixels_of((), Captioner.load(bundle, provider="cpu").bundle.manifest.image)
    rows: list[dict[str, Any]] = []
    for batch_size in batch_sizes:
        rows += measure(given, photos, batch_size, rounds)
        for row in rows[-len(given) :]:
            click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    name = torch.cuda.get_device_name() if device == "cuda" else "processor"
    settings = {"device": name, "rounds": rounds, "checkpoint": shown_path(checkpoint)}
    click.echo(f"wrote {write_result(f'gpu_{device}', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
