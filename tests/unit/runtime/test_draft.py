"""Guessed tokens: the captions are those of a search that writes one token at a time, in fewer steps."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kiloword import Bundle, BundleError, Captioner, ConfigError, ImageError, load_bundle
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.draft import Drafter, DraftTable
from kiloword.runtime.draft_fitting import DRAFT_FILE, teach_draft, tokens_a_step
from kiloword.runtime.draft_spec import DraftSpec
from kiloword.runtime.generation import generate, generate_stream
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.sessions import DecoderSession, Sessions, load_sessions
from kiloword.runtime.tokenizer import Tokenizer
from kiloword.runtime.wording import Wording, WordRules
from tests.bundles import VOCABULARY, Kind, make_tiny_bundle

KINDS: tuple[Kind, ...] = ("transformer", "image_prefix")


class Oracle(Drafter):
    """Knows the caption, and errs as often as it is told to."""

    def __init__(self, decoder: DecoderSession, caption: Sequence[int], wrong: float, most: int = 5) -> None:
        self.decoder = decoder
        self.reads = 0
        self._caption, self._wrong, self._longest = caption, wrong, most
        self._random = random.Random(4)

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        self.reads += 1
        place = len(tokens) - self.prompt_length
        known = list(self._caption[place : place + min(most, self._longest)])
        return [
            self._random.randrange(len(VOCABULARY)) if self._random.random() < self._wrong else token
            for token in known
        ]

    prompt_length = 1


def both(
    bundle: Bundle, image: NDArray[np.uint8], wrong: float, rules: WordRules | None = None, **settings: Any
) -> tuple[Generated, Generated, Oracle]:
    """The caption without and with guesses."""
    sessions = load_sessions(bundle, "cpu", 1)
    encoded, tokens = sessions.encoder.encode(image[None]), bundle.manifest.tokens
    chosen = replace(bundle.manifest.generation, **{"num_beams": 1, **settings})
    (plain,) = generate(sessions.decoder, encoded, tokens, chosen, rules)
    oracle = Oracle(sessions.decoder, plain.token_ids, wrong)
    oracle.prompt_length = len(tokens.prompt_token_ids)
    (drafted,) = generate(sessions.decoder, encoded, tokens, chosen, rules, drafter=oracle)
    return plain, drafted, oracle


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "max_new_tokens": 20},
        {"min_new_tokens": 9},
        {"max_new_tokens": 1},
        {"max_new_tokens": 4, "length_penalty": 2.0},
    ],
    ids=str,
)
def test_guesses_change_no_caption(
    tmp_path: Path, pixels: NDArray[np.uint8], kind: Kind, wrong: float, settings: Any
) -> None:
    """Right guesses, some wrong ones, and mostly wrong ones (expected: the search without)."""
    bundle = make_tiny_bundle(tmp_path, kind=kind)
    for image in pixels:
        plain, drafted, _ = both(bundle, image, wrong, **settings)
        assert drafted.token_ids == plain.token_ids
        assert drafted.token_logprobs == pytest.approx(plain.token_logprobs, abs=1e-5)
        assert drafted.score == pytest.approx(plain.score, abs=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_guesses_behind_a_longer_prompt(tmp_path: Path, pixels: NDArray[np.uint8], kind: Kind) -> None:
    """The prompt and the first guesses are read in one call."""
    bundle = make_tiny_bundle(tmp_path, kind=kind, prompt_token_ids=(1, 4, 6))
    for image in pixels:
        plain, drafted, _ = both(bundle, image, 0.3)
        assert drafted.token_ids == plain.token_ids


def test_as_many_tokens_as_the_decoder_can_read(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """No guess stands behind the last position (expected: the search without)."""
    bundle = make_tiny_bundle(tmp_path)
    for image in pixels:
        plain, drafted, _ = both(bundle, image, 0.2, max_new_tokens=24, min_new_tokens=24)
        assert drafted.token_ids == plain.token_ids
        assert len(drafted.token_ids) == 24


def test_guesses_obey_the_wording(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """A word that may not be written is not written because it was guessed."""
    bundle = make_tiny_bundle(tmp_path)
    plain = [both(bundle, image, 0.0)[0].token_ids for image in pixels]
    common = Counter(token for ids in plain for token in set(ids) if token != 2).most_common(1)[0][0]
    rules = WordRules(Wording(avoid=(VOCABULARY[common],)), Tokenizer(bundle.tokenizer_path))
    for image, without_rules in zip(pixels, plain, strict=True):
        expected, drafted, oracle = both(bundle, image, 0.0, rules)
        assert drafted.token_ids == expected.token_ids
        assert common not in drafted.token_ids
        oracle = Oracle(oracle.decoder, without_rules, 0.0)  # type: ignore[arg-type]
        sessions = load_sessions(bundle, "cpu", 1)
        again = generate(
            sessions.decoder,
            sessions.encoder.encode(image[None]),
            bundle.manifest.tokens,
            bundle.manifest.generation,
            rules,
            drafter=oracle,
        )
        assert again[0].token_ids == expected.token_ids


def test_right_guesses_save_steps(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """Five guesses and one token more in each call; wrong ones cost no step."""
    bundle = make_tiny_bundle(tmp_path, max_new_tokens=20)
    for image in pixels:
        plain, _, oracle = both(bundle, image, 0.0)
        assert oracle.reads == -(-len(plain.token_ids) // 6)
        plain, _, oracle = both(bundle, image, 1.0)
        assert oracle.reads <= len(plain.token_ids)


def test_a_stream_shows_each_token(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """Tokens that were written in one step come one after the other all the same."""
    bundle = make_tiny_bundle(tmp_path)
    sessions = load_sessions(bundle, "cpu", 1)
    settings = bundle.manifest.generation
    for image in pixels:
        encoded, tokens = sessions.encoder.encode(image[None]), bundle.manifest.tokens
        expected = list(generate_stream(sessions.decoder, encoded, tokens, settings))
        oracle = Oracle(sessions.decoder, expected[-1], 0.2)
        assert list(generate_stream(sessions.decoder, encoded, tokens, settings, None, oracle)) == expected


@pytest.mark.parametrize(("count", "num_beams"), [(2, 1), (1, 3), (2, 3)])
def test_batches_and_beams_do_as_without(
    tmp_path: Path, pixels: NDArray[np.uint8], count: int, num_beams: int
) -> None:
    """To the bit, when one image is left of a batch, too: what a photo gets does not depend on the others."""
    bundle = make_tiny_bundle(tmp_path)
    sessions, tokens = load_sessions(bundle, "cpu", 1), bundle.manifest.tokens
    settings = replace(bundle.manifest.generation, num_beams=num_beams)
    all_of_them = generate(sessions.decoder, sessions.encoder.encode(pixels), tokens, settings)
    lengths = [len(one.token_ids) for one in all_of_them]
    chosen = pixels[[lengths.index(min(lengths)), lengths.index(max(lengths))][-count:]]
    encoded = sessions.encoder.encode(chosen)
    expected = generate(sessions.decoder, encoded, tokens, settings)
    oracle = Oracle(sessions.decoder, expected[-1].token_ids, 0.0)
    assert generate(sessions.decoder, encoded, tokens, settings, drafter=oracle) == expected
    assert oracle.reads == 0


captions = st.lists(
    st.lists(st.integers(3, 6), min_size=1, max_size=8).map(lambda ids: [1, *ids, 2]), max_size=12
)


def unpruned(sentences: Sequence[Sequence[int]], written: Sequence[int], order: int) -> int | None:
    """The guess by hand: what mostly follows the longest ending seen twice; one token need be seen once."""
    for length in range(min(order, len(written)), 0, -1):
        ending = list(written[-length:])
        followers = Counter(
            one[at + length]
            for one in sentences
            for at in range(len(one) - length)
            if list(one[at : at + length]) == ending
        )
        if followers:
            token, times = min(followers.items(), key=lambda item: (-item[1], item[0]))
            if times >= 2 or length == 1:
                return token
    return None


@given(captions, st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_a_table_guesses_what_the_captions_say(sentences: list[list[int]], written: list[int]) -> None:
    """What is left out of the table as said already, and what a file keeps, changes no guess."""
    table = DraftTable.counted(sentences, 3)
    assert table.next(written) == unpruned(sentences, written, 3)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    draw = random.Random(1)
    sentences = [[1, *draw.choices(range(3, 9), k=7), 2] for _ in range(60)]
    table = DraftTable.counted(sentences)
    with (tmp_path / DRAFT_FILE).open("wb") as file:
        table.save(file)
    again = DraftTable.load(tmp_path / DRAFT_FILE)
    assert len(again) == len(table) > 20
    for one in sentences:
        for place in range(1, len(one)):
            assert again.next(one[:place]) == table.next(one[:place])


def test_tokens_a_step_by_hand() -> None:
    """Two steps for [3, 4, 5, 2] where 3 and 4 are guessed and 5 is not, and its end never is."""
    table = DraftTable({(1,): 3, (3,): 4, (4,): 6, (5,): 2}, 1)
    assert tokens_a_step(table, [[1, 3, 4, 5, 2]], 1, most=5) == 2
    assert tokens_a_step(table, [[1, 3, 4, 5, 2]], 1, most=1) == pytest.approx(4 / 3)
    assert tokens_a_step(DraftTable({}, 1), [[1, 3, 4, 5, 2]], 1, most=5) == 1


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """A bundle that was taught on pictures of several colours."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    teach_draft(bundle.directory, pictures(40), provider="cpu", threads=1)
    return bundle.directory


