"""`kiloword bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kiloword.commands.common import (
    as_json_text,
    as_written,
    bundle_option,
    open_output,
    output_option,
    verbose_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kiloword.runtime.bench.floor import Floor, GraphWork
    from kiloword.runtime.bench.photo import PhotoBench
    from kiloword.runtime.bench.processes import Together
    from kiloword.runtime.bench.suite import Bench

_LABEL_WIDTH = 13


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword bench --quick",
        "  kiloword bench holidays/a.jpg holidays/b.jpg --json -o bench.json",
    )
)
@click.argument("photos", nargs=-1, type=click.Path(exists=True, dir_okay=False), metavar="[PHOTO...]")
@bundle_option
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N",
    help="Most threads, and most processes.  [default: what this process may use]",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="A few rounds of each instead of some dozens.")
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON.")
@output_option("Write to this file instead.")
@verbose_option
def bench(
    photos: tuple[str, ...],
    bundle: str | None,
    threads: int | None,
    quick: bool,
    as_json: bool,
    output: str | None,
) -> None:
    """Measure how fast this machine captions, and how fast it could.

    One photo with 1, 2, ... threads, several processes at once, a folder of photos of 12 megapixels, and
    fresh processes. What this processor reaches in products of floats and of bytes and in reading memory is
    measured, too; from that and the graphs' own operators follows the least time, the floor. What is compared
    takes turns. Without PHOTO, made pictures are captioned. Takes a minute, 20 seconds with --quick.
    """
    from dataclasses import asdict

    from kiloword.runtime.bench.suite import QUICK, Effort, run_bench

    effort = QUICK if quick else Effort()
    with open_output(output) as stream:  # where it cannot be written, that is said at once
        found = run_bench(
            bundle, photos, threads, effort, lambda text: click.echo(f"measuring: {text} ...", err=True)
        )
        stream.write(as_json_text(asdict(found)) if as_json else "\n".join(page(found)) + "\n")


def page(found: Bench) -> Iterator[str]:
    """The figures for people, line by line."""
    instructions = ", ".join(found.processor.instructions) or "no instructions for bytes that we know of"
    yield _line("processor", f"{found.processor.name}, {found.cpus} allowed; {instructions}")
    yield _line("bundle", f"{found.bundle} ({found.precision}, {found.bundle_bytes / 1e6:.1f} MB)")
    yield from _photo(found.photo)
    yield from _processes(found.processes)
    folder = found.folder
    yield _line(
        "a folder",
        f"{folder.photos_per_s:.1f} photos/s of 12 megapixels, {folder.share_of_allowed:.0%} of what "
        f"decoding ({folder.decode_ms:.1f} ms) and captioning ({folder.caption_ms:.1f} ms) allow",
    )
    yield _line("starts", f"{'':34}{'warm':>9}{'cold':>9}{'memory':>9}")
    cold = {one.program: one for one in found.starts if one.cache == "cold"}
    for start in found.starts:
        if start.cache == "warm":
            other = cold[start.program].ms.median
            memory = f"{start.peak_rss_bytes / 1e6:.0f} MB"
            yield _line("", f"{start.program:34}{start.ms.median:>6.0f} ms{other:>6.0f} ms{memory:>9}")


def _processes(listed: tuple[Together, ...]) -> Iterator[str]:
    for at, one in enumerate(listed):
        who = f"{one.processes} process{'es' if at else ''} of one thread, greedy"
        many = f"{who}: {one.photos_per_s:.1f} photos/s"
        yield _line("" if at else "at once", f"{many} = {one.times_one:.2f}x one" if at else many)


def _photo(photo: PhotoBench) -> Iterator[str]:
    peaks = photo.peaks
    yield _line(
        "one core",
        f"{peaks.float_gops:.0f} GFLOP/s in floats, {peaks.byte_gops:.0f} GOP/s in bytes; reads "
        f"{peaks.cache_gbps:.0f} GB/s from cache, {peaks.model_gbps:.0f} from 8 MiB, "
        f"{peaks.memory_gbps:.1f} from memory",
    )
    yield _line("encoder", _work(photo.encoder, photo.encoder_floor))
    yield _line("a token", _work(photo.step, photo.step_floor))
    heads = f"{'':12}{'threads':>8}{'median':>10}{'p95':>10}{'processor':>12}"
    yield _line("one photo", f"{heads}{'floor':>10}{'x floor':>9}{'x 1 thread':>12}")
    for case in photo.cases:
        floor = "" if case.floor_ms is None else f"{case.floor_ms:.2f} ms"
        times = "" if case.times_floor is None else f"{case.times_floor:.2f}"
        yield _line(
            "",
            f"{case.what:12}{case.threads:>8}{case.ms.median:>7.2f} ms{case.ms.p95:>7.2f} ms"
            f"{case.ms.cpu_median:>9.2f} ms{floor:>10}{times:>9}{case.times_one_thread:>12.2f}",
        )
    tokens, steps = photo.tokens_per_caption, photo.steps_per_caption
    yield _line("", f"{tokens:g} tokens in a caption, the end included, in {steps:g} steps")


def _work(work: GraphWork, floor: Floor) -> str:
    return (
        f"{work.nodes} nodes; {work.byte_operations / 1e6:.0f} million operations on bytes, "
        f"{work.float_operations / 1e6:.0f} on floats; {work.weight_bytes / 1e6:.1f} MB of weights; floor "
        f"{floor.byte_products_ms:.2f} + {floor.float_products_ms:.2f} + {floor.others_ms:.2f} ms (the rest)"
    )


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}} {text}".rstrip()
