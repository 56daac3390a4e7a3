"""The promises of `kiloword webcam`, measured on made videos: age, cuts, stillness, a film at its own time.

Each case is `kiloword webcam --headless` in a process of its own, on as many processors as are stated. A
recorded video plays at its own rate there, and a frame counts as captured when it was due; whatever comes
later, decoding included, makes its caption older.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.machine import REPOSITORY, pin_to_cpus, quantile, shown_path, summarize, write_result

Picture = NDArray[np.uint8]

PHOTOS = REPOSITORY / "examples" / "photos"
WIDTH, HEIGHT, FPS = 640, 480, 30
MARGIN = 160  # how far a view can move over a photo
SECONDS_PER_PHOTO = 4.0
SECONDS_PER_CUT = 1.5
FAST_FPS = 120
NOISE_LEVELS = 2.0  # standard deviation, as of a camera in a lit room
SAMPLE_S = 0.25
SETTLED_S = 5.0  # what starting costs is over by then
MEDIAN_AGE_MS, P95_AGE_MS, CUT_MS, IDLE_CORES = 120.0, 250.0, 200.0, 0.10


@dataclass
class Run:
    """What one process said, and what it took."""

    captions: list[dict[str, Any]] = field(default_factory=list)
    """Lines of JSONL."""
    said: str = ""
    """What came on stderr."""
    wall_s: float = 0.0
    """From its start to its end."""
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    """Seconds since the start, processor seconds since the start, resident bytes."""

    @property
    def ages_ms(self) -> list[float]:
        """Capture to caption. The first caption is left out: it waits for the first use of the model."""
        return [line["age_ms"] for line in self.captions[1:]]

    def settled(self) -> list[tuple[float, float, int]]:
        """The samples after the start and before the end."""
        return [sample for sample in self.samples if sample[0] >= SETTLED_S]


def webcam(options: Sequence[str]) -> Run:
    """Run the command to its end, and watch it meanwhile in /proc, which only Linux has."""
    command = [sys.executable, "-m", "kiloword.cli", "webcam", "--headless", "--format", "jsonl", *options]
    run, started = Run(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    watcher = threading.Thread(target=_watch, args=(process, started, run.samples))
    watcher.start()
    stdout, run.said = process.communicate()
    run.wall_s = time.monotonic() - started
    watcher.join()
    if process.returncode:
        raise click.ClickException(f"{' '.join(options)}: {run.said.strip()}")
    run.captions = [json.loads(line) for line in stdout.splitlines()]
    return run


def _watch(process: subprocess.Popen[str], started: float, samples: list[tuple[float, float, int]]) -> None:
    clock = os.sysconf("SC_CLK_TCK")
    page = os.sysconf("SC_PAGE_SIZE")
    proc = Path("/proc") / str(process.pid)
    while process.poll() is None:
        try:
            fields = (proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            pages = (proc / "statm").read_text(encoding="utf-8").split()
        except OSError:  # it has ended meanwhile
            return
        cpu_s = (int(fields[11]) + int(fields[12])) / clock  # utime and stime: proc(5), fields 14 and 15
        samples.append((time.monotonic() - started, cpu_s, int(pages[1]) * page))
        time.sleep(SAMPLE_S)


def views() -> list[Picture]:
    """The repository's photos, larger than a frame by the margin: uint8 (height, width, 3), red first."""
    size = (WIDTH + MARGIN, HEIGHT + MARGIN)
    return [
        np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), size))
        for path in sorted(PHOTOS.glob("*.jpg"))
    ]


def moving(photos: Sequence[Picture], seconds: float, fps: int) -> Iterator[Picture]:
    """A view that wanders over one photo after the other; each comes with a cut."""
    for number in range(round(seconds * fps)):
        at_s = number / fps
        photo = photos[int(at_s / SECONDS_PER_PHOTO) % len(photos)]
        share = at_s % SECONDS_PER_PHOTO / SECONDS_PER_PHOTO
        left, top = round(share * MARGIN), round((1 - share) * MARGIN)
        yield photo[top : top + HEIGHT, left : left + WIDTH]


def cutting(photos: Sequence[Picture], seconds: float, fps: int) -> Iterator[Picture]:
    """Photos that stand still, one after the other."""
    for number in range(round(seconds * fps)):
        photo = photos[int(number / fps / SECONDS_PER_CUT) % len(photos)]
        yield photo[:HEIGHT, :WIDTH]


def still(photos: Sequence[Picture], seconds: float, fps: int) -> Iterator[Picture]:
    """One photo with a sensor's noise."""
    rng = np.random.default_rng(0)
    for _ in range(round(seconds * fps)):
        noise = rng.normal(0.0, NOISE_LEVELS, (HEIGHT, WIDTH, 1))
        noisy: Picture = np.clip(photos[0][:HEIGHT, :WIDTH] + noise, 0, 255).astype(np.uint8)
        yield noisy


