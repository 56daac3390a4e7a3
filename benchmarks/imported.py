"""An imported ViT-B/16 + GPT-2 against transformers eager and optimum's int8, each in its own environment.

    python -m benchmarks.imported                       kiloword fp32 and int8, transformers eager
    python -m benchmarks.imported --with-optimum        and optimum-onnx int8, in build/peers/optimum
    python -m benchmarks.imported --with-optimum-fp32   and optimum-onnx before its int8

The checkpoint has the shape of nlpconnect/vit-gpt2-image-captioning and weights made from the config, for how
long a product takes does not depend on what is multiplied. Every contestant is a process of its own, pinned
to the same processors once it has loaded; they take turns on every picture, in a new order each time. A ratio
is the median of the ratios on the same picture in the same round.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import REPOSITORY, pin_to_cpus, result_path, summarize, write_result
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.huge_pages import PICTURES_BEFORE

WORK = REPOSITORY / "build" / "imported"
PEERS = REPOSITORY / "build" / "peers"
WORKER = REPOSITORY / "benchmarks" / "imported_worker.py"
OPTIMUM = ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", "pillow")
"""What the peer's environment gets besides this environment's torch and onnxruntime; optimum's last release
with these captioners needs transformers 4."""
PHOTOS = REPOSITORY / "examples" / "photos"
"""To measure ranges and recipes on; a few, for they are captioned many times."""
Case = tuple[int, int]
"""Batch size and beams."""
WARM_UP_PICTURES = PICTURES_BEFORE
"""kiloword moves its memory into huge pages after these, and who measures for long measures what follows."""
LOADED = {"optimum": "*_quantized.onnx", "optimum-fp32": "*_model.onnx"}
"""The files that a contestant loads, where these are not all in its directory."""
CASES: Mapping[str, Case] = {"1x1": (1, 1), "1x4": (1, 4), "8x1": (8, 1)}


@dataclass
class Contestant:
    """A process that captions, and what it took."""

    name: str
    process: subprocess.Popen[str]
    loaded: dict[str, Any]
    """Milliseconds from an interpreter that has started to the loaded model, and to the first encoding."""
    peak_rss_bytes: dict[Case, int] = field(default_factory=dict)
    """Of the process, until the end of each case."""
    times_ms: dict[Case, list[float]] = field(default_factory=dict)
    tokens: dict[Case, list[list[int]]] = field(default_factory=dict)

    def ask(self, batch_size: int, num_beams: int, seed: int) -> dict[str, Any]:
        """Let it caption random pictures."""
        request = {"batch_size": batch_size, "num_beams": num_beams, "seed": seed}
        if self.process.stdin is None or self.process.stdout is None:
            raise click.ClickException(f"{self.name} has no pipes")
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(_line(self.process, self.name))
        self.peak_rss_bytes[batch_size, num_beams] = int(answer["peak_rss_bytes"])
        return answer


def make_checkpoint(directory: Path) -> Path:
    """A checkpoint of the shape of ViT-B/16 + GPT-2 small, with random weights and a made-up vocabulary."""
    if (directory / "model.safetensors").is_file():
        return directory
    import torch
    from tokenizers import Tokenizer, decoders, models
    from transformers import (
        GPT2Config,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    torch.manual_seed(0)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        ViTConfig(), GPT2Config(add_cross_attention=True)
    )
    end = config.decoder.eos_token_id
    config.decoder_start_token_id = config.pad_token_id = config.eos_token_id = end
    model = VisionEncoderDecoderModel(config).eval()
    model.generation_config.update(decoder_start_token_id=end, pad_token_id=end, eos_token_id=end)
    model.generation_config.update(max_length=17)
    model.save_pretrained(directory)
    vocabulary = {f"w{index}": index for index in range(config.decoder.vocab_size - 1)}
    library = Tokenizer(models.WordLevel({**vocabulary, "<|endoftext|>": end}, unk_token="w0"))
    library.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=library, eos_token="<|endoftext|>").save_pretrained(directory)
    ViTImageProcessor().save_pretrained(directory)
    return directory


def make_bundles(checkpoint: Path, directory: Path) -> dict[str, Path]:
    """Both bundles, as `kiloword import --quantize static` makes them.

    Random weights say nothing about the quality of int8, so that the gate asks for speed alone:
    ``--quantize static --min-agreement 0 --calibration examples/photos --pictures 2``. ``auto`` takes it,
    too, but where another program disturbs the race it may see a draw, which words of random weights decide.
    """
    wanted = {"kiloword fp32": directory / "fp32", "kiloword int8": directory / "int8"}
    if not all(path.is_dir() for path in wanted.values()):
        from kiloword.export.importing.bundle import Options, import_bundle
        from kiloword.export.quantized import QualityLimits, QuantizeOptions

        quantize = QuantizeOptions("static", limits=QualityLimits(min_equal_words=0))
        import_bundle(str(checkpoint), directory, Options(quantize, PHOTOS, pictures=2))
    return wanted


def make_optimum(checkpoint: Path, directory: Path) -> tuple[Path, Path]:
    """The environment of optimum, and what it makes of the checkpoint: the interpreter and a directory."""
    python, target = PEERS / "optimum" / "bin" / "python", directory / "optimum"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "optimum")], check=True)
        same = [f"{name}=={metadata.version(name).partition('+')[0]}" for name in ("torch", "onnxruntime")]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *OPTIMUM, *same], check=True)
    if not list(target.glob("*quantized.onnx")):
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(
            [str(python), str(WORKER), "prepare-optimum", str(checkpoint), str(target)], check=True
        )
    return python, target


def start(
    name: str,
    python: Path,
    kind: str,
    directory: Path,
    threads: int,
    worker: Path = WORKER,
    environment: Mapping[str, str] = os.environ,
) -> Contestant:
    """Start a worker and wait until it has loaded, from files that are in memory: disks do not compete."""
    _read_once(directory, LOADED.get(kind, "*"))
    variables = {**environment, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    process = subprocess.Popen(
        [str(python), str(worker), kind, str(directory), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    return Contestant(name, process, json.loads(_line(process, name)))


def _read_once(directory: Path, files: str) -> None:
    """Bring the files that a contestant loads into the system's cache."""
    for path in directory.glob(files):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def _line(process: subprocess.Popen[str], name: str) -> str:
    """The next line that is an answer; libraries print others."""
    if process.stdout is not None:
        for line in process.stdout:
            if line.startswith("{"):
                return line
    raise click.ClickException(f"{name} ended with {process.wait()}")