def pictures(count: int) -> list[bytes]:
    """PNG files of noise in different colours."""
    found = []
    draw = np.random.default_rng(5)
    for _ in range(count):
        noise = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).resize((16, 16), Image.Resampling.NEAREST).save(file, "PNG")
        found.append(file.getvalue())
    return found


def test_a_taught_bundle_writes_the_same_in_fewer_steps(taught: Path, tmp_path: Path) -> None:
    """By the class that programs use, photos that it was not taught on."""
    plain = make_tiny_bundle(tmp_path / "plain")
    facts = load_bundle(taught).manifest.draft.facts  # type: ignore[union-attr]
    assert facts["photos"] == 36
    assert facts["checked_on"] == 4
    assert facts["tokens_a_step"] > 1
    others = pictures(60)[40:]
    with Captioner.load(taught, threads=1) as drafted, Captioner.load(plain.directory, threads=1) as expected:
        for picture in others:
            found = drafted.caption(picture)
            assert found.token_ids == expected.caption(picture).token_ids
            assert "".join(drafted.stream(picture)) == found.text
    sessions = load_sessions(load_bundle(taught), "cpu", 1)
    assert steps_of(sessions, load_bundle(taught), others) < steps_of(
        replace(sessions, drafter=None), load_bundle(taught), others
    )


