"""Lines, tables, files that appear whole."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kiloword.runtime.captioner import Caption
from kiloword.runtime.outputs import (
    CaptionRow,
    default_format,
    make_writer,
    prepare_stream,
    printable,
    shorten_path,
    write_atomically,
    write_new,
)

CAPTION = Caption("a dog runs", 0.123456, (5, 2), (-0.1, -0.2), 12.3456, "tiny")
GOOD = CaptionRow("photos/dog.jpg", CAPTION)
BAD = CaptionRow("photos/bad.jpg", error="photos/bad.jpg: is empty")

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names and rights")


def written(format_name: str, *rows: CaptionRow, with_path: bool = True) -> str:
    """What a writer makes of some rows."""
    stream = io.StringIO()
    writer = make_writer(format_name, stream, with_path=with_path)
    for row in rows:
        writer.write(row)
    return stream.getvalue()


def test_text() -> None:
    """`path: caption`, or the caption alone; a failure belongs to stderr and leaves no line."""
    assert written("text", GOOD, BAD) == "photos/dog.jpg: a dog runs\n"
    assert written("text", GOOD, with_path=False) == "a dog runs\n"


def test_jsonl_has_the_promised_fields() -> None:
    """The fields are those of the design: with a caption, or with an error and no caption."""
    good, bad = (json.loads(line) for line in written("jsonl", GOOD, BAD).splitlines())
    assert good == {
        "path": "photos/dog.jpg",
        "caption": "a dog runs",
        "confidence": 0.1235,
        "bundle": "tiny",
        "latency_ms": 12.35,
        "reliable": True,
        "reason": None,
    }
    assert bad == {"path": "photos/bad.jpg", "error": "photos/bad.jpg: is empty"}


def test_people_read_no_caption_that_is_not_reliable_and_programs_do() -> None:
    unsure = CaptionRow("a.jpg", replace(CAPTION, sure=False))
    none = CaptionRow("b.jpg", replace(CAPTION, reliable=False, reason="does not look like a photo"))
    assert written("text", unsure, none) == "a.jpg: probably a dog runs\nb.jpg: no reliable description\n"
    table = written("table", none)
    assert "no reliable description" in table
    assert "dog" not in table
    fields = json.loads(written("jsonl", none))
    assert (fields["caption"], fields["reliable"]) == ("a dog runs", False)
    assert fields["reason"] == "does not look like a photo"
    (row,) = csv.DictReader(io.StringIO(written("csv", none)))
    assert (row["caption"], row["reliable"]) == ("a dog runs", "False")


def test_a_warning_goes_along_with_its_caption() -> None:
    """In JSONL and CSV; lines of text are captions alone."""
    cut = CaptionRow("cut.jpg", replace(CAPTION, warnings=("is truncated", "is odd")))
    assert json.loads(written("jsonl", cut))["warning"] == "is truncated; is odd"
    (row,) = csv.DictReader(io.StringIO(written("csv", cut)))
    assert (row["warning"], row["error"]) == ("is truncated; is odd", "")
    assert written("text", cut) == "cut.jpg: a dog runs\n"


def test_jsonl_is_readable_utf8() -> None:
    """A path in another alphabet is not turned into escapes that nobody can read or grep."""
    assert "Фото/кот 🐈.jpg" in written("jsonl", CaptionRow("Фото/кот 🐈.jpg", CAPTION))


@posix_only
def test_a_name_that_is_no_utf8_survives_jsonl() -> None:
    """The line can be encoded, and reading it back gives the very bytes of the file's name."""
    path = os.fsdecode(b"caf\xe9.jpg")
    line = written("jsonl", CaptionRow(path, CAPTION))
    assert os.fsencode(json.loads(line.encode("utf-8"))["path"]) == b"caf\xe9.jpg"


def test_csv_is_read_back_by_a_csv_reader() -> None:
    """Commas, quotes and line ends in names are the writer's problem, not the user's."""
    odd = CaptionRow('a,"b"\nc.jpg', CAPTION)
    good, bad = csv.DictReader(io.StringIO(written("csv", odd, BAD)))
    assert good["path"] == 'a,"b"\nc.jpg'
    assert (good["caption"], good["confidence"], good["error"]) == ("a dog runs", "0.1235", "")
    assert (bad["caption"], bad["error"]) == ("", "photos/bad.jpg: is empty")


