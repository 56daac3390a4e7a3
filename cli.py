"""The command line: each command parses, calls the package and echoes; what is heavy is imported inside.

Captions go to stdout and nothing else does. Exit codes: 0 all captioned, 1 some failed or an error, 2 misuse.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

try:
    from kiloword import __version__
    from kiloword.runtime.errors import KilowordError, MissingDependencyError
except ModuleNotFoundError as missing:
    if missing.name != "kiloword":
        raise
    sys.exit("error: kiloword is not installed. Try, in the checkout: pip install -e .")

if TYPE_CHECKING:
    from kiloword.runtime.live import LiveCaption, LiveView
    from kiloword.runtime.progress import CaptionProgress

# Written out here because their home imports numpy, which `--help` must not wait for; a test compares the
# two.
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino", "coreml", "directml")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_STDIN_WAIT_S = 0.05

_log = logging.getLogger("kiloword")
_AnyFunction = TypeVar("_AnyFunction", bound=Callable[..., Any])


class _Commands(click.Group):
    """The one place where errors become one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader of our output has left (`| head`); click ends quietly with exit code 1
        except KilowordError as error:
            _fail(ctx, str(error))
        except OSError as error:
            reason = error.strerror or str(error)
            _fail(ctx, f"{error.filename}: {reason}" if error.filename else reason)


def _fail(ctx: click.Context, message: str) -> None:
    _log.error("%s", message)
    ctx.exit(EXIT_FAILED)


class _Stderr(logging.Handler):
    """Writes what the package logs to stderr, one line each, whatever the file names in it hold."""

    def emit(self, record: logging.LogRecord) -> None:
        from kiloword.runtime.outputs import printable

        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(printable(level + record.getMessage()), err=True)


def _set_verbosity(_ctx: click.Context, _parameter: click.Parameter, count: int) -> None:
    if not any(isinstance(handler, _Stderr) for handler in _log.handlers):
        _log.addHandler(_Stderr())
    if count:  # 0 changes nothing: `-v` may have stood before the command
        _log.setLevel(logging.INFO if count == 1 else logging.DEBUG)


_verbose = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_set_verbosity,
    help="Say more; -vv says most.",
)
_bundle = click.option(
    "--bundle", type=click.Path(), metavar="DIR", help="The bundle to use.  [default: the one in the package]"
)
_num_beams = click.option(
    "--num-beams",
    type=click.IntRange(min=1),
    metavar="N",
    help="Beams; 1 is greedy.  [default: the bundle's]",
)
_batch_size = click.option(
    "--batch-size", type=click.IntRange(min=1), metavar="N", default=8, show_default=True,
    help="Photos that go through the model together.",
)  # fmt: skip
_threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads.  [default: what this process may use]",
)
_provider = click.option(
    "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True,
    help="What runs the model; one that is not there is an error, auto takes the best that is.",
)  # fmt: skip


def _output(help_text: str) -> Callable[[_AnyFunction], _AnyFunction]:
    return click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help=help_text)


def _runs_a_bundle(function: _AnyFunction) -> _AnyFunction:
    """The options of every command that loads a bundle."""
    for option in (_threads, _provider, _num_beams, _bundle):
        function = option(function)
    return function


def _as_written(*lines: str) -> str:
    """Text below a command's options that click must not fill into paragraphs."""
    return "\n\n".join("\b\n" + block for block in "\n".join(lines).split("\n\n"))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_as_written(
        "Example:",
        "  kiloword caption holidays/",
    ),
)
@click.version_option(__version__, prog_name="kiloword")
@_verbose
def main() -> None:
    """Describe photos in words, on this machine."""
    # Packages that the exporter imports give the root logger a handler, and each line would come twice.
    _log.propagate = False


