"""`kiloword webcam`."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiloword.commands.common import (
    FiniteRange,
    as_written,
    bundle_option,
    min_confidence_option,
    provider_option,
    threads_option,
    verbose_option,
)

if TYPE_CHECKING:
    from kiloword.runtime.camera import FrameSource
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.live import LiveCaption, LiveView
    from kiloword.runtime.recorder import Recorder
    from kiloword.runtime.speech import Speaker

_DEFAULT_MAX_FPS = 5.0  # runtime.live.MAX_FPS, whose module must not be loaded for --help
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """`500ms`, `1s`, `2m` or a number of seconds as seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", value.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if seconds <= 0:
        raise click.BadParameter(f"{value!r} is no time such as 500ms, 1s or 2m")
    return seconds


@dataclass(frozen=True)
class _Options:
    """What the command was asked for."""

    source: str
    headless: bool
    max_frames: int | None
    max_fps: float
    every_s: float | None
    format_name: str
    say_changes: bool
    speak: bool
    record: str | None
    save_to: Path
    num_beams: int | None


@click.command(
    epilog=as_written(
        "Keys in the window: space pause, s save the photo with its caption, a where the model looked,",
        "b more beams or one, f full screen, h help, q quit.",
        "",
        "Examples:",
        "  kiloword webcam",
        "  kiloword webcam --headless --say-changes --speak",
        "  kiloword webcam --source rtsp://10.0.0.7/live --headless --format jsonl",
        "  kiloword webcam --source film.mp4 --every 1s --record film.vtt",
    )
)
@click.option(
    "--source",
    default="0",
    show_default=True,
    metavar="0|FILE|URL|FOLDER",
    help="A camera's number, a video, a stream (RTSP, HTTP), or a folder of pictures.",
)
@click.option("--headless", is_flag=True, help="No window, captions on stdout only.")
@click.option("--max-frames", type=click.IntRange(min=1), metavar="N", help="End after N captioned frames.")
@click.option(
    "--max-fps", type=FiniteRange(min=0, min_open=True), default=_DEFAULT_MAX_FPS, show_default=True,
    metavar="N", help="Captions a second at most; while nothing changes there are none.",
)  # fmt: skip
@click.option(
    "--every", "every_s", callback=_seconds, metavar="TIME",
    help="Caption a video file or a folder at its own time, one look each TIME (500ms, 1s, 2m), as fast as it"
    " goes and without a window.",
)  # fmt: skip
@click.option(
    "--format", "format_name", type=click.Choice(("text", "jsonl")), default="text", show_default=True,
    help="jsonl: every caption; text: a line when the words change.",
)  # fmt: skip
@click.option(
    "--say-changes", is_flag=True, help="Only what changed, one plain sentence a line, as for a voice."
)
@click.option("--speak", is_flag=True, help="Say changes aloud: espeak-ng, or the voice of macOS or Windows.")
@click.option(
    "--record", type=click.Path(dir_okay=False), metavar="FILE",
    help="Keep it: .mp4 with captions burnt in, or subtitles as .srt or .vtt.",
)  # fmt: skip
@click.option(
    "--save-to", type=click.Path(file_okay=False, exists=True, path_type=Path), default=".", metavar="DIR",
    help="Where the key s saves photos.  [default: the current folder]",
)  # fmt: skip
@click.option(
    "--num-beams", type=click.IntRange(min=1), metavar="N",
    help="Beams; with 1, which is the default here, words appear as they come.",
)  # fmt: skip
@min_confidence_option
@bundle_option
@provider_option
@threads_option
@verbose_option
def webcam(
    bundle: str | None, provider: str, threads: int | None, min_confidence: float | None, **given: Any
) -> None:
    """Caption what a camera sees now.

    Only the newest frame is ever captioned, only when something changed, and each caption says how old that
    frame was when the caption was ready. The words change when the scene does. A video file plays at its own
    rate. In the window, q quits; Ctrl-C does anywhere.
    """
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.recorder import check_record_path

    options = _Options(**given)
    if options.speak and options.every_s is not None:
        raise click.UsageError("--speak needs a source that is seen as it happens, not one with --every")
    if options.record is not None:
        check_record_path(options.record)
    source = _open(options)
    with _voice(options.speak) as voice:
        captioner = Captioner.load(bundle, provider=provider, threads=threads, min_confidence=min_confidence)
        with _ended_by_signals():
            if options.every_s is None:
                _run_live(options, source, captioner, voice)
            else:
                _run_own_time(options, source, captioner, voice)


