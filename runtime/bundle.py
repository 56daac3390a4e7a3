"""A bundle on disk: one directory with a model of one precision, ready to run.

    bundle.json   encoder.onnx   decoder.onnx   tokenizer.json   CARD.md

A large graph has its weights in a file of their own, such as ``decoder.onnx.data``.
Loading checks every file against its hash, reads no pickle, follows no path out of the directory and opens no
socket.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kiloword.runtime.background import InBackground
from kiloword.runtime.errors import BundleError
from kiloword.runtime.manifest import (
    FORMAT_VERSION,
    FileRecord,
    GenerationSettings,
    GraphSpec,
    ImageSpec,
    Manifest,
    TensorSpec,
    TokenSpec,
)
from kiloword.runtime.manifest_check import check
from kiloword.runtime.schema import read_record
from kiloword.runtime.threads import available_cpus

__all__ = [
    "DEFAULT_BUNDLE",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "TOKENIZER_FILE",
    "Bundle",
    "FileRecord",
    "GenerationSettings",
    "GraphSpec",
    "ImageSpec",
    "Manifest",
    "TensorSpec",
    "TokenSpec",
    "hash_file",
    "load_bundle",
    "loading_bundle",
    "read_manifest",
    "write_manifest",
]

MANIFEST_FILE = "bundle.json"
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_BUNDLE = Path(__file__).resolve().parent.parent / "bundles" / "default"

_READ_BYTES = 1 << 20
_EXPORT_AGAIN = "copy the bundle again, or make it with `kiloword export`"


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    >>> from kiloword import load_bundle
    >>> bundle = load_bundle()
    >>> bundle.manifest.image.height == bundle.manifest.image.width
    True
    """

    directory: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """The name that its maker gave it; captions carry it."""
        return self.manifest.name

    @property
    def encoder_path(self) -> Path:
        """The ONNX file that turns pixels into context."""
        return self.directory / self.manifest.encoder.file

    @property
    def decoder_path(self) -> Path:
        """The ONNX file that turns tokens and context into logits."""
        return self.directory / self.manifest.decoder.file

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, in the format of the tokenizers library."""
        return self.directory / TOKENIZER_FILE

    def graph_bytes(self, spec: GraphSpec) -> int:
        """Bytes of a graph, its weights included."""
        names = (spec.file, spec.weights_file)
        return sum(record.bytes for name, record in self.manifest.files.items() if name in names)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files but `bundle.json`."""
        return sum(record.bytes for record in self.manifest.files.values())


def load_bundle(directory: str | os.PathLike[str] | None = None) -> Bundle:
    """Read a bundle and check every file of it.

    Args:
        directory: The bundle's directory; None for the one that ships in the package.

    Returns:
        The bundle, whose files are all there and have the right hashes.

    Raises:
        BundleError: There is no bundle, a file is missing or changed, or the manifest is wrong or of
            another version.
    """
    with loading_bundle(directory) as bundle:
        return bundle


@contextmanager
def loading_bundle(directory: str | os.PathLike[str] | None = None) -> Iterator[Bundle]:
    """Read a bundle as `load_bundle` does, and load what is in it while its files are being hashed.

    Hashing 280 MB takes 0.8 s on a processor without instructions for it, longer than loading the graphs.
    What is loaded inside may be used once this has ended: a file that was changed is an error then, whatever
    else went wrong with it before.

    Args:
        directory: The bundle's directory; None for the one that ships in the package.

    Yields:
        The bundle, whose files are all there, in the directory itself and of the right size.

    Raises:
        BundleError: As for `load_bundle`.
    """
    path = DEFAULT_BUNDLE if directory is None else Path(directory)
    manifest = read_manifest(path)
    for name, record in manifest.files.items():
        _check_place(path, name, record)
    for spec in (manifest.encoder, manifest.decoder):
        _check_listed(path, spec.weights_file, manifest)
    checks = [
        InBackground(partial(_check_hashes, path, files))
        for files in _shared_out(manifest.files, max(1, available_cpus() - 1))
    ]
    try:
        yield Bundle(directory=path, manifest=manifest)
    finally:
        for check_of_files in checks:
            check_of_files.result()


