"""What `bundle.json` says: the schema of a bundle, in one place.

Everything is a frozen dataclass; `kiloword.runtime.schema` reads them and `kiloword.runtime.manifest_check`
looks for contradictions that types cannot express. docs/BUNDLE.md explains the format to people who write
bundles with other programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kiloword.runtime.draft_spec import DraftSpec
from kiloword.runtime.labels import LabelSpec
from kiloword.runtime.quantization_spec import QuantizationSpec
from kiloword.runtime.reliability_spec import ReliabilitySpec

FORMAT_VERSION = 1

Role = Literal[
    "pixels",
    "token_ids",
    "beam_rows",
    "context",
    "cache",
    "recurrent",
    "logits",
    "sequence_logits",
    "cross_attention",
    "cross_query",
]
STATE_ROLES = ("cache", "recurrent")
PAST_LENGTH_AXIS = "past_sequence_length"
WEIGHTS_SUFFIX = ".data"
"""What is added to a graph's file name for the file with its weights, where there is one."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    """Its name in the ONNX file."""
    role: Role
    """What it is for; the runtime never guesses this from a name."""
    dtype: str
    """numpy's name of its element type, such as ``float32``."""
    axes: tuple[int | str, ...]
    """A fixed size, or the name of a size that varies, for each axis."""
    feeds: str | None = None
    """The decoder input that this output is handed to: at the start (encoder) or at the next step."""


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file and what goes in and out of it."""

    file: str
    """File name inside the bundle."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def weights_file(self) -> str:
        """Name of the file with its weights, where they are in one of their own."""
        return self.file + WEIGHTS_SUFFIX

    def inputs_of(self, *roles: str) -> tuple[TensorSpec, ...]:
        """The inputs that have one of these roles, in the graph's order."""
        return tuple(tensor for tensor in self.inputs if tensor.role in roles)

    def outputs_of(self, *roles: str) -> tuple[TensorSpec, ...]:
        """The outputs that have one of these roles, in the graph's order."""
        return tuple(tensor for tensor in self.outputs if tensor.role in roles)


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the pixels that the encoder takes."""

    height: int
    """Rows of the pixels that the encoder takes."""
    width: int
    """Columns of the pixels that the encoder takes."""
    resize: Literal["stretch", "shortest_edge_center_crop", "stretch_center_crop"] = "stretch"
    """``stretch`` to height x width, or scale the shortest edge, or stretch to another size, and cut height x
    width from the middle."""
    shortest_edge: int | None = None
    """Length of the shortest edge before the cut; only for ``shortest_edge_center_crop``."""
    resample: Literal["bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"] = "bicubic"
    """Pillow's filter of this name; all but ``nearest`` average over the source area and so do not alias."""
    stretch_height: int | None = None
    """Rows before the cut; only for ``stretch_center_crop``."""
    stretch_width: int | None = None
    """Columns before the cut; only for ``stretch_center_crop``."""


@dataclass(frozen=True)
class TokenSpec:
    """The token ids that generation needs to know."""

    vocab_size: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    prompt_token_ids: tuple[int, ...]
    """What the decoder reads before it writes the first word; mostly beginning-of-sequence alone."""
    suppressed_token_ids: tuple[int, ...] = ()
    """Tokens that are never written, such as unknown, padding and beginning-of-sequence."""
    max_sequence_length: int | None = None
    """Most tokens, prompt included, that the decoder can read (its positions); null: no limit."""
    forced_first_token_id: int | None = None
    """What every caption begins with, as its first token after the prompt; null: what is likeliest."""
    forced_last_token_id: int | None = None
    """What is written where a caption reaches its greatest length; null: what is likeliest."""


@dataclass(frozen=True)
class GenerationSettings:
    """How captions are searched for; a bundle holds defaults, every call may override them."""

    num_beams: int = 1
    """Hypotheses kept per image; 1 is greedy search."""
    max_new_tokens: int = 20
    """Most tokens in a caption, the end-of-sequence token included."""
    length_penalty: float = 1.0
    """A hypothesis scores sum of log-probabilities / length ** length_penalty; more favours longer ones."""
    no_repeat_ngram_size: int = 0
    """No sequence of this many tokens occurs twice in a caption; 0 allows all."""
    min_new_tokens: int = 0
    """Fewest tokens before the end-of-sequence token may be written."""
    early_stopping: bool | Literal["never"] = False
    """When a beam search ends, once ``num_beams`` captions have ended: at once (true), when those that go on
    score no better at their present length (false), or when they could not score better at the greatest
    length either (never)."""


