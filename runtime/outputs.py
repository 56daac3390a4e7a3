"""Where captions go: text, JSONL, CSV, a table; and files that are written whole or not at all.

Everything is UTF-8. A file name that is no valid UTF-8 (which Linux allows) never stops a run: the odd
bytes are escaped.
"""

from __future__ import annotations

import csv
import filecmp
import io
import json
import logging
import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Caption

_log = logging.getLogger(__name__)

FORMATS = ("text", "jsonl", "csv", "table")
"""What `caption --format` offers."""

_CSV_COLUMNS = (
    *("path", "caption", "confidence", "bundle", "latency_ms", "error", "warning"),
    *("reliable", "reason", "labels"),
)
_ESCAPED = ("Cc", "Cs")  # control characters, and the surrogates that stand for bytes that are no UTF-8
TEMPORARY_SUFFIX = ".part"
"""How the names of files end that are being written."""
_TABLE_WIDTH_NO_TERMINAL = 100


@dataclass(frozen=True)
class Outcome:
    """What became of a photo's content, wherever it lies: a caption or an error, never both.

    Neither means that there is a caption, which was not looked up because nobody asks for it now.
    """

    caption: Caption | None = None
    error: str | None = None
    """Why there is no caption, without the photo's path, which may change."""


@dataclass(frozen=True)
class CaptionRow:
    """What became of one photo: a caption or an error, never both."""

    path: str
    """The photo, as the user would write it."""
    caption: Caption | None = None
    """What was said of it; None where it failed."""
    error: str | None = None
    """Why there is no caption, in one line; None where there is one."""


class RowWriter(Protocol):
    """Writes rows one by one, each complete when `write` returns."""

    def write(self, row: CaptionRow) -> None:
        """Write one row and flush it, so that whoever reads a pipe sees it now."""


def row_fields(row: CaptionRow) -> dict[str, Any]:
    """A row as JSON-ready fields: `path` with `error`, or with `caption` and what `caption_fields` says."""
    if row.caption is None:
        return {"path": row.path, "error": row.error or "unknown error"}
    return {"path": row.path, **caption_fields(row.caption)}


def caption_fields(caption: Caption) -> dict[str, Any]:
    """What every machine-readable line says of a caption; rounded to what is meaningful."""
    return {
        "caption": caption.text,
        "confidence": round(caption.confidence, 4),
        "bundle": caption.bundle,
        "latency_ms": round(caption.latency_ms, 2),
        "reliable": caption.reliable,
        "reason": caption.reason,
        **({"labels": list(caption.labels)} if caption.labels else {}),
        **({"warning": "; ".join(caption.warnings)} if caption.warnings else {}),
    }


def json_line(fields: dict[str, Any]) -> str:
    """One line of JSONL: readable UTF-8, escaped only where a file name's bytes cannot be UTF-8."""
    line = json.dumps(fields, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(fields, ensure_ascii=True)
    return line + "\n"


def printable(text: str) -> str:
    r"""Text with control characters and odd bytes escaped: file names may hold line ends and worse.

    >>> print(printable("a\nb.jpg"))
    a\nb.jpg
    """
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _ESCAPED else char
        for char in text
    )


def default_format(output: str | None, *, to_people: bool) -> str:
    """The format where none was asked for.

    Args:
        output: The file that was named, if any; `.jsonl` and `.csv` say what is expected in it.
        to_people: Whether several captions go to a terminal.
    """
    if output is not None:
        return {".jsonl": "jsonl", ".csv": "csv"}.get(Path(output).suffix.lower(), "text")
    return "table" if to_people else "text"


def make_writer(format_name: str, stream: TextIO, *, with_path: bool = True, mark: bool = False) -> RowWriter:
    """The writer for one of `FORMATS`.

    Args:
        format_name: One of `FORMATS`.
        stream: Where rows go; see `prepare_stream`.
        with_path: Whether a line of text begins with the photo's path; the other formats always name it.
        mark: Whether CSV begins with U+FEFF, without which some spreadsheets read UTF-8 as something else.
    """
    if format_name == "jsonl":
        return _JsonlWriter(stream)
    if format_name == "csv":
        return _CsvWriter(stream, mark=mark)
    if format_name == "table":
        return _TableWriter(stream)
    return _TextWriter(stream, with_path=with_path)


class _TextWriter:
    """`path: caption`, or the caption alone; errors are talk, and talk goes to stderr."""

    def __init__(self, stream: TextIO, *, with_path: bool) -> None:
        self._stream = stream
        self._with_path = with_path

    def write(self, row: CaptionRow) -> None:
        if row.caption is None:
            return
        prefix = f"{printable(row.path)}: " if self._with_path else ""
        _write_now(self._stream, f"{prefix}{row.caption.spoken}\n")


