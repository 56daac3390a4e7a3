"""onnxruntime sessions for the two graphs of a bundle: options, threads, and the provider that really runs.

`load_sessions` makes sure that the provider that was asked for is the one that runs: onnxruntime by itself
falls back to the processor without a word that a program could see (microsoft/onnxruntime#23372).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kiloword.runtime.allocator import FREED_BYTES, KEPT_BYTES, memory_given_back
from kiloword.runtime.attention import query_weights
from kiloword.runtime.background import InBackground
from kiloword.runtime.bundle import Bundle
from kiloword.runtime.draft import Drafter
from kiloword.runtime.errors import BundleError, ConfigError, KilowordError, ProviderError
from kiloword.runtime.huge_pages import HugePages
from kiloword.runtime.manifest import PAST_LENGTH_AXIS, STATE_ROLES, GraphSpec, TensorSpec
from kiloword.runtime.providers import (
    AUTO,
    PROVIDERS,
    auto_candidates,
    check_available,
    warn_of_unchecked,
)
from kiloword.runtime.threads import MOST_THREADS, default_threads

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Tensors = dict[str, "NDArray[Any]"]
"""Arrays by the name of the decoder input that takes them."""

_SILENT_BUT_ERRORS = 3

# A graph takes twice its size while it is loaded. Small ones are loaded side by side, large ones one by one,
# the larger first: 400 MB at the peak of a captioner of 280 MB.
_SMALL_BYTES = 64 << 20

# What a processor computes for several pictures at once leaves its caches: eight in pieces of two took 0.94
# of the time of eight at once for the bundle in the package, 0.98 for ViT-B/16, the same to the bit.
PICTURES_AT_ONCE = 2


class EncoderSession:
    """encoder.onnx: pixels in, everything that depends on the image alone out."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: GraphSpec,
        path: Path,
        huge_pages: HugePages | None = None,
        piece: int | None = None,
    ) -> None:
        self._session = session
        self._path = path
        self._piece = piece
        self._huge_pages = huge_pages
        self._pixels = spec.inputs_of("pixels")[0].name
        # Outputs that feed nothing are for other readers and are not computed here.
        self._targets = {tensor.name: tensor.feeds for tensor in spec.outputs if tensor.feeds is not None}

    def encode(self, pixels: NDArray[np.uint8]) -> Tensors:
        """Run the encoder.

        Args:
            pixels: uint8 (batch_size, height, width, 3), RGB, already resized.

        Returns:
            Each context tensor and initial state, by the name of the decoder input that takes it.
        """
        outputs = self._run_in_pieces(pixels)
        if self._huge_pages is not None:
            self._huge_pages.seen(len(pixels))
        return dict(zip(self._targets.values(), outputs, strict=True))

    def _run_in_pieces(self, pixels: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The outputs for all pictures, of which the processor computes a few at a time."""
        piece = self._piece or len(pixels)
        names = list(self._targets)
        first = _run(self._session, self._path, names, {self._pixels: pixels[:piece]})
        if len(pixels) <= piece:
            return first
        whole = [np.empty((len(pixels), *part.shape[1:]), part.dtype) for part in first]
        for target, part in zip(whole, first, strict=True):
            target[:piece] = part
        for start in range(piece, len(pixels), piece):
            given = np.ascontiguousarray(pixels[start : start + piece])
            _run_into(
                self._session,
                self._path,
                {self._pixels: given},
                {name: target[start : start + piece] for name, target in zip(names, whole, strict=True)},
            )
        return whole


class DecoderSession:
    """decoder.onnx: tokens in, the next token's logits out; the states pass through the caller's hands."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        spec: GraphSpec,
        path: Path,
    ) -> None:
        self._session = session
        self._path = path
        self._token_ids = spec.inputs_of("token_ids")[0]
        self._beam_rows = spec.inputs_of("beam_rows")[0].name
        self._context = tuple(tensor.name for tensor in spec.inputs_of("context"))
        self._states = spec.inputs_of(*STATE_ROLES)
        logits = spec.outputs_of("logits")[0].name
        next_states = {tensor.name: tensor.feeds for tensor in spec.outputs_of(*STATE_ROLES) if tensor.feeds}
        self._outputs = [logits, *next_states]
        self._targets = tuple(next_states.values())
        sequence_logits = [tensor.name for tensor in spec.outputs_of("sequence_logits")]
        self._outputs_of_all = [*sequence_logits, *next_states]
        self._growing_axes = {
            tensor.name: tensor.axes.index(PAST_LENGTH_AXIS)
            for tensor in self._states
            if PAST_LENGTH_AXIS in tensor.axes
        }
        self._weights = tuple(tensor.name for tensor in spec.outputs_of("cross_attention"))

    @property
    def token_by_token(self) -> bool:
        """True when the graph reads one token per call, as recurrent decoders do."""
        return self._token_ids.axes[2] == 1

    def context(self, encoded: Tensors) -> Tensors:
        """Pick what stays the same at each step.

        Args:
            encoded: What `EncoderSession.encode` returned.

        Returns:
            The context tensors; axis 0 is batch_size (images, never beams).
        """
        return {name: encoded[name] for name in self._context}

    def initial_state(self, encoded: Tensors, batch_size: int) -> Tensors:
        """Make the states of before the first token: the encoder's where it gives them, else empty or zero.

        Args:
            encoded: What `EncoderSession.encode` returned.
            batch_size: Number of images; the states get one row for each.
        """
        return {
            tensor.name: encoded[tensor.name] if tensor.name in encoded else _empty_state(tensor, batch_size)
            for tensor in self._states
        }

    def feeds(
        self, input_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], context: Tensors, state: Tensors
    ) -> Tensors:
        """All inputs of the graph for one step, by name; arguments as for `step`."""
        return {self._token_ids.name: input_ids, self._beam_rows: beam_rows, **context, **state}

    def step(
        self, input_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], context: Tensors, state: Tensors
    ) -> tuple[NDArray[np.float32], Tensors]:
        """Read tokens and predict the one that follows.

        Args:
            input_ids: int64 (batch_size, num_beams, sequence_length), the tokens not yet read.
            beam_rows: int64 (batch_size, num_beams), the row of ``state`` that each hypothesis continues.
            context: What `context` returned, batch_size images.
            state: What `initial_state` or the last step returned, any number of rows.

        Returns:
            logits float32 (batch_size, num_beams, vocab_size) of the last position, which the caller may
            overwrite, and the new state with batch_size * num_beams rows.
        """
        feeds = self.feeds(input_ids, beam_rows, context, state)
        logits, *states = _run(self._session, self._path, self._outputs, feeds)
        return logits.astype(np.float32, copy=False), dict(zip(self._targets, states, strict=True))

    def read(
        self, input_ids: NDArray[np.int64], beam_rows: NDArray[np.int64], context: Tensors, state: Tensors
    ) -> tuple[NDArray[np.float32], Tensors]:
        """Read tokens as `step` does, and predict what follows each of them.

        Only for a decoder of which `manifest.can_check_drafts` is true.

        Args:
            input_ids: As for `step`, like the arguments that follow.
            beam_rows: Which row of the state each hypothesis continues.
            context: The images' context.
            state: The states of before.

        Returns:
            logits float32 (batch_size, num_beams, sequence_length, vocab_size), which the caller may
            overwrite, and the new state.
        """
        feeds = self.feeds(input_ids, beam_rows, context, state)
        logits, *states = _run(self._session, self._path, self._outputs_of_all, feeds)
        return logits.astype(np.float32, copy=False), dict(zip(self._targets, states, strict=True))

    def without_last(self, state: Tensors, count: int) -> Tensors:
        """The state of before the last tokens were read, of which there are ``count``.

        Only for a decoder of which `manifest.can_check_drafts` is true.
        """
        return {
            name: np.ascontiguousarray(value[(slice(None),) * self._growing_axes[name] + (slice(-count),)])
            for name, value in state.items()
        }

    def look(
        self,
        input_ids: NDArray[np.int64],
        beam_rows: NDArray[np.int64],
        context: Tensors,
        state: Tensors,
        queries: Mapping[str, str],
    ) -> tuple[NDArray[np.float32], Tensors]:
        """Read tokens as `step` does, and say where the decoder looks instead of what it would write.

        Only for a bundle whose manifest has ``attention``.

        Args:
            input_ids: As for `step`, like the arguments that follow.
            beam_rows: Which row of the state each hypothesis continues.
            context: The images' context.
            state: The states of before.
            queries: Those of the manifest's ``attention`` that count, each with the context that it is
                compared with; for a decoder that puts out its weights itself, none.

        Returns:
            float32 (batch_size, num_beams, image tokens) at the last position, mean over heads and these
            queries, rows sum to 1; and the new state.
        """
        feeds = self.feeds(input_ids, beam_rows, context, state)
        looks = [*self._weights, *queries]
        names = [*self._outputs[1:], *looks]
        outputs = dict(zip(names, _run(self._session, self._path, names, feeds), strict=True))
        weights = [
            query_weights(outputs[name], context[queries[name]], beam_rows.shape)
            if name in queries
            else outputs[name]
            for name in looks
        ]
        mean: NDArray[np.float32] = np.mean(weights, axis=0, dtype=np.float32)
        return mean, {target: outputs[name] for name, target in zip(names, self._targets, strict=False)}


