"""Are this machine and this installation fit to caption, and how best? What `kiloword doctor` finds out.

Nothing is guessed: the bundle's files are hashed, a picture is captioned, every provider that onnxruntime
names is loaded, 200 captions are written while memory is watched, and thread counts, batch sizes and the
variants that lie beside the bundle are timed in turns.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.bench.timing import summarize, take_turns
from kiloword.runtime.captioner import Captioner
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.machine import Processor, memory_bytes, memory_limit_bytes, processor
from kiloword.runtime.provider_trial import made_picture, made_pictures, try_provider
from kiloword.runtime.providers import PROVIDERS, available_providers
from kiloword.runtime.threads import affinity_cpus, cgroup_quota, default_threads, powers_of_two
from kiloword.runtime.variants import VariantTrial, try_variants

PACKAGES = ("kiloword", "onnxruntime", "numpy", "pillow", "tokenizers")
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")

LEAK_CAPTIONS = 200
LEAK_BYTES = 24 << 20
"""Growth over 200 captions above which memory leaks; healthy ones grow by less than 3 MB."""
_LEAK_WARM_UP = 20
_LEAK_TOKENS = 6
_LEAK_SECONDS = 60.0
"""A bundle of half a gigabyte writes 200 captions in less on one core; slower ones are watched over fewer."""
_TUNING_SECONDS = 8.0
_ROUNDS = 5
_BATCH_SIZES = (1, 4, 8)


@dataclass(frozen=True)
class Cores:
    """Processors, and how many of them are for this process."""

    online: int
    affinity: int
    """Allowed by the affinity mask."""
    cgroup_quota: float | None
    """Allowed by the control group, as in containers; null: no limit."""
    threads: int
    """What kiloword takes when nobody says how many."""


@dataclass(frozen=True)
class Memory:
    """Bytes; null where the system does not tell."""

    total: int | None
    available: int | None
    cgroup_limit: int | None
    """Null: no limit."""


@dataclass(frozen=True)
class ProviderFacts:
    """One execution provider."""

    name: str
    there: bool
    """In this onnxruntime."""
    loads: bool
    same_caption: bool | None
    """As on the processor, of a made picture; null where it does not load."""
    note: str
    """The package that brings it, or why it does not load."""


@dataclass(frozen=True)
class BundleHealth:
    """What was found out about the bundle."""

    directory: str
    name: str
    precision: str
    bytes: int
    checked_providers: tuple[str, ...]
    load_ms: float
    """Hashes, graphs and tokenizer."""
    caption: str
    """Of a made picture."""
    caption_ms: float


@dataclass(frozen=True)
class LeakCheck:
    """Memory while captions were written."""

    captions: int
    growth_bytes: int | None
    """Between the first after warming up and the last; null where the system does not tell."""

    @property
    def leaks(self) -> bool:
        """Whether it grew as no cache does."""
        allowed = LEAK_BYTES * max(self.captions, 1) / LEAK_CAPTIONS
        return self.growth_bytes is not None and self.growth_bytes > max(allowed, LEAK_BYTES / 4)


@dataclass(frozen=True)
class Speed:
    """One setting."""

    threads: int
    batch_size: int
    ms_per_photo: float
    """Median, greedy, from pixels to text."""


@dataclass(frozen=True)
class Tuning:
    """What was timed, and what is best here."""

    measured: tuple[Speed, ...]
    one_photo: Speed
    """Soonest answer."""
    many_photos: Speed
    """Most photos in an hour; the smallest batch within 3 % of the best."""


@dataclass(frozen=True)
class Diagnosis:
    """The whole page."""

    system: str
    processor: Processor
    cores: Cores
    memory: Memory
    versions: dict[str, str]
    providers: tuple[ProviderFacts, ...] = ()
    bundle: BundleHealth | None = None
    leak: LeakCheck | None = None
    tuning: Tuning | None = None
    variants: VariantTrial | None = None
    problems: tuple[str, ...] = field(default=())
    """One sentence for each thing that must be mended; empty: healthy."""


def diagnose(bundle: str | PathLike[str] | None, say: Callable[[str], None]) -> Diagnosis:
    """Find out all of it; takes some 20 seconds, for a large bundle up to two minutes.

    Where the bundle is broken, the one in the package tells whether providers load and memory stays.

    Args:
        bundle: Directory of the bundle; None for the one in the package.
        say: Called with what is being done.
    """
    problems = _twice_installed()
    facts = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": _cores(),
        "memory": Memory(*memory_bytes(), memory_limit_bytes()),
        "versions": _versions(),
    }
    say("bundle")
    found = _bundle_health(bundle, problems)
    tried = _bundle_health(None, problems) if found is None and bundle is not None else found
    if tried is None:
        return Diagnosis(**facts, problems=tuple(problems))  # type: ignore[arg-type]
    directory, tokens = Path(tried[0].directory), tried[1]
    say("providers")
    providers = tuple(_provider_facts(directory, name, tokens) for name in PROVIDERS)
    problems += [
        f"provider {one.name} writes another caption than the processor"
        for one in providers
        if one.same_caption is False
    ]
    say(f"memory over {LEAK_CAPTIONS} captions")
    leak = check_leak(directory)
    if leak.leaks:
        problems.append(
            f"memory grew by {(leak.growth_bytes or 0) / 1e6:.0f} MB over {leak.captions} captions: "
            "another version of onnxruntime may help"
        )
    if found is None:
        return Diagnosis(**facts, providers=providers, leak=leak, problems=tuple(problems))  # type: ignore[arg-type]
    say("threads and batch sizes")
    tuning = tune(directory)
    say("recipes")
    variants = try_variants(directory, tuning.one_photo.threads)
    return Diagnosis(
        **facts,  # type: ignore[arg-type]
        providers=providers,
        bundle=found[0],
        leak=leak,
        tuning=tuning,
        variants=variants,
        problems=tuple(problems),
    )


def _cores() -> Cores:
    return Cores(os.cpu_count() or 1, affinity_cpus(), cgroup_quota(), default_threads())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in dict.fromkeys((*PACKAGES, *_ONNXRUNTIMES)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if "kiloword" not in found:  # a checkout on the path
        from kiloword import __version__

        found["kiloword"] = __version__
    return found


def _twice_installed() -> list[str]:
    """Two packages that bring onnxruntime overwrite each other's files, and perhaps neither works."""
    present = [name for name in _ONNXRUNTIMES if name in _versions()]
    if len(present) < 2:
        return []
    return [f"{' and '.join(present)} are both installed and overwrite each other: keep one"]