def write_video(path: Path, frames: Iterator[Picture], fps: int) -> str:
    """Write frames as an MPEG-4 video; returns its path."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise click.ClickException("this OpenCV writes no MPEG-4 videos")
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return str(path)


def measure_age(video: str, options: Sequence[str], name: str) -> dict[str, Any]:
    """How old captions are, and whether that or the memory grows over the run."""
    run = webcam(["--source", video, *options])
    ages = run.ages_ms
    third = max(1, len(ages) // 3)
    memory = [rss for _, _, rss in run.settled()]
    quarter = max(1, len(memory) // 4)
    age = summarize(ages)
    return {
        "case": name,
        "age_ms": age,
        "longest_age_ms": max(ages),
        "median_age_first_third_ms": round(quantile(sorted(ages[:third]), 0.5), 1),
        "median_age_last_third_ms": round(quantile(sorted(ages[-third:]), 0.5), 1),
        "rss_first_quarter_bytes": max(memory[:quarter], default=0),
        "rss_last_quarter_bytes": max(memory[-quarter:], default=0),
        "summary": run.said.strip(),
        "met": age["median"] <= MEDIAN_AGE_MS and age["p95"] <= P95_AGE_MS,
    }


def measure_cuts(video: str, options: Sequence[str], seconds: float) -> dict[str, Any]:
    """From each cut to the first caption of what came after it."""
    run = webcam(["--source", video, *options])
    cuts = [number * SECONDS_PER_CUT for number in range(1, round(seconds / SECONDS_PER_CUT))]
    delays = [delay for cut in cuts if (delay := _delay_ms(run.captions, cut)) is not None]
    if not delays:
        raise click.ClickException("no cut got a caption")
    return {
        "case": "cut",
        "cuts": len(cuts),
        "cuts_captioned": len(delays),
        "cut_to_caption_ms": summarize(delays),
        "longest_ms": round(max(delays), 1),
        "met": len(delays) == len(cuts) and max(delays) <= CUT_MS,
    }


def _delay_ms(captions: Sequence[dict[str, Any]], cut_s: float) -> float | None:
    """Until the first caption of a frame of this scene; None if there is none."""
    for line in captions:
        since_s = float(line["video_s"]) - cut_s
        if -1e-3 <= since_s < SECONDS_PER_CUT - 1e-3:
            return 1000.0 * since_s + float(line["age_ms"])
    return None


def measure_still(video: str, options: Sequence[str]) -> dict[str, Any]:
    """Captions of a scene in which nothing changes, and what it costs to look at it."""
    run = webcam(["--source", video, *options])
    settled = run.settled()
    (first_s, first_cpu_s, _), (last_s, last_cpu_s, _) = settled[0], settled[-1]
    cores = (last_cpu_s - first_cpu_s) / (last_s - first_s)
    return {
        "case": "still",
        "captions": len(run.captions),
        "processor_share_of_one_core": round(cores, 4),
        "over_s": round(last_s - first_s, 1),
        "met": len(run.captions) == 1 and cores < IDLE_CORES,
    }


def measure_film(video: str, options: Sequence[str], seconds: float, folder: Path) -> dict[str, Any]:
    """A film into subtitles, its process's start included."""
    subtitles = folder / "film.srt"
    run = webcam(["--source", video, "--every", "1s", "--record", str(subtitles), *options])
    return {
        "case": "film at its own time, --every 1s",
        "video_s": seconds,
        "wall_s": round(run.wall_s, 2),
        "times_real_time": round(seconds / run.wall_s, 1),
        "captions": len(run.captions),
        "cues": subtitles.read_text(encoding="utf-8").count("-->"),
        "met": run.wall_s < seconds,
    }


def measure(
    folder: Path, options: Sequence[str], seconds: float, still_seconds: float
) -> Iterator[dict[str, Any]]:
    """All cases, one after the other."""
    photos = views()

    def video(
        name: str, make: Callable[[Sequence[Picture], float, int], Iterator[Picture]], length: float, fps: int
    ) -> str:
        return write_video(folder / f"{name}.mp4", make(photos, length, fps), fps)

    walk = video("moving", moving, seconds, FPS)
    yield measure_age(walk, options, f"{FPS} frames a second")
    fast = video("fast", moving, seconds / 4, FAST_FPS)
    yield measure_age(
        fast, [*options, "--max-fps", "1000"], f"{FAST_FPS} frames a second, captions without a bound"
    )
    yield measure_cuts(video("cuts", cutting, seconds / 2, FPS), options, seconds / 2)
    yield measure_still(video("still", still, still_seconds, FPS), options)
    yield measure_film(walk, options, seconds, folder)


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--seconds", default=60.0, show_default=True, help="Length of the longest video.")
@click.option("--still-seconds", default=30.0, show_default=True, help="Length of the still scene.")
@click.option("--threads", type=int, help="Threads of the model.  [default: all that are allowed]")
@click.option("--cpus", default=2, show_default=True, help="Keep everything on this many processors.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundle: Path | None,
    seconds: float,
    still_seconds: float,
    threads: int | None,
    cpus: int,
    output: Path | None,
) -> None:
    """Measure what `kiloword webcam` promises; ends with 1 if a promise is not kept."""
    if not Path("/proc/self/statm").exists():
        raise click.ClickException("memory and processor time are read from /proc, which is not here")
    pin_to_cpus(cpus)
    options = [] if threads is None else ["--threads", str(threads)]
    options += [] if bundle is None else ["--bundle", str(bundle)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), options, seconds, still_seconds):
            rows.append(row)
            click.echo(f"{'kept  ' if row['met'] else 'BROKEN'} {json.dumps(row)}")
    settings = {
        "seconds": seconds,
        "still_seconds": still_seconds,
        "threads": threads,
        "cpus": cpus,
        "frame": [WIDTH, HEIGHT],
        "num_beams": 1,
        "bundle": None if bundle is None else shown_path(bundle),
        "asked": {
            "median_age_ms": MEDIAN_AGE_MS,
            "p95_age_ms": P95_AGE_MS,
            "cut_to_caption_ms": CUT_MS,
            "still_share_of_one_core": IDLE_CORES,
        },
    }
    click.echo(f"wrote {write_result('webcam', settings, rows, output)}", err=True)
    if not all(row["met"] for row in rows):
        raise click.ClickException("not every promise is kept")


if __name__ == "__main__":
    main()