def measured_rows(
    contestants: list[Contestant], cases: Sequence[Case], rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Pin contestants that have loaded to as many processors as threads, let them take turns, end them."""
    # Only now, for a start may use all processors: kiloword hashes files beside what else it does.
    pin_to_cpus(threads)
    for one in contestants:
        os.sched_setaffinity(one.process.pid, os.sched_getaffinity(0))
    try:
        measure(contestants, cases, rounds)
    finally:
        for one in contestants:
            one.process.kill()
    return rows_of(contestants, cases)


def measure(contestants: list[Contestant], cases: Sequence[Case], rounds: int) -> None:
    """Let them take turns in every case; they warm up with some pictures, then once for each case."""
    shuffler = random.Random(0)
    for case in cases:
        warm_ups = math.ceil(WARM_UP_PICTURES / case[0]) if case == cases[0] else 1
        for seed in range(-warm_ups, rounds):
            for one in shuffler.sample(contestants, len(contestants)):
                answer = one.ask(*case, max(seed, -1) + 1)
                if seed >= 0:
                    one.times_ms.setdefault(case, []).append(answer["ms"] / case[0])
                    one.tokens.setdefault(case, []).extend(answer["tokens"])


def rows_of(contestants: list[Contestant], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One record for each contestant in each case; times are for one picture."""
    rows = []
    for case in cases:
        for one in contestants:
            others = [other for other in contestants if other is not one]
            rows.append(
                {
                    "variant": one.name,
                    "batch_size": case[0],
                    "num_beams": case[1],
                    "wall_ms": summarize(one.times_ms[case]),
                    "times_as_fast_as": {
                        other.name: _ratio(other.times_ms[case], one.times_ms[case]) for other in others
                    },
                    "same_captions_as": {
                        other.name: _agreement(other.tokens[case], one.tokens[case]) for other in others
                    },
                    **{name: round(value, 1) for name, value in one.loaded.items()},
                    "peak_rss_bytes": one.peak_rss_bytes[case],
                }
            )
    return rows


def _ratio(theirs: list[float], mine: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, mine, strict=True)), 2)