@dataclass(frozen=True)
class Sessions:
    """Both graphs of a bundle, loaded."""

    encoder: EncoderSession
    decoder: DecoderSession
    provider: str
    """The execution provider that runs them, by its short name."""
    drafter: Drafter | None = None
    """What guesses tokens for the decoder to check."""


def load_sessions(bundle: Bundle, provider: str = AUTO, threads: int | None = None) -> Sessions:
    """Load both graphs of a bundle.

    Args:
        bundle: What to load.
        provider: A key of `PROVIDERS`, or ``auto`` for the best one that loads.
        threads: Threads for one operator; None for `threads.default_threads`.

    Raises:
        ProviderError: The provider is unknown, not in this onnxruntime, or did not load.
        BundleError: A graph does not load, or is not what the manifest says.
        ConfigError: ``threads`` is less than 1 or more than 1024.
    """
    count = default_threads() if threads is None else threads
    if count < 1:
        raise ConfigError([f"threads: expected 1 or more, found {count}"])
    if count > MOST_THREADS:
        raise ConfigError([f"threads: expected at most {MOST_THREADS}, found {count}"])
    if provider != AUTO:
        sessions = _load_on(bundle, provider, count)
        warn_of_unchecked(bundle, provider)
        return sessions
    for candidate in auto_candidates(bundle):
        try:
            sessions = _load_on(bundle, candidate, count)
        except ProviderError as error:
            _log.info("provider %s is there but does not load: %s", candidate, error)
            continue
        break
    else:
        sessions = _load_on(bundle, "cpu", count)
    # A device that nobody named is always said: it rounds otherwise, and somebody else may need it.
    level = logging.INFO if sessions.provider == "cpu" else logging.WARNING
    _log.log(level, "provider auto took %s, %d threads", sessions.provider, count)
    warn_of_unchecked(bundle, sessions.provider)
    return sessions