def test_table_has_photo_caption_confidence_and_milliseconds() -> None:
    header, row = written("table", GOOD, BAD).splitlines()
    assert header.split() == ["photo", "caption", "confidence", "ms"]
    assert row.split() == ["photos/dog.jpg", "a", "dog", "runs", "0.12", "12"]


def test_table_takes_markup_in_names_and_captions_literally() -> None:
    """rich would take [red] for a colour and leave it out."""
    table = written("table", CaptionRow("[red].jpg", CAPTION))
    assert "[red].jpg" in table


def test_table_wraps_long_captions_in_their_column() -> None:
    long = Caption("word " * 40, 0.5, (), (), 1.0, "tiny")
    lines = written("table", CaptionRow("a.jpg", long)).splitlines()
    assert len(lines) > 3
    assert all(len(line) <= 100 for line in lines)
    assert len({len(line) - len(line.lstrip()) for line in lines[2:]}) == 1


def test_line_ends_and_terminal_commands_in_names_are_escaped() -> None:
    """A file called `a\\nb: nice.jpg` must not forge a line, nor `\\x1b[2J` clear the screen."""
    assert printable("a\nb\x1b[2J\x9b.jpg") == r"a\nb\x1b[2J\x9b.jpg"
    assert written("text", CaptionRow("a\nb.jpg", CAPTION)) == "a\\nb.jpg: a dog runs\n"


def test_shorten_path_keeps_the_name() -> None:
    assert shorten_path("a/b.jpg", 20) == "a/b.jpg"
    assert shorten_path("holidays/2019/cat.jpg", 14) == "…/2019/cat.jpg"
    assert shorten_path("x" * 40 + ".jpg", 12) == "…xxxxxxx.jpg"
    assert all(len(shorten_path("abc/" * 9 + "d.jpg", width)) <= width for width in range(12, 50))


def test_default_format() -> None:
    assert default_format("x.JSONL", to_people=True) == "jsonl"
    assert default_format("x.csv", to_people=False) == "csv"
    assert default_format("x.txt", to_people=True) == "text"
    assert default_format(None, to_people=True) == "table"
    assert default_format(None, to_people=False) == "text"


def test_standard_streams_become_utf8() -> None:
    """With cp1251, or LANG=C, writing an emoji raised UnicodeEncodeError (clip-interrogator#47)."""
    raw = io.BytesIO()
    stream = prepare_stream(io.TextIOWrapper(raw, encoding="cp1251", newline="\r\n"))
    stream.write("🐈\n")
    stream.flush()
    assert raw.getvalue() == "🐈\n".encode()


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with write_atomically(target) as stream:
        stream.write("new 🐈\n")
        stream.flush()
        assert target.read_text() == "old"
    assert target.read_bytes() == "new 🐈\n".encode()
    assert os.listdir(tmp_path) == ["out.txt"]


def test_an_interrupted_file_is_kept_beside_the_old_one(tmp_path: Path) -> None:
    """Hours of captions are not thrown away with the last one."""
    target = tmp_path / "out.txt"
    target.write_text("old")

    def interrupted() -> None:
        with write_atomically(target) as stream:
            stream.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert (tmp_path / "out.txt.partial").read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == ["out.txt", "out.txt.partial"]


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), write_atomically(tmp_path / "out.txt"):
        raise ValueError("stop")
    assert os.listdir(tmp_path) == []


@posix_only
def test_the_file_gets_ordinary_rights_and_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("real.txt")
    umask = os.umask(0o022)
    try:
        with write_atomically(tmp_path / "link.txt") as stream:
            stream.write("x")
    finally:
        os.umask(umask)
    assert (tmp_path / "link.txt").is_symlink()
    assert stat.S_IMODE((tmp_path / "real.txt").stat().st_mode) == 0o644


@posix_only
def test_what_is_no_ordinary_file_is_written_directly(tmp_path: Path) -> None:
    """Replacing /dev/null by a file, which root may do, would break the machine."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with write_atomically(fifo) as stream:
        stream.write("x\n")
    assert os.read(reader, 10) == b"x\n"
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_missing_folder_is_an_oserror_that_names_it(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        write_atomically(tmp_path / "nowhere" / "out.txt"),
    ):
        pytest.fail("the block must not run")


def test_the_longest_names_work(tmp_path: Path) -> None:
    """255 bytes is the limit of most file systems; the temporary name must not exceed it."""
    with write_atomically(tmp_path / ("x" * 251 + ".txt")) as stream:
        stream.write("x")
    write_new(tmp_path / ("y" * 251 + ".txt"), b"x")
