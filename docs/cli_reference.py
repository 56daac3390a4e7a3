"""Writes docs/CLI.md from the commands' own --help, so that the two cannot disagree.

    python docs/cli_reference.py > docs/CLI.md

A test fails while the page is not what this prints.
"""

from __future__ import annotations

import sys

import click

from kiloword.cli import main

WIDTH = 100

INTRODUCTION = """\
# The command line

<!-- Written by docs/cli_reference.py from --help; change the help texts in commands/ and run it again. -->

`kiloword ...` and, in a checkout where the package is installed, `python cli.py ...` are the same.

- **stdout** carries captions (or the report that was asked for) and nothing else, always UTF-8, each line
  as soon as it is there.
- **stderr** carries errors, one line each, and a progress bar if it is a terminal.
- **Exit codes**: 0 all captioned; 1 some photos failed, or an error; 2 misuse, such as an unknown option;
  130 after Ctrl-C. `webcam` ends with 0 on Ctrl-C, at the end of the video and when its window is closed.

What `caption` takes for a photo: a file that is named is tried whatever it is called; in a folder and
behind a glob it is what ends in jpg, jpeg, jpe, jfif, png, webp, avif, gif, tif, tiff, bmp, heic or heif,
or in cr2, cr3, nef, arw, dng, raf, rw2, pef or srw: of a RAW file the JPEG in it is captioned (PHOTOS.md).
Of a tar or Parquet file that is named, the photos in it are taken (SCALING.md).
Folders are walked in the order of names, hidden files and folders are skipped, links are followed and no
folder is entered twice. A path on stdin is taken literally, never as a glob.

A line of JSONL has `path`, `caption`, `confidence` (0 to 1), `bundle` and `latency_ms` (milliseconds; in a
batch, the batch's time divided by its photos), or, for a photo that failed, `path` and `error`. A photo that
could be captioned though something is wrong with its file has a `warning`, also on stderr. Control
characters and bytes that are no UTF-8 in file names are escaped; JSONL escapes them so that they can be
read back exactly.

`-o FILE` appears under its name when it is complete. If the run is interrupted, what was there stays as it
was and what was written so far is in `FILE.partial`.

`--sidecar txt` writes `cat.txt` beside `cat.jpg`, `--sidecar xmp` writes `cat.jpg.xmp` or into the sidecar
that is there, and `--embed` into the JPEG itself. Somebody else's text is left alone and named on stderr;
[METADATA.md](METADATA.md) says what is written, and `kiloword undo` takes it back.

With `-o`, a sidecar, `--embed` or a gallery, a run remembers what it did, and the same command goes on where
the last one stopped; [FOLDERS.md](FOLDERS.md) explains how.
"""


def reference() -> str:
    """The whole page."""
    sections = [INTRODUCTION, _section("kiloword", main)]
    sections += [_section(f"kiloword {name}", main.commands[name]) for name in sorted(main.commands)]
    return "\n".join(sections)


def _section(title: str, command: click.Command) -> str:
    settings = {**main.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=title, **settings)
    return f"## {title}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