def import_onnxruntime() -> None:
    """Import onnxruntime now; it happens by itself when the first session is made."""
    import onnxruntime  # noqa: F401


def _load_on(bundle: Bundle, provider: str, threads: int) -> Sessions:
    check_available(provider)
    manifest = bundle.manifest
    graphs = {bundle.encoder_path: manifest.encoder, bundle.decoder_path: manifest.decoder}
    sizes = {path: bundle.graph_bytes(spec) for path, spec in graphs.items()}
    mapped = any(spec.weights_file in manifest.files for spec in graphs.values())
    with memory_given_back(KEPT_BYTES if mapped else FREED_BYTES):
        first, second = sorted(graphs, key=lambda path: sizes[path], reverse=True)
        beside = InBackground(lambda: _create_session(first, graphs[first], provider, threads))
        if sizes[first] > _SMALL_BYTES:
            beside.result()
        sessions = {
            second: _create_session(second, graphs[second], provider, threads),
            first: beside.result(),
        }
    decoder = DecoderSession(sessions[bundle.decoder_path], manifest.decoder, bundle.decoder_path)
    draft = manifest.draft
    huge_pages = HugePages() if provider == "cpu" and sizes[first] > _SMALL_BYTES else None
    return Sessions(
        EncoderSession(
            sessions[bundle.encoder_path],
            manifest.encoder,
            bundle.encoder_path,
            huge_pages,
            PICTURES_AT_ONCE if provider == "cpu" else None,
        ),
        decoder,
        provider,
        None if draft is None else Drafter(decoder, bundle.directory, draft, manifest.tokens),
    )


