"""Bundles that are whole, damaged, contradictory, from the future, or not bundles at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kiloword import Bundle, BundleError, Captioner, load_bundle
from kiloword.runtime.bundle import DEFAULT_BUNDLE, loading_bundle, read_manifest, write_manifest
from kiloword.runtime.manifest import Manifest
from kiloword.runtime.manifest_check import is_plain_name


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the parsed `bundle.json` of a bundle."""
    path = bundle.directory / "bundle.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def failure(directory: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def test_what_is_written_is_read(own_bundle: Bundle) -> None:
    """Writing and loading agree on every field of the manifest."""
    loaded = load_bundle(own_bundle.directory)
    assert loaded == own_bundle
    assert set(loaded.manifest.files) == {"encoder.onnx", "decoder.onnx", "tokenizer.json", "CARD.md"}
    assert loaded.size_bytes == sum(
        path.stat().st_size for path in own_bundle.directory.iterdir() if path.name != "bundle.json"
    )
    assert loaded.name == "tiny"


def test_path_may_be_text(own_bundle: Bundle) -> None:
    assert load_bundle(str(own_bundle.directory)) == own_bundle


def test_the_manifest_appears_whole(own_bundle: Bundle) -> None:
    """No unfinished file stays behind, and non-ASCII text is readable as it is."""
    write_manifest(own_bundle.directory, replace(own_bundle.manifest, report={"remark": "größer"}))
    assert not list(own_bundle.directory.glob("*.tmp"))
    assert "größer" in (own_bundle.directory / "bundle.json").read_text(encoding="utf-8")


def test_a_contradictory_manifest_is_not_written(own_bundle: Bundle) -> None:
    """Export cannot write what loading would refuse; the old manifest stays."""
    before = (own_bundle.directory / "bundle.json").read_bytes()
    broken = replace(own_bundle.manifest, tokens=replace(own_bundle.manifest.tokens, eos_token_id=999))
    with pytest.raises(BundleError, match=r"eos_token_id: expected ids below vocab_size 30, found 999"):
        write_manifest(own_bundle.directory, broken)
    assert (own_bundle.directory / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx", "tokenizer.json", "CARD.md"])
def test_one_flipped_byte(own_bundle: Bundle, name: str) -> None:
    path = own_bundle.directory / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = failure(own_bundle.directory)
    assert message.startswith(f"{path}: was changed or damaged; expected {len(data)} bytes with SHA-256")
    assert "kiloword export" in message


def fail_while_loading(directory: Path) -> None:
    with loading_bundle(directory):
        raise ValueError("no graph")


def test_damage_counts_whatever_else_went_wrong(own_bundle: Bundle) -> None:
    """While files are hashed, somebody loads them: one that is damaged is named in any case."""
    path = own_bundle.directory / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    ways: tuple[Callable[[Path], object], ...] = (fail_while_loading, Captioner.load)
    for load in ways:
        with pytest.raises(BundleError, match=r"decoder\.onnx: was changed"):
            load(own_bundle.directory)


def test_what_else_goes_wrong_is_said_of_a_whole_bundle(own_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="no graph"):
        fail_while_loading(own_bundle.directory)


def test_truncated_graph(own_bundle: Bundle) -> None:
    path = own_bundle.directory / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:100])
    assert "found 100 bytes" in failure(own_bundle.directory)


@pytest.mark.parametrize("name", ["encoder.onnx", "tokenizer.json"])
def test_missing_file(own_bundle: Bundle, name: str) -> None:
    (own_bundle.directory / name).unlink()
    message = failure(own_bundle.directory)
    assert message.startswith(f"{own_bundle.directory / name}: is missing; expected")
    assert "Try: copy the bundle again, or make it with `kiloword export`" in message


@pytest.mark.parametrize(
    ("version", "helps"), [(2, "pip install --upgrade kiloword"), (0, "kiloword export")]
)
def test_other_version(own_bundle: Bundle, version: int, helps: str) -> None:
    """Before anything else: a future manifest has keys that we do not know, and that is not the message."""
    edit(own_bundle, lambda data: data.update(format_version=version, something_new=1))
    message = failure(own_bundle.directory)
    assert f"expected 1, found {version}" in message
    assert helps in message
    assert "something_new" not in message


def test_no_version(own_bundle: Bundle) -> None:
    edit(own_bundle, lambda data: data.pop("format_version"))
    assert "expected 1, found None" in failure(own_bundle.directory)


def test_unknown_missing_and_wrong_keys_at_once(own_bundle: Bundle) -> None:
    """Everything that is wrong, in one message."""

    def change(data: dict[str, Any]) -> None:
        data["extra"] = 1
        data["image"]["antialias"] = True
        del data["tokens"]["eos_token_id"]
        data["generation"]["num_beams"] = "three"
        data["precision"] = "fp8"
        data["encoder"]["inputs"][0]["role"] = "picture"
        data["files"]["CARD.md"]["bytes"] = True
        data["decoder"]["outputs"] = "logits"

    edit(own_bundle, change)
    message = failure(own_bundle.directory)
    for part in (
        "bundle.json has the unknown key 'extra'",
        "bundle.json.image has the unknown key 'antialias'",
        "bundle.json.tokens lacks the key 'eos_token_id'",
        "bundle.json.generation.num_beams: expected a whole number, found 'three'",
        "bundle.json.precision: expected one of 'fp32', 'fp16', 'int8', found 'fp8'",
        "bundle.json.encoder.inputs[0].role: expected one of 'pixels'",
        "bundle.json.files.CARD.md.bytes: expected a whole number, found True",
        "bundle.json.decoder.outputs: expected a list, found 'logits'",
    ):
        assert part in message


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "sub/encoder.onnx", "..\\x", "C:x", ".."])
def test_no_path_leaves_the_directory(own_bundle: Bundle, name: str) -> None:
    """Neither as a listed file nor as a graph, and before anything outside is opened."""

    def change(data: dict[str, Any]) -> None:
        data["files"][name] = data["files"]["encoder.onnx"]
        data["encoder"]["file"] = name

    edit(own_bundle, change)
    assert f"files: expected plain file names, found {name!r}" in failure(own_bundle.directory)