@dataclass(frozen=True)
class AttentionSpec:
    """Which part of the picture each image token is, and how to learn how much a word looked at it."""

    grid_height: int
    """Rows of the grid that the image tokens form, the top one first."""
    grid_width: int
    """Columns of the grid; tokens go row by row."""
    leading_tokens: int = 0
    """Image tokens before the grid that are no part of the picture, such as a class token."""
    queries: Mapping[str, str] = field(default_factory=dict)
    """For each decoder output with the role ``cross_query`` that counts, the decoder's ``context`` input with
    the keys that it is compared with; weights are averaged over heads and these. Empty: the decoder has an
    output with the role ``cross_attention``."""


@dataclass(frozen=True)
class FileRecord:
    """What a file of the bundle must be."""

    sha256: str
    """Hexadecimal digest."""
    bytes: int
    """Size."""


@dataclass(frozen=True)
class Manifest:
    """All that `bundle.json` says."""

    name: str
    precision: Literal["fp32", "fp16", "int8"]
    architecture: Mapping[str, Any]
    """``encoder`` and ``decoder`` name the kinds, more facts may follow; for people, it steers nothing."""
    image: ImageSpec
    tokens: TokenSpec
    generation: GenerationSettings
    encoder: GraphSpec
    decoder: GraphSpec
    files: Mapping[str, FileRecord]
    """Every file of the bundle but `bundle.json` itself."""
    provenance: Mapping[str, Any]
    """Data, recipe, checkpoint hash, git commit, versions, licence."""
    report: Mapping[str, Any]
    """Measured quality and speed, fp32 beside it."""
    attention: AttentionSpec | None = None
    """How to tell where the decoder looked; null: it cannot be told."""
    reliability: ReliabilitySpec | None = None
    """How far to trust a caption; null: each counts as reliable, and its confidence is not calibrated."""
    labels: LabelSpec | None = None
    """How to name what may be in a photo that gets no reliable caption; null: it cannot be named."""
    draft: DraftSpec | None = None
    """How to guess the words that follow, for the decoder to check several at once; null: one at a time."""
    quantization: QuantizationSpec | None = None
    """How an int8 bundle was made and what that cost and gained; null: not said."""
    checked_providers: tuple[str, ...] = ()
    """Execution providers, by the names of `providers.PROVIDERS`, on which the captions were compared; empty:
    not said."""
    format_version: int = FORMAT_VERSION

    @property
    def taught_files(self) -> tuple[str, ...]:
        """Names of the files that labels and draft have; they hold for each precision."""
        labels = () if self.labels is None else (self.labels.weights, self.labels.names)
        return (*labels, *(() if self.draft is None else (self.draft.file,)))


def can_check_drafts(decoder: GraphSpec) -> bool:
    """Whether a decoder can read guesses and forget the wrong ones.

    It says what follows each token that it reads, and all its states grow with the tokens.
    """
    states = decoder.inputs_of(*STATE_ROLES)
    grow = all(tensor.role == "cache" and PAST_LENGTH_AXIS in tensor.axes for tensor in states)
    return len(decoder.outputs_of("sequence_logits")) == 1 and bool(states) and grow


def check_generation(settings: GenerationSettings, tokens: TokenSpec, where: str = "") -> list[str]:
    """Look for settings that cannot be searched with; shared by bundles and by the arguments of a call.

    Args:
        settings: The settings to check.
        tokens: The vocabulary and the length that the decoder can read.
        where: Prefix for the messages.
    """
    prefix = f"{where}." if where else ""
    room = (
        None
        if tokens.max_sequence_length is None
        else tokens.max_sequence_length - len(tokens.prompt_token_ids)
    )
    problems = []
    if not 1 <= 2 * settings.num_beams <= tokens.vocab_size:
        most = tokens.vocab_size // 2
        problems.append(
            f"{prefix}num_beams: expected 1 to {most}, half the vocabulary, found {settings.num_beams}"
        )
    if settings.max_new_tokens < 1:
        problems.append(f"{prefix}max_new_tokens: expected 1 or more, found {settings.max_new_tokens}")
    elif room is not None and settings.max_new_tokens > room + 1:
        # One more than there is room for, because the last token that is written is never read again.
        problems.append(
            f"{prefix}max_new_tokens: expected {room + 1} or fewer, for the decoder reads at most "
            f"{tokens.max_sequence_length} tokens with the prompt, found {settings.max_new_tokens}"
        )
    if settings.no_repeat_ngram_size < 0:
        problems.append(
            f"{prefix}no_repeat_ngram_size: expected 0 or more, found {settings.no_repeat_ngram_size}"
        )
    if settings.min_new_tokens < 0:
        problems.append(f"{prefix}min_new_tokens: expected 0 or more, found {settings.min_new_tokens}")
    return problems
