"""The command line, put together from `commands/`, and the one place where errors become a line and a code.

Captions go to stdout and nothing else does. Exit codes: 0 all captioned, 1 some failed or an error, 2 misuse.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import click

try:
    from kiloword import __version__
    from kiloword.commands import COMMANDS
    from kiloword.commands.common import EXIT_FAILED, EXIT_INTERRUPTED, as_written, verbose_option
    from kiloword.runtime.errors import KilowordError
except ModuleNotFoundError as missing:
    if missing.name != "kiloword":
        raise
    sys.exit("error: kiloword is not installed. Try, in the checkout: pip install -e .")


_log = logging.getLogger("kiloword")


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


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=as_written(
        "Example:",
        "  kiloword caption holidays/",
    ),
)
@click.version_option(__version__, prog_name="kiloword")
@verbose_option
def main() -> None:
    """Describe photos in words, on this machine."""
    # Packages that the exporter imports give the root logger a handler, and each line would come twice.
    _log.propagate = False
    # What Pillow thinks of a damaged file, in lines of its own beside ours.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


for _command in COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main(prog_name=f"python {os.path.basename(sys.argv[0])}")
