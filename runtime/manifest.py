"""What `bundle.json` says: the schema of a bundle, in one place.

Everything is a frozen dataclass; `kiloword.runtime.schema` reads them and `check` looks for contradictions
that types cannot express. docs/BUNDLE.md explains the format to people who write bundles with other programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kiloword.runtime.labels import LabelSpec, check_labels
from kiloword.runtime.quantization_spec import QuantizationSpec, check_quantization
from kiloword.runtime.reliability_spec import ReliabilitySpec, check_reliability

FORMAT_VERSION = 1

Role = Literal[
    "pixels",
    "token_ids",
    "beam_rows",
    "context",
    "cache",
    "recurrent",
    "logits",
    "cross_attention",
    "cross_query",
]
STATE_ROLES = ("cache", "recurrent")
PAST_LENGTH_AXIS = "past_sequence_length"


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
    quantization: QuantizationSpec | None = None
    """How an int8 bundle was made and what that cost and gained; null: not said."""
    checked_providers: tuple[str, ...] = ()
    """Execution providers, by the names of `sessions.PROVIDERS`, on which the captions were compared; empty:
    not said."""
    format_version: int = FORMAT_VERSION


def check(manifest: Manifest) -> list[str]:
    """Look for contradictions inside a manifest.

    Returns:
        One sentence for each; empty when the manifest is consistent.
    """
    return [
        *_check_image(manifest.image),
        *_check_tokens(manifest.tokens),
        *check_generation(manifest.generation, manifest.tokens, "generation"),
        *_check_roles(manifest),
        *_check_feeds(manifest),
        *_check_attention(manifest),
        *_check_reliability(manifest),
        *_check_labels(manifest),
        *([] if manifest.quantization is None else check_quantization(manifest.quantization)),
        *_check_files(manifest),
    ]


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


def _check_image(image: ImageSpec) -> list[str]:
    if image.height < 1 or image.width < 1:
        return [f"image: expected a height and width of 1 or more, found {image.height} x {image.width}"]
    meant = {
        "stretch": (),
        "shortest_edge_center_crop": ("shortest_edge",),
        "stretch_center_crop": ("stretch_height", "stretch_width"),
    }[image.resize]
    given = {name: getattr(image, name) for name in ("shortest_edge", "stretch_height", "stretch_width")}
    problems = [
        f"image.{name} has no meaning with resize '{image.resize}'"
        for name, value in given.items()
        if value is not None and name not in meant
    ]
    return problems or _check_cut(image)


def _check_cut(image: ImageSpec) -> list[str]:
    """What is cut out lies inside what was resized."""
    if image.resize == "stretch":
        return []
    if image.resize == "stretch_center_crop":
        sizes = ((image.stretch_height, image.height), (image.stretch_width, image.width))
        if all(whole is not None and whole >= cut for whole, cut in sizes):
            return []
        return [
            f"image.stretch_height, image.stretch_width: expected {image.height} x {image.width} or more to "
            f"cut from, found {image.stretch_height} x {image.stretch_width}"
        ]
    if image.shortest_edge is None or image.shortest_edge < max(image.height, image.width):
        longest = max(image.height, image.width)
        return [f"image.shortest_edge: expected {longest} or more to cut from, found {image.shortest_edge}"]
    return []


def _check_tokens(tokens: TokenSpec) -> list[str]:
    named = {
        "bos_token_id": [tokens.bos_token_id],
        "eos_token_id": [tokens.eos_token_id],
        "pad_token_id": [tokens.pad_token_id],
        "prompt_token_ids": tokens.prompt_token_ids,
        "suppressed_token_ids": tokens.suppressed_token_ids,
        "forced_first_token_id": _given(tokens.forced_first_token_id),
        "forced_last_token_id": _given(tokens.forced_last_token_id),
    }
    problems = [
        f"tokens.{name}: expected ids below vocab_size {tokens.vocab_size}, found {token}"
        for name, ids in named.items()
        for token in ids
        if not 0 <= token < tokens.vocab_size
    ]
    if not tokens.prompt_token_ids:
        problems.append("tokens.prompt_token_ids: expected at least one token to start from")
    if tokens.eos_token_id in tokens.suppressed_token_ids:
        problems.append(
            f"tokens.suppressed_token_ids holds eos_token_id {tokens.eos_token_id}: no caption could end"
        )
    return problems


def _given(token: int | None) -> list[int]:
    return [] if token is None else [token]


def _check_roles(manifest: Manifest) -> list[str]:
    problems = []
    for where, tensors, role in (
        ("encoder.inputs", manifest.encoder.inputs, "pixels"),
        ("decoder.inputs", manifest.decoder.inputs, "token_ids"),
        ("decoder.inputs", manifest.decoder.inputs, "beam_rows"),
        ("decoder.outputs", manifest.decoder.outputs, "logits"),
    ):
        count = sum(tensor.role == role for tensor in tensors)
        if count != 1:
            problems.append(f"{where}: expected one tensor with the role '{role}', found {count}")
    allowed = {"token_ids", "beam_rows", "context", *STATE_ROLES}
    problems += [
        f"decoder.inputs: {tensor.name} has the role '{tensor.role}', which is no role of a decoder input"
        for tensor in manifest.decoder.inputs
        if tensor.role not in allowed
    ]
    for tensor in manifest.decoder.inputs_of(*STATE_ROLES):
        unknown = [axis for axis in tensor.axes[1:] if isinstance(axis, str) and axis != PAST_LENGTH_AXIS]
        if unknown:
            problems.append(
                f"decoder.inputs: {tensor.name}: expected fixed axes or {PAST_LENGTH_AXIS}, found {unknown}"
            )
    return problems


def _check_feeds(manifest: Manifest) -> list[str]:
    """Each context comes from the encoder, each state from the last step, and nothing feeds the void."""
    inputs = {tensor.name: tensor for tensor in manifest.decoder.inputs_of("context", *STATE_ROLES)}
    problems = []
    for where, outputs in (("encoder", manifest.encoder.outputs), ("decoder", manifest.decoder.outputs)):
        for tensor in outputs:
            target = inputs.get(tensor.feeds or "")
            if tensor.feeds is not None and target is None:
                problems.append(
                    f"{where}.outputs: {tensor.name} feeds '{tensor.feeds}', which is no decoder input"
                )
            elif target is not None and (target.dtype, target.role) != (tensor.dtype, tensor.role):
                problems.append(
                    f"{where}.outputs: {tensor.name} is {tensor.dtype} {tensor.role} "
                    f"but feeds {target.dtype} {target.role}"
                )
    at_start, at_step = _fed(manifest.encoder.outputs), _fed(manifest.decoder.outputs)
    for name, tensor in inputs.items():
        source, count = (
            ("encoder", at_start[name]) if tensor.role == "context" else ("decoder", at_step[name])
        )
        if count != 1:
            problems.append(
                f"decoder.inputs: {name}: expected one {source} output that feeds it, found {count}"
            )
    return problems


def _fed(outputs: Iterable[TensorSpec]) -> Counter[str]:
    return Counter(tensor.feeds for tensor in outputs if tensor.feeds is not None)


def _check_attention(manifest: Manifest) -> list[str]:
    """Queries and keys exist and fit, and the image tokens are as many as the grid has cells."""
    spec = manifest.attention
    if spec is None:
        return []
    if min(spec.grid_height, spec.grid_width) < 1 or spec.leading_tokens < 0:
        return [
            "attention: expected a grid of 1 or more and 0 or more leading tokens, found "
            f"{spec.grid_height} x {spec.grid_width} and {spec.leading_tokens}"
        ]
    weights = manifest.decoder.outputs_of("cross_attention")
    if bool(spec.queries) == bool(weights) or len(weights) > 1:
        return ["attention: expected queries, or one decoder output with the role 'cross_attention'"]
    problems = [problem for pair in spec.queries.items() for problem in _check_query(manifest, *pair)]
    keys = [
        tensor for tensor in manifest.decoder.inputs_of("context") if tensor.name in spec.queries.values()
    ]
    counts = [tensor.axes[2] for tensor in keys if len(tensor.axes) == 4]
    counts += [tensor.axes[-1] for tensor in weights]
    tokens = spec.leading_tokens + spec.grid_height * spec.grid_width
    problems += [
        f"attention: {spec.leading_tokens} leading tokens and {spec.grid_height} x {spec.grid_width} are "
        f"{tokens} image tokens, but the decoder sees {count}"
        for count in dict.fromkeys(counts)
        if isinstance(count, int) and count != tokens
    ]
    return problems


def _check_query(manifest: Manifest, name: str, key: str) -> list[str]:
    """A query is an output, its key a context with the same heads."""
    queries = {tensor.name: tensor for tensor in manifest.decoder.outputs_of("cross_query")}
    context = {tensor.name: tensor for tensor in manifest.decoder.inputs_of("context")}
    if name not in queries:
        return [f"attention.queries: {name} is no decoder output with the role 'cross_query'"]
    if key not in context or len(context[key].axes) != 4:
        return [
            f"attention.queries: {key} is no context with the axes batch, heads, image tokens, head width"
        ]
    heads, head_width = context[key].axes[1], context[key].axes[3]
    sizes = (heads, head_width, width := queries[name].axes[-1])
    if any(isinstance(size, str) for size in sizes):
        return [f"attention.queries: expected fixed heads and widths of {name} and {key}, found {sizes}"]
    if int(heads) * int(head_width) != width:
        return [f"attention.queries: {name} has the width {width}, {key} has {heads} heads of {head_width}"]
    return []


def _check_reliability(manifest: Manifest) -> list[str]:
    if manifest.reliability is None:
        return []
    return check_reliability(
        manifest.reliability, {tensor.name: tensor.axes for tensor in manifest.encoder.outputs}
    )


def _check_labels(manifest: Manifest) -> list[str]:
    if manifest.labels is None:
        return []
    outputs = {tensor.name: tensor.axes for tensor in manifest.encoder.outputs}
    return check_labels(manifest.labels, outputs, manifest.files)


def _check_files(manifest: Manifest) -> list[str]:
    needed = (manifest.encoder.file, manifest.decoder.file, "tokenizer.json")
    problems = [f"files does not list {name}" for name in needed if name not in manifest.files]
    # A name must stay a name: this is what keeps a bundle from reading or hashing files outside its
    # directory.
    problems += [
        f"files: expected plain file names, found {name!r}"
        for name in (*manifest.files, manifest.encoder.file, manifest.decoder.file)
        if not is_plain_name(name)
    ]
    return problems


def is_plain_name(name: str) -> bool:
    """True for the name of a file right inside the directory, on every system."""
    return bool(name) and name not in (".", "..") and not any(character in name for character in "/\\:\0")