def steps_of(sessions: Sessions, bundle: Bundle, photos: Sequence[bytes]) -> int:
    """How often the decoder is asked."""
    steps = 0

    def count(_: list[tuple[int, ...]]) -> None:
        nonlocal steps
        steps += 1

    for photo in photos:
        pixels = np.array(Image.open(io.BytesIO(photo)).convert("RGB"))
        encoded = sessions.encoder.encode(pixels[None])
        tokens, settings = bundle.manifest.tokens, bundle.manifest.generation
        generate(sessions.decoder, encoded, tokens, settings, None, count, sessions.drafter)
    return steps


def test_a_bundle_can_be_taught_again(taught: Path) -> None:
    """The table is replaced, and all else is as it was."""
    before = load_bundle(taught).manifest
    spec = teach_draft(taught, pictures(60), provider="cpu", threads=1)
    after = load_bundle(taught).manifest
    assert spec.facts["photos"] == 54
    assert after.draft == spec
    changed = {name for name in after.files if after.files[name] != before.files[name]}
    assert changed <= {DRAFT_FILE}
    assert replace(after, draft=None, files={}) == replace(before, draft=None, files={})


def test_what_cannot_be_read_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_tiny_bundle(tmp_path)
    photos = [*pictures(20), b"no picture", ImageError("there is no such file", path="gone.jpg")]
    assert teach_draft(bundle.directory, photos, provider="cpu", threads=1).facts["photos"] == 18
    assert "gone.jpg: there is no such file" in caplog.text
    assert caplog.text.count("passed over") == 2


