"""Beam search as an ONNX Loop: `runtime/generation.py` once more, for all images of a batch at once.

Shape legend:
    - B: images, H: hypotheses of each (1 until the prompt is read, then K), K: beams, T: tokens so far with
      the prompt, V: vocabulary

An image that is done stays in the batch, and what it goes on to write is thrown away; with one beam this is
greedy search. Sums are float64, as Python's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

from kiloword.export.onnx_nodes import Nodes
from kiloword.runtime.manifest import GenerationSettings, TokenSpec

Decode = Callable[[Nodes, str, str, Sequence[str]], tuple[str, list[str]]]
"""Adds the decoder's nodes: (nodes, input_ids, beam_rows, states) -> logits (B, H, V) and the new states."""

_NONE = -1
"""Stands before the prompt, so that there are always n - 1 tokens to compare with."""


@dataclass(frozen=True)
class _Search:
    """What goes around the loop, as names of tensors."""

    unread: str
    """int64 (B, H, tokens that the decoder has not read)"""
    rows: str
    """int64 (B, H): for each hypothesis the row of the states that it continues."""
    history: str
    """int64 (B, H, T), with `_NONE` in front."""
    totals: str
    """float64 (B, H): sums of log-probabilities."""
    done: str
    """bool (B,)"""
    scores: str
    """float64 (B, K): of what has ended, best first; minus infinity where there is nothing yet."""
    captions: str
    """int64 (B, K, T): what has ended, as in ``history``, padding behind it."""


_TYPES = {
    "unread": TensorProto.INT64,
    "rows": TensorProto.INT64,
    "history": TensorProto.INT64,
    "totals": TensorProto.DOUBLE,
    "done": TensorProto.BOOL,
    "scores": TensorProto.DOUBLE,
    "captions": TensorProto.INT64,
}
_NAMES = [field.name for field in fields(_Search)]