@pytest.mark.parametrize(("name", "plain"), [("a.onnx", True), ("a b.json", True), ("", False), (".", False)])
def test_plain_names(name: str, plain: bool) -> None:
    assert is_plain_name(name) is plain


def test_link_out_of_the_directory(own_bundle: Bundle, tmp_path: Path) -> None:
    """Even with the right content: what a bundle is must lie in it."""
    path = own_bundle.directory / "encoder.onnx"
    outside = path.rename(tmp_path / "encoder.onnx")
    path.symlink_to(outside)
    message = failure(own_bundle.directory)
    assert f"found {outside}" in message
    assert "cp -rL" in message


def test_bundle_behind_a_link(own_bundle: Bundle, tmp_path: Path) -> None:
    """The directory itself may be a link."""
    link = tmp_path / "link"
    link.symlink_to(own_bundle.directory)
    assert load_bundle(link).manifest == own_bundle.manifest


def test_not_a_bundle(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "expected a directory with bundle.json, found a directory without it" in failure(tmp_path)
    assert "found no such directory" in failure(tmp_path / "nowhere")
    assert "found a file" in failure(file)
    assert "kiloword export -o DIR" in failure(file)


@pytest.mark.parametrize(
    ("content", "found"), [(b"{", "is not JSON"), (b"[1]", "list"), (b"\xff\xfe", "is not JSON")]
)
def test_not_a_manifest(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    assert found in failure(tmp_path)


def tensor(data: dict[str, Any], side: str, name: str) -> dict[str, Any]:
    graph, tensors = side.split(".")
    return next(item for item in data[graph][tensors] if item["name"] == name)


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no pixels": lambda d: d["encoder"]["inputs"].clear(),
    "encoder.inputs: expected one tensor with the role 'pixels', found 2": (
        lambda d: d["encoder"]["inputs"].append({**d["encoder"]["inputs"][0], "name": "more"})
    ),
    "decoder.inputs: beam_rows has the role 'pixels'": (
        lambda d: tensor(d, "decoder.inputs", "beam_rows").update(role="pixels")
    ),
    "past_key_values.0.key: expected fixed axes or past_sequence_length, found ['anything']": (
        lambda d: tensor(d, "decoder.inputs", "past_key_values.0.key").update(axes=["rows", 2, "anything", 8])
    ),
    "present.0.key feeds 'nothing', which is no decoder input": (
        lambda d: tensor(d, "decoder.outputs", "present.0.key").update(feeds="nothing")
    ),
    "decoder.inputs: past_key_values.0.key: expected one decoder output that feeds it, found 0": (
        lambda d: tensor(d, "decoder.outputs", "present.0.key").update(feeds=None)
    ),
    "decoder.inputs: past_key_values.0.key: expected one decoder output that feeds it, found 2": (
        lambda d: tensor(d, "decoder.outputs", "present.0.value").update(feeds="past_key_values.0.key")
    ),
    "decoder.inputs: cross_key_values.0.key: expected one encoder output that feeds it, found 0": (
        lambda d: tensor(d, "encoder.outputs", "cross_key_values.0.key").update(feeds=None)
    ),
    "present.0.key is float16 cache but feeds float32 cache": (
        lambda d: tensor(d, "decoder.outputs", "present.0.key").update(dtype="float16")
    ),
    "tokens.prompt_token_ids: expected at least one token": (
        lambda d: d["tokens"].update(prompt_token_ids=[])
    ),
    "tokens.suppressed_token_ids: expected ids below vocab_size 30, found -1": (
        lambda d: d["tokens"].update(suppressed_token_ids=[-1])
    ),
    "tokens.suppressed_token_ids holds eos_token_id 2": (
        lambda d: d["tokens"].update(suppressed_token_ids=[2])
    ),
    "generation.num_beams: expected 1 to 15": lambda d: d["generation"].update(num_beams=16),
    "generation.max_new_tokens: expected 24 or fewer": lambda d: d["generation"].update(max_new_tokens=99),
    "image: expected a height and width of 1 or more, found 0 x 16": lambda d: d["image"].update(height=0),
    "image.shortest_edge has no meaning": lambda d: d["image"].update(shortest_edge=20),
    "image.shortest_edge: expected 16 or more to cut from, found 12": (
        lambda d: d["image"].update(resize="shortest_edge_center_crop", shortest_edge=12)
    ),
    "files does not list tokenizer.json": lambda d: d["files"].pop("tokenizer.json"),
}


@pytest.mark.parametrize("expected", CONTRADICTIONS)
def test_contradictions(own_bundle: Bundle, expected: str) -> None:
    """Each is named by the place where it is."""
    edit(own_bundle, CONTRADICTIONS[expected])
    message = failure(own_bundle.directory)
    assert ("role 'pixels', found 0" if expected == "no pixels" else expected) in message


def test_read_manifest_leaves_the_files_alone(own_bundle: Bundle) -> None:
    """For looking at a bundle whose weights are elsewhere."""
    (own_bundle.directory / "encoder.onnx").unlink()
    assert isinstance(read_manifest(own_bundle.directory), Manifest)


def test_the_default_bundle_lies_in_the_package() -> None:
    assert DEFAULT_BUNDLE.parts[-2:] == ("bundles", "default")
