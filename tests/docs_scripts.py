"""The scripts in docs/, which are no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parent.parent / "docs"


def load_docs_script(name: str) -> ModuleType:
    """docs/NAME.py, imported under another name than a package of ours may have."""
    known_as = f"docs_{name}"
    spec = importlib.util.spec_from_file_location(known_as, DOCS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # where dataclasses look for it
    found_in = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = found_in  # with docs/ in it, `benchmarks` would be docs/benchmarks.py
    return module
