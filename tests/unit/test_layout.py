"""The one-way rule: runtime <- train <- export <- cli, checked on the imports that the files really have."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]

# What each layer may import from kiloword. The root's __init__ is public API and sees the runtime alone.
ALLOWED = {
    "__init__": {"runtime"},
    "runtime": {"runtime"},
    "train": {"runtime", "train"},
    "export": {"runtime", "train", "export"},
    "commands": {"runtime", "train", "export", "commands"},
    "cli": {"runtime", "train", "export", "commands", "cli"},
}
# The core is installed without these; an import at any depth would break it or make it slow to start.
BANNED_IN_RUNTIME = {
    "torch",
    "torchvision",
    "transformers",
    "onnx",
    "onnxscript",
    "safetensors",
    "pycocoevalcap",
}
CAMERA = Path("runtime/camera.py")
LAYER_NAMES = {"runtime", "train", "export", "commands", "cli", "bundles", "benchmarks", "tests"}


def layer_files() -> list[Path]:
    """Every file of the package, relative to the root."""
    folders = ("runtime", "train", "export", "commands")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    files += [path for name in ("__init__.py", "cli.py") if (path := REPOSITORY / name).exists()]
    return sorted(path.relative_to(REPOSITORY) for path in files)


def layer_of(path: Path) -> str:
    """`runtime/images.py` -> `runtime`; `cli.py` -> `cli`."""
    return path.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the dotted name of everything imported, with its line; `from a import b` yields `a.b` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, node.lineno
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def top_level_imports(tree: ast.Module) -> set[str]:
    """The packages that are imported as soon as the module is (not those inside a function)."""
    outside = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {name.split(".")[0] for node in outside for name, _ in imports(node)}


def violations(path: Path, source: str) -> list[str]:
    """Return one line for each import in `source` that a file at `path` must not have."""
    layer, found = layer_of(path), []
    for name, line in imports(ast.parse(source)):
        parts = name.split(".")
        if name.startswith("."):
            found.append(f"{path}:{line}: relative import; write it through `kiloword`")
        elif parts[0] in LAYER_NAMES:
            found.append(f"{path}:{line}: `{name}` works in the checkout only; write `kiloword.{name}`")
        elif parts[0] == "kiloword" and len(parts) > 1:
            if parts[1] in ALLOWED and parts[1] not in ALLOWED[layer]:
                found.append(f"{path}:{line}: {layer} must not import `{name}`")
        elif layer in {"runtime", "__init__"} and parts[0] in BANNED_IN_RUNTIME:
            found.append(f"{path}:{line}: `{name}` is not among the core's dependencies")
        elif layer == "runtime" and parts[0] == "cv2" and path != CAMERA:
            found.append(f"{path}:{line}: only {CAMERA} may import cv2")
    return found


def test_the_rule_finds_what_it_forbids() -> None:
    """The checker itself, on sources written to break each part of the rule and one that keeps it."""
    runtime, train = Path("runtime/x.py"), Path("train/x.py")
    assert violations(runtime, "def f():\n    import torch.nn\n")
    assert violations(runtime, "from kiloword import train\n")
    assert violations(runtime, "from kiloword.export.parity import check\n")
    assert violations(runtime, "import cv2\n")
    assert not violations(CAMERA, "def f():\n    import cv2\n")
    assert violations(train, "from kiloword.export import export_bundle\n")
    assert violations(train, "from . import models\n")
    assert violations(train, "from runtime.images import load_image\n")
    assert not violations(train, "import torch\nfrom kiloword.runtime.images import load_image\n")


@pytest.mark.parametrize("path", layer_files(), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    """The rule stands in docs/ARCHITECTURE.md: each layer sees those below it, and the runtime no torch."""
    assert violations(path, (REPOSITORY / path).read_text(encoding="utf-8")) == []


def test_optional_packages_are_imported_inside_functions_only() -> None:
    """`kiloword --help` and `import kiloword` must work and be quick where extras are absent."""
    optional = BANNED_IN_RUNTIME | {"cv2", "pillow_heif", "pyarrow", "ray"}
    files = [path for path in layer_files() if layer_of(path) in {"runtime", "__init__", "commands", "cli"}]
    eager = {
        str(path): found
        for path in files
        if (found := optional & top_level_imports(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))))
    }
    assert eager == {}


def test_only_two_modules_lie_at_the_root() -> None:
    """Every root-level .py ships with the package, because the root is the package."""
    assert {path.name for path in REPOSITORY.glob("*.py")} <= {"__init__.py", "cli.py"}


def test_every_package_is_listed() -> None:
    """The package list in pyproject.toml is explicit, so a new folder is easily left out of the wheel."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in layer_files()}
    assert {".".join(("kiloword", *folder.parts)) for folder in folders} == listed


def test_versions_agree() -> None:
    """The version that the package says is the one that it was installed as."""
    kiloword = pytest.importorskip("kiloword")
    assert kiloword.__version__ == importlib.metadata.version("kiloword")
