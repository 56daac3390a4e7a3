"""Contradictions inside `bundle.json` that types cannot express, each as one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kiloword.runtime.draft_spec import check_draft
from kiloword.runtime.labels import check_labels
from kiloword.runtime.manifest import (
    PAST_LENGTH_AXIS,
    STATE_ROLES,
    ImageSpec,
    Manifest,
    TensorSpec,
    TokenSpec,
    can_check_drafts,
    check_generation,
)
from kiloword.runtime.quantization_spec import check_quantization
from kiloword.runtime.reliability_spec import check_reliability


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
        *_check_draft(manifest),
        *([] if manifest.quantization is None else check_quantization(manifest.quantization)),
        *_check_files(manifest),
    ]


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


def _check_draft(manifest: Manifest) -> list[str]:
    if manifest.draft is None:
        return []
    problems = check_draft(manifest.draft, manifest.files)
    if not can_check_drafts(manifest.decoder):
        problems.append(
            "draft: the decoder cannot check several tokens in one call; expected an output with the role "
            "'sequence_logits' and states that all grow"
        )
    return problems


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
