"""What several commands share: options, where output goes, and how a missing extra is said."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from kiloword.runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from kiloword.runtime.wording import Wording

# Written out here because their home imports numpy, which `--help` must not wait for; a test compares the
# two.
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino", "coreml", "directml")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_log = logging.getLogger("kiloword")
_AnyFunction = TypeVar("_AnyFunction", bound=Callable[..., Any])


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


class FiniteRange(click.FloatRange):
    """A number in a range. To click, "nan" is in every range, and "inf" in those without an end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number that was typed."""
        number = float(super().convert(value, param, ctx))
        if number - number != 0:  # infinity and what is no number
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def _say_what_auto_takes(ctx: click.Context, parameter: click.Parameter, provider: str) -> str:
    """Who asks for auto is told what it took; who does not ask is told with -v."""
    given = ctx.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
    if provider == "auto" and given:
        logging.getLogger("kiloword.runtime.sessions").setLevel(logging.INFO)
    return provider


verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_set_verbosity,
    help="Say more; -vv says most.",
)
bundle_option = click.option(
    "--bundle", type=click.Path(), metavar="DIR", help="The bundle to use.  [default: the one in the package]"
)
num_beams_option = click.option(
    "--num-beams",
    type=click.IntRange(min=1),
    metavar="N",
    help="Beams; 1 is greedy.  [default: the bundle's]",
)
batch_size_option = click.option(
    "--batch-size", type=click.IntRange(1, 1 << 16), metavar="N", default=8, show_default=True,
    help="Photos that go through the model together.",
)  # fmt: skip
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads.  [default: what this process may use]",
)
min_confidence_option = click.option(
    "--min-confidence", type=FiniteRange(0, 1), metavar="X",
    help="A caption with less confidence (0 to 1) is not reliable.  [default: the bundle decides]",
)  # fmt: skip
provider_option = click.option(
    "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True,
    callback=_say_what_auto_takes,
    help="What runs the model; one that is not there is an error, auto takes the best that is.",
)  # fmt: skip


avoid_words_option = click.option(
    "--avoid-words", multiple=True, metavar="FILE|WORDS",
    help="Never write these words: a file with one in each line, or words with commas between them.",
)  # fmt: skip
prefer_option = click.option(
    "--prefer", multiple=True, metavar="person|WORD=WORD",
    help="Write another word instead: person takes neutral words for people (person, child, they), "
    "LADY=WOMAN the one you name.",
)  # fmt: skip
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Replace a value of the recipe."
)


def read_wording(avoid_words: tuple[str, ...], prefer: tuple[str, ...]) -> Wording | None:
    """What `--avoid-words` and `--prefer` ask for; None where they are not given."""
    if not avoid_words and not prefer:
        return None
    from kiloword.runtime.wording import Wording, read_preferences, read_words

    words = tuple(word for item in avoid_words for word in read_words(item))
    return Wording(words, read_preferences(prefer))


def output_option(help_text: str) -> Callable[[_AnyFunction], _AnyFunction]:
    """The option `-o FILE`."""
    return click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="FILE", help=help_text)


def bundle_options(function: _AnyFunction) -> _AnyFunction:
    """The options of every command that loads a bundle."""
    for option in (threads_option, provider_option, num_beams_option, bundle_option):
        function = option(function)
    return function


def as_written(*lines: str) -> str:
    """Text below a command's options that click must not fill into paragraphs."""
    return "\n\n".join("\b\n" + block for block in "\n".join(lines).split("\n\n"))


def log_at_least_info() -> None:
    """For the commands that take hours: what they log is their progress."""
    _log.setLevel(min(logging.INFO, _log.level or logging.INFO))


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package into the line that names the extra which brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "kiloword"):
            raise
        raise MissingDependencyError(package, extra) from error


def as_json_text(facts: dict[str, Any]) -> str:
    """Facts as JSON for people."""
    import json

    return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def echo(text: str) -> None:
    """Write to stdout, always UTF-8."""
    from kiloword.runtime.outputs import prepare_stream

    stdout = prepare_stream(sys.stdout)
    stdout.write(text)
    stdout.flush()


def open_output(output: str | None) -> AbstractContextManager[TextIO]:
    """Stdout, or a file that appears under its name when it is complete."""
    from kiloword.runtime.outputs import prepare_stream, write_atomically

    return nullcontext(prepare_stream(sys.stdout)) if output is None else write_atomically(output)


def split_source(source: str) -> tuple[str, str | None]:
    """`coco.json` or `flickr8k:dev`; a colon in a path that exists belongs to the path."""
    path, colon, split = source.rpartition(":")
    if not colon or Path(source).exists():
        return source, None
    return path, split
