"""`kiloword caption`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from kiloword.commands.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    as_written,
    avoid_words_option,
    batch_size_option,
    bundle_options,
    echo,
    min_confidence_option,
    open_output,
    output_option,
    prefer_option,
    read_wording,
    verbose_option,
)

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.folder_run import FolderRun, RunEnd
    from kiloword.runtime.pipeline import PipelineOptions
    from kiloword.runtime.progress import CaptionProgress
    from kiloword.runtime.sinks import Sink

_STDIN_WAIT_S = 0.05

_log = logging.getLogger("kiloword")


@click.command(
    epilog=as_written(
        "Formats:",
        "  text   path: caption   (the caption alone when a single photo is named)",
        "  jsonl  an object per line: path, caption, confidence, reliable, reason, bundle, latency_ms;",
        "         or path, error",
        "  csv    the same as columns, with a header",
        "  table  photo, caption, confidence and milliseconds, for reading",
        "",
        'Text and table say "no reliable description" where a caption is not reliable, and "probably" before',
        "one that is not sure; jsonl and csv have the caption all the same, and the reason.",
        "",
        "Examples:",
        "  kiloword caption cat.jpg",
        "  kiloword caption holidays/ -o captions.jsonl",
        "  kiloword caption cat.jpg --prefer person --avoid-words guy,dude",
        "  kiloword caption holidays/ -o captions.jsonl --retry-failed",
        "  kiloword caption holidays/ --sidecar xmp --gallery holidays.html",
        "  kiloword caption train-0001.tar -o captions.jsonl",
        "  kiloword caption s3://bucket/photos/ --engine ray -o s3://bucket/captions/",
        "  find . -name '*.png' | kiloword caption - --format csv",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--format", "format_name", type=click.Choice(("text", "jsonl", "csv", "table")),
    help="How captions are written.  "
    "[default: by FILE's ending; else table for several photos on a terminal, text otherwise]",
)  # fmt: skip
@output_option("Write to this file instead; it appears when it is complete.")
@click.option(
    "--sidecar", "sidecars", type=click.Choice(("txt", "xmp")), multiple=True,
    help="Also write each caption beside its photo: txt (cat.jpg: cat.txt) or xmp (cat.jpg.xmp, or into the "
    "one that is there); somebody else's text is kept. May be given twice.",
)  # fmt: skip
@click.option("--embed", is_flag=True, help="Also write each caption into the JPEG's own metadata (XMP).")
@click.option(
    "--gallery", type=click.Path(dir_okay=False), metavar="FILE.html",
    help="Also write a page with all photos and captions to look through and search.",
)  # fmt: skip
@click.option("--bom", is_flag=True, help="Begin CSV with the mark by which spreadsheets know UTF-8.")
@click.option(
    "--state", type=click.Path(dir_okay=False), metavar="FILE",
    help="Remember in this file what was done.  [default: OUTPUT.journal with -o, "
    "FOLDER/.kiloword.journal with a sidecar or --embed, GALLERY.journal with a gallery, none otherwise]",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(("local", "ray")), default="local", show_default=True,
    help="ray: a cluster, or all processors of this machine; -o then names a folder for Parquet files.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Sessions of --engine ray.")
@click.option("--redo", is_flag=True, help="Do photos again that are done already.")
@click.option("--retry-failed", is_flag=True, help="Do photos again that failed.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and how long it would take.")
@bundle_options
@min_confidence_option
@click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="Longest caption, in tokens.")
@avoid_words_option
@prefer_option
@batch_size_option
@verbose_option
def caption(
    paths: tuple[str, ...],
    format_name: str | None,
    output: str | None,
    sidecars: tuple[str, ...],
    embed: bool,
    gallery: str | None,
    bom: bool,
    state: str | None,
    engine: str,
    workers: int | None,
    redo: bool,
    retry_failed: bool,
    dry_run: bool,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
    min_confidence: float | None,
    max_new_tokens: int | None,
    avoid_words: tuple[str, ...],
    prefer: tuple[str, ...],
    batch_size: int,
) -> None:
    """Caption photos.

    PATH is a photo, a folder (with all below it; hidden files are skipped), a glob, or - for paths on stdin,
    one per line. A photo that cannot be read is named on stderr and the others get their captions; the exit
    code is then 1.

    With -o, --sidecar, --embed or --gallery, a journal remembers what was done: run the same command again,
    and only photos that are new or changed, or were captioned by another bundle or with other settings, are
    done.
    """
    if engine == "ray":
        _caption_on_cluster(paths, output, bundle, workers, threads, batch_size, num_beams, max_new_tokens)
        return
    if workers is not None:
        raise click.UsageError("--workers is for --engine ray; here, --threads says how many work.")
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.folder_run import FolderRun, default_state
    from kiloword.runtime.folders import expand_paths, names_one_photo
    from kiloword.runtime.outputs import default_format
    from kiloword.runtime.pipeline import PipelineOptions, plan_lanes

    one_photo, from_stdin = names_one_photo(paths), "-" in paths
    sinks = _sinks(sidecars, embed)
    if state is None and (sinks or gallery or not one_photo):
        state = default_state(paths, output, sidecars=bool(sinks))
        if state is None and gallery:
            state = default_state(paths, gallery, sidecars=False)
    if state is None and (redo or retry_failed or gallery):
        needs = "--redo, --retry-failed and --gallery need a journal"
        raise click.UsageError(f"{needs}: -o FILE, --sidecar or --state FILE")
    to_people = output is None and sys.stdout.isatty() and not one_photo
    form = format_name or default_format(output, to_people=to_people)
    if bom and form != "csv":
        raise click.UsageError(f"--bom is for CSV, and this is {form}: --format csv, or -o FILE.csv")
    run = FolderRun(
        state=state,
        output=output if state is not None else None,
        format_name=form,
        with_path=not one_photo,
        mark=bom,
        sinks=sinks,
        gallery=gallery,
        redo=redo,
        redo_first=None if from_stdin else lambda: expand_paths(paths),
        retry_failed=retry_failed,
        folders=paths,
    )
    live = from_stdin and output is None
    few = one_photo or live  # each as quick as can be; else as many as can be in a given time
    lanes, lane_threads = (1, threads) if few else plan_lanes(threads)
    captioner = Captioner.load(
        bundle,
        provider=provider,
        threads=lane_threads,
        wording=read_wording(avoid_words, prefer),
        min_confidence=min_confidence,
    )
    options = PipelineOptions(
        batch_size=batch_size,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        threads=threads,
        lanes=lanes if captioner.provider == "cpu" else 1,
        max_wait_s=_STDIN_WAIT_S if live else None,
    )
    if dry_run:
        _say_what_would_be_done(captioner, paths, run, options)
        return
    end = _run(captioner, paths, run, options, output)
    _say_how_it_ended(end, run)


# What would be ignored on a cluster, and is therefore refused.
_LOCAL_ONLY = (
    *("format_name", "sidecars", "embed", "gallery", "bom", "state", "redo", "retry_failed", "dry_run"),
    *("min_confidence", "avoid_words", "prefer"),
)


def _caption_on_cluster(
    paths: tuple[str, ...],
    output: str | None,
    bundle: str | None,
    workers: int | None,
    threads: int | None,
    batch_size: int,
    num_beams: int | None,
    max_new_tokens: int | None,
) -> None:
    from kiloword.runtime.ray_engine import RayOptions, caption_on_cluster

    context = click.get_current_context()
    given = [name for name in _LOCAL_ONLY if context.params[name]]
    if context.params["provider"] != "auto":
        given.append("provider")
    options = [parameter.opts[0] for parameter in context.command.params if parameter.name in given]
    if options:
        raise click.UsageError(f"--engine ray does not take {', '.join(options)}")
    if output is None:
        raise click.UsageError("--engine ray needs -o FOLDER, for the captions as Parquet files")
    settings = RayOptions(bundle, workers, threads or 1, batch_size, num_beams, max_new_tokens)
    counts = caption_on_cluster(paths, output, settings)
    if counts.failed:
        _log.error("%d of %d failed", counts.failed, counts.photos)
        sys.exit(EXIT_FAILED)


def _sinks(sidecars: tuple[str, ...], embed: bool) -> list[Sink]:
    sinks: list[Sink] = []
    if "txt" in sidecars:
        from kiloword.runtime.sinks import TextSidecars

        sinks.append(TextSidecars())
    if "xmp" in sidecars or embed:
        from kiloword.runtime.xmp_sinks import EmbeddedXmp, XmpSidecars

        sinks += [XmpSidecars()] if "xmp" in sidecars else []
        sinks += [EmbeddedXmp()] if embed else []
    return sinks


def _run(
    captioner: Captioner,
    paths: tuple[str, ...],
    run: FolderRun,
    options: PipelineOptions,
    output: str | None,
) -> RunEnd:
    from dataclasses import replace

    from kiloword.runtime.folder_run import run_folder
    from kiloword.runtime.folders import expand_paths, raw_stdin
    from kiloword.runtime.outputs import make_writer

    photos = expand_paths(paths, raw_stdin() if "-" in paths else None)
    if run.output is not None:
        return run_folder(captioner, photos, run, options, _progress(paths))
    with open_output(output) as stream:
        writer = make_writer(run.format_name, stream, with_path=run.with_path, mark=run.mark)
        in_order = replace(options, in_order=True)
        return run_folder(captioner, photos, run, in_order, _progress(paths), writer)


def _say_what_would_be_done(
    captioner: Captioner, paths: tuple[str, ...], run: FolderRun, options: PipelineOptions
) -> None:
    from kiloword.runtime.dry_run import plan_run
    from kiloword.runtime.folders import expand_paths, raw_stdin

    photos = expand_paths(paths, raw_stdin() if "-" in paths else None)
    for line in plan_run(captioner, photos, run, options).lines():
        echo(line + "\n")


def _say_how_it_ended(end: RunEnd, run: FolderRun) -> None:
    """Lines on stderr and the exit code."""
    counts = end.counts
    if counts.failed_before:
        _log.warning("%d failed in an earlier run; --retry-failed tries them again", counts.failed_before)
    if counts.failed and counts.photos > 1:
        _log.error("%d of %d failed", counts.failed, counts.photos)
    if end.interrupted:
        done = f"interrupted after {counts.photos} photo{'s' if counts.photos != 1 else ''}"
        click.echo(f"{done}; to go on: {_go_on()}" if run.state else done, err=True)
        sys.exit(EXIT_INTERRUPTED)
    if counts.failed:
        sys.exit(EXIT_FAILED)


def _go_on() -> str:
    """The command that continues this run: a run that does all again has forgotten the rest already."""
    import shlex

    return shlex.join(["kiloword", *(word for word in sys.argv[1:] if word != "--redo")])


def _progress(paths: tuple[str, ...]) -> CaptionProgress:
    """A bar for several photos and for people, who are not typing the paths themselves."""
    from kiloword.runtime.folders import expand_paths, names_one_photo
    from kiloword.runtime.progress import CaptionProgress

    def count() -> int:
        return sum(1 for _ in expand_paths(paths))

    from_stdin = "-" in paths
    typing = from_stdin and sys.stdin.isatty()
    wanted = sys.stderr.isatty() and not typing and not names_one_photo(paths)
    return CaptionProgress(enabled=wanted, count_photos=None if from_stdin else count)