class SearchGraph:
    """Makes the nodes of a search.

    Args:
        tokens: the token ids that steer it.
        settings: how wide and how long to search; constants of the graph.
        decode: the decoder.
        state_types: ONNX element type of each state.
    """

    def __init__(
        self, tokens: TokenSpec, settings: GenerationSettings, decode: Decode, state_types: Sequence[int]
    ) -> None:
        self._tokens = tokens
        self._settings = settings
        self._decode = decode
        self._state_types = state_types
        self._front = max(settings.no_repeat_ngram_size - 1, 0)

    def add(self, outer: Nodes, prompt: str, rows: str, states: Sequence[str]) -> tuple[str, str]:
        """Adds the search.

        Args:
            outer: the graph to add to.
            prompt: int64 (B, 1, n), tokens that the decoder is to read first.
            rows: int64 (B, 1), the row of the states of each image.
            states: as they are before that.

        Returns:
            int64 (B, length), padded; and float32 (B,), the score of each.
        """
        start = self._start(outer, prompt, rows)
        body = self._body(outer)
        first = [getattr(start, name) for name in _NAMES]
        limit = outer.constant(self._settings.max_new_tokens)
        always = outer.constant(np.array(True))
        results = outer.ops(
            "Loop", limit, always, *first, *states, outputs=len(first) + len(states), body=body
        )
        found = dict(zip(_NAMES, results, strict=False))
        best = outer.op("Gather", found["captions"], outer.constant(0), axis=1)
        length = self._front + len(self._tokens.prompt_token_ids)
        ids = outer.slice(best, length, np.iinfo(np.int64).max, 1)
        score = outer.op("Gather", found["scores"], outer.constant(0), axis=1)
        return ids, outer.cast(score, TensorProto.FLOAT)

    def _start(self, nodes: Nodes, prompt: str, rows: str) -> _Search:
        tokens, width = self._tokens, self._settings.num_beams
        batch = nodes.size(rows, 0)
        written = np.array([[[_NONE] * self._front + list(tokens.prompt_token_ids)]], np.int64)
        shape = nodes.op("Concat", batch, nodes.constant([1, written.size]), axis=0)
        history = nodes.op("Expand", nodes.constant(written), shape)
        beams = nodes.op("Concat", batch, nodes.constant([width]), axis=0)
        endless = np.array([[-np.inf]], np.float64)
        empty = np.full((1, 1, written.size), tokens.pad_token_id, np.int64)
        whole = nodes.op("Concat", batch, nodes.constant([width, written.size]), axis=0)
        return _Search(
            unread=prompt,
            rows=rows,
            history=history,
            totals=nodes.op("Expand", nodes.constant(np.array([[0.0]])), nodes.op("Shape", rows)),
            done=nodes.op("Expand", nodes.constant(np.array([False])), batch),
            scores=nodes.op("Expand", nodes.constant(endless), beams),
            captions=nodes.op("Expand", nodes.constant(empty), whole),
        )

    def _body(self, outer: Nodes) -> GraphProto:
        nodes = outer.inner("step/")
        names = [f"search/{name}" for name in _NAMES]
        states = [f"search/state_{index}" for index in range(len(self._state_types))]
        after, new_states, go_on = self._step(nodes, "search/iteration", _Search(*names), states)
        types = [*(_TYPES[name] for name in _NAMES), *self._state_types]
        inputs = [
            helper.make_tensor_value_info("search/iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("search/condition", TensorProto.BOOL, []),
            *(_any_shape(name, kind) for name, kind in zip([*names, *states], types, strict=True)),
        ]
        results = [*(getattr(after, name) for name in _NAMES), *new_states]
        outputs = [helper.make_tensor_value_info(go_on, TensorProto.BOOL, [])]
        outputs += [_any_shape(name, kind) for name, kind in zip(results, types, strict=True)]
        return helper.make_graph(nodes.nodes, "search", inputs, outputs)

    def _step(
        self, nodes: Nodes, iteration: str, search: _Search, states: Sequence[str]
    ) -> tuple[_Search, list[str], str]:
        """One more token of every hypothesis."""
        width = self._settings.num_beams
        logits, new_states = self._decode(nodes, search.unread, search.rows, states)
        totals, beams, tokens = self._candidates(nodes, logits, search, iteration)
        length = nodes.cast(nodes.op("Add", iteration, nodes.constant(1)), TensorProto.DOUBLE)
        penalty = nodes.op("Pow", length, nodes.constant(np.array(self._settings.length_penalty, np.float64)))
        last = nodes.op("Equal", iteration, nodes.constant(self._settings.max_new_tokens - 1))
        ends = nodes.op("Equal", tokens, nodes.constant(self._tokens.eos_token_id))

        first = [nodes.slice(one, 0, width, 1) for one in (totals, beams, tokens)]
        ending = nodes.op("Or", nodes.slice(ends, 0, width, 1), last)
        scores, captions = self._set_aside(nodes, search, first, ending, penalty)

        kept = self._first_that_go_on(nodes, ends)
        totals, beams, tokens = (
            nodes.op("GatherElements", one, kept, axis=1) for one in (totals, beams, tokens)
        )
        best = nodes.slice(totals, 0, 1, 1)
        done = self._done(nodes, search.done, last, best, penalty, nodes.slice(scores, width - 1, width, 1))
        after = _Search(
            unread=nodes.op("Unsqueeze", tokens, nodes.constant([2])),
            rows=self._rows(nodes, search.rows, beams),
            history=self._continued(nodes, search.history, beams, tokens),
            totals=totals,
            done=done,
            scores=scores,
            captions=captions,
        )
        # Names of outputs of a body must be its own, not those of a tensor from outside.
        going = nodes.op("ReduceMax", nodes.cast(nodes.op("Not", done), TensorProto.INT32), keepdims=0)
        return after, new_states, nodes.cast(going, TensorProto.BOOL)

    def _candidates(self, nodes: Nodes, logits: str, search: _Search, iteration: str) -> tuple[str, str, str]:
        """The 2 K best ways to go on, best first: totals, hypotheses and tokens, each (B, 2 K)."""
        count = nodes.constant([2 * self._settings.num_beams])
        logits = nodes.cast(logits, TensorProto.FLOAT)
        last_axis = nodes.constant([-1])
        highest = nodes.op("ReduceMax", logits, last_axis, keepdims=1)
        powers = nodes.op("Exp", nodes.op("Sub", logits, highest))
        total = nodes.op("Log", nodes.op("ReduceSum", powers, last_axis, keepdims=1))
        normalizer = nodes.op("Add", total, highest)
        allowed = self._ban(nodes, logits, search)
        allowed = self._keep_length(nodes, allowed, normalizer, iteration)
        values, tokens = nodes.ops("TopK", allowed, count, outputs=2, axis=-1)
        logprobs = nodes.cast(nodes.op("Sub", values, normalizer), TensorProto.DOUBLE)
        totals = nodes.op("Add", logprobs, nodes.op("Unsqueeze", search.totals, last_axis))
        best, places = nodes.ops("TopK", nodes.reshape(totals, 0, -1), count, outputs=2, axis=-1)
        beams = nodes.op("Div", places, count)
        return best, beams, nodes.op("GatherElements", nodes.reshape(tokens, 0, -1), places, axis=1)

    def _ban(self, nodes: Nodes, logits: str, search: _Search) -> str:
        """Minus infinity for tokens that may not be written: (B, H, V)."""
        never = self._all_zero_but(self._tokens.suppressed_token_ids, -np.inf)
        allowed = nodes.op("Add", logits, nodes.constant(never))
        size = self._settings.no_repeat_ngram_size
        return self._ban_repeats(nodes, allowed, search.history, size) if size else allowed

    def _keep_length(self, nodes: Nodes, allowed: str, normalizer: str, iteration: str) -> str:
        """Rules out an end that comes too early, and gives what is forced a probability of 1: (B, H, V)."""
        tokens, settings = self._tokens, self._settings
        if settings.min_new_tokens:
            early = nodes.op("Less", iteration, nodes.constant(settings.min_new_tokens))
            endless = nodes.op(
                "Add", allowed, nodes.constant(self._all_zero_but([tokens.eos_token_id], -np.inf))
            )
            allowed = nodes.op("Where", early, endless, allowed)
        # The last comes second, as in Python, for a caption of one token is both.
        for place, token in (
            (0, tokens.forced_first_token_id),
            (settings.max_new_tokens - 1, tokens.forced_last_token_id),
        ):
            if token is not None:
                others = self._all_zero_but(
                    [one for one in range(tokens.vocab_size) if one != token], -np.inf
                )
                forced = nodes.op("Add", normalizer, nodes.constant(others))
                now = nodes.op("Equal", iteration, nodes.constant(place))
                allowed = nodes.op("Where", now, forced, allowed)
        return allowed

    def _all_zero_but(self, ids: Sequence[int], value: float) -> NDArray[np.float32]:
        """A row of the vocabulary."""
        row = np.zeros(self._tokens.vocab_size, np.float32)
        row[list(ids)] = value
        return row

    def _ban_repeats(self, nodes: Nodes, logits: str, history: str, size: int) -> str:
        """Rules out what would complete ``size`` tokens a second time."""
        vocab = self._tokens.vocab_size
        far = np.iinfo(np.int64).max
        same = None
        for place in range(size - 1):
            # The token at `place` of each n-gram that was completed, and of the one that is not complete yet.
            earlier = nodes.slice(history, place, place - size + 1, 2)
            end = place - size + 2
            now = nodes.slice(history, place - size + 1, end if end < 0 else far, 2)
            equal = nodes.op("Equal", earlier, now)
            same = equal if same is None else nodes.op("And", same, equal)
        following = nodes.slice(history, size - 1, far, 2)
        banned = nodes.op("Not", nodes.op("Equal", following, nodes.constant(self._tokens.eos_token_id)))
        banned = banned if same is None else nodes.op("And", banned, same)
        # One place more than there are tokens: what is not banned goes there, and is cut off again.
        places = nodes.op("Where", banned, following, nodes.constant(vocab))
        infinite = np.array(-np.inf, np.float32)
        updates = nodes.op("Expand", nodes.constant(infinite), nodes.op("Shape", places))
        padding = nodes.op("Pad", logits, nodes.constant([0, 0, 0, 0, 0, 1]))
        return nodes.slice(nodes.op("ScatterElements", padding, places, updates, axis=2), 0, vocab, 2)

    def _set_aside(
        self, nodes: Nodes, search: _Search, first: Sequence[str], ending: str, penalty: str
    ) -> tuple[str, str]:
        """Keeps those of the K best candidates that end here, if they are good enough: scores, captions."""
        totals, beams, tokens = first
        running = nodes.op("Not", nodes.op("Unsqueeze", search.done, nodes.constant([1])))
        counts = nodes.op("And", ending, running)
        endless = nodes.constant(np.array(-np.inf, np.float64))
        scores = nodes.op("Where", counts, nodes.op("Div", totals, penalty), endless)
        both = nodes.op("Concat", search.scores, scores, axis=1)
        best, places = nodes.ops("TopK", both, nodes.constant([self._settings.num_beams]), outputs=2, axis=-1)
        new = self._continued(nodes, search.history, beams, tokens)
        pad = nodes.constant(np.array(self._tokens.pad_token_id, np.int64))
        old = nodes.op("Pad", search.captions, nodes.constant([0, 0, 0, 0, 0, 1]), pad)
        return best, self._rows_of(nodes, nodes.op("Concat", old, new, axis=1), places)

    def _first_that_go_on(self, nodes: Nodes, ends: str) -> str:
        """Places of the first K candidates that are not the end of a sequence: (B, K) of (B, 2 K)."""
        count = 2 * self._settings.num_beams
        order = nodes.constant(np.arange(count, dtype=np.int64)[None])
        late = nodes.op("Mul", nodes.cast(ends, TensorProto.INT64), nodes.constant(count))
        keys = nodes.op("Add", order, late)
        _, places = nodes.ops(
            "TopK", keys, nodes.constant([self._settings.num_beams]), outputs=2, axis=-1, largest=0
        )
        return places

    def _done(self, nodes: Nodes, done: str, last: str, best: str, penalty: str, worst: str) -> str:
        """Whether nothing that goes on can be expected to beat what is set aside: (B,)."""
        endless = nodes.constant(np.array(-np.inf, np.float64))
        hopeless = nodes.op("Equal", best, endless)
        full = nodes.op("Not", nodes.op("Equal", worst, endless))
        enough = (
            full if self._ends_when_full else nodes.op("And", full, self._beaten(nodes, best, penalty, worst))
        )
        over = nodes.op("Or", hopeless, enough)
        over = nodes.op("Squeeze", nodes.op("Or", over, last), nodes.constant([1]))
        return nodes.op("Or", done, over)

    @property
    def _ends_when_full(self) -> bool:
        """Whether nobody asks what those that go on could score."""
        return self._settings.early_stopping is True or self._settings.num_beams == 1

    def _beaten(self, nodes: Nodes, best: str, penalty: str, worst: str) -> str:
        """Whether the best that goes on scores no better than the worst that is set aside: (B, 1)."""
        settings = self._settings
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            penalty = nodes.constant(np.array(float(settings.max_new_tokens) ** settings.length_penalty))
        return nodes.op("LessOrEqual", nodes.op("Div", best, penalty), worst)

    def _rows(self, nodes: Nodes, rows: str, beams: str) -> str:
        """The row of the decoder's new states that each chosen hypothesis continues: (B, K)."""
        batch = nodes.op("Squeeze", nodes.size(rows, 0))
        images = nodes.op("Range", nodes.constant(0), batch, nodes.constant(1))
        first = nodes.op("Mul", images, nodes.size(rows, 1))
        return nodes.op("Add", nodes.op("Unsqueeze", first, nodes.constant([1])), beams)

    def _continued(self, nodes: Nodes, history: str, beams: str, tokens: str) -> str:
        """Hypotheses with one more token: (B, K, T + 1)."""
        chosen = self._rows_of(nodes, history, beams)
        return nodes.op("Concat", chosen, nodes.op("Unsqueeze", tokens, nodes.constant([2])), axis=2)

    def _rows_of(self, nodes: Nodes, table: str, places: str) -> str:
        """Some of an image's rows, in another order: (B, n, T) and (B, K) -> (B, K, T)."""
        return nodes.op("GatherND", table, nodes.op("Unsqueeze", places, nodes.constant([2])), batch_dims=1)


def _any_shape(name: str, kind: int) -> ValueInfoProto:
    """A tensor whose shape may change from one round to the next."""
    return helper.make_tensor_value_info(name, kind, None)
