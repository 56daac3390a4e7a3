"""kiloword: describes photos in words, on the machine they are on.

>>> from kiloword import Captioner
>>> captioner = Captioner.load()
>>> caption = captioner.caption("cat.jpg")
>>> caption.confidence > 0
True

The names below are loaded when they are first used: `import kiloword` alone imports neither numpy nor
onnxruntime, which keeps `kiloword --help` and a program that only may need a caption quick to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kiloword.runtime.bundle import Bundle, load_bundle
    from kiloword.runtime.captioner import Caption, Captioner, CaptionFailure
    from kiloword.runtime.errors import (
        BundleError,
        CameraError,
        ConfigError,
        ExportError,
        ImageError,
        JournalError,
        KilowordError,
        MissingDependencyError,
        ParityError,
        ProviderError,
    )
    from kiloword.runtime.wording import Wording

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "CameraError",
    "Caption",
    "CaptionFailure",
    "Captioner",
    "ConfigError",
    "ExportError",
    "ImageError",
    "JournalError",
    "KilowordError",
    "MissingDependencyError",
    "ParityError",
    "ProviderError",
    "Wording",
    "__version__",
    "load_bundle",
]

_HOME = {
    "Bundle": "bundle",
    "load_bundle": "bundle",
    "Caption": "captions",
    "CaptionFailure": "captions",
    "Captioner": "captioner",
    "Wording": "wording",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"kiloword.runtime.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
