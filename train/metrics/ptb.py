"""Captions to tokens, the way published caption scores count them.

Scores are comparable only where words are counted alike, and published ones are counted by Stanford's PTB
tokenizer, a Java program. Two tokenizers are here: ``own``, the same conventions in Python, and ``java``,
the reference itself, run from the pycocoevalcap package where that and a Java runtime are installed.

Both lower-case, split contractions as the Penn Treebank does (``don't`` -> ``do n't``, ``man's`` -> ``man
's``, ``cannot`` -> ``can not``), keep abbreviations, times, fractions and hyphenated words whole, and drop
punctuation.

Agreement, measured on 163,823 captions (Flickr8k, and the COCO captions of its train, dev and text lists)
with Stanford CoreNLP 3.4.1, each caption on a line: all but one become the same tokens (99.9994 %;
Flickr8k: all). The one ends with an initial, "... 8th Ave/CTH D.", whose full stop the reference keeps or
drops by how the *next* caption begins. Known to differ beyond these captions: telephone numbers with the
area code in brackets, pounds and euros (the reference writes ``#`` and ``$``), two apostrophes inside a
word, rows of asterisks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from kiloword.runtime.errors import KilowordError, MissingDependencyError

__all__ = [
    "PUNCTUATION",
    "TokenizerName",
    "choose_tokenizer",
    "find_reference_jar",
    "tokenize",
    "tokenize_many",
]

TokenizerName = Literal["auto", "java", "own"]

PUNCTUATION = frozenset(
    # In lower-cased text no bracket name is upper-case: with the reference, too, "-lrb-" counts as a word.
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""Tokens that do not count, as the COCO caption scores define it (Chen et al., arXiv 1504.00325)."""

_TRANSLATION = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2012\u2013\u2014\u2015", " -- "),
        "\u2026": " ... ",
    }
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}

# Words that keep their full stop, found by asking the reference about every word of the captions and about
# the usual abbreviations of titles, places, months and firms.
_ABBREVIATIONS = (
    "adm al ala apr ariz assn atty aug ave bldg blvd brig bros calif capt cf cmdr co col colo conn "
    "corp cpl ct dak dec dept det dr ens esq est etc ext feb fla fri ft ga gen gov hon inc ind insp "
    "intl jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr "
    "mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof pvt rd rep rev rt sen sep "
    "sept seq sgt spc sq sr st ste supt tel tenn thu thurs treas tue tues univ va vs vt wed wis wyo"
)
# These are common words when they begin with a small letter ("a miss.", "the car wash.") ...
_CAPITALISED_ABBREVIATIONS = "Ark Del Ill La Mass Miss Ore Pa Tex Wash"
# ... and these are abbreviations only before a number ("no. 5").
_ABBREVIATIONS_BEFORE_NUMBER = "art ca fig figs no nos op pp prop"
# A letter and a full stop before one of these end a sentence ("plan B. The ..."); else it is an initial.
_SENTENCE_STARTS = (
    "A About According After An As At But Earlier He Her Here If In It Last Many More Now Once One "
    "Other Our She Since So Some Such That The Their Then There These They This We What When While "
    "Yet You"
)


def _any_of(words: str) -> str:
    return "|".join(words.split())


