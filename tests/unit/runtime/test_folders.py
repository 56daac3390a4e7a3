"""What people name on a command line, turned into photos: folders, globs, stdin, and their faults."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from kiloword.runtime.errors import ImageError
from kiloword.runtime.folders import expand_paths, names_one_photo

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links and POSIX file names")


def touch(folder: Path, *names: str) -> None:
    """Make empty files, with the folders they lie in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*arguments: str | Path, stdin: bytes = b"") -> list[str]:
    """The photos that the arguments mean; an error counts as a failure of the test."""
    found = list(expand_paths([str(argument) for argument in arguments], io.BytesIO(stdin)))
    assert not [item for item in found if isinstance(item, ImageError)]
    return [str(item) for item in found]


def only_error(*arguments: str | Path, stdin: bytes = b"") -> ImageError:
    """The single error that the arguments lead to."""
    (error,) = expand_paths([str(argument) for argument in arguments], io.BytesIO(stdin))
    assert isinstance(error, ImageError)
    return error


def test_a_folder_is_walked_by_name_and_hidden_things_are_skipped(tmp_path: Path) -> None:
    """The order is the documented one: a folder's own photos by name, then its subfolders by name."""
    touch(
        tmp_path, "b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "another/d.jpeg", ".hidden.jpg", ".git/e.jpg"
    )
    names = [os.path.relpath(path, tmp_path) for path in listed(tmp_path)]
    assert names == ["a.PNG", "b.jpg", os.path.join("another", "d.jpeg"), os.path.join("sub", "c.webp")]


def test_paths_are_written_as_the_user_wrote_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like grep -r: a relative folder gives relative paths, which is what scripts join on."""
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert listed("photos") == [os.path.join("photos", "a.jpg")]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    """Its content decides, and a missing file is for the decoder to report."""
    assert listed(tmp_path / "scan", tmp_path / "missing.jpg") == [
        str(tmp_path / "scan"),
        str(tmp_path / "missing.jpg"),
    ]


def test_a_folder_without_photos_is_an_error_that_names_it(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    message = str(only_error(tmp_path))
    assert str(tmp_path) in message
    assert "no photos in this folder" in message
    assert "jpg" in message  # what would have counted as one


@posix_only
def test_loops_of_links_end_and_links_to_photos_count(tmp_path: Path) -> None:
    """A folder that contains itself through links would otherwise be walked until the path is too long."""
    touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "self.jpg").symlink_to("self.jpg")
    names = [os.path.relpath(path, tmp_path / "photos") for path in listed(tmp_path / "photos")]
    assert names == ["a.jpg", "self.jpg", "more/b.jpg"]


def test_an_unreadable_subfolder_is_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is simulated, for tests may run as root, who may read everything."""
    touch(tmp_path, "a.jpg", "locked/b.jpg", "open/c.jpg")
    scandir = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(expand_paths([str(tmp_path)]))
    errors = [item for item in found if isinstance(item, ImageError)]
    assert [error.path for error in errors] == [str(tmp_path / "locked")]
    assert len(found) == 3


def test_a_folder_that_vanishes_while_it_is_walked_stops_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "gone/b.jpg", "kept/c.jpg")
    walk = expand_paths([str(tmp_path)])
    first = next(walk)
    (tmp_path / "gone" / "b.jpg").unlink()
    (tmp_path / "gone").rmdir()
    rest = list(walk)
    assert first == str(tmp_path / "a.jpg")
    assert isinstance(rest[0], ImageError)
    assert rest[1] == str(tmp_path / "kept" / "c.jpg")


def test_globs_give_photos_sorted_and_walk_folders(tmp_path: Path) -> None:
    """A quoted glob; text files that match it are not photos, as sidecars beside them are not."""
    touch(tmp_path, "2.jpg", "1.jpg", "1.txt", "trip/3.jpg")
    names = [os.path.relpath(path, tmp_path) for path in listed(tmp_path / "*")]
    assert names == ["1.jpg", "2.jpg", os.path.join("trip", "3.jpg")]


def test_a_recursive_glob_gives_each_photo_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/b/2.jpg")
    assert len(listed(tmp_path / "**")) == 2
    assert len(listed(tmp_path / "**" / "*.jpg")) == 2


def test_a_file_with_glob_characters_in_its_name_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "holiday [1].jpg")
    assert listed(tmp_path / "holiday [1].jpg") == [str(tmp_path / "holiday [1].jpg")]


def test_a_glob_without_matches_is_an_error(tmp_path: Path) -> None:
    assert "no photos match" in str(only_error(tmp_path / "*.jpg"))


def test_paths_from_stdin(tmp_path: Path) -> None:
    """Line ends of either kind, blank lines, folders; a last line without an end; no globs."""
    touch(tmp_path, "photos/a.jpg")
    lines = f"x.jpg\r\n\n{tmp_path / 'photos'}\n*.jpg".encode()
    assert listed("-", stdin=lines) == ["x.jpg", str(tmp_path / "photos" / "a.jpg"), "*.jpg"]


@posix_only
def test_paths_from_stdin_may_be_any_bytes() -> None:
    """Linux file names need not be UTF-8; they must reach open() unchanged."""
    (path,) = listed("-", stdin=b"caf\xe9.jpg\n")
    assert os.fsencode(path) == b"caf\xe9.jpg"


def test_a_photo_on_stdin_gets_one_clear_error() -> None:
    """`cat photo.jpg | kiloword caption -` is an easy mistake; a screen of garbage is no answer to it."""
    error = only_error("-", stdin=b"\xff\xd8\xff\xe0\x00\x10JFIF\n\x00\n\x00" * 100)
    assert "binary data" in str(error)


def test_lines_are_given_as_they_come() -> None:
    """A program that keeps the pipe open and sends one path at a time gets each answer at once."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as stdin:
        photos = expand_paths(["-"], stdin)  # type: ignore[arg-type]
        os.write(writer, b"first.jpg\nsec")
        assert next(photos) == "first.jpg"
        os.write(writer, b"ond.jpg\n")
        assert next(photos) == "second.jpg"
        os.close(writer)
        assert list(photos) == []


def test_memory_does_not_grow_with_the_number_of_arguments_taken(tmp_path: Path) -> None:
    """Listing is lazy: the first photo comes without the second folder having been looked at."""
    touch(tmp_path, "a/1.jpg")
    photos = expand_paths([str(tmp_path / "a"), str(tmp_path / "b")])
    assert next(photos) == str(tmp_path / "a" / "1.jpg")
    touch(tmp_path, "b/2.jpg")  # made after the walk began, and still found
    assert next(photos) == str(tmp_path / "b" / "2.jpg")


def test_what_names_one_photo(tmp_path: Path) -> None:
    """Decides whether a line of text needs the path in front."""
    touch(tmp_path, "a.jpg", "b [1].jpg")
    assert names_one_photo([str(tmp_path / "a.jpg")])
    assert names_one_photo([str(tmp_path / "b [1].jpg")])
    assert not names_one_photo([str(tmp_path)])
    assert not names_one_photo([str(tmp_path / "*.jpg")])
    assert not names_one_photo(["-"])
    assert not names_one_photo(["a.jpg", "b.jpg"])
