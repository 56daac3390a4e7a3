"""The exported graphs and the runtime's search against plain torch that keeps no cache.

Everything expected here is computed by reading the whole sentence again for each token, with loops over lists
and no code of the runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnxruntime  # noqa: E402

from kiloword import Captioner, load_bundle  # noqa: E402
from kiloword.runtime.sessions import Sessions, load_sessions  # noqa: E402
from kiloword.train.models.captioner import CaptionModel  # noqa: E402
from tests.checkpoints import TinyExport, random_pixels  # noqa: E402

pytestmark = pytest.mark.parity

BOS, EOS = 1, 2
BANNED = (0, 1, 3)  # <pad>, <bos>, <unk>
MAX_NEW_TOKENS = 8
PHOTOS = 16
TOLERANCE = 1e-4  # summation orders differ

Pixels = NDArray[np.uint8]
Context = tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return random_pixels(PHOTOS)


@pytest.fixture(scope="module")
def captioner(tiny_export: TinyExport) -> Iterator[Captioner]:
    with Captioner.load(tiny_export.fp32, provider="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def sessions(tiny_export: TinyExport) -> Sessions:
    return load_sessions(load_bundle(tiny_export.fp32), "cpu", 1)


def open_graph(tiny_export: TinyExport, file: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(tiny_export.fp32 / file, options, providers=["CPUExecutionProvider"])


def next_logprobs(model: CaptionModel, context: Context, ids: Sequence[int]) -> NDArray[np.float64]:
    """Log-probabilities of what follows a sentence; the whole sentence is read."""
    with torch.inference_mode():
        hidden, _ = model.decoder(torch.tensor([list(ids)]), context)
        logits = hidden[0, -1] @ model.decoder.token_embedding.weight.t() + model.decoder.output_bias
        logprobs: NDArray[np.float64] = logits.double().log_softmax(0).numpy().copy()
    return logprobs


def contexts(model: CaptionModel, pixels: Pixels) -> list[Context]:
    """The context of each photo, encoded alone."""
    with torch.inference_mode():
        return [model.encode(torch.from_numpy(pixels[i : i + 1])) for i in range(len(pixels))]


def greedy(model: CaptionModel, context: Context) -> tuple[int, ...]:
    """The likeliest token, again and again."""
    ids = [BOS]
    while len(ids) <= MAX_NEW_TOKENS and ids[-1] != EOS:
        logprobs = next_logprobs(model, context, ids)
        logprobs[list(BANNED)] = -np.inf
        ids.append(int(logprobs.argmax()))
    return tuple(ids[1:])


def beam_search(
    model: CaptionModel, context: Context, num_beams: int, length_penalty: float, no_repeat: int = 0
) -> tuple[tuple[int, ...], float]:
    """Beam search as the docstring of runtime/generation.py says it, over lists of (sum, sentence)."""
    going_on: list[tuple[float, list[int]]] = [(0.0, [BOS])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, MAX_NEW_TOKENS + 1):
        candidates: list[tuple[float, list[int]]] = []
        for total, ids in going_on:
            logprobs = next_logprobs(model, context, ids)
            for token, logprob in enumerate(logprobs):
                if token not in BANNED and not repeats([*ids, token], no_repeat):
                    candidates.append((total + float(logprob), [*ids, token]))
        candidates = sorted(candidates, key=lambda item: -item[0])[: 2 * num_beams]
        for total, ids in candidates[:num_beams]:
            if ids[-1] == EOS or length == MAX_NEW_TOKENS:
                finished.append((total / length**length_penalty, ids))
        finished = sorted(finished, key=lambda item: -item[0])[:num_beams]
        going_on = [item for item in candidates if item[1][-1] != EOS][:num_beams]
        best = going_on[0][0] / length**length_penalty
        if len(finished) == num_beams and best <= finished[-1][0]:
            break
    score, ids = finished[0]
    return tuple(ids[1:]), score


def repeats(ids: list[int], size: int) -> bool:
    """Whether the last ``size`` tokens stand somewhere before."""
    if size == 0 or ids[-1] == EOS:
        return False
    last = ids[-size:]
    return len(last) == size and any(ids[i : i + size] == last for i in range(len(ids) - size))


def test_the_test_material_is_worth_comparing(tiny_export: TinyExport, pixels: Pixels) -> None:
    """Captions that are all alike, or all of one length, would hide most mistakes."""
    captions = [greedy(tiny_export.model, context) for context in contexts(tiny_export.model, pixels)]
    assert len(set(captions)) > PHOTOS / 2
    assert len({len(caption) for caption in captions}) > 3
    assert any(caption[-1] != EOS for caption in captions)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_encoder_values(tiny_export: TinyExport, pixels: Pixels, batch_size: int) -> None:
    """Every cross-attention key and value equals the torch model's own path (not the exported module)."""
    session = open_graph(tiny_export, "encoder.onnx")
    outputs = session.run(None, {"pixels": pixels[:batch_size]})
    with torch.inference_mode():
        expected = tiny_export.model.encode(torch.from_numpy(pixels[:batch_size]))
    flat = [tensor.numpy() for tensor in expected]
    for want, have in zip(flat, outputs, strict=True):
        np.testing.assert_allclose(have, want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("batch_size", "num_beams", "length", "past_rows", "past_length"),
    [(1, 1, 1, 1, 0), (1, 1, 1, 1, 15), (1, 4, 1, 1, 3), (2, 3, 1, 6, 5), (3, 1, 5, 3, 0), (2, 2, 3, 7, 4)],
)
def test_decoder_values(
    tiny_export: TinyExport, batch_size: int, num_beams: int, length: int, past_rows: int, past_length: int
) -> None:
    """Logits and new cache, computed in torch one row at a time with that row's past and image."""
    random = np.random.default_rng(batch_size + 10 * past_length)
    model, depth = tiny_export.model, 2
    ids = random.integers(4, 60, (batch_size, num_beams, length))
    rows = random.integers(0, past_rows, (batch_size, num_beams))
    context = random.normal(size=(2 * depth, batch_size, 4, 17, 16)).astype(np.float32)
    past = random.normal(size=(2 * depth, past_rows, 4, past_length, 16)).astype(np.float32)
    session = open_graph(tiny_export, "decoder.onnx")
    names = [item.name for item in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, (ids, rows, *context, *past), strict=True)))
    # Behind the cache come the queries that attention is explained by; test_attention.py compares those.
    logits, present = outputs[0], outputs[1 : 1 + 2 * depth]
    for image, beam in np.ndindex(batch_size, num_beams):
        row = image * num_beams + beam
        seen = torch.from_numpy(context[:, image : image + 1])
        own = torch.from_numpy(past[:, rows[image, beam]])[:, None]
        with torch.inference_mode():
            hidden, cache = model.decoder(
                torch.from_numpy(ids[image, beam])[None],
                tuple(seen),
                tuple(own),
            )
            expected = model.decoder.logits(hidden[0, -1]).numpy()
        np.testing.assert_allclose(logits[image, beam], expected, rtol=TOLERANCE, atol=TOLERANCE)
        for have, want in zip(present, cache, strict=True):
            np.testing.assert_allclose(have[row], want[0].numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_greedy_equals_torch_token_by_token(
    tiny_export: TinyExport, captioner: Captioner, pixels: Pixels
) -> None:
    """All photos in one batch, so that finished ones leave it, against torch that has each alone."""
    found = captioner.caption_pixels(pixels, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
    expected = [greedy(tiny_export.model, context) for context in contexts(tiny_export.model, pixels)]
    assert [caption.token_ids for caption in found] == expected


def test_log_probabilities_equal_torch(tiny_export: TinyExport, captioner: Captioner, pixels: Pixels) -> None:
    """They make the confidence. Expected: torch's log-softmax over the whole vocabulary, bans ignored."""
    for caption, context in zip(
        captioner.caption_pixels(pixels[:4], num_beams=3),
        contexts(tiny_export.model, pixels[:4]),
        strict=True,
    ):
        ids = [BOS, *caption.token_ids]
        expected = [
            next_logprobs(tiny_export.model, context, ids[:end])[ids[end]] for end in range(1, len(ids))
        ]
        np.testing.assert_allclose(caption.token_logprobs, expected, atol=1e-4)


def test_cached_equals_uncached(sessions: Sessions, captioner: Captioner, pixels: Pixels) -> None:
    """The same decoder.onnx, but each token is found by reading the whole sentence with an empty past."""
    decoder = sessions.decoder
    for index, caption in enumerate(
        captioner.caption_pixels(pixels, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
    ):
        encoded = sessions.encoder.encode(pixels[index : index + 1])
        ids = [BOS]
        while len(ids) <= MAX_NEW_TOKENS and ids[-1] != EOS:
            empty = decoder.initial_state(encoded, 1)
            context, whole = decoder.context(encoded), np.array([[ids]], np.int64)
            logits, _ = decoder.step(whole, np.zeros((1, 1), np.int64), context, empty)
            logits[:, :, list(BANNED)] = -np.inf
            ids.append(int(logits[0, 0].argmax()))
        assert caption.token_ids == tuple(ids[1:])


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_batch_of_eight_equals_singles(captioner: Captioner, pixels: Pixels, num_beams: int) -> None:
    """What else is in the batch must not change a word (fp32)."""
    together = captioner.caption_pixels(pixels[:8], num_beams=num_beams)
    alone = [captioner.caption_pixels(pixels[i : i + 1], num_beams=num_beams)[0] for i in range(8)]
    assert [caption.token_ids for caption in together] == [caption.token_ids for caption in alone]


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "no_repeat"), [(2, 1.0, 0), (4, 1.0, 0), (3, 0.5, 0), (3, 2.0, 2)]
)
def test_beam_search_equals_a_full_recompute(
    tiny_export: TinyExport,
    captioner: Captioner,
    pixels: Pixels,
    num_beams: int,
    length_penalty: float,
    no_repeat: int,
) -> None:
    """Cached, batched, reordered beams against lists of sentences that torch reads again each time."""
    chosen = pixels[:6]
    found = captioner.caption_pixels(
        chosen,
        num_beams=num_beams,
        length_penalty=length_penalty,
        no_repeat_ngram_size=no_repeat,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    for caption, context in zip(found, contexts(tiny_export.model, chosen), strict=True):
        ids, score = beam_search(tiny_export.model, context, num_beams, length_penalty, no_repeat)
        assert caption.token_ids == ids
        length = len(caption.token_logprobs)
        assert sum(caption.token_logprobs) / length**length_penalty == pytest.approx(score, abs=1e-4)