def _create_session(path: Path, spec: GraphSpec, provider: str, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    wanted = PROVIDERS[provider].onnxruntime_name
    try:
        session = onnxruntime.InferenceSession(
            path,
            sess_options=session_options(threads),
            providers=[wanted],
            # Its fallback prints to stdout, where captions go, and runs on something that nobody asked for.
            enable_fallback=0,
        )
    except _onnxruntime_errors() as error:
        # With another provider than the processor, the device may be at fault, and a device can be left out.
        kind = BundleError if provider == "cpu" else ProviderError
        raise kind(
            "does not load", path=path, expected=f"a graph for {wanted}", found=_first_line(error)
        ) from error
    found = session.get_providers()[0]
    if found != wanted:
        raise ProviderError(
            f"provider {provider} did not load",
            expected=wanted,
            found=found,
            hint=f"check that {PROVIDERS[provider].package} and its drivers fit together, or --provider auto",
        )
    _check_names(path, "inputs", spec.inputs, [tensor.name for tensor in session.get_inputs()])
    _check_names(path, "outputs", spec.outputs, [tensor.name for tensor in session.get_outputs()])
    return session


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The options that every graph of ours runs with.

    Args:
        threads: Threads for one operator.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads burn the cores that others wait for: on a shared machine 0.48-0.75x the time without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _SILENT_BUT_ERRORS
    return options


def _check_names(path: Path, side: str, declared: Sequence[TensorSpec], found: list[str]) -> None:
    names = {tensor.name for tensor in declared}
    if names != set(found):
        raise BundleError(
            f"the graph's {side} are not those of the manifest",
            path=path,
            expected=", ".join(sorted(names)),
            found=", ".join(sorted(found)),
            hint="make the bundle again with `kiloword export`",
        )


def _empty_state(tensor: TensorSpec, rows: int) -> NDArray[Any]:
    sizes = [0 if axis == PAST_LENGTH_AXIS else axis for axis in tensor.axes[1:]]
    return np.zeros([rows, *(int(size) for size in sizes)], dtype=tensor.dtype)


def _run(session: Any, path: Path, outputs: list[str], feeds: Tensors) -> list[NDArray[Any]]:
    try:
        results: list[NDArray[Any]] = session.run(outputs, feeds)
    except _onnxruntime_errors() as error:
        raise _failed(path, error) from error
    return results


def _run_into(session: Any, path: Path, feeds: Tensors, results: Tensors) -> None:
    """Runs a graph on the processor; the results are written into contiguous arrays that are there."""
    binding = session.io_binding()
    for bind, arrays in ((binding.bind_input, feeds), (binding.bind_output, results)):
        for name, array in arrays.items():
            bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    try:
        session.run_with_iobinding(binding)
    except _onnxruntime_errors() as error:
        raise _failed(path, error) from error


def _failed(path: Path, error: Exception) -> KilowordError:
    return KilowordError("onnxruntime failed while running it", path=path, found=_first_line(error))


def _onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises: its own types, which share no base but Exception, and Python's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    return (*own, RuntimeError, ValueError, MemoryError)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