def test_too_few_photos(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path)
    with pytest.raises(ConfigError, match="a draft needs 20 photos or more, found 19"):
        teach_draft(bundle.directory, pictures(19), provider="cpu", threads=1)
    assert load_bundle(bundle.directory).manifest.draft is None


def test_a_decoder_that_reads_token_by_token(tmp_path: Path) -> None:
    """Its state does not grow, so that nothing of it could be forgotten again."""
    bundle = make_tiny_bundle(tmp_path, kind="recurrent")
    with pytest.raises(BundleError, match="cannot check several tokens in one call"):
        teach_draft(bundle.directory, pictures(20), provider="cpu", threads=1)
    (tmp_path / DRAFT_FILE).write_bytes(b"")
    with pytest.raises(BundleError, match="draft: the decoder cannot check several tokens"):
        write_manifest(tmp_path, replace(bundle.manifest, draft=DraftSpec(DRAFT_FILE)))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DraftSpec("gone.npy"), "draft: gone.npy is no file of the bundle"),
        (DraftSpec("tokenizer.json", most=0), "draft.most: expected 1 or more, found 0"),
    ],
)
def test_contradictions(tmp_path: Path, spec: DraftSpec, words: str) -> None:
    bundle = make_tiny_bundle(tmp_path)
    with pytest.raises(BundleError, match=words):
        write_manifest(tmp_path, replace(bundle.manifest, draft=spec))


def saved(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def with_header(shape: str) -> bytes:
    """A file whose header says what it likes of its shape."""
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(60)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        saved(np.zeros((3, 5), np.float32)),
        saved(np.zeros(15, np.int32)),
        saved(np.zeros((3, 1), np.int32)),
        saved(np.zeros((3, 5), np.int32))[:-4],
        saved(np.array([None, {}]), allow_pickle=True),
        with_header("(1099511627776, 5)"),
        with_header("(3, 99999999999999999999)"),
        with_header("(True, 5)"),
        with_header("(3, 5"),
    ],
    ids=[
        "empty",
        "text",
        "floats",
        "one axis",
        "no context",
        "cut",
        "pickled",
        "20 TiB",
        "huge",
        "no number",
        "open",
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, content: bytes) -> None:
    """Told by name, when it is first needed."""
    bundle = make_tiny_bundle(tmp_path)
    (tmp_path / DRAFT_FILE).write_bytes(content)
    write_manifest(tmp_path, replace(bundle.manifest, draft=DraftSpec(DRAFT_FILE)))
    with (
        Captioner.load(tmp_path, threads=1) as captioner,
        pytest.raises(BundleError, match=r"draft\.npy: holds no draft"),
    ):
        captioner.caption(pictures(1)[0], num_beams=1)


def test_strange_tokens_in_a_table_are_never_written(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """A table of another vocabulary: its guesses cannot be read, and are said so."""
    bundle = make_tiny_bundle(tmp_path)
    with (tmp_path / DRAFT_FILE).open("wb") as file:
        DraftTable({(1,): 5000}, 1).save(file)
    write_manifest(tmp_path, replace(bundle.manifest, draft=DraftSpec(DRAFT_FILE)))
    with (
        Captioner.load(tmp_path, threads=1) as captioner,
        pytest.raises(BundleError, match=r"draft\.npy: .*vocabulary"),
    ):
        captioner.caption_pixels(pixels[:1], num_beams=1)