def _open(options: _Options) -> FrameSource:
    from kiloword.runtime.camera import open_source
    from kiloword.runtime.slides import SECONDS_PER_PICTURE, PictureFolder

    source: FrameSource
    if Path(options.source).is_dir():
        source = PictureFolder(options.source, options.every_s or SECONDS_PER_PICTURE)
    else:
        source = open_source(options.source)
    if options.every_s is not None and not source.recorded:
        source.close()
        raise click.UsageError("--every is for a video file or a folder; a live source takes --max-fps")
    return source


def _voice(speak: bool) -> AbstractContextManager[Speaker | None]:
    if not speak:
        return nullcontext(None)
    from kiloword.runtime.speech import Speaker

    return Speaker()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C, and a service manager's TERM, are how one ends a camera; neither is an error."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sink(
    options: _Options, voice: Speaker | None, recorder: Recorder | None
) -> tuple[Callable[[LiveCaption], None], Callable[[str], None], Any]:
    """Where captions go (stdout, voice, recording), where growing words go, and the summary."""
    from kiloword.runtime.live_outputs import LiveSummary, LiveWriter, as_sentence
    from kiloword.runtime.outputs import prepare_stream

    stdout = prepare_stream(sys.stdout)
    writer = LiveWriter(stdout, options.format_name, only_changes=options.say_changes)
    summary = LiveSummary()

    def on_caption(live: LiveCaption) -> None:
        summary.add(live)
        writer.write(live)
        if voice is not None and live.changed:
            voice.say(as_sentence(live.shown))
        if recorder is not None:
            recorder.add(live)

    return on_caption, writer.grow, summary


def _run_live(options: _Options, source: FrameSource, captioner: Captioner, voice: Speaker | None) -> None:
    from kiloword.runtime.keepsake import save_photo
    from kiloword.runtime.live import LiveSession, run_live
    from kiloword.runtime.newest import NewestFrame
    from kiloword.runtime.recorder import recording

    num_beams = options.num_beams or 1
    usual = captioner.bundle.manifest.generation.num_beams
    with _window(options.headless) as window, NewestFrame(source) as newest:
        session = LiveSession(
            captioner,
            newest,
            num_beams=num_beams,
            other_beams=max(usual, 3) if num_beams == 1 else 1,
            max_fps=options.max_fps,
            save=lambda frame, live: save_photo(frame, live, options.save_to),
        )
        with recording(options.record, newest) as recorder:
            on_caption, session.on_growing, summary = _sink(options, voice, recorder)
            try:
                run_live(session, newest, on_caption, window, options.max_frames)
                if voice is not None and newest.ended:
                    voice.finish()
            except KeyboardInterrupt:
                pass
            finally:
                click.echo(summary.line(newest.frames_read), err=True)


def _run_own_time(
    options: _Options, source: FrameSource, captioner: Captioner, voice: Speaker | None
) -> None:
    from kiloword.runtime.own_time import OwnTime
    from kiloword.runtime.recorder import own_time_recording

    started = time.monotonic()
    with own_time_recording(options.record, source) as (recorder, on_frame):
        on_caption, _, summary = _sink(options, voice, recorder)
        film = OwnTime(
            captioner, source, options.every_s or 1.0, num_beams=options.num_beams or 1, on_frame=on_frame
        )
        try:
            for live in film.captions(options.max_frames):
                on_caption(live)
        except KeyboardInterrupt:
            pass
        finally:
            source.close()
            if recorder is not None:
                recorder.end(film.played.end_s)
            took_s = time.monotonic() - started
            click.echo(
                f"{summary.line(film.played.frames)}; {film.played.end_s:.1f} s of video in {took_s:.1f} s",
                err=True,
            )


def _window(headless: bool) -> AbstractContextManager[LiveView | None]:
    if headless:
        return nullcontext(None)
    from kiloword.runtime.window import CaptionWindow

    return CaptionWindow()
