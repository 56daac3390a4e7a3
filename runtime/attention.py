"""Where a decoder looked while it wrote: one map of the picture for each word of a caption.

The search is not told about this. What a decoder looks at follows from the photo and the words before, so the
finished caption is read once more, and nobody else pays for it: neither with operators nor with time. It also
makes beams no special case, for what is read again is the hypothesis that won.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.manifest import AttentionSpec, TokenSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.captions import Caption
    from kiloword.runtime.sessions import DecoderSession, Tensors
    from kiloword.runtime.tokenizer import Tokenizer

# Han with kana, Han for compatibility, Thai and Lao, Khmer, Burmese: scripts without spaces between words.
_UNSPACED = ((0x2E80, 0x9FFF), (0xF900, 0xFAFF), (0x0E00, 0x0EFF), (0x1780, 0x17FF), (0x1000, 0x109F))


def add_attention(
    captions: Sequence[Caption],
    decoder: DecoderSession,
    encoded: Tensors,
    tokens: TokenSpec,
    spec: AttentionSpec,
    tokenizer: Tokenizer,
) -> list[Caption]:
    """The captions of a batch with their words and a map for each word.

    Args:
        captions: What was written for the batch.
        decoder: The decoder that wrote them.
        encoded: What `EncoderSession.encode` returned for the batch.
        tokens: The token ids that steered the search.
        spec: Which image token is which place.
        tokenizer: The one that made text of them.
    """
    looks = read_again(decoder, encoded, tokens, spec, [caption.token_ids for caption in captions])
    found = []
    for caption, weights in zip(captions, looks, strict=True):
        words = words_of(tokenizer, caption.token_ids)
        maps = by_word(on_grid(weights, spec), words)
        found.append(replace(caption, words=tuple(word for word, _ in words), attention=maps))
    return found


def choose_layers(spec: AttentionSpec, layers: Sequence[int]) -> AttentionSpec:
    """A specification in which only some of the decoder's layers count.

    Args:
        spec: Of the bundle.
        layers: Which, counted from 0 where the decoder begins.

    Raises:
        ConfigError: The decoder has no such layer, or none is asked for.
    """
    queries = list(spec.queries.items())
    count = len(queries) or 1  # a recurrent decoder looks once
    wrong = [layer for layer in layers if not 0 <= layer < count]
    if wrong or not layers:
        found = ", ".join(map(str, wrong)) or "none"
        raise ConfigError([f"attention: expected layers from 0 to {count - 1}, found {found}"])
    return replace(spec, queries=dict(queries[layer] for layer in sorted(set(layers)))) if queries else spec


def read_again(
    decoder: DecoderSession,
    encoded: Tensors,
    tokens: TokenSpec,
    spec: AttentionSpec,
    written: Sequence[Sequence[int]],
) -> list[NDArray[np.float32]]:
    """What the decoder looked at when it chose each token of the captions of a batch.

    Args:
        decoder: The decoder that wrote them.
        encoded: What `EncoderSession.encode` returned for the batch.
        tokens: The token ids that steered the search.
        spec: Which layers count.
        written: For each image its caption, without the prompt.

    Returns:
        For each image float32 (tokens, image tokens); each row sums to 1.
    """
    batch_size = len(written)
    context, state = decoder.context(encoded), decoder.initial_state(encoded, batch_size)
    rows = np.arange(batch_size, dtype=np.int64)[:, None]
    unread = np.tile(np.array(tokens.prompt_token_ids, dtype=np.int64), (batch_size, 1, 1))
    looks = []
    for place in range(max(map(len, written))):
        stride = 1 if decoder.token_by_token else unread.shape[2]
        for start in range(0, unread.shape[2], stride):
            piece = unread[:, :, start : start + stride]
            weights, state = decoder.look(piece, rows, context, state, spec.queries)
        looks.append(weights[:, 0])
        # A caption that has ended goes on with anything: what comes after it is cut off below.
        following = [ids[place] if place < len(ids) else tokens.pad_token_id for ids in written]
        unread = np.array(following, dtype=np.int64)[:, None, None]
    return [np.stack([look[image] for look in looks])[: len(ids)] for image, ids in enumerate(written)]


def query_weights(
    query: NDArray[np.floating[Any]], key: NDArray[np.floating[Any]], beams: tuple[int, ...]
) -> NDArray[np.float32]:
    """softmax(QK^T / sqrt(d)) of the last position, mean over heads.

    Args:
        query: (batch_size * num_beams, sequence_length, heads * d).
        key: (batch_size, heads, image tokens, d).
        beams: batch_size and num_beams.

    Returns:
        float32 (batch_size, num_beams, image tokens).

    Source: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, equation 1.
    """
    heads, head_width = key.shape[1], key.shape[3]
    last = query[:, -1].reshape(*beams, heads, head_width).astype(np.float32)
    scores = np.einsum("bkhd,bhnd->bkhn", last, key.astype(np.float32)) / np.sqrt(np.float32(head_width))
    weights = np.exp(scores - scores.max(axis=3, keepdims=True))
    weights /= weights.sum(axis=3, keepdims=True)
    mean: NDArray[np.float32] = weights.mean(axis=2)
    return mean


def on_grid(weights: NDArray[np.float32], spec: AttentionSpec) -> NDArray[np.float32]:
    """Attention over the places of the picture alone.

    Args:
        weights: float32 (tokens, image tokens).
        spec: Which image token is which place.

    Returns:
        float32 (tokens, grid height, grid width); each map sums to 1, without what went to leading tokens.
    """
    cells = weights[:, spec.leading_tokens :].astype(np.float64)
    # All of it on the class token leaves nothing: then no place is better than another.
    cells += 1e-30
    cells /= cells.sum(axis=1, keepdims=True)
    return cells.reshape(-1, spec.grid_height, spec.grid_width).astype(np.float32)


def by_word(maps: NDArray[np.float32], words: Sequence[tuple[str, Sequence[int]]]) -> NDArray[np.float32]:
    """The mean map of each word's tokens.

    Args:
        maps: float32 (tokens, grid height, grid width).
        words: What `words_of` returned.

    Returns:
        float32 (words, grid height, grid width).
    """
    found = [maps[list(places)].mean(axis=0) for _, places in words]
    return np.stack(found) if found else maps[:0]


def words_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """The words of a caption, each with the tokens that it is made of.

    Words are what stands between spaces; in scripts without spaces each token is one. Punctuation stays with
    its word, but its tokens do not count, unless the word has no others.

    Args:
        tokenizer: The tokenizer that makes text of them.
        token_ids: Without the prompt; special tokens belong to no word.

    Returns:
        Each word and the places of its tokens in ``token_ids``.
    """
    text = tokenizer.decode(token_ids)
    spans = _spans(tokenizer, token_ids, text)
    words: list[tuple[str, list[int]]] = []
    for start, end in _word_limits(text, {start for start, _ in spans.values()}):
        inside = [place for place, span in spans.items() if span[0] < end and span[1] > start]
        telling = [place for place in inside if not _is_punctuation(text[slice(*spans[place])])]
        if inside:
            words.append((text[start:end], telling or inside))
    return words


def _spans(tokenizer: Tokenizer, token_ids: Sequence[int], text: str) -> dict[int, tuple[int, int]]:
    """Where in the text each token stands; a token that is only a part of a character, where that begins."""
    spans, end = {}, 0
    for place in range(len(token_ids)):
        start = end
        # What is still incomplete may decode to something else than it becomes in the end.
        end = max(start, _common_length(tokenizer.decode(token_ids[: place + 1]), text))
        while start < len(text) and text[start].isspace():
            start += 1
        if start < len(text) and not (start == end and tokenizer.is_special(token_ids[place])):
            spans[place] = (start, max(end, start + 1))
    return spans


def _common_length(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _word_limits(text: str, token_starts: set[int]) -> list[tuple[int, int]]:
    """Beginning and end of each word."""
    limits: list[tuple[int, int]] = []
    start: int | None = None
    for at, character in enumerate([*text, " "]):
        if start is not None and (character.isspace() or (at in token_starts and _is_unspaced(text, at))):
            limits.append((start, at))
            start = None
        if start is None and not character.isspace():
            start = at
    return limits


def _is_unspaced(text: str, at: int) -> bool:
    """True between two characters of which one is of a script without spaces; punctuation never leaves."""
    pair = text[at - 1 : at + 1]
    unspaced = any(low <= ord(character) <= high for character in pair for low, high in _UNSPACED)
    return unspaced and not _is_punctuation(pair[1:])


def _is_punctuation(text: str) -> bool:
    return all(unicodedata.category(character)[0] in "PZ" for character in text)
