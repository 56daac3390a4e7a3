"""A folder from end to end: how fast, in how much memory, how soon through when nothing is to be done.

Three measurements, each of `kiloword caption FOLDER -o FILE` in a process of its own:

- `rate`: photos a second, beside what single-thread times of reading, decoding and captioning allow on
  these processors, and beside a plain loop that decodes each photo fully and captions it, one by one. In
  turns over parts of the folder, because a shared machine changes its pace; the single threads run one on
  each processor at the same time, because processors share caches, memory and power.
- `memory`: resident memory while that runs, sampled; its level in the last quarter over that in the second.
- `nothing to do`: a run over many small photos whose journal knows them all.

Wall times mean something on a machine that does nothing else. The `cpu` columns hold up on a busy one:
processor time per photo of the pipeline beside that of its parts.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from benchmarks.folder_photos import SIZE_SMALL, make_photos
from benchmarks.machine import REPOSITORY, pin_to_cpus, write_result
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.captions import Caption
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.journal import Journal, journal_of, work_of
from kiloword.runtime.outputs import Outcome
from kiloword.runtime.reading import read_photo
from kiloword.runtime.threads import affinity_cpus, allowed_cpu_numbers

SAMPLE_S = 0.25
BATCH_SIZE = 8
OLD_NS = 1_600_000_000_000_000_000


@dataclass(frozen=True)
class Cost:
    """What a photo costs; seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Watched:
    """A process from start to end."""

    wall_s: float
    cpu_s: float
    rss_bytes: list[int]
    """Resident memory, sampled at equal times."""


def caption_folder(folder: Path, output: Path, bundle: Path | None) -> Watched:
    """Run the command and watch its memory.

    Raises:
        click.ClickException: It failed.
    """
    option = [] if bundle is None else ["--bundle", str(bundle)]
    command = [sys.executable, str(REPOSITORY / "cli.py"), "caption", str(folder), "-o", str(output), *option]
    began = time.perf_counter()
    child = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE)
    rss_bytes = []
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        rss_bytes.append(resident_bytes(child.pid))
        time.sleep(SAMPLE_S)
    wall_s = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise click.ClickException((child.stderr.read() if child.stderr else b"").decode(errors="replace"))
    return Watched(wall_s, usage.ru_utime + usage.ru_stime, [size for size in rss_bytes if size])


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where /proc does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return 1024 * sum(kilobytes)


def cost_of(work: Callable[[], object], photos: int) -> Cost:
    """Time some work in this thread."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - wall) / photos, (time.process_time() - cpu) / photos)


def single_thread_costs(photos: Sequence[str], bundle: Path | None) -> tuple[Cost, Cost]:
    """Reading and decoding a photo as the pipeline does, and captioning it in a batch; one thread each."""
    captioner = Captioner.load(bundle, provider="cpu", threads=1)
    spec = captioner.bundle.manifest.image
    pixels: list[Any] = []

    def decode() -> None:
        pixels.extend(read_photo(photo).decode(spec).pixels for photo in photos)

    decoding = cost_of(decode, len(photos))
    batches = [np.stack(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)]
    captioner.caption_pixels(batches[0])
    captioning = cost_of(lambda: [captioner.caption_pixels(batch) for batch in batches], len(photos))
    return decoding, captioning


def plain_loop(photos: Sequence[str], bundle: Path | None) -> Cost:
    """What one writes first: decode fully, resize, caption, next; the session has all threads."""
    captioner = Captioner.load(bundle, provider="cpu")

    def loop() -> None:
        for photo in photos:
            with Image.open(photo) as image:
                captioner.caption(np.asarray(image.convert("RGB")))

    captioner.caption(photos[0])
    return cost_of(loop, len(photos))


def _measure_parts(cpu: int, photos: Sequence[str], bundle: Path | None, ready: Any, found: Any) -> None:
    """In a process of its own on one processor: what decoding and captioning take there."""
    os.sched_setaffinity(0, {cpu})
    single_thread_costs(photos[:BATCH_SIZE], bundle)  # to warm up
    ready.wait()
    found.put(single_thread_costs(photos, bundle))


def costs_on_each(photos: Sequence[str], bundle: Path | None) -> list[tuple[Cost, Cost]]:
    """Single-thread costs of decoding and captioning on every processor, all at the same time."""
    context, cpus = multiprocessing.get_context("spawn"), allowed_cpu_numbers()
    ready, found = context.Barrier(len(cpus)), context.Queue()
    processes = [
        context.Process(target=_measure_parts, args=(cpu, photos[at :: len(cpus)], bundle, ready, found))
        for at, cpu in enumerate(cpus)
    ]
    for process in processes:
        process.start()
    costs = [found.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return costs


def output_beside(folder: Path) -> Path:
    """Where a folder's captions go; what an earlier run left there is gone, its journal, too."""
    output = folder.parent / f"{folder.name}.jsonl"
    for path in (output, Path(journal_of(str(output)))):
        path.unlink(missing_ok=True)
    return output