def read_manifest(directory: Path) -> Manifest:
    """Read and check `bundle.json` alone, without looking at the other files.

    Raises:
        BundleError: There is no such file, it is not JSON, or what it says is wrong or of another version.
    """
    path = directory / MANIFEST_FILE
    data = _read_json(directory, path)
    _check_version(path, data)
    problems: list[str] = []
    manifest = read_record(Manifest, data, MANIFEST_FILE, problems)
    if manifest is not None:
        problems = check(manifest)
    if manifest is None or problems:
        raise BundleError("the manifest is wrong: " + "; ".join(problems), path=path, hint=_EXPORT_AGAIN)
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> Bundle:
    """Hash every file in a directory and write the `bundle.json` that describes them.

    The file appears at once or not at all, so that a crash leaves no half-written bundle.

    Args:
        directory: Holds the graphs, the tokenizer and the card already.
        manifest: What to write; its ``files`` are replaced by what is found in the directory.

    Returns:
        The bundle as written.

    Raises:
        BundleError: The manifest contradicts itself or the directory.
    """
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != MANIFEST_FILE)
    manifest = replace(manifest, files={name: hash_file(directory / name) for name in names})
    path = directory / MANIFEST_FILE
    problems = check(manifest)
    if problems:
        raise BundleError("the manifest is wrong: " + "; ".join(problems), path=path)
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return Bundle(directory=directory, manifest=manifest)


def hash_file(path: Path) -> FileRecord:
    """SHA-256 and size of a file, read in pieces so that a large model costs no memory."""
    digest = hashlib.sha256()
    size_bytes, buffer = 0, memoryview(bytearray(_READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size_bytes += count
    return FileRecord(sha256=digest.hexdigest(), bytes=size_bytes)


def _read_json(directory: Path, path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise _no_bundle(directory) from None
    except OSError as error:
        raise BundleError("cannot be read", path=path, found=error.strerror) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise BundleError("is not JSON", path=path, found=str(error), hint=_EXPORT_AGAIN) from error
    if not isinstance(data, dict):
        raise BundleError("is no manifest", path=path, expected="an object", found=type(data).__name__)
    return data


def _no_bundle(directory: Path) -> BundleError:
    if directory.is_file():
        found = "a file"
    elif directory.is_dir():
        found = "a directory without it"
    else:
        found = "no such directory"
    return BundleError(
        "is not a bundle",
        path=directory,
        expected=f"a directory with {MANIFEST_FILE}",
        found=found,
        hint="make one with `kiloword export -o DIR`, or leave --bundle out for the one in the package",
    )


def _check_version(path: Path, data: dict[str, Any]) -> None:
    """First of all, because a manifest of another version may differ in anything else."""
    version = data.get("format_version")
    if version == FORMAT_VERSION:
        return
    newer = isinstance(version, int) and version > FORMAT_VERSION
    raise BundleError(
        "has a format_version that this release cannot read",
        path=path,
        expected=str(FORMAT_VERSION),
        found=repr(version),
        hint="pip install --upgrade kiloword" if newer else _EXPORT_AGAIN,
    )


def _check_place(directory: Path, name: str, record: FileRecord) -> None:
    """Whether a file is where the manifest says, before anybody opens it."""
    path = directory / name
    if not path.is_file():
        raise BundleError("is missing", path=path, expected=f"{record.bytes} bytes", hint=_EXPORT_AGAIN)
    if path.resolve().parent != directory.resolve():
        raise BundleError(
            "is a link out of the bundle",
            path=path,
            expected="a file in the directory itself",
            found=str(path.resolve()),
            hint=f"copy the files: cp -rL {directory} NEW_DIR",
        )
    if path.stat().st_size != record.bytes:
        _check_hash(path, record)


def _check_listed(directory: Path, name: str, manifest: Manifest) -> None:
    """Whether onnxruntime could read weights that nothing vouches for."""
    if name not in manifest.files and os.path.lexists(directory / name):
        raise BundleError(
            "is not part of the bundle",
            path=directory / name,
            expected=f"no such file, or its hash in {MANIFEST_FILE}",
            hint=_EXPORT_AGAIN,
        )


def _shared_out(files: Mapping[str, FileRecord], shares: int) -> list[dict[str, FileRecord]]:
    """Files in as many shares as there are threads to hash them, each about as large as the others.

    Loading takes a processor of its own: with a thread for each file, three threads for two processors, the
    graphs of a 280 MB bundle were loaded a third later, and most of that after the hashing had ended.
    """
    found: list[dict[str, FileRecord]] = [{} for _ in range(min(shares, len(files)))]
    for name, record in sorted(files.items(), key=lambda item: -item[1].bytes):
        smallest = min(found, key=lambda share: sum(one.bytes for one in share.values()))
        smallest[name] = record
    return found


def _check_hashes(directory: Path, files: Mapping[str, FileRecord]) -> None:
    for name, record in files.items():
        _check_hash(directory / name, record)


def _check_hash(path: Path, record: FileRecord) -> None:
    """Compare one file with what the manifest says of it."""
    found = hash_file(path)
    if found != record:
        raise BundleError(
            "was changed or damaged",
            path=path,
            expected=f"{record.bytes} bytes with SHA-256 {record.sha256[:12]}",
            found=f"{found.bytes} bytes with SHA-256 {found.sha256[:12]}",
            hint=_EXPORT_AGAIN,
        )