@main.command(
    epilog=_as_written(
        "Formats:",
        "  text   path: caption   (the caption alone when a single photo is named)",
        "  jsonl  an object per line: path, caption, confidence, bundle, latency_ms; or path, error",
        "  csv    the same as columns, with a header",
        "  table  photo, caption, confidence and milliseconds, for reading",
        "",
        "Examples:",
        "  kiloword caption cat.jpg",
        "  kiloword caption holidays/ -o captions.jsonl",
        "  find . -name '*.png' | kiloword caption - --format csv",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--format", "format_name", type=click.Choice(("text", "jsonl", "csv", "table")),
    help="How captions are written.  "
    "[default: by FILE's ending; else table for several photos on a terminal, text otherwise]",
)  # fmt: skip
@_output("Write to this file instead; it appears when it is complete.")
@click.option(
    "--sidecar", type=click.Choice(("txt",)),
    help="Also write each caption beside its photo (cat.jpg: cat.txt); a text that is there already is kept.",
)  # fmt: skip
@_runs_a_bundle
@click.option("--max-new-tokens", type=click.IntRange(min=1), metavar="N", help="Longest caption, in tokens.")
@_batch_size
@_verbose
def caption(
    paths: tuple[str, ...],
    format_name: str | None,
    output: str | None,
    sidecar: str | None,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
    max_new_tokens: int | None,
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

    captioner = Captioner.load(bundle, provider=provider, threads=threads)
    one_photo, from_stdin = names_one_photo(paths), "-" in paths
    with _open_output(output) as stream:
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


def _open_output(output: str | None) -> AbstractContextManager[TextIO]:
    from kiloword.runtime.outputs import prepare_stream, write_atomically

    return nullcontext(prepare_stream(sys.stdout)) if output is None else write_atomically(output)


@main.command(
    epilog=_as_written(
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
@_runs_a_bundle
@_verbose
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


@main.command(
    epilog=_as_written(
        "Example:",
        "  kiloword inspect bundles/mine --json",
    )
)
@click.argument("bundle", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The manifest as JSON.")
@_verbose
def inspect(bundle: str | None, as_json: bool) -> None:
    """Check a bundle and show what it is.

    Shown are the model, its graphs, where it comes from and how good it is. BUNDLE is a directory; without
    it, the bundle in the package is shown.
    """
    from dataclasses import asdict

    from kiloword.runtime.bundle import load_bundle
    from kiloword.runtime.describe import describe_bundle

    checked = load_bundle(bundle)
    _echo(_as_json(asdict(checked.manifest)) if as_json else describe_bundle(checked))


@main.command(
    epilog=_as_written(
        "Example:",
        "  kiloword evaluate flickr8k/ --bundle bundles/mine --split test --num-beams 3",
    )
)
@click.argument("dataset", type=click.Path())
@click.option("--split", default="test", show_default=True, help="The part to caption; all means everything.")
@click.option(
    "--images", type=click.Path(), metavar="DIR", help="The photos' folder.  [default: the usual ones]"
)
@click.option(
    "--format", "format_name", type=click.Choice(("text", "json")), default="text", show_default=True,
    help="text: the scores; json: all settings and every photo's caption, too.",
)  # fmt: skip
@_output("Write to this file instead.")
@_runs_a_bundle
@_batch_size
@_verbose
def evaluate(
    dataset: str,
    split: str,
    images: str | None,
    format_name: str,
    output: str | None,
    bundle: str | None,
    num_beams: int | None,
    provider: str,
    threads: int | None,
    batch_size: int,
) -> None:
    """Caption a data set and score the captions.

    They are compared with what people wrote, by BLEU, ROUGE-L and CIDEr. DATASET is Flickr8k's folder, a
    COCO or Karpathy JSON file, or a folder with a JSONL or CSV file.
    """
    from kiloword.runtime.captioner import Captioner

    with _needs_extra("train"):
        from kiloword.train.datasets import load_records
        from kiloword.train.evaluation import evaluate as run_evaluation

        loaded = load_records(dataset, None if split == "all" else split, images=images)
        captioner = Captioner.load(bundle, provider=provider, threads=threads)
        report = run_evaluation(captioner, loaded.records, num_beams=num_beams, batch_size=batch_size)
    with _open_output(output) as stream:
        stream.write(report.to_json() if format_name == "json" else str(report))


@main.command(
    epilog=_as_written(
        "Examples:",
        "  kiloword train train/recipes/tiny.toml -o runs/tiny",
        "  kiloword train mine.toml --set optimizer.rate=4e-4 --resume",
    )
)
@click.argument("recipe", type=click.Path(), metavar="RECIPE.toml")
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace a value of the recipe."
)
@click.option("--resume", is_flag=True, help="Go on where the last run in the output folder stopped.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="The run's folder.  [default: runs/NAME]",
)
@_verbose
def train(recipe: str, overrides: tuple[str, ...], resume: bool, output: str | None) -> None:
    """Train a captioner by a recipe."""
    _log_at_least_info()
    with _needs_extra("train"):
        from kiloword.train.recipe import load_recipe

        plan = load_recipe(recipe, overrides)  # a mistake in it is said before torch's seconds of import
        from kiloword.train.loop import train as run_training

        checkpoint = run_training(plan, Path(output or f"runs/{plan.name}"), resume=resume)
    click.echo(checkpoint)


@main.command(
    epilog=_as_written(
        "Example:",
        "  kiloword export runs/mine --quantize -o bundles/mine",
    )
)
@click.argument("checkpoint", required=False, type=click.Path())
@click.option("--quantize", is_flag=True, help="Make an int8 bundle beside the fp32 one.")
@click.option(
    "--calibration", type=click.Path(), metavar="DIR",
    help="Photos to measure the ranges of int8 on.  [default: the training photos, else the examples]",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), metavar="DIR", default="outputs/export",
    show_default=True, help="Where the bundles go: DIR/fp32, DIR/int8.",
)  # fmt: skip
@_verbose
def export(checkpoint: str | None, quantize: bool, calibration: str | None, output: str) -> None:
    """Export a checkpoint to ONNX bundles.

    What was exported is checked against torch first. Without CHECKPOINT, the newest run is exported, else
    the checkpoint that the repository carries.
    """
    _log_at_least_info()
    with _needs_extra("export"):
        from kiloword.export.export import export_bundle

        bundles = export_bundle(
            None if checkpoint is None else Path(checkpoint),
            Path(output),
            quantize=quantize,
            calibration=None if calibration is None else Path(calibration),
        )
    for bundle in bundles:
        click.echo(bundle)


def _log_at_least_info() -> None:
    """For the commands that take hours: what they log is their progress."""
    _log.setLevel(min(logging.INFO, _log.level or logging.INFO))


@contextmanager
def _needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into the line that names the extra which brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "kiloword"):
            raise
        raise MissingDependencyError(package, extra) from error


def _as_json(facts: dict[str, Any]) -> str:
    import json

    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def _echo(text: str) -> None:
    from kiloword.runtime.outputs import prepare_stream

    stdout = prepare_stream(sys.stdout)
    stdout.write(text)
    stdout.flush()


if __name__ == "__main__":
    main(prog_name=f"python {os.path.basename(sys.argv[0])}")
