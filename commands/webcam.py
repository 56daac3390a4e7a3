"""`kiloword webcam`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from kiloword.commands.common import (
    as_written,
    bundle_options,
    verbose_option,
)

if TYPE_CHECKING:
    from kiloword.runtime.live import LiveCaption, LiveView


@click.command(
    epilog=as_written(
        "Examples:",
        "  kiloword webcam",
        "  kiloword webcam --source street.mp4 --headless --format jsonl",
    )
)
@click.option(
    "--source",
    default="0",
    show_default=True,
    metavar="0|FILE|URL",
    help="A camera's number, a video, or a stream.",
)
@click.option("--headless", is_flag=True, help="No window, captions on stdout only.")
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End after N captioned frames.")
@click.option(
    "--format", "format_name", type=click.Choice(("text", "jsonl")), default="text", show_default=True,
    help="jsonl: every caption; text: a line when the words change.",
)  # fmt: skip
@bundle_options
@verbose_option
def webcam(
    source: str,
    headless: bool,
    max_frames: int | None,
    format_name: str,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
) -> None:
    """Caption what a camera sees now.

    Only the newest frame is ever captioned, and each caption says how old that frame was when the caption was
    ready. A video file plays at its own rate. In the window, q quits; Ctrl-C does anywhere.
    """
    from kiloword.runtime.camera import NewestFrame, open_source
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.live import LiveSummary, LiveWriter, live_captions, run_live
    from kiloword.runtime.outputs import prepare_stream

    video = open_source(source)
    captioner = Captioner.load(bundle, provider=provider, threads=threads)
    writer, summary = LiveWriter(prepare_stream(sys.stdout), format_name), LiveSummary()

    def on_caption(live: LiveCaption) -> None:
        summary.add(live)
        writer.write(live)

    with _window(headless) as window, NewestFrame(video) as newest:
        captions = live_captions(captioner, newest, num_beams=num_beams, max_frames=max_frames)
        try:
            run_live(captions, newest, on_caption, window)
        except KeyboardInterrupt:
            pass  # how one ends a camera; not an error
        finally:
            click.echo(summary.line(newest.frames_read), err=True)


def _window(headless: bool) -> AbstractContextManager[LiveView | None]:
    if headless:
        return nullcontext(None)
    from kiloword.runtime.window import CaptionWindow

    return CaptionWindow()
