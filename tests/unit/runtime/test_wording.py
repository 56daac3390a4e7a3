"""Words that are never written, and words that are written instead."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from kiloword import Captioner, ConfigError, Wording
from kiloword.runtime.tokenizer import Tokenizer
from kiloword.runtime.wording import PREFER_PERSON, WordRules, read_preferences, read_words
from tests.bundles import IMAGE_SIZE, WORDS, Kind, make_tiny_bundle


def photos(count: int) -> NDArray[np.uint8]:
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["transformer", "recurrent", "image_prefix"])
def test_avoided_words_never_appear(tmp_path: Path, kind: Kind, num_beams: int) -> None:
    """All words that 20 photos were captioned with, but for five; then only the five may be left."""
    make_tiny_bundle(tmp_path, kind=kind, seed=3, num_beams=num_beams)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        usual = captioner.caption_pixels(photos(20))
        said = {word for caption in usual for word in caption.text.split()}
        avoided = sorted(said)[:-5]
        strict = captioner.reworded(Wording(tuple(word.upper() for word in avoided)))
        found = strict.caption_pixels(photos(20))
        streamed = "".join(strict.stream(photos(1)[0]))
        again = captioner.caption_pixels(photos(20))
    assert len(avoided) > 5
    assert not {word for caption in found for word in (caption.text + " " + streamed).split()} & set(avoided)
    assert any(caption.text for caption in found)
    assert [caption.text for caption in again] == [caption.text for caption in usual]


def word_tokenizer(path: Path) -> Tokenizer:
    names = ("<eos>", "a", "man", "woman", "person", "dog", "man's", "Man", ".", "snow-man")
    library = Library(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token="<eos>"))
    library.add_special_tokens(["<eos>"])
    library.save(str(path))
    return Tokenizer(path)


def allowed(rules: WordRules, size: int, written: list[int]) -> set[int]:
    rows = np.zeros((1, size), dtype=np.float32)
    rules.apply(rows, [written])
    return set(np.flatnonzero(np.isfinite(rows[0])).tolist())


def test_every_form_of_a_word_is_banned(tmp_path: Path) -> None:
    """Upper case, the possessive and compounds count; words that only contain the letters do not."""
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json")
    rules = WordRules(Wording(("man",)), tokenizer)
    assert allowed(rules, 10, [1]) == {0, 1, 3, 4, 5, 8}


def test_the_preferred_word_gets_the_probability(tmp_path: Path) -> None:
    """P(person) becomes P(person) + P(man) + P(woman); nothing else changes."""
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json")
    rules = WordRules(Wording(prefer={"man": "person", "woman": "person", "sir": "person"}), tokenizer)
    probabilities = np.array([[0.1, 0.1, 0.2, 0.15, 0.05, 0.1, 0.05, 0.1, 0.1, 0.05]])
    rows = np.log(probabilities).astype(np.float32)
    rules.apply(rows, [[1]])
    # man, Man and woman; "man's" and "snow-man" are banned, but a person is no person's.
    assert math.isclose(math.exp(rows[0, 4]), 0.05 + 0.2 + 0.15 + 0.1, rel_tol=1e-5)
    assert set(np.flatnonzero(np.isneginf(rows[0]))) == {2, 3, 6, 7, 9}
    np.testing.assert_allclose(np.exp(rows[0, [0, 1, 5, 8]]), [0.1, 0.1, 0.1, 0.1], rtol=1e-5)


def test_a_search_takes_the_pooled_word(tmp_path: Path) -> None:
    """In a whole search: each of two words is less likely than a third, but the two together are not."""
    make_tiny_bundle(tmp_path, seed=3)
    everyone = dict.fromkeys((word for word in WORDS if word != "child"), "child")
    with Captioner.load(tmp_path, provider="cpu", threads=1, wording=Wording(prefer=everyone)) as captioner:
        found = captioner.caption_pixels(photos(4), max_new_tokens=4)
    assert {word for caption in found for word in caption.text.split()} == {"child"}
    assert all(caption.confidence > 0.5 for caption in found)


def byte_tokenizer(path: Path) -> tuple[Library, Tokenizer]:
    """Bytes, and a few merges: " wo", " man", "man", "gender"-free."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("m", "a"), ("ma", "n"), ("Ġ", "w"), ("Ġw", "o"), ("Ġ", "man"), ("Ġwo", "man")]
    names = [*alphabet, *dict.fromkeys(first + second for first, second in merges), "<eos>"]
    library = Library(models.BPE({name: at for at, name in enumerate(names)}, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<eos>"])
    library.save(str(path))
    return library, Tokenizer(path)


@pytest.mark.parametrize("word", ["woman", "man", "fiancé", "Mann"])
def test_no_spelling_in_pieces_writes_a_banned_word(tmp_path: Path, word: str) -> None:
    """Random texts by the rules alone: the word's own letters and pieces, wherever they are allowed."""
    library, tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    rules = WordRules(Wording((word,)), tokenizer)
    size = tokenizer.vocab_size
    letters = [library.token_to_id(name) for name in "abcdefghijklmnopqrstuvwxyzMĠ-.,"]
    useful = sorted(
        {
            *library.encode(f"{word} {word}").ids,
            *(library.encode(letter).ids[0] for letter in word),
            *(
                at
                for at in range(size)
                if "man" in library.id_to_token(at) or "wo" in library.id_to_token(at)
            ),
            *library.encode(" -").ids,
        }
    )
    random, seen = np.random.default_rng(0), []
    for _ in range(150):
        written: list[int] = []
        for _ in range(12):
            options = allowed(rules, size, written)
            choice = [token for token in useful if token in options] or letters
            written.append(int(random.choice(choice)))
        seen.append(library.decode(written))
    pattern = re.compile(rf"(?<!\w){word}(?!\w)", re.IGNORECASE)
    assert not [text for text in seen if pattern.search(text)]
    assert any(word[:2].casefold() in text.casefold() for text in seen)


def test_a_word_inside_another_is_allowed(tmp_path: Path) -> None:
    """Banning man leaves woman, in one token and in pieces."""
    library, tokenizer = byte_tokenizer(tmp_path / "tokenizer.json")
    rules = WordRules(Wording(("man",)), tokenizer)
    whole, start, rest = (library.token_to_id(name) for name in ("Ġwoman", "Ġwo", "man"))
    assert whole in allowed(rules, tokenizer.vocab_size, [])
    assert rest in allowed(rules, tokenizer.vocab_size, [start])
    assert rest not in allowed(rules, tokenizer.vocab_size, [library.token_to_id("Ġ")])


@pytest.mark.parametrize(
    ("wording", "message"),
    [
        (Wording(("old man",)), "expected words, found 'old man'"),
        (Wording(("",)), "expected words"),
        (Wording(("person",), {"man": "person"}), "'person' is to be written instead of 'man'"),
    ],
)
def test_a_wording_that_contradicts_itself_is_refused(tmp_path: Path, wording: Wording, message: str) -> None:
    """Before the first photo."""
    make_tiny_bundle(tmp_path)
    with pytest.raises(ConfigError, match=message):
        Captioner.load(tmp_path, provider="cpu", threads=1, wording=wording)


def test_the_neutral_words_are_neutral() -> None:
    """None of the words to be written instead is one of those that are not."""
    assert not set(PREFER_PERSON) & set(PREFER_PERSON.values())
    assert Wording(prefer=PREFER_PERSON).problems() == []


def test_words_come_from_files_and_lists(tmp_path: Path) -> None:
    """A file has one word in each line and comments; a name that looks like a file must be one."""
    path = tmp_path / "words.txt"
    path.write_text("guy\n\n# rude ones\nlady  # formal\n", encoding="utf-8")
    assert read_words(str(path)) == ["guy", "lady"]
    assert read_words("guy, lady,") == ["guy", "lady"]
    with pytest.raises(ConfigError, match="no such file"):
        read_words("words.txt")


def test_preferences_are_person_or_pairs() -> None:
    """Pairs come after the table, whatever order they are given in does not matter for others."""
    assert read_preferences(["person", "man=human"])["man"] == "human"
    assert read_preferences(["person"])["girls"] == "children"
    for wrong in ("people", "=person", "man="):
        with pytest.raises(ConfigError, match="expected person or WORD=WORD"):
            read_preferences([wrong])
