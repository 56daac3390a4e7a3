"""Subtitles are read back by a parser of the test's own, written from the formats' descriptions."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import pytest

from kiloword.runtime.subtitles import SubtitleWriter, time_stamp


@dataclass(frozen=True)
class Cue:
    start_s: float
    end_s: float
    lines: tuple[str, ...]


def parse(content: str, format_name: str) -> list[Cue]:
    """Read subtitles strictly: blocks between empty lines, each a number, a line of times, and text."""
    mark = re.escape("." if format_name == "vtt" else ",")
    blocks = content.strip("\n").split("\n\n")
    if format_name == "vtt":
        assert blocks.pop(0) == "WEBVTT"
    cues = []
    for number, block in enumerate(filter(None, blocks), start=1):
        name, times, *lines = block.split("\n")
        assert name == str(number)
        stamp = rf"(\d\d+):([0-5]\d):([0-5]\d){mark}(\d\d\d)"
        match = re.fullmatch(f"{stamp} --> {stamp}", times)
        assert match, times
        values = [int(value) for value in match.groups()]
        start, end = (h * 3600 + m * 60 + s + ms / 1000 for h, m, s, ms in (values[:4], values[4:]))
        assert lines
        assert all(line.strip() for line in lines)
        cues.append(Cue(start, end, tuple(lines)))
    return cues


def written(format_name: str, *begun: tuple[str, float], end_s: float) -> list[Cue]:
    stream = io.StringIO()
    writer = SubtitleWriter(stream, format_name)
    for text, start_s in begun:
        writer.begin(text, start_s)
    writer.end(end_s)
    return parse(stream.getvalue(), format_name)


both = pytest.mark.parametrize("format_name", ["srt", "vtt"])


@both
def test_each_caption_lasts_until_the_next(format_name: str) -> None:
    cues = written(format_name, ("a dog", 0.0), ("a cat", 61.25), ("a horse", 3723.5), end_s=3725.0)
    assert cues == [
        Cue(0.0, 61.25, ("a dog",)),
        Cue(61.25, 3723.5, ("a cat",)),
        Cue(3723.5, 3725.0, ("a horse",)),
    ]


@both
def test_what_lasts_no_time_is_left_out(format_name: str) -> None:
    cues = written(format_name, ("a dog", 0.0), ("a blink", 2.0), ("a cat", 2.0), end_s=3.0)
    assert [cue.lines for cue in cues] == [("a dog",), ("a cat",)]


@both
def test_nothing_said_is_a_valid_file(format_name: str) -> None:
    assert written(format_name, end_s=5.0) == []
    assert written(format_name, ("", 0.0), end_s=5.0) == []


@both
def test_time_never_goes_back(format_name: str) -> None:
    cues = written(format_name, ("a dog", 5.0), ("a cat", 4.0), ("a horse", 6.0), end_s=1.0)
    assert all(cue.start_s < cue.end_s for cue in cues)
    assert [cue.lines for cue in cues] == [("a cat",)]


@both
def test_long_captions_are_broken_into_lines(format_name: str) -> None:
    (cue,) = written(
        format_name, ("a woman in a red coat walks a small brown dog along a snowy street", 0.0), end_s=1.0
    )
    assert len(cue.lines) == 2
    assert max(map(len, cue.lines)) <= 42


def test_what_would_break_the_format_is_escaped() -> None:
    """Line breaks end a cue; in WebVTT `<`, `&` and an arrow mean something."""
    hostile = "a\n\nsign <b> & --> here"
    (cue,) = written("vtt", (hostile, 0.0), end_s=1.0)
    assert cue.lines == ("a sign &lt;b&gt; &amp; --&gt; here",)
    (cue,) = written("srt", (hostile, 0.0), end_s=1.0)
    assert cue.lines == ("a sign <b> & -> here",)


def test_cues_are_on_disk_as_soon_as_they_end() -> None:
    stream = io.StringIO()
    writer = SubtitleWriter(stream, "srt")
    writer.begin("a dog", 0.0)
    writer.begin("a cat", 2.0)
    assert [cue.lines for cue in parse(stream.getvalue(), "srt")] == [("a dog",)]


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [(0, "00:00:00.000"), (0.9996, "00:00:01.000"), (59.9999, "00:01:00.000"), (360_000, "100:00:00.000")],
)
def test_time_stamps_round_into_the_next_unit(seconds: float, stamp: str) -> None:
    assert time_stamp(seconds, ".") == stamp
