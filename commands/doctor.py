"""`kiloword doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kiloword.commands.common import (
    EXIT_FAILED,
    as_json_text,
    as_written,
    bundle_option,
    echo,
    verbose_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kiloword.runtime.doctor import Diagnosis, Tuning
    from kiloword.runtime.variants import Variant, VariantTrial

_LABEL_WIDTH = 14


@click.command(
    epilog=as_written(
        "Example:",
        "  kiloword doctor --json",
    )
)
@bundle_option
@click.option("--json", "as_json", is_flag=True, help="All facts as JSON.")
@verbose_option
@click.pass_context
def doctor(ctx: click.Context, bundle: str | None, as_json: bool) -> None:
    """Check this machine and this installation.

    One page: the processor and its instructions for int8, the cores and the memory that this process may use,
    versions, execution providers that are there and that really load, whether memory grows over 200
    captions, whether the bundle is whole, and the best number of threads, batch size and recipe, measured.
    Recipes are compared where bundles lie side by side, as `kiloword export` writes them: DIR/fp32, DIR/int8.
    Takes some 20 seconds, for a large bundle up to two minutes. The exit code is 1 where something must be
    mended.
    """
    from dataclasses import asdict

    from kiloword.runtime.doctor import diagnose

    found = diagnose(bundle, lambda text: click.echo(f"checking: {text} ...", err=True))
    if as_json:
        facts = asdict(found)
        facts["processor"]["int8"] = found.processor.int8_advice
        if found.leak is not None:
            facts["leak"]["leaks"] = found.leak.leaks
        echo(as_json_text(facts))
    else:
        echo("\n".join(page(found)) + "\n")
    if found.problems:
        ctx.exit(EXIT_FAILED)


def page(found: Diagnosis) -> Iterator[str]:
    """The diagnosis for people, line by line."""
    processor, cores, memory = found.processor, found.cores, found.memory
    yield _line("system", found.system)
    yield _line("processor", f"{processor.name} ({processor.architecture})")
    yield _line("instructions", ", ".join(processor.instructions) or "none that we know of")
    yield _line("int8", processor.int8_advice)
    quota = "no limit" if cores.cgroup_quota is None else f"{cores.cgroup_quota:g}"
    yield _line(
        "cores",
        f"{cores.online} online, {cores.affinity} by affinity, control group: {quota}; "
        f"kiloword takes {cores.threads} threads",
    )
    limit = "no limit" if memory.cgroup_limit is None else _gigabytes(memory.cgroup_limit)
    yield _line(
        "memory",
        f"{_gigabytes(memory.total)}, {_gigabytes(memory.available)} available, control group: {limit}",
    )
    yield _line("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items()))
    yield from _providers(found)
    yield from _bundle(found)
    if found.tuning is not None:
        yield from _tuning(found.tuning)
    if found.variants is not None:
        yield from _variants(found.variants)
    for problem in found.problems:
        yield _line("PROBLEM", problem)
    yield _line("verdict", "healthy" if not found.problems else f"{len(found.problems)} to mend")


def _providers(found: Diagnosis) -> Iterator[str]:
    for one in found.providers:
        if not one.there:
            verdict = f"not here; {one.note}"
        elif not one.loads:
            verdict = f"here, but does not load: {one.note}"
        else:
            verdict = "loads, " + ("same caption" if one.same_caption else "ANOTHER CAPTION")
        yield _line("provider", f"{one.name:9} {verdict}")


def _bundle(found: Diagnosis) -> Iterator[str]:
    health, leak = found.bundle, found.leak
    if health is not None:
        checked = ", ".join(health.checked_providers) or "not said"
        yield _line(
            "bundle",
            f"{health.name} ({health.precision}, {health.bytes / 1e6:.1f} MB), hashes right, loaded in "
            f"{health.load_ms:.0f} ms; checked on: {checked}",
        )
        yield _line("a caption", f'"{health.caption}" for a made picture, {health.caption_ms:.0f} ms')
    elif leak is not None:
        yield _line("bundle", "broken; providers and memory were tried with the one in the package")
    if leak is not None:
        growth = "not told by this system"
        if leak.growth_bytes is not None:
            growth = f"{leak.growth_bytes / 1e6:+.1f} MB over {leak.captions} captions"
        yield _line("memory growth", f"{growth}{': LEAKS' if leak.leaks else ''}")


def _tuning(tuning: Tuning) -> Iterator[str]:
    yield _line("measured", "ms per photo, greedy, by threads and batch size")
    sizes = sorted({one.batch_size for one in tuning.measured})
    yield _line("", "threads" + "".join(f"{f'batch {size}':>10}" for size in sizes))
    for threads in sorted({one.threads for one in tuning.measured}):
        row = {one.batch_size: one.ms_per_photo for one in tuning.measured if one.threads == threads}
        yield _line("", f"{threads:7}" + "".join(f"{row[size]:10.1f}" for size in sizes))
    soon, most = tuning.one_photo, tuning.many_photos
    yield _line("one photo", f"--threads {soon.threads}")
    yield _line("many photos", f"--threads {most.threads} --batch-size {most.batch_size}")


def _variants(trial: VariantTrial) -> Iterator[str]:
    own = trial.measured[0]
    threads = f"{trial.threads} thread{'s' if trial.threads > 1 else ''}"
    if len(trial.measured) > 1:
        yield _line("recipes", f"ms per photo, one by one, captions of the same length, {threads}")
        for one in trial.measured:
            yield _line("", f"{_recipe(one):20} {one.ms_per_photo:8.1f}  {one.directory}")
        slower = (
            f": --bundle {trial.fastest.directory}" if trial.fastest != own else ", and that is this bundle"
        )
        yield _line("best recipe", _recipe(trial.fastest) + slower)
    elif trial.times_as_fast_there is None:
        yield _line("recipe", f"{_recipe(own)}; kiloword export {own.directory} --quantize tries int8 here")
    else:
        there = f"{trial.times_as_fast_there:.2f} times as fast as fp32 on {trial.made_on}"
        yield _line("recipe", f"{_recipe(own)}, {there}; no other lies beside it to compare with here")


def _recipe(one: Variant) -> str:
    return one.precision if one.recipe is None else f"{one.precision} ({one.recipe})"


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}} {text}".rstrip()


def _gigabytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"
