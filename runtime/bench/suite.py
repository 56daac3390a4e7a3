"""All of `kiloword bench`, one measurement after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from kiloword.runtime.bench.folder import FolderBench, measure_folder
from kiloword.runtime.bench.photo import PhotoBench, measure_photo
from kiloword.runtime.bench.pictures import pixels_of
from kiloword.runtime.bench.processes import Together, measure_processes
from kiloword.runtime.bench.starts import Start, measure_starts, programs
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.footprint import own_peak_rss_bytes
from kiloword.runtime.machine import Processor, processor
from kiloword.runtime.threads import allowed_cpu_numbers, powers_of_two


@dataclass(frozen=True)
class Effort:
    """How much is measured; more is steadier and takes longer."""

    photo_rounds: int = 30
    process_rounds: int = 5
    folder_photos: int = 16
    folder_rounds: int = 3
    starts: int = 5


QUICK = Effort(photo_rounds=9, process_rounds=3, folder_photos=8, folder_rounds=1, starts=2)


@dataclass(frozen=True)
class Bench:
    """What was measured."""

    bundle: str
    precision: str
    bundle_bytes: int
    processor: Processor
    cpus: int
    """How many this process may use; threads were kept on as many as they are."""
    photo: PhotoBench
    processes: tuple[Together, ...]
    folder: FolderBench
    starts: tuple[Start, ...]
    peak_rss_bytes: int | None
    """Of this process with all its sessions."""


def run_bench(
    bundle: str | PathLike[str] | None,
    photos: Sequence[str],
    threads: int | None,
    effort: Effort,
    say: Callable[[str], None],
) -> Bench:
    """Measure this machine with a bundle.

    Args:
        bundle: Its directory; None for the one in the package.
        photos: Photos to caption; none for made pictures.
        threads: Most threads and processes; None for all processors that this process may use.
        effort: How much is measured.
        say: Gets a few words before each part.

    Raises:
        BundleError: The bundle is missing or damaged.
        ImageError: A photo cannot be read.
    """
    checked = load_bundle(bundle)
    directory = None if bundle is None else Path(bundle)
    cpus = allowed_cpu_numbers()[:threads]
    pixels = pixels_of(photos, checked.manifest.image)
    say("one photo")
    photo = measure_photo(checked, pixels, powers_of_two(len(cpus)), effort.photo_rounds)
    say("several processes")
    processes = measure_processes(directory, cpus, effort.process_rounds)
    say("a folder")
    folder = measure_folder(directory, photos, len(cpus), effort.folder_photos, effort.folder_rounds)
    say("cold starts")
    starts = _starts(photos, directory, effort.starts)
    return Bench(
        bundle=checked.name,
        precision=checked.manifest.precision,
        bundle_bytes=checked.size_bytes,
        processor=processor(),
        cpus=len(cpus),
        photo=photo,
        processes=tuple(processes),
        folder=folder,
        starts=tuple(starts),
        peak_rss_bytes=own_peak_rss_bytes(),
    )


def _starts(photos: Sequence[str], bundle: Path | None, runs: int) -> list[Start]:
    with tempfile.TemporaryDirectory() as folder:
        photo = photos[0] if photos else _made_photo(Path(folder))
        commands = programs(str(Path(photo).resolve()), None if bundle is None else bundle.resolve())
        return measure_starts(commands, runs, cold=False) + measure_starts(commands, runs, cold=True)


def _made_photo(folder: Path) -> str:
    from PIL import Image

    from kiloword.runtime.provider_trial import made_picture

    path = folder / "made.jpg"
    Image.fromarray(made_picture(480, 640)).save(path)
    return str(path)