class _JsonlWriter:
    """One JSON object per line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: CaptionRow) -> None:
        _write_now(self._stream, json_line(row_fields(row)))


class _CsvWriter:
    """Comma-separated values with a header; the fields that a row lacks stay empty."""

    def __init__(self, stream: TextIO, *, mark: bool) -> None:
        self._stream = stream
        if mark:
            stream.write("\ufeff")
        self._write_line(dict(zip(_CSV_COLUMNS, _CSV_COLUMNS, strict=True)))

    def write(self, row: CaptionRow) -> None:
        fields = row_fields(row)
        self._write_line({**fields, "labels": "; ".join(fields.get("labels", ()))})

    def _write_line(self, fields: dict[str, Any]) -> None:
        line = io.StringIO()
        csv.DictWriter(line, _CSV_COLUMNS, restval="", lineterminator="\n").writerow(fields)
        _write_now(self._stream, line.getvalue())


class _TableWriter:
    """A table for people: photo, caption, confidence, milliseconds; each row appears when it is ready.

    The column widths are fixed from the terminal's width and not from the rows, which are not known yet.
    """

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # loaded when somebody looks, not for a pipe

        width = None if stream.isatty() else _TABLE_WIDTH_NO_TERMINAL
        self._console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
        self._stream = stream
        self._photo_width = max(12, min(36, self._console.width // 3))
        self._write_cells("photo", "caption", "confidence", "ms", style="bold")

    def write(self, row: CaptionRow) -> None:
        if row.caption is None:
            return
        caption = row.caption
        self._write_cells(
            printable(row.path), caption.spoken, f"{caption.confidence:.2f}", f"{caption.latency_ms:.0f}"
        )

    def _write_cells(self, photo: str, caption: str, confidence: str, latency: str, style: str = "") -> None:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(width=self._photo_width)
        grid.add_column(ratio=1)
        grid.add_column(width=10, justify="right")
        grid.add_column(width=6, justify="right")
        shown = Text(shorten_path(photo, self._photo_width), no_wrap=True)
        grid.add_row(shown, Text(caption), confidence, latency, style=style)
        with self._console.capture() as capture:
            self._console.print(grid)
        lines = (line.rstrip() for line in capture.get().splitlines())
        _write_now(self._stream, "\n".join(lines) + "\n")


def shorten_path(path: str, width: int) -> str:
    """A path that fits a column: the end is kept, for that is where the photo's name is.

    >>> shorten_path("holidays/2019/beach/cat.jpg", 16)
    '…/beach/cat.jpg'
    """
    if len(path) <= width:
        return path
    tail = path[-(width - 1) :]
    return "…" + tail[max(0, tail.find("/")) :]


def _write_now(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def prepare_stream(stream: TextIO) -> TextIO:
    """Make a standard stream UTF-8 whatever the locale (cp1251 crashed on an emoji; so would LANG=C)."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    return stream


@contextmanager
def write_atomically(path: str | Path, *, keep_partial: bool = True) -> Iterator[TextIO]:
    """Open a text file for writing that appears under its name only when the block ends without an exception.

    An existing file stays as it was until then, and for good if it holds the same already. When the block is
    left by an exception, what was written so far is kept beside it as `NAME.partial`. What is no ordinary
    file (`/dev/null`, a pipe) is written directly.

    Args:
        path: The file; a link is followed, so that the link stays one.
        keep_partial: False to keep nothing when the block is left by an exception.

    Raises:
        OSError: The folder does not exist or cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
        return
    temporary = _temporary_beside(target)
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists() and filecmp.cmp(temporary, target, shallow=False):
            temporary.unlink()
        else:
            temporary.replace(target)
            sync_folder(target.parent)
    except BaseException:
        if keep_partial:
            _keep_partial(temporary, target)
        else:
            temporary.unlink(missing_ok=True)
        raise


def temporary_prefix(target: Path) -> str:
    """How the names of a file's temporary versions begin."""
    return f".{target.name[:40]}."


def _temporary_beside(target: Path) -> Path:
    """An empty file of its own in the target's folder, with the rights that a new file there gets."""
    try:
        # Cut, so that a name of the longest permitted length still works.
        handle, name = tempfile.mkstemp(
            prefix=temporary_prefix(target), suffix=TEMPORARY_SUFFIX, dir=target.parent
        )
    except OSError as error:  # it names a file of which nobody has heard
        reason = error.strerror if target.parent.is_dir() else f"there is no folder {target.parent}"
        raise OSError(error.errno, reason, str(target)) from error
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only the owner can read
    return Path(name)


def _keep_partial(temporary: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    with suppress(OSError):
        if temporary.stat().st_size:
            temporary.replace(partial)
            _log.warning("what was written so far is in %s", partial)
        else:
            temporary.unlink()


def write_new(target: Path, content: bytes) -> None:
    """Create a file whole; no moment shows half of it, and not even a power cut does.

    Raises:
        FileExistsError: Somebody was quicker; theirs stays.
        OSError: The folder cannot be written, or the disk is full.
    """
    temporary = _temporary_beside(target)
    try:
        _write_synced(temporary, content)
        _rename_to_new(temporary, target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(target: Path, content: bytes) -> None:
    """Replace a file's content; every moment, even a power cut's, shows the old one or the new one.

    Raises:
        OSError: The folder cannot be written, or the disk is full; the old content is there.
    """
    temporary = _temporary_beside(target)
    try:
        _write_synced(temporary, content)
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make a renaming in a folder survive a power cut, where the system can promise that."""
    with suppress(OSError):  # Windows opens no folders, and some network drives do not sync them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(target: Path) -> None:
    """Remove what a killed process left of writing this file; nobody else may be writing it."""
    start = temporary_prefix(target)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if name.startswith(start) and name.endswith(TEMPORARY_SUFFIX):
                (target.parent / name).unlink(missing_ok=True)


def _rename_to_new(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # unlike a rename, refuses to replace
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as a memory card's
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        temporary.rename(target)