def rate_round(
    folder: Path, photos: Sequence[str], sample: int, plain: int, bundle: Path | None
) -> dict[str, float]:
    """The parts, the whole, and the plain loop, over the same photos."""
    links = folder.parent / f"{folder.name}-part"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for photo in photos:
        os.link(photo, links / Path(photo).name)
    output = output_beside(links)
    some = photos[:: max(1, len(photos) // sample)][:sample]
    before = costs_on_each(some, bundle)
    whole = caption_folder(links, output, bundle)
    costs = before + costs_on_each(some, bundle)
    loop = plain_loop(some[:plain], bundle)
    shutil.rmtree(links)
    decode, caption = (statistics.mean(pair[at].wall_s for pair in costs) for at in (0, 1))
    # Each processor was measured twice: before the whole and after it.
    allowed = sum(1 / (decoding.wall_s + captioning.wall_s) for decoding, captioning in costs) / 2
    rate = len(photos) / whole.wall_s
    return {
        "decode_ms": 1e3 * decode,
        "caption_ms": 1e3 * caption,
        "photos_per_s": rate,
        "allowed_per_s": allowed,
        "share_of_allowed": rate / allowed,
        "plain_loop_per_s": 1 / loop.wall_s,
        "times_plain_loop": rate * loop.wall_s,
        "cpu_ms_per_photo": 1e3 * whole.cpu_s / len(photos),
        "parts_cpu_ms_per_photo": 1e3
        * statistics.mean(decoding.cpu_s + captioning.cpu_s for decoding, captioning in costs),
        "processors_busy": whole.cpu_s / whole.wall_s,
    }


def rate_row(
    folder: Path, rounds: int, sample: int, plain: int, bundle: Path | None, cpus: int
) -> dict[str, Any]:
    """Medians over rounds; each takes its own part of the folder, the start of the process included."""
    photos = [str(photo) for photo in expand_paths([str(folder)])]
    found = [rate_round(folder, photos[at::rounds], sample, plain, bundle) for at in range(rounds)]
    return {
        "measurement": "rate",
        "photos": len(photos),
        "rounds": rounds,
        "bytes_per_photo": sum(os.path.getsize(photo) for photo in photos[:sample]) // sample,
        "processors": cpus,
        **{name: round(statistics.median(one[name] for one in found), 3) for name in found[0]},
        "shares_of_allowed": [round(one["share_of_allowed"], 3) for one in found],
    }


def whole_folder_row(folder: Path, bundle: Path | None) -> dict[str, Any]:
    """All of the folder in one run, for its memory."""
    output = output_beside(folder)
    whole = caption_folder(folder, output, bundle)
    return {**memory_row(whole.rss_bytes), "wall_s": round(whole.wall_s, 1)}


def memory_row(rss_bytes: Sequence[int]) -> dict[str, Any]:
    """Peak, and the mean of the last quarter over that of the second."""
    quarter = max(1, len(rss_bytes) // 4)
    second = statistics.mean(rss_bytes[quarter : 2 * quarter] or rss_bytes)
    last = statistics.mean(rss_bytes[-quarter:])
    return {
        "measurement": "memory",
        "samples": len(rss_bytes),
        "peak_rss_bytes": max(rss_bytes),
        "second_quarter_bytes": round(second),
        "last_quarter_bytes": round(last),
        "last_over_second": round(last / second, 4),
    }


def nothing_to_do_row(folder: Path, count: int, bundle: Path | None) -> dict[str, Any]:
    """Journal many small photos, with captions that no model made, and run the command twice.

    The first run writes the output; the second one has nothing to do at all.
    """
    make_photos(folder, count, SIZE_SMALL)
    output = output_beside(folder)
    journal_folder(folder, output, bundle)
    caption_folder(folder, output, bundle)
    second = caption_folder(folder, output, bundle)
    lines = sum(1 for _ in output.open("rb"))
    if lines != count:
        raise click.ClickException(f"{lines} lines of output for {count} photos")
    return {
        "measurement": "nothing to do",
        "photos": count,
        "wall_s": round(second.wall_s, 2),
        "cpu_s": round(second.cpu_s, 2),
        "peak_rss_bytes": max(second.rss_bytes),
    }


def journal_folder(folder: Path, output: Path, bundle: Path | None) -> None:
    """Record a caption for each photo, as a run does."""
    with (
        Captioner.load(bundle, provider="cpu", threads=1) as captioner,
        Journal(journal_of(str(output))) as journal,
    ):
        manifest = captioner.bundle.manifest
        journal.begin_run(work_of(manifest, captioner.settings_that_count()))
        for number, path in zip(itertools.count(), expand_paths([str(folder)])):
            os.utime(str(path), ns=(OLD_NS, OLD_NS))
            photo = read_photo(str(path))
            if photo.stat is None:
                raise click.ClickException(f"{path} is no ordinary file")
            caption = Caption(f"a photo with the number {number}", 0.5, (), (), 1.0, manifest.name)
            journal.record_file(photo.path, photo.stat, photo.content)
            journal.record_outcome(photo.content, Outcome(caption))
        journal.commit()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=2000, show_default=True, help="12-megapixel photos; made where missing.")
@click.option("--small", default=100_000, show_default=True, help="Small photos of the run without work.")
@click.option("--sample", default=64, show_default=True, help="Photos to take single-thread times of.")
@click.option("--plain", default=24, show_default=True, help="Photos of the plain loop.")
@click.option(
    "--rounds", default=4, show_default=True, help="Parts of the folder that are measured by turns."
)
@click.option("--cpus", type=int, help="Keep everything on this many processors.")
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    folder: Path,
    count: int,
    small: int,
    sample: int,
    plain: int,
    rounds: int,
    cpus: int | None,
    bundle: Path | None,
    output: Path | None,
) -> None:
    """Measure runs over folders; photos are made in FOLDER, which takes 3 MB for each large one."""
    if cpus is not None:
        pin_to_cpus(cpus)
    rows: list[dict[str, Any]] = []
    if count:
        make_photos(folder / "large", count)
        rows.append(rate_row(folder / "large", rounds, sample, plain, bundle, affinity_cpus()))
        rows.append(whole_folder_row(folder / "large", bundle))
    if small:
        rows.append(nothing_to_do_row(folder / "small", small, bundle))
    for row in rows:
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    settings = {
        "count": count,
        "small": small,
        "sample": sample,
        "plain": plain,
        "rounds": rounds,
        "cpus": cpus,
    }
    click.echo(f"wrote {write_result('folder', settings, rows, output)}", err=True)


if __name__ == "__main__":
    main()
