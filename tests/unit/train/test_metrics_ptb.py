"""The own tokenizer. Expected tokens are what Stanford CoreNLP 3.4.1 printed for the same line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kiloword.runtime.errors import KilowordError, MissingDependencyError
from kiloword.train.metrics import ptb


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog runs .", "a dog runs"),
        ("a white dog, and 3 men.", "a white dog and 3 men"),
        (
            "don't DON'T dont can't won't ain't doesn\u2019t",
            "do n't do n't dont ca n't wo n't ai n't does n't",
        ),
        ("The man's dogs' James's it 's", "the man 's dogs james 's it 's"),
        ("cannot gonna gotta wanna lemme gimme", "can not gon na got ta wan na lem me gim me"),
        ("gonna. wanna, wannabe dunno", "gon na wan na wannabe dunno"),
        ("more'n 'tis 'twas d'ye", "more 'n 't is 't was d'ye"),
        ("I'm they're we've who'd he'll I'd've", "i 'm they 're we 've who 'd he 'll i 'd 've"),
        ("rock'n'roll 'em y'all ol' o'clock ma'am", "rock 'n' roll 'em y' all ol' o'clock ma'am"),
        ("the '80s and 80's of O'Brien d'oeuvres", "the '80s and 80 's of o'brien d'oeuvres"),
        ("a t-shirt -- red-and-white - b-", "a t-shirt red-and-white b"),
        ('"Sink eye view" of `x\'', "sink eye view of x"),
        ("(blue vs. white) [x] {y}", "-lrb- blue vs. white -rrb- -lsb- x -rsb- -lcb- y -rcb-"),
        ("at 5:30pm, 11:43 p.m. 1/2 3,000 $5 50% 2x4", "at 5:30 pm 11:43 p.m. 1/2 3,000 $ 5 50 % 2x4"),
        ("1 1/2 hot dogs", "1 1/2 hot dogs"),
        ("No. 5 and no. Mr. J. Smith of St. Louis", "no. 5 and no mr. j. smith of st. louis"),
        ("plan B. The end", "plan b the end"),
        ("a T.V. in the U.S.A of P.O.V", "a t.v. in the u.s.a of p.o.v"),
        ("a miss. and Miss. and the wash. of Wash. State", "a miss and miss. and the wash of wash. state"),
        ("a road., a bathroom.with items", "a road. a bathroom.with items"),
        ("AT&T at&t S & P", "at&t at & t s & p"),
        ("and/or him/her a fork/", "and/or him/her a fork /"),
        ("what?! wow!! hello...bye .. ....", "what ?! wow !! hello bye"),
        ("see www.foo.com, http://x.y/z me@x.org #tag", "see www.foo.com http://x.y/z me@x.org #tag"),
        (
            "the man*s = caf\u00e9 \u201cna\u00efve\u201d foo\u2014bar",
            "the man * s = caf\u00e9 na\u00efve foo bar",
        ),
        ("", ""),
        (" ... ", ""),
    ],
)
def test_tokens_are_the_references(caption: str, expected: str) -> None:
    assert ptb.tokenize(caption) == tuple(expected.split())


def test_auto_is_the_reference_only_where_both_java_and_the_jar_are_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/java")
    monkeypatch.setattr(ptb, "find_reference_jar", lambda: tmp_path / "x.jar")
    assert (ptb.choose_tokenizer(), ptb.choose_tokenizer("own")) == ("java", "own")
    monkeypatch.setattr(ptb, "find_reference_jar", lambda: None)
    assert ptb.choose_tokenizer() == "own"
    with pytest.raises(MissingDependencyError, match="pycocoevalcap"):
        ptb.choose_tokenizer("java")
    monkeypatch.setattr(ptb, "find_reference_jar", lambda: tmp_path / "x.jar")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert ptb.choose_tokenizer() == "own"
    with pytest.raises(KilowordError, match="java"):
        ptb.choose_tokenizer("java")


def test_without_pycocoevalcap_there_is_no_jar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb, "find_spec", lambda _: None)
    assert ptb.find_reference_jar() is None
    with pytest.raises(MissingDependencyError):
        ptb.tokenize_many(["x"], "java")


def test_reference_that_fails_is_an_error_not_a_short_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A list of the wrong length would move every later caption to another photo."""
    monkeypatch.setattr(ptb, "find_reference_jar", lambda: tmp_path / "x.jar")
    failed = subprocess.CompletedProcess[bytes](["java"], 1, stdout=b"one\n", stderr=b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(KilowordError, match="expected 2 lines, found 2 lines, exit code 1"):
        ptb.tokenize_many(["one", "two"], "java")