def _bundle_health(
    bundle: str | PathLike[str] | None, problems: list[str]
) -> tuple[BundleHealth, tuple[int, ...]] | None:
    """Hashes, graphs, and a caption; and its tokens when searched greedily. None with one more problem."""
    try:
        return _tried(bundle)
    except KilowordError as error:
        problems.append(str(error))
        return None


def _tried(bundle: str | PathLike[str] | None) -> tuple[BundleHealth, tuple[int, ...]]:
    started = time.perf_counter()
    with Captioner.load(bundle, provider="cpu") as captioner:
        load_ms = 1000 * (time.perf_counter() - started)
        checked = captioner.bundle
        image = checked.manifest.image
        picture = made_picture(image.height, image.width)[None]
        (caption,) = captioner.caption_pixels(picture)
        (greedy,) = captioner.caption_pixels(picture, num_beams=1)
    health = BundleHealth(
        directory=str(checked.directory),
        name=checked.name,
        precision=checked.manifest.precision,
        bytes=checked.size_bytes,
        checked_providers=checked.manifest.checked_providers,
        load_ms=round(load_ms, 1),
        caption=caption.text,
        caption_ms=round(caption.latency_ms, 1),
    )
    return health, greedy.token_ids


def _provider_facts(bundle: Path, name: str, tokens: tuple[int, ...]) -> ProviderFacts:
    if name not in available_providers():
        return ProviderFacts(name, False, False, None, f"comes with {PROVIDERS[name].package}")
    if name == "cpu":  # it has just captioned
        return ProviderFacts(name, True, True, True, "")
    trial = try_provider(bundle, name)
    if not trial.loads:
        return ProviderFacts(name, True, False, None, trial.problem)
    # A device adds in another order, which may tip a late word; a wrong kernel tips the first ones.
    return ProviderFacts(name, True, True, trial.token_ids[:3] == tokens[:3], "")


def check_leak(bundle: Path, captions: int = LEAK_CAPTIONS) -> LeakCheck:
    """Write captions and watch how much memory this process holds.

    Args:
        bundle: Its directory.
        captions: How many; fewer where they take more than a minute together.
    """
    with Captioner.load(bundle, provider="cpu") as captioner:
        pictures = _pictures(captioner, 4)
        for index in range(_LEAK_WARM_UP):
            captioner.caption_pixels(pictures[index % 4][None], num_beams=1, max_new_tokens=_LEAK_TOKENS)
        gc.collect()
        before, started, written = resident_bytes(), time.perf_counter(), 0
        while written < captions and time.perf_counter() - started < _LEAK_SECONDS:
            captioner.caption_pixels(pictures[written % 4][None], num_beams=1, max_new_tokens=_LEAK_TOKENS)
            written += 1
        gc.collect()
        after = resident_bytes()
    return LeakCheck(written, None if before is None or after is None else after - before)


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pictures(captioner: Captioner, count: int) -> NDArray[np.uint8]:
    image = captioner.bundle.manifest.image
    return made_pictures(image.height, image.width, count)


def tune(bundle: Path, most_threads: int | None = None) -> Tuning:
    """Time thread counts and batch sizes in turns.

    Args:
        bundle: Its directory.
        most_threads: The largest count to try; None for what kiloword takes by itself.
    """
    counts = powers_of_two(default_threads() if most_threads is None else most_threads)
    captioners = {count: Captioner.load(bundle, provider="cpu", threads=count) for count in counts}
    pictures = _pictures(next(iter(captioners.values())), max(_BATCH_SIZES))
    settings = {
        (count, size): partial(_caption_once, captioners[count], pictures[:size])
        for count in counts
        for size in _BATCH_SIZES
    }
    taken = take_turns(settings, _ROUNDS, warm_up=0, seconds=_TUNING_SECONDS)
    for captioner in captioners.values():
        captioner.close()
    # The first round warms up, and counts only where there is no time for a second.
    speeds = [
        Speed(*setting, round(summarize(samples[1:] or samples).median, 2))
        for setting, samples in taken.items()
    ]
    return Tuning(tuple(speeds), _soonest(speeds), _most(speeds))


def _caption_once(captioner: Captioner, pictures: NDArray[np.uint8], _turn: int) -> float:
    captioner.caption_pixels(pictures, num_beams=1)
    return len(pictures)


def _soonest(speeds: Sequence[Speed]) -> Speed:
    return _cheapest([one for one in speeds if one.batch_size == 1])


def _most(speeds: Sequence[Speed]) -> Speed:
    return _cheapest(speeds)


def _cheapest(speeds: Sequence[Speed]) -> Speed:
    """The fastest; among those within 3 %, the one with the fewest threads and the smallest batch."""
    best = min(one.ms_per_photo for one in speeds)
    near = [one for one in speeds if one.ms_per_photo <= 1.03 * best]
    return min(near, key=lambda one: (one.threads, one.batch_size))
