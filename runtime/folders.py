"""From what people name on a command line to the photos meant: files, folders, globs, `-` for stdin.

Everything is listed lazily and one folder at a time, so a hundred thousand photos cost no more memory than
the largest single folder's names.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from typing import BinaryIO

from kiloword.runtime.errors import ImageError
from kiloword.runtime.shards import is_shard_name, walk_shard

PHOTO_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".avif",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".heic",
        ".heif",
        # RAW files, for the JPEG in them
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".raf",
        ".rw2",
        ".pef",
        ".srw",
    )
)
"""What counts as a photo in a folder or behind a glob. A file that is named itself is always tried."""

STDIN = "-"
_READ_BYTES = 1 << 16


def expand_paths(
    arguments: Sequence[str], stdin: BinaryIO | FileIO | None = None
) -> Iterator[str | ImageError]:
    """List the photos that the arguments mean, in the arguments' order.

    A file is taken as it is, whatever its suffix. A folder gives the photos in it and below, sorted by name,
    each folder's own photos before those of its subfolders; hidden files and folders are skipped and links
    are followed, though no folder is entered twice. A glob (for shells that leave it alone, and for quoted
    ones) gives its matches as if it were a folder. `-` gives the paths on `stdin`, one per line, as they
    arrive. A tar or Parquet file that is named or matched gives the photos in it (`runtime.shards`).

    Args:
        arguments: Paths, globs, or `-`.
        stdin: Where `-` reads from: a binary stream, best an unbuffered one.

    Yields:
        A photo's path as the user would write it, or an `ImageError` for an argument that leads to no photo.
    """
    for argument in arguments:
        if argument == STDIN:
            yield from _expand_lines(stdin)
        else:
            yield from _expand_argument(argument)


def names_one_photo(arguments: Sequence[str]) -> bool:
    """Whether the arguments can only mean a single photo: one file, no folder, no glob, not stdin."""
    if len(arguments) != 1 or arguments[0] == STDIN:
        return False
    return not os.path.isdir(arguments[0]) and not _is_glob(arguments[0]) and not is_shard_name(arguments[0])


def raw_stdin() -> BinaryIO | FileIO:
    """Stdin without Python's buffer, whose lock a reading thread would still hold when the process ends."""
    try:
        return FileIO(sys.stdin.fileno(), closefd=False)
    except (OSError, ValueError):  # no real file, as under a test runner
        return sys.stdin.buffer


def is_photo_name(name: str) -> bool:
    """Whether a file of this name in a folder is taken for a photo: by its suffix, unless it is hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES


def _expand_argument(argument: str) -> Iterator[str | ImageError]:
    if os.path.isdir(argument):
        yield from _photos_or_error(argument, walk_photos(argument), "no photos in this folder")
    elif is_shard_name(argument) and os.path.isfile(argument):
        yield from _photos_or_error(argument, walk_shard(argument), "no photos in this shard")
    elif _is_glob(argument):
        yield from _photos_or_error(argument, _expand_glob(argument), "no photos match this pattern")
    else:
        yield argument  # what is wrong with a missing or unreadable file is for the decoder to say


def _photos_or_error(
    argument: str, photos: Iterable[str | ImageError], message: str
) -> Iterator[str | ImageError]:
    found_any = False
    for photo in photos:
        found_any = True
        yield photo
    if not found_any:
        suffixes = " ".join(sorted(suffix[1:] for suffix in PHOTO_SUFFIXES))
        yield ImageError(message, path=argument, expected=f"a file that ends in one of: {suffixes}")


def walk_photos(folder: str) -> Iterator[str | ImageError]:
    """List the photos in a folder and below it; an unreadable subfolder gives an error and is passed over.

    Yields:
        Paths that begin with `folder`, or an `ImageError` that names the unreadable folder.
    """
    entered: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            photos, subfolders = _list_folder(current, entered)
        except OSError as error:
            reason = error.strerror or str(error)
            yield ImageError("this folder cannot be read", path=current, found=reason)
            continue
        yield from photos
        pending.extend(reversed(subfolders))  # a stack, so that the first by name is taken off first


def _list_folder(folder: str, entered: set[tuple[int, int]]) -> tuple[list[str | ImageError], list[str]]:
    """Photos and subfolders of one folder, sorted; both empty when this folder was entered before.

    A folder is known by device and inode, which is what breaks loops of symbolic links. Windows' inode
    numbers are filled in by `os.stat` too; a file system that reports 0 has no links to loop through.
    """
    identity = os.stat(folder)
    key = (identity.st_dev, identity.st_ino)
    if key in entered:
        return [], []
    if identity.st_ino:
        entered.add(key)
    photos: list[os.DirEntry[str]] = []
    subfolders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                subfolders.append(entry.path)
            elif is_photo_name(entry.name):
                photos.append(entry)
    photos.sort(key=lambda entry: entry.path)
    return [_photo_or_error(entry) for entry in photos], sorted(subfolders)


def _photo_or_error(entry: os.DirEntry[str]) -> str | ImageError:
    """A pipe or a device that is called like a photo must not be opened: reading it may never end."""
    try:
        mode = os.stat(entry.path).st_mode if entry.is_symlink() else 0
        ordinary = stat.S_ISREG(mode) if mode else entry.is_file()
    except OSError:  # a link to nowhere: the decoder says so
        return entry.path
    return entry.path if ordinary else ImageError("is no ordinary file", path=entry.path, expected="a photo")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that points at itself; the decoder says so if it is called like a photo
        return False


def _is_glob(argument: str) -> bool:
    """A name that exists as written is no glob: `holiday [1].jpg` is a photo."""
    return glob.has_magic(argument) and not os.path.lexists(argument)


def _expand_glob(pattern: str) -> Iterator[str | ImageError]:
    # `**` already lists what lies below; walking its folders too would give each photo several times.
    walk_matches = "**" not in pattern
    for match in sorted(glob.iglob(os.path.expanduser(pattern), recursive=True)):
        if os.path.isdir(match):
            if walk_matches:
                yield from walk_photos(match)
        elif is_shard_name(match):
            yield from walk_shard(match)
        elif is_photo_name(os.path.basename(match)):
            yield match


def _expand_lines(stdin: BinaryIO | FileIO | None) -> Iterator[str | ImageError]:
    for line in () if stdin is None else _lines_as_they_come(stdin):
        if b"\0" in line:
            yield ImageError(
                "this is no list of paths",
                path="standard input",
                expected="one path per line",
                found="binary data",
                hint="kiloword caption PHOTO",
            )
            return
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if os.path.isdir(path):
            yield from _expand_argument(path)
        elif path:
            yield path  # no globs here: a program wrote this line and meant it literally


def _lines_as_they_come(stream: BinaryIO | FileIO) -> Iterator[bytes]:
    """Split a stream into lines without waiting for more than has arrived.

    Reading an unbuffered stream in chunks takes no lock of `sys.stdin`: Python aborts at exit ("could not
    acquire lock for BufferedReader") while another thread holds that lock in a blocking read.
    """
    rest = b""
    while chunk := stream.read(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest
