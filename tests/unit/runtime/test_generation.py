"""The search against a second one, written as plainly as possible, that recomputes all at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from kiloword import Bundle, BundleError, ConfigError
from kiloword.runtime.generation import generate, generate_stream, log_sum_exp, repeating_tokens
from kiloword.runtime.hypotheses import Generated
from kiloword.runtime.manifest import GenerationSettings, TokenSpec
from kiloword.runtime.sessions import load_sessions
from tests.bundles import Kind, make_tiny_bundle

NextLogprobs = Callable[[Sequence[int]], "NDArray[np.float64]"]


@cache
def raw_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def uncached_model(bundle: Bundle, image: NDArray[np.uint8]) -> NextLogprobs:
    """The decoder without cache, batches or beams: the whole prefix goes through the raw graphs each time."""
    encoder, decoder = raw_session(bundle.encoder_path), raw_session(bundle.decoder_path)
    names = [str(tensor.feeds) for tensor in bundle.manifest.encoder.outputs]
    start: dict[str, Any] = dict(zip(names, encoder.run(None, {"pixels": image[None]}), strict=True))
    for tensor in bundle.manifest.decoder.inputs_of("cache"):
        sizes = (1, int(tensor.axes[1]), 0, int(tensor.axes[3]))
        start.setdefault(tensor.name, np.zeros(sizes, dtype=np.float32))
    is_recurrent = bundle.manifest.architecture["decoder"] == "recurrent"
    if is_recurrent:
        start["cell"] = np.zeros_like(start["hidden"])

    def next_logprobs(prefix: Sequence[int]) -> NDArray[np.float64]:
        feeds = {**start, "beam_rows": np.zeros((1, 1), dtype=np.int64)}
        for piece in [[token] for token in prefix] if is_recurrent else [list(prefix)]:
            feeds["input_ids"] = np.array([[piece]], dtype=np.int64)
            outputs = dict(
                zip([tensor.name for tensor in decoder.get_outputs()], decoder.run(None, feeds), strict=True)
            )
            if is_recurrent:
                feeds |= {"hidden": outputs["next_hidden"], "cell": outputs["next_cell"]}
        logits = outputs["logits"][0, 0].astype(np.float64)
        return np.asarray(logits - np.log(np.exp(logits).sum()))

    return next_logprobs


def plain_beam_search(model: NextLogprobs, tokens: TokenSpec, settings: GenerationSettings) -> Generated:
    """Beam search on tuples; every candidate is listed and sorted."""
    width, size = settings.num_beams, settings.no_repeat_ngram_size
    prompt = tokens.prompt_token_ids
    running: list[tuple[float, tuple[int, ...], tuple[float, ...]]] = [(0.0, (), ())]
    finished: list[Generated] = []
    for length in range(1, settings.max_new_tokens + 1):
        candidates = []
        for total, written, logprobs in running:
            for token, logprob in enumerate(model(prompt + written)):
                longer = (*prompt, *written, token)
                grams = [longer[i : i + size] for i in range(len(longer) - size + 1)] if size else []
                repeats = token != tokens.eos_token_id and grams[-1:] != [] and grams.count(grams[-1]) > 1
                if token not in tokens.suppressed_token_ids and not repeats:
                    candidates.append((total + logprob, (*written, token), (*logprobs, float(logprob))))
        candidates.sort(reverse=True)
        for total, written, logprobs in candidates[:width]:
            if written[-1] == tokens.eos_token_id or length == settings.max_new_tokens:
                finished.append(Generated(written, logprobs, total / length**settings.length_penalty))
        finished = sorted(finished, key=lambda one: -one.score)[:width]
        running = [one for one in candidates if one[1][-1] != tokens.eos_token_id][:width]
        best_running = running[0][0] / length**settings.length_penalty
        if len(finished) == width and best_running <= finished[-1].score:
            break
    return finished[0]


def search(bundle: Bundle, pixels: NDArray[np.uint8], **settings: Any) -> list[Generated]:
    sessions = load_sessions(bundle, "cpu", 1)
    chosen = replace(bundle.manifest.generation, **settings)
    return generate(sessions.decoder, sessions.encoder.encode(pixels), bundle.manifest.tokens, chosen)


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 2, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 1},
        {"num_beams": 4, "length_penalty": -1.0},
        {"num_beams": 5, "max_new_tokens": 4},
        {"num_beams": 3, "max_new_tokens": 1},
    ],
    ids=str,
)
def test_search_equals_full_recompute(bundle: Bundle, pixels: NDArray[np.uint8], settings: Any) -> None:
    """Batched, cached search with reordered rows finds what the plain one finds (expected: computed here)."""
    chosen = replace(bundle.manifest.generation, **settings)
    found = search(bundle, pixels, **settings)
    for image, result in zip(pixels, found, strict=True):
        expected = plain_beam_search(uncached_model(bundle, image), bundle.manifest.tokens, chosen)
        assert result.token_ids == expected.token_ids
        assert result.score == pytest.approx(expected.score, abs=1e-4)
        assert result.token_logprobs == pytest.approx(expected.token_logprobs, abs=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["transformer", "recurrent", "image_prefix"])
def test_longer_prompt(tmp_path: Path, pixels: NDArray[np.uint8], kind: Kind) -> None:
    """A prompt of three tokens is read in one call, or token by token where the graph takes one at a time."""
    bundle = make_tiny_bundle(tmp_path, kind=kind, prompt_token_ids=(1, 4, 6))
    chosen = replace(bundle.manifest.generation, num_beams=3, no_repeat_ngram_size=2)
    found = search(bundle, pixels[:4], num_beams=3, no_repeat_ngram_size=2)
    for image, result in zip(pixels[:4], found, strict=True):
        expected = plain_beam_search(uncached_model(bundle, image), bundle.manifest.tokens, chosen)
        assert result.token_ids == expected.token_ids


@pytest.mark.parametrize("num_beams", [1, 4])
def test_batch_equals_singles(bundle: Bundle, pixels: NDArray[np.uint8], num_beams: int) -> None:
    """Images leave the batch at different steps, and none notices (expected: each image alone)."""
    together = search(bundle, pixels, num_beams=num_beams)
    alone = [search(bundle, image[None], num_beams=num_beams)[0] for image in pixels]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-5)
    assert len({len(one.token_ids) for one in together}) > 1, "all captions have one length: a weak test"


def test_beam_finds_better_scores_than_greedy(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    """Wider search is there to score higher; on average it must (no outside value: a property)."""
    greedy = [one.score for one in search(bundle, pixels, num_beams=1)]
    beam = [one.score for one in search(bundle, pixels, num_beams=5)]
    assert sum(beam) > sum(greedy)


def test_length_penalty_favours_longer_captions(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    """The documented direction of the setting."""
    short = search(bundle, pixels, num_beams=4, length_penalty=-2.0)
    long = search(bundle, pixels, num_beams=4, length_penalty=4.0)
    assert sum(len(one.token_ids) for one in long) > sum(len(one.token_ids) for one in short)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_repeats(bundle: Bundle, pixels: NDArray[np.uint8], size: int) -> None:
    """What the setting promises, looked at in the result."""
    for result in search(bundle, pixels, num_beams=2, no_repeat_ngram_size=size):
        grams = [result.token_ids[i : i + size] for i in range(len(result.token_ids) - size + 1)]
        assert len(grams) == len(set(grams))


def test_suppressed_tokens_and_eos(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    """Suppressed tokens are never written; the end of sequence only at the end, and only before the limit."""
    tokens = bundle.manifest.tokens
    for result in search(bundle, pixels, num_beams=3, max_new_tokens=9):
        assert not set(result.token_ids) & set(tokens.suppressed_token_ids)
        assert tokens.eos_token_id not in result.token_ids[:-1]
        assert result.token_ids[-1] == tokens.eos_token_id or len(result.token_ids) == 9


def test_logprobs_are_those_before_bans(bundles: dict[Kind, Bundle], pixels: NDArray[np.uint8]) -> None:
    """Bans do not inflate the rest: with all but one word banned, its probability stays the decoder's."""
    bundle = bundles["transformer"]
    tokens = bundle.manifest.tokens
    only = replace(tokens, suppressed_token_ids=tuple(i for i in range(tokens.vocab_size) if i not in (2, 9)))
    sessions = load_sessions(bundle, "cpu", 1)
    settings = GenerationSettings(num_beams=1, max_new_tokens=1)
    result = generate(sessions.decoder, sessions.encoder.encode(pixels[:1]), only, settings)[0]
    assert result.token_ids == (9,)
    expected = uncached_model(bundle, pixels[0])(tokens.prompt_token_ids)[9]
    assert result.token_logprobs[0] == pytest.approx(expected, abs=1e-4)


def test_stream_grows_to_the_greedy_result(bundle: Bundle, pixels: NDArray[np.uint8]) -> None:
    """Each step shows one token more, and the last is what `generate` gives."""
    sessions = load_sessions(bundle, "cpu", 1)
    for image in pixels:
        encoded = sessions.encoder.encode(image[None])
        steps = list(
            generate_stream(sessions.decoder, encoded, bundle.manifest.tokens, bundle.manifest.generation)
        )
        expected = search(bundle, image[None], num_beams=1)[0].token_ids
        assert steps == [expected[: length + 1] for length in range(len(expected))]


def test_settings_without_sense_are_all_named(bundles: dict[Kind, Bundle], pixels: NDArray[np.uint8]) -> None:
    """One message for all problems."""
    with pytest.raises(ConfigError) as caught:
        search(bundles["transformer"], pixels, num_beams=0, max_new_tokens=0, no_repeat_ngram_size=-1)
    assert len(caught.value.problems) == 3


def test_more_tokens_than_positions(bundles: dict[Kind, Bundle], pixels: NDArray[np.uint8]) -> None:
    """24 positions: 24 new tokens fit, as the last is never read; 25 are refused before onnxruntime fails."""
    assert search(bundles["transformer"], pixels[:1], max_new_tokens=24)
    with pytest.raises(ConfigError, match=r"expected 24 or fewer.*found 25"):
        search(bundles["transformer"], pixels[:1], max_new_tokens=25)


def test_log_sum_exp_equals_float64() -> None:
    """Against the definition in double precision, with logits that overflow exp in single precision."""
    logits = np.random.default_rng(0).normal(0, 100, (3, 2, 50)).astype(np.float32)
    wide = logits.astype(np.float64)
    highest = wide.max(axis=-1, keepdims=True)
    expected = highest + np.log(np.exp(wide - highest).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(log_sum_exp(logits), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    """A broken graph must not become a caption with confidence NaN."""
    logits = np.zeros((1, 1, 4), dtype=np.float32)
    logits[0, 0, 2] = value
    with pytest.raises(BundleError, match="no numbers"):
        log_sum_exp(logits)


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        ([5, 6, 7, 5, 6], 3, {7}),
        ([5, 6, 7, 6, 5], 3, set()),
        ([5, 6, 5, 7, 5], 2, {6, 7}),
        ([5, 6], 1, {5, 6}),
        ([5, 6], 3, set()),
    ],
)
def test_repeating_tokens_by_hand(tokens: list[int], size: int, expected: set[int]) -> None:
    assert repeating_tokens(tokens, size) == expected