def _agreement(theirs: list[list[int]], mine: list[list[int]]) -> float:
    return round(statistics.fmean(a == b for a, b in zip(theirs, mine, strict=True)), 3)


def _recipe(bundle: Path) -> dict[str, Any]:
    """How int8 was made, and how fast it was in the gate."""
    spec = load_bundle(bundle).manifest.quantization
    if spec is None:
        raise click.ClickException(f"{bundle} does not say how it was quantized")
    return {"recipe": spec.recipe, "tried": {one.recipe: one.times_as_fast for one in spec.tried}}


def _versions_of_optimum(python: Path) -> dict[str, str]:
    """What its environment has."""
    names = ("optimum-onnx", "optimum", "transformers", "torch", "onnxruntime")
    code = f"from importlib import metadata\nfor name in {names}: print(name, metadata.version(name))"
    printed = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in printed.stdout.splitlines())


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=10, show_default=True, help="Calls of each contestant in each case.")
@click.option(
    "--case", "names", type=click.Choice(tuple(CASES)), multiple=True,
    help="Photos x beams; what --output has of the others stays.  [default: all]",
)  # fmt: skip
@click.option("--without-fp32", is_flag=True, help="Leave out kiloword fp32: 8 photos sooner.")
@click.option("--with-optimum", is_flag=True, help="Also optimum-onnx int8; installs it in build/peers.")
@click.option("--with-optimum-fp32", is_flag=True, help="Also what optimum-onnx exports, without its int8.")
@click.option("--with-draft", is_flag=True, help="Also int8 with guesses as often right as the package's.")
@click.option("--bundles", type=click.Path(path_type=Path), help="DIR/fp32 and DIR/int8 of this checkpoint.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    threads: int,
    rounds: int,
    names: tuple[str, ...],
    without_fp32: bool,
    with_optimum: bool,
    with_optimum_fp32: bool,
    with_draft: bool,
    bundles: Path | None,
    output: Path | None,
) -> None:
    """Measure milliseconds for a picture, load time and memory of an imported captioner and its peers."""
    checkpoint = make_checkpoint(WORK / "checkpoint")
    made = make_bundles(checkpoint, bundles or WORK / "bundles")
    peers = make_optimum(checkpoint, WORK) if with_optimum or with_optimum_fp32 else None
    int8 = _recipe(made["kiloword int8"])
    if without_fp32:
        del made["kiloword fp32"]
    here = Path(sys.executable)
    contestants = [start(name, here, "kiloword", path, threads) for name, path in made.items()]
    if with_draft:
        contestants.append(
            start("kiloword int8, draft", here, "kiloword-draft", made["kiloword int8"], threads)
        )
    contestants.append(start("transformers eager", here, "transformers", checkpoint, threads))
    rivals = (("optimum int8", "optimum", with_optimum), ("optimum fp32", "optimum-fp32", with_optimum_fp32))
    for name, kind, asked in rivals:
        if peers is not None and asked:
            contestants.append(start(name, peers[0], kind, peers[1], threads))
    cases = [CASES[name] for name in names or CASES]
    rows = measured_rows(contestants, cases, rounds, threads)
    for row in rows:
        ratios = ", ".join(f"{value:.2f}x {name}" for name, value in row["times_as_fast_as"].items())
        click.echo(
            f"batch {row['batch_size']}  beams {row['num_beams']}  {row['variant']:18} "
            f"{row['wall_ms']['median']:8.1f} ms  load and first encode "
            f"{row['load_and_first_encode_ms']:6.0f} ms  {row['peak_rss_bytes'] / 1e6:6.0f} MB  {ratios}"
        )
    told = {
        "threads": threads,
        "max_new_tokens": 16,
        "checkpoint": "ViT-B/16 + GPT-2 shape",
        "int8": int8,
        "optimum_versions": None if peers is None else _versions_of_optimum(peers[0]),
    }
    kept = _not_measured_again(output, rows)
    click.echo(f"wrote {write_result('imported', told, [*kept, *rows], output)}", err=True)


def _not_measured_again(output: Path | None, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an earlier run measured of the cases and contestants that this one leaves out."""
    path = output or result_path("imported")
    before = json.loads(path.read_text(encoding="utf-8"))["measurements"] if path.is_file() else []
    again = {_key(row) for row in rows}
    return [row for row in before if _key(row) not in again]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["variant"], row["batch_size"], row["num_beams"]


if __name__ == "__main__":
    main()
