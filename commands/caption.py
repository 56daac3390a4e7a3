"""`kiloword caption`."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from kiloword.commands.common import (
    EXIT_FAILED,
    as_written,
    avoid_words_option,
    batch_size_option,
    bundle_options,
    min_confidence_option,
    open_output,
    output_option,
    prefer_option,
    read_wording,
    verbose_option,
)

if TYPE_CHECKING:
    from kiloword.runtime.progress import CaptionProgress

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
    "--sidecar", type=click.Choice(("txt",)),
    help="Also write each caption beside its photo (cat.jpg: cat.txt); a text that is there already is kept.",
)  # fmt: skip
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
    sidecar: str | None,
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
    """
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.folders import expand_paths, names_one_photo, raw_stdin
    from kiloword.runtime.outputs import default_format, make_writer
    from kiloword.runtime.pipeline import caption_photos
    from kiloword.runtime.recording import record_rows

    wording = read_wording(avoid_words, prefer)
    captioner = Captioner.load(
        bundle, provider=provider, threads=threads, wording=wording, min_confidence=min_confidence
    )
    one_photo, from_stdin = names_one_photo(paths), "-" in paths
    with open_output(output) as stream:
        shown = stream.isatty() and not one_photo
        writer = make_writer(
            format_name or default_format(output, to_people=shown), stream, with_path=not one_photo
        )
        rows = caption_photos(
            captioner,
            expand_paths(paths, raw_stdin() if from_stdin else None),
            batch_size=batch_size,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            decode_threads=threads,
            max_wait_s=_STDIN_WAIT_S if from_stdin else None,
        )
        with _progress(paths) as progress:
            recorded = record_rows(rows, writer, progress, sidecars=sidecar is not None)
    if recorded.failed:
        if recorded.photos > 1:
            _log.error("%d of %d failed", recorded.failed, recorded.photos)
        sys.exit(EXIT_FAILED)


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
