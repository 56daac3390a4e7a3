"""Lines of live captions: for people, for a voice, for programs."""

from __future__ import annotations

import io
import json

import pytest

from kiloword.runtime.live_outputs import LiveSummary, LiveWriter, as_sentence
from tests.sources import live_caption


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_jsonl_line() -> None:
    """Names as in the design: time stamp, age, caption, confidence; and the frame and what is on show."""
    stream = io.StringIO()
    LiveWriter(stream, "jsonl").write(live_caption())
    assert json.loads(stream.getvalue()) == {
        "time": "2026-01-02T03:04:05.000+00:00",
        "frame": 3,
        "video_s": 0.3,
        "age_ms": 41.3,
        "caption": "a dog",
        "confidence": 0.5,
        "bundle": "tiny",
        "latency_ms": 30.0,
        "reliable": True,
        "reason": None,
        "shown": "a dog",
        "changed": True,
    }


def test_jsonl_has_every_caption_and_text_what_changed() -> None:
    for format_name, lines in (("jsonl", 3), ("text", 2)):
        stream = io.StringIO()
        writer = LiveWriter(stream, format_name)
        for text, changed in (("a dog", True), ("dogs", False), ("a cat", True)):
            writer.write(live_caption(text, changed=changed))
        assert len(stream.getvalue().splitlines()) == lines
    assert stream.getvalue().splitlines()[1] == "a cat  (confidence 0.50, frame 3, 41 ms old)"


def test_say_changes() -> None:
    """Bare sentences for a voice; programs get the same lines as JSON."""
    text, jsonl = io.StringIO(), io.StringIO()
    for stream, format_name in ((text, "text"), (jsonl, "jsonl")):
        writer = LiveWriter(stream, format_name, only_changes=True)
        for caption, changed in (("a dog", True), ("dogs", False), ("a cat", True)):
            writer.write(live_caption(caption, changed=changed))
    assert text.getvalue() == "A dog.\nA cat.\n"
    assert [json.loads(line)["shown"] for line in jsonl.getvalue().splitlines()] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a dog", "A dog."),
        ("a dog \n on\tgrass .", "A dog on grass ."),
        ("é", "É."),
        ("狗。", "狗。"),
        ("", ""),
        ("Is it?", "Is it?"),
    ],
)
def test_sentences(text: str, sentence: str) -> None:
    assert as_sentence(text) == sentence


def test_words_grow_on_a_terminal_only() -> None:
    """In a file or a pipe a line that is replaced would be rubbish."""
    for stream, grows in ((io.StringIO(), False), (Terminal(), True)):
        LiveWriter(stream, "text").grow("a dog")
        assert ("a dog" in stream.getvalue()) is grows
    for writer_stream, settings in (
        (Terminal(), {"format_name": "jsonl"}),
        (Terminal(), {"format_name": "text"}),
    ):
        writer = LiveWriter(writer_stream, settings["format_name"], only_changes=True)
        writer.grow("a dog")
        assert writer_stream.getvalue() == ""


def test_grown_words_are_erased_before_the_line() -> None:
    terminal = Terminal()
    writer = LiveWriter(terminal, "text")
    writer.grow("a d")
    writer.write(live_caption())
    assert terminal.getvalue() == "\r\x1b[Ka d\r\x1b[Ka dog  (confidence 0.50, frame 3, 41 ms old)\n"


def test_summary() -> None:
    """Median and longest of 10, 20 and 60 ms."""
    summary = LiveSummary()
    assert summary.line(1) == "0 captions of 1 frame"
    for age_ms in (10.0, 60.0, 20.0):
        summary.add(live_caption(age_ms=age_ms))
    ages = "age from capture to caption: median 20 ms, longest 60 ms"
    assert summary.line(9) == f"3 captions of 9 frames; {ages}"
