"""Tokenizers trained on sentences that are written here; expected tokens are read off them by eye."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kiloword.runtime.tokenizer import Tokenizer as RuntimeTokenizer
from kiloword.train.tokenizers import (
    SPECIAL_TOKENS,
    TOKENIZER_TRAINERS,
    train_bpe_tokenizer,
    train_char_tokenizer,
    train_word_tokenizer,
)

CAPTIONS = [
    "A man 's dog runs .",
    "A dog runs on the grass !",
    "Two men play T-ball near the man's car",
    "The \u201cred\u201d dog -- a caf\u00e9 dog's friend\u2019s dog",
]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_word_tokenizer(CAPTIONS, min_count=1, vocab_size=100)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_bpe_tokenizer(CAPTIONS, min_count=1, vocab_size=60)


@pytest.mark.parametrize("kind", TOKENIZER_TRAINERS)
def test_special_tokens_have_the_first_ids(kind: str) -> None:
    tokenizer = TOKENIZER_TRAINERS[kind](CAPTIONS, min_count=1, vocab_size=100)
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("A man 's dog runs .", ["a", "man's", "dog", "runs"]),
        ("the man\u2019s dog", ["the", "man's", "dog"]),
        ("T-ball!!", ["t-ball"]),
        ("'dog' -- \"red\"", ["dog", "red"]),
        ("caf\u00e9", ["caf\u00e9"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("a  zebra", ["a", "<unk>"]),
        ("...", []),
    ],
)
def test_words_of_a_sentence(words: Tokenizer, sentence: str, expected: list[str]) -> None:
    assert words.encode(sentence).tokens == ["<bos>", *expected, "<eos>"]


def test_rare_words_are_unknown() -> None:
    """`dog` stands there four times (`dog's` is another word), `runs` twice, `grass` once."""
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=2, vocab_size=100)
    assert tokenizer.encode("dog runs grass").tokens[1:-1] == ["dog", "runs", "<unk>"]


def test_a_full_vocabulary_keeps_the_most_frequent_words() -> None:
    tokenizer = train_word_tokenizer(CAPTIONS, min_count=1, vocab_size=6)
    assert sorted(tokenizer.get_vocab()) == sorted([*SPECIAL_TOKENS, "dog", "a"])


@pytest.mark.parametrize("kind", TOKENIZER_TRAINERS)
def test_text_comes_back_and_the_runtime_reads_the_file(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZER_TRAINERS[kind](CAPTIONS, min_count=1, vocab_size=60)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    runtime = RuntimeTokenizer(tmp_path / "tokenizer.json")
    assert runtime.vocab_size == tokenizer.get_vocab_size()
    ids = tokenizer.encode("Two dogs play on the GRASS.").ids
    expected = "two dogs play on the grass"
    if kind == "word":
        ids, expected = tokenizer.encode("Two men play on the GRASS.").ids, "two men play on the grass"
    assert runtime.decode(ids) == expected


def test_pieces_spell_words_that_were_never_seen(pieces: Tokenizer) -> None:
    tokens = pieces.encode("dogman").tokens
    assert "<unk>" not in tokens
    assert len(tokens) > 3
    assert pieces.decode(pieces.encode("dogman runs").ids) == "dogman runs"


@pytest.mark.parametrize("kind", TOKENIZER_TRAINERS)
def test_ids_are_the_same_in_every_process(kind: str) -> None:
    """A resumed run trains its tokenizer again; hash tables that are seeded anew must not change an id."""
    code = (
        "from kiloword.train.tokenizers import TOKENIZER_TRAINERS as trainers\n"
        f"print(trainers[{kind!r}]({CAPTIONS!r}, min_count=1, vocab_size=60).to_str(), end='')"
    )
    here = TOKENIZER_TRAINERS[kind](CAPTIONS, min_count=1, vocab_size=60).to_str()
    for _ in range(2):
        found = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", code], check=True, capture_output=True, encoding="utf-8"
        )
        assert found.stdout == here


@pytest.mark.parametrize("text", ["3 1 4", "12 dogs and 7 men's hats", "a", "\u00e9t\u00e9 2"])
def test_characters_come_back_to_the_letter(text: str) -> None:
    """Spaces and digits are tokens like letters, one each; the text is put together again by the runtime."""
    tokenizer = train_char_tokenizer(
        ["0123456789 abcdefghijklmnopqrstuvwxyz", "men's hats \u00e9t\u00e9"], min_count=1, vocab_size=100
    )
    found = tokenizer.encode(text)
    assert found.tokens == ["<bos>", *text, "<eos>"]
    assert tokenizer.decode(found.ids) == text


def test_rare_characters_are_unknown() -> None:
    tokenizer = train_char_tokenizer(["aab", "abc"], min_count=2, vocab_size=100)
    assert tokenizer.encode("abc").tokens == ["<bos>", "a", "b", "<unk>", "<eos>"]
