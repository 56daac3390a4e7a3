"""Decoding by the tokenizers library, whole and piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from kiloword import BundleError
from kiloword.runtime.tokenizer import Tokenizer
from tests.bundles import VOCABULARY, make_tokenizer

SENTENCE = "A dog, it seems, isn't chasing the café's 🐕 ball."


def save(library: Library, directory: Path) -> Tokenizer:
    path = directory / "tokenizer.json"
    library.save(str(path))
    return Tokenizer(path)


def byte_level() -> Library:
    """BPE on bytes, as GPT-2's: one emoji is several tokens, and words begin with their space."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([SENTENCE], trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet))
    return library


def word_piece() -> Library:
    """As BERT's: sub-words begin with ##, and the decoder takes spaces before punctuation out again."""
    words = ["[UNK]", "a", "dog", "##s", "do", "n't", "not", "play", "##ing", ".", ",", "'", "s"]
    library = Library(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.WordPiece()
    return library


def test_special_tokens_are_left_out(tmp_path: Path) -> None:
    tokenizer = save(make_tokenizer(), tmp_path)
    ids = [VOCABULARY.index(word) for word in ("<bos>", "a", "dog", "runs", "<eos>", "<pad>")]
    assert tokenizer.decode(ids) == "a dog runs"
    assert tokenizer.vocab_size == len(VOCABULARY)


def test_sub_words_are_joined(tmp_path: Path) -> None:
    """What a screen reader once got wrong; expected: the sentence that was encoded."""
    library = byte_level()
    ids = library.encode(SENTENCE).ids
    assert len(ids) > len(SENTENCE.split())
    assert save(library, tmp_path).decode(ids) == SENTENCE


@pytest.mark.parametrize("make", [byte_level, word_piece, make_tokenizer])
def test_pieces_join_to_the_text(tmp_path: Path, make: Callable[[], Library]) -> None:
    """Whatever the decoder joins, no piece is ever taken back (expected: decoding all at once)."""
    library = make()
    tokenizer = save(library, tmp_path)
    texts = [SENTENCE, "a dogs do not play ing .", "do n't , a dog 's play ##ing"]
    for ids in [library.encode(text).ids for text in texts] + [list(range(min(30, tokenizer.vocab_size)))]:
        pieces = list(tokenizer.decode_stream(ids[: length + 1] for length in range(len(ids))))
        assert "".join(pieces) == tokenizer.decode(ids)
        assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in tokenizer.decode(ids)


def test_pieces_come_as_words(tmp_path: Path) -> None:
    tokenizer = save(make_tokenizer(), tmp_path)
    ids = [VOCABULARY.index(word) for word in ("a", "dog", "runs", "<eos>")]
    growing = [ids[: length + 1] for length in range(4)]
    assert list(tokenizer.decode_stream(growing)) == ["a", " dog", " runs"]


def test_nothing_to_stream(tmp_path: Path) -> None:
    assert list(save(make_tokenizer(), tmp_path).decode_stream([[2]])) == []


def test_not_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match="is not a tokenizer") as caught:
        Tokenizer(path)
    assert str(path) in str(caught.value)
