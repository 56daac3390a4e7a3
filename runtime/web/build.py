"""Writes a folder that any static host can serve: page, bundle and onnxruntime-web; no server of ours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiloword.runtime.bundle import MANIFEST_FILE, TOKENIZER_FILE, Bundle
from kiloword.runtime.errors import BundleError, KilowordError
from kiloword.runtime.web.packages import npm_package

ONNXRUNTIME_WEB = "1.30.0"
"""The version that the tests ran with."""

_PACKAGE = Path(__file__).resolve().parent
_PAGE = _PACKAGE / "page"
_SHARED = _PACKAGE.parent / "serve" / "page"
_VENDORED = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_HINT = (
    f"install npm (it comes with Node.js), or elsewhere `npm pack onnxruntime-web@{ONNXRUNTIME_WEB}`, "
    "unpack it and pass --onnxruntime-web DIR"
)
_DECODERS = {
    *(
        "ByteLevel",
        "WordPiece",
        "Metaspace",
        "ByteFallback",
        "Strip",
        "Fuse",
        "Replace",
        "BPEDecoder",
        "Sequence",
    ),
}
_UNKNOWN_FILTERS = ("hamming", "nearest")
_DTYPES = {"float32", "int64", "uint8"}
# The page may fetch from its own folder and nowhere else, whatever else goes wrong.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'"
)


@dataclass(frozen=True)
class WebPage:
    """What was written."""

    directory: Path
    size_bytes: int
    """Of all files; a browser fetches them once."""


def write_web_page(bundle: Bundle, directory: Path, onnxruntime_web: Path | None = None) -> WebPage:
    """Write a static page that captions with a bundle.

    Args:
        bundle: What captions.
        directory: Where to; must not exist, or be empty. It appears when it is complete.
        onnxruntime_web: The unpacked npm package; None fetches it with npm, once.

    Raises:
        BundleError: The bundle has something that the page cannot run.
        KilowordError: The directory is in use, or onnxruntime-web cannot be had.
    """
    _check_target(directory)
    check_for_web(bundle)
    runtime = _check_package(onnxruntime_web or npm_package("onnxruntime-web", ONNXRUNTIME_WEB, hint=_HINT))
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        _fill(scratch, bundle, runtime)
        scratch.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        os.rename(scratch, directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    size_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return WebPage(directory, size_bytes)


def check_for_web(bundle: Bundle) -> None:
    """Refuse what the page could not run, now and not in the browser.

    Raises:
        BundleError: A type of number, a filter or a tokenizer's decoder that the page does not know.
    """
    manifest = bundle.manifest
    tensors = (*manifest.encoder.inputs, *manifest.decoder.inputs)
    problems = sorted({f"tensors of {one.dtype}" for one in tensors if one.dtype not in _DTYPES})
    tokenizer = json.loads(bundle.tokenizer_path.read_text(encoding="utf-8"))
    if manifest.image.resample in _UNKNOWN_FILTERS:
        problems.append(f"resizing by {manifest.image.resample}")
    problems += [
        f"a decoder of type {name}" for name in sorted(_decoders(tokenizer.get("decoder")) - _DECODERS)
    ]
    if problems:
        raise BundleError(
            "cannot run in a browser",
            path=bundle.directory,
            found=", ".join(problems),
            hint="export it in fp32 or int8",
        )


def _decoders(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    inner = [_decoders(one) for one in decoder.get("decoders", ())]
    return {str(decoder.get("type"))}.union(*inner)


def _check_target(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise KilowordError(
            "is there already", path=directory, expected="a new or empty directory", hint="another -o DIR"
        )


def _check_package(directory: Path) -> Path:
    dist = directory / "dist"
    missing = [name for name in _VENDORED if not (dist / name).is_file()]
    if missing:
        raise KilowordError(
            "is not the package onnxruntime-web", path=directory, found=f"no dist/{missing[0]}", hint=_HINT
        )
    return directory


def _fill(directory: Path, bundle: Bundle, runtime: Path) -> None:
    page = directory / "page"
    shutil.copytree(_SHARED, page, ignore=shutil.ignore_patterns("index.html", "__pycache__"))
    for path in _PAGE.iterdir():  # its engine takes the place of the one that asks a server
        shutil.copyfile(path, page / path.name)
    html = (_SHARED / "index.html").read_text(encoding="utf-8")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    (directory / "index.html").write_text(
        html.replace("<meta name=", meta + "<meta name=", 1), encoding="utf-8"
    )
    model = directory / "bundle"
    model.mkdir()
    manifest = bundle.manifest
    for name in (
        MANIFEST_FILE,
        TOKENIZER_FILE,
        manifest.encoder.file,
        manifest.decoder.file,
        *_extras(bundle),
    ):
        shutil.copyfile(bundle.directory / name, model / name)
    vendor = directory / "vendor"
    vendor.mkdir()
    for name in _VENDORED:
        shutil.copyfile(runtime / "dist" / name, vendor / name)
    facts = json.loads((runtime / "package.json").read_text(encoding="utf-8"))
    about = f"onnxruntime-web {facts['version']}, {facts.get('license', 'MIT')}, https://onnxruntime.ai\n"
    (vendor / "README.txt").write_text(about, encoding="utf-8")


def _extras(bundle: Bundle) -> list[str]:
    """Labels, weights of large graphs, and the card: it says where the model comes from and its licence."""
    manifest = bundle.manifest
    named = () if manifest.labels is None else (manifest.labels.weights, manifest.labels.names)
    weights = [spec.weights_file for spec in (manifest.encoder, manifest.decoder)]
    return [name for name in ("CARD.md", *named, *weights) if name in manifest.files]