_CLITIC = r"'(?i:s|d|m|ll|re|ve)\b"
_WORD = r"[^\W_]+"
# Alternatives are tried in order, so the special stands before the general.
_TOKEN = re.compile(
    "|".join(
        (
            # Most words are plain ones before a space; taking them first halves the time of the whole.
            r"(?!(?i:cannot|gonna|gotta|wanna|lemme|gimme)\b)[A-Za-z]+(?= )",
            r"(?i:https?://|www\.)[^\s\"'<>()]*[^\s\"'<>().,;:!?]",  # addresses
            rf"{_WORD}(?:[.+-]{_WORD})*@{_WORD}(?:[.-]{_WORD})+",
            r"</?[A-Za-z][^<>\s]*>",  # markup
            r"[:;]-?[()](?!\w)",  # faces
            r"(?i:can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|lem(?=me\b)|gim(?=me\b))",
            r"(?i:(?<=\bcan)not|(?<=\bgon)na|(?<=\bgot)ta|(?<=\bwan)na|(?<=\blem)me|(?<=\bgim)me)\b",
            r"(?i:'t(?=(?:is|was)\b)|d'ye\b|whaddya\b|more(?='n\b))",
            r"(?i:'n'|'n\b|'em\b|'til\b|'cause\b|s'mores?\b|\bol'|\bdunkin'|\by'(?=all\b))",
            r"(?<!\w)'\d\ds?\b(?!')",  # '90s
            rf"(?i:[^\W\d_][^\W_]*(?:-{_WORD})*?(?=n't\b)|n't\b)",
            _CLITIC,
            r"\d+(?::\d+)+",  # times, also before "pm"
            r"(?<!\S)[+-]\d+(?:[.,]\d+)*\b|[#@][A-Za-z]\w*|US\$|(?i:ph\.d\.)",
            r"\d+(?:[.,]\d+)+(?![^\W\d_])|\.\d+\b",
            r"[A-Za-z](?:\.[A-Za-z])+\.(?![A-Za-z])",  # U.S., p.m.
            rf"(?i:\b(?:{_any_of(_ABBREVIATIONS)})\.)(?!{_WORD})",
            rf"\b(?:{_any_of(_CAPITALISED_ABBREVIATIONS)})\.(?!{_WORD})",
            rf"\b(?i:{_any_of(_ABBREVIATIONS_BEFORE_NUMBER)})\.(?=\s*\d)",
            rf"\b[A-Za-z]\.(?![\w.]|\s*$|\s+(?:{_any_of(_SENTENCE_STARTS)})\b)",  # an initial: J. Smith
            r"\b[A-Za-z]+\.(?=[,;:])",
            r"[A-Z]+&[A-Z]+\b",  # AT&T
            r"(?i:\b[dol]'|\bma'(?=am\b)|\bne'(?=er\b))" + rf"{_WORD}(?:-{_WORD})*",
            rf"{_WORD}(?:[-/._]{_WORD})*'(?=[aeiou])(?!(?i:s|d|m|ll|re|ve|em|til|cause)\b){_WORD}",
            rf"{_WORD}(?:[-/_]{_WORD}|\.(?=[^\W\d_]){_WORD})*(?=n't\b)",
            rf"{_WORD}(?:[-/_]{_WORD}|\.(?=[^\W\d_]){_WORD})*",
            r"\.{2,}|-{2,}|[?!]{2,}",
            r"\S",
        )
    )
)


def tokenize(caption: str) -> tuple[str, ...]:
    """Split a caption with the own tokenizer.

    >>> tokenize("The man's dog doesn't like St. John's at 5:30 p.m.")
    ('the', 'man', "'s", 'dog', 'does', "n't", 'like', 'st.', 'john', "'s", 'at', '5:30', 'p.m.')

    Source: Penn Treebank tokenization (Marcus et al., "Building a Large Annotated Corpus of English", 1993).
    """
    pieces = _TOKEN.findall(" ".join(caption.translate(_TRANSLATION).split()))
    return tuple(token for piece in pieces if (token := _written(piece)) and token not in PUNCTUATION)


def _written(piece: str) -> str:
    """Return a piece as the Treebank writes it; an empty string where it is only quotes, dots or dashes."""
    if not piece.strip("\"'`.-"):
        return ""
    if piece[-1] in _BRACKETS:
        return piece[:-1] + _BRACKETS[piece[-1]]
    return piece.lower()


def find_reference_jar() -> Path | None:
    """Return the Stanford tokenizer's jar inside the installed pycocoevalcap, where there is one."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "tokenizer"
    return next(iter(sorted(folder.glob("stanford-corenlp-*.jar"))), None)


def choose_tokenizer(name: TokenizerName = "auto") -> Literal["java", "own"]:
    """Say which tokenizer a name stands for here: ``auto`` is the reference where it can run, else the own.

    Raises:
        MissingDependencyError: The reference was asked for by name and cannot run.
    """
    if name == "own":
        return "own"
    jar, java = find_reference_jar(), shutil.which("java")
    if jar is not None and java is not None:
        return "java"
    if name == "java":
        raise MissingDependencyError("pycocoevalcap" if jar is None else "java (a Java runtime)", "train")
    return "own"


def tokenize_many(captions: Sequence[str], name: Literal["java", "own"]) -> list[tuple[str, ...]]:
    """Split captions with the tokenizer of that name; for ``java``, one start of Java serves them all."""
    tokenizer: Callable[[Sequence[str]], Iterable[tuple[str, ...]]]
    tokenizer = _tokenize_with_java if name == "java" else (lambda texts: map(tokenize, texts))
    return list(tokenizer(captions))


def _tokenize_with_java(captions: Sequence[str]) -> list[tuple[str, ...]]:
    jar = find_reference_jar()
    if jar is None:
        raise MissingDependencyError("pycocoevalcap", "train")
    # One line in, one line out; split() also removes the line separators that only Unicode knows.
    text = "\n".join(" ".join(caption.split()) for caption in captions)
    command = [
        "java",
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    finished = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    lines = finished.stdout.decode().split("\n")[: len(captions)]
    if finished.returncode != 0 or len(lines) != len(captions):
        raise KilowordError(
            "the reference tokenizer failed",
            path=jar,
            expected=f"{len(captions)} lines",
            found=f"{len(lines)} lines, exit code {finished.returncode}",
            hint="use the own tokenizer",
        )
    # The reference joins "1 1/2" with a no-break space; the COCO scorers split there again, as split() does.
    return [tuple(token for token in line.split() if token not in PUNCTUATION) for line in lines]
