"""Where the decoder looked: maps for words, for every decoder that can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from kiloword import Captioner, ConfigError
from kiloword.runtime.attention import by_word, on_grid, query_weights, words_of
from kiloword.runtime.bundle import load_bundle, write_manifest
from kiloword.runtime.errors import BundleError
from kiloword.runtime.generation import generate
from kiloword.runtime.manifest import AttentionSpec, GenerationSettings
from kiloword.runtime.sessions import DecoderSession, Tensors, load_sessions
from kiloword.runtime.tokenizer import Tokenizer
from tests.bundles import IMAGE_SIZE, Kind, make_tiny_bundle

BANDS = 4  # the tiny bundles' image tokens: bands of the picture, one below the other


def photos(count: int, seed: int = 3) -> NDArray[np.uint8]:
    shape = (count, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Recorder:
    """A decoder that carries its looks along as a state, so that beams take them with them."""

    def __init__(self, decoder: DecoderSession, spec: AttentionSpec) -> None:
        self.decoder = decoder
        self.queries = spec.queries
        self.token_by_token = decoder.token_by_token
        self.history: NDArray[np.float32] = np.zeros((0, 0, BANDS), dtype=np.float32)
        self.found: dict[tuple[int, ...], NDArray[np.float32]] = {}
        self.written: list[tuple[int, ...]] = []

    def context(self, encoded: Tensors) -> Tensors:
        return self.decoder.context(encoded)

    def initial_state(self, encoded: Tensors, batch_size: int) -> Tensors:
        return self.decoder.initial_state(encoded, batch_size)

    def step(
        self, input_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], context: Tensors, state: Tensors
    ) -> tuple[NDArray[np.float32], Tensors]:
        rows = beam_rows.ravel()
        look, _ = self.decoder.look(input_ids, beam_rows, context, state, self.queries)
        if self.written:
            before = [self.written[row] for row in rows]
            read = [tuple(ids) for ids in input_ids.reshape(len(rows), -1).tolist()]
            self.written = [(*old, *new) for old, new in zip(before, read, strict=True)]
            past = self.history[rows]
        else:
            self.written = [()] * len(rows)
            past = np.zeros((len(rows), 0, BANDS), dtype=np.float32)
        self.history = np.concatenate([past, look.reshape(len(rows), 1, BANDS)], axis=1)
        self.found |= dict(zip(self.written, self.history, strict=True))
        return self.decoder.step(input_ids, beam_rows, context, state)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_the_attention_is_that_of_the_search_s_own_steps(tmp_path: Path, kind: Kind, num_beams: int) -> None:
    """The expected maps were recorded inside the search and followed its beams through every reordering."""
    bundle = make_tiny_bundle(tmp_path, kind=kind, seed=5)
    sessions = load_sessions(bundle, "cpu", 1)
    settings = GenerationSettings(num_beams=num_beams, max_new_tokens=10)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        for pixels in photos(6):
            found = captioner.caption(pixels, num_beams=num_beams, max_new_tokens=10, attention=True)
            assert bundle.manifest.attention is not None
            recorder = Recorder(sessions.decoder, bundle.manifest.attention)
            encoded = sessions.encoder.encode(pixels[None])
            winner = generate(recorder, encoded, bundle.manifest.tokens, settings)[0]
            assert winner.token_ids == found.token_ids
            expected = recorder.found[winner.token_ids[:-1]]
            words = len(found.words)
            assert words == len(found.text.split()) > 0
            assert found.attention is not None
            assert found.attention.shape == (words, BANDS, 1)
            np.testing.assert_allclose(found.attention[:, :, 0], expected[:words], atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "recurrent"])
def test_a_batch_gives_each_photo_its_own_attention(tmp_path: Path, kind: Kind) -> None:
    """Captions of different lengths in one batch against one at a time; every map sums to 1."""
    make_tiny_bundle(tmp_path, kind=kind, seed=5)
    pixels = photos(5)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        together = captioner.caption_pixels(pixels, attention=True)
        also = list(captioner.caption_many(list(pixels), batch_size=3, attention=True))
        alone = [captioner.caption(photo, attention=True) for photo in pixels]
    assert len({len(caption.words) for caption in alone}) > 1
    for one, two, three in zip(together, also, alone, strict=True):
        assert one.words == two.words == three.words
        assert one.attention is not None
        assert two.attention is not None
        assert three.attention is not None
        assert one.attention.dtype == np.float32
        np.testing.assert_allclose(one.attention.sum(axis=(1, 2)), 1, atol=1e-5)
        np.testing.assert_allclose(one.attention, three.attention, atol=1e-5)
        np.testing.assert_allclose(two.attention, three.attention, atol=1e-5)


def test_nobody_pays_for_attention_who_does_not_ask(tmp_path: Path) -> None:
    """Without the flag there are no words and no maps, and the caption is the same."""
    make_tiny_bundle(tmp_path, seed=5)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        plain, full = (captioner.caption(photos(1)[0], attention=flag) for flag in (False, True))
    assert plain.attention is None
    assert plain.words == ()
    assert replace(full, words=(), attention=None, latency_ms=0) == replace(plain, latency_ms=0)


def test_layers_can_be_chosen() -> None:
    """The map over all layers is a mixture of theirs: each gave the class token another share."""
    photo = Path(__file__).resolve().parents[3] / "examples" / "photos" / "raccoon.jpg"
    with Captioner.load(provider="cpu", threads=1) as captioner:

        def look(which: bool | Sequence[int]) -> NDArray[np.float32]:
            found = captioner.caption(photo, num_beams=1, max_new_tokens=4, attention=which).attention
            assert found is not None
            return found.reshape(len(found), -1)

        every, layers = look(True), [look([layer]) for layer in range(3)]
        np.testing.assert_array_equal(look([2, 0, 1]), every)
        for wrong in ([3], [-1], []):
            with pytest.raises(ConfigError, match="attention: expected layers from 0 to 2"):
                look(wrong)
    for word, map_ in enumerate(every):
        own = np.stack([layer[word] for layer in layers], axis=1)
        shares = np.linalg.lstsq(own, map_, rcond=None)[0]
        np.testing.assert_allclose(own @ shares, map_, atol=1e-5)
        assert shares.min() > 0
        assert np.abs(own[:, 0] - own[:, 2]).max() > 1e-3


def test_a_recurrent_decoder_has_one_layer_to_look_with(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, kind="recurrent", seed=5)
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        every, first = (captioner.caption(photos(1)[0], attention=which).attention for which in (True, [0]))
        with pytest.raises(ConfigError, match="expected layers from 0 to 0, found 1"):
            captioner.caption(photos(1)[0], attention=[1])
    assert every is not None
    assert first is not None
    np.testing.assert_array_equal(every, first)


def test_a_bundle_that_cannot_tell_says_so_before_any_work(tmp_path: Path) -> None:
    """A decoder that reads the picture as the beginning of its text has no cross-attention."""
    make_tiny_bundle(tmp_path, kind="image_prefix")
    with Captioner.load(tmp_path, provider="cpu", threads=1) as captioner:
        with pytest.raises(ConfigError, match=r"attention: .*kiloword export"):
            captioner.caption("no-such-file.jpg", attention=True)
        with pytest.raises(ConfigError, match="attention"):
            captioner.caption_many(["no-such-file.jpg"], attention=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (AttentionSpec(grid_height=5, grid_width=1), "5 x 1 are 5 image tokens, but the decoder sees 4"),
        (AttentionSpec(grid_height=2, grid_width=2, leading_tokens=1), "but the decoder sees 4"),
        (AttentionSpec(grid_height=0, grid_width=4), "expected a grid of 1 or more"),
        (AttentionSpec(grid_height=4, grid_width=1, queries={"q": "k"}), "expected queries, or one"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(tmp_path: Path, spec: AttentionSpec, message: str) -> None:
    """The manifest is checked when it is written, and by the same code when it is read."""
    bundle = make_tiny_bundle(tmp_path)
    with pytest.raises(BundleError, match=message):
        write_manifest(tmp_path, replace(bundle.manifest, attention=spec))


def test_a_manifest_without_attention_is_still_read(tmp_path: Path) -> None:
    """Bundles from before the key existed."""
    make_tiny_bundle(tmp_path)
    path = tmp_path / "bundle.json"
    import json

    facts = json.loads(path.read_text(encoding="utf-8"))
    del facts["attention"]
    path.write_text(json.dumps(facts), encoding="utf-8")
    assert load_bundle(tmp_path).manifest.attention is None


def test_query_weights_are_softmax_of_scaled_products() -> None:
    """By hand, in plain loops; only the last position counts, and rows of one image share its keys."""
    random = np.random.default_rng(1)
    query = random.standard_normal((2 * 3, 4, 2 * 5)).astype(np.float32)  # 2 images, 3 beams, 2 heads of 5
    key = random.standard_normal((2, 2, 7, 5)).astype(np.float32)
    found = query_weights(query, key, (2, 3))
    for image in range(2):
        for beam in range(3):
            heads = []
            for head in range(2):
                asked = query[image * 3 + beam, -1, head * 5 : head * 5 + 5].astype(float)
                scores = np.exp(key[image, head].astype(float) @ asked / 5**0.5)
                heads.append(scores / scores.sum())
            np.testing.assert_allclose(found[image, beam], np.mean(heads, axis=0), atol=1e-6)


def test_leading_tokens_are_no_place() -> None:
    """What the class token got is left out and the rest sums to 1; a map of nothing says nothing."""
    spec = AttentionSpec(grid_height=2, grid_width=2, leading_tokens=1)
    weights = np.array([[0.5, 0.1, 0.2, 0.2, 0.0], [1, 0, 0, 0, 0]], dtype=np.float32)
    expected = [[[0.2, 0.4], [0.4, 0.0]], [[0.25, 0.25], [0.25, 0.25]]]
    np.testing.assert_allclose(on_grid(weights, spec), expected, atol=1e-6)


def test_no_words_have_no_maps() -> None:
    """A caption that ended at once."""
    assert by_word(np.ones((1, 3, 2), dtype=np.float32), []).shape == (0, 3, 2)


def saved(library: Library, path: Path) -> Tokenizer:
    library.save(str(path))
    return Tokenizer(path)


def wordpiece(path: Path) -> tuple[Tokenizer, dict[str, int]]:
    names = ("<eos>", "a", "snow", "##board", "##er", ".", "jumps", ",", "don", "'", "t")
    vocabulary = {name: index for index, name in enumerate(names)}
    library = Library(models.WordPiece(vocabulary, unk_token="<eos>"))
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(["<eos>"])
    return saved(library, path), vocabulary


def test_pieces_of_a_word_belong_together(tmp_path: Path) -> None:
    """snow + board + er is one word; the full stop and the end of sequence count for none."""
    tokenizer, ids = wordpiece(tmp_path / "tokenizer.json")
    written = [ids[name] for name in ("a", "snow", "##board", "##er", "jumps", ".", "<eos>")]
    assert words_of(tokenizer, written) == [("a", [0]), ("snowboarder", [1, 2, 3]), ("jumps.", [4])]
    maps = np.arange(7, dtype=np.float32)[:, None, None]
    assert by_word(maps, words_of(tokenizer, written)).ravel().tolist() == [0, 2, 4]


def test_words_of_byte_pairs_with_characters_cut_in_two(tmp_path: Path) -> None:
    """A byte-level tokenizer without merges: every byte is a token, é and 狗 are made of several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(models.BPE({name: index for index, name in enumerate(alphabet)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    tokenizer = saved(library, tmp_path / "tokenizer.json")
    written = library.encode("un café, 狗").ids
    assert tokenizer.decode(written) == "un café, 狗"
    found: list[tuple[str, Any]] = words_of(tokenizer, written)
    assert [word for word, _ in found] == ["un", "café,", "狗"]
    # Places: space u n | space c a f é é , | space 狗 狗 狗. A space belongs to what follows it.
    assert [places for _, places in found] == [[0, 1, 2], [3, 4, 5, 6, 7, 8], [10, 11, 12, 13]]


def test_words_of_a_script_without_spaces(tmp_path: Path) -> None:
    """Each token is a word, and punctuation stays with the one before it."""
    vocabulary = {name: index for index, name in enumerate(("<unk>", "一只", "狗", "在", "草地", "。"))}
    library = Library(models.WordLevel(vocabulary, unk_token="<unk>"))
    library.decoder = decoders.Fuse()
    tokenizer = saved(library, tmp_path / "tokenizer.json")
    assert words_of(tokenizer, [1, 2, 3, 4, 5]) == [("一只", [0]), ("狗", [1]), ("在", [2]), ("草地。", [3])]
