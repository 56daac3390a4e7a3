"""Every error that kiloword raises on purpose, in one tree.

    KilowordError
    ├── BundleError               a bundle is missing, damaged, or of a version we cannot read
    ├── ImageError                a picture cannot be read
    ├── ConfigError               settings that make no sense; lists all problems at once
    ├── ProviderError             the execution provider asked for is not there
    ├── CameraError               a camera or video gives no frames
    ├── JournalError              the record of what was done cannot be read or written
    ├── ExportError               a model cannot be written as a bundle
    │   └── ParityError           the exported graphs do not compute what torch computes
    └── MissingDependencyError    an optional package is not installed

A message is one line and holds, where they are known, the path, what was expected, what was found and what
helps. The command line turns any of them into that line and exit code 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath


class KilowordError(Exception):
    """Base of all errors that a user can do something about.

    Args:
        message: What is wrong, in a few words.
        path: The file or directory that it is about.
        expected: What should have been there.
        found: What was there instead.
        hint: What to do now, ideally a command that can be pasted.

    >>> print(KilowordError("wrong size", path="a.onnx", expected="10 B", found="7 B", hint="a new copy"))
    a.onnx: wrong size; expected 10 B, found 7 B. Try: a new copy
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        expected: str | None = None,
        found: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else fspath(path)
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        # Rendered late, so that a caller who knows the path can still fill it in before the message is shown.
        subject = "" if self.path is None else f"{self.path}: "
        facts = ", ".join(
            f"{label} {fact}" for label, fact in (("expected", self.expected), ("found", self.found)) if fact
        )
        facts = f"; {facts}" if facts else ""
        advice = f". Try: {self.hint}" if self.hint else ""
        return f"{subject}{self.message}{facts}{advice}"


class BundleError(KilowordError):
    """A bundle is missing, damaged, or of a version that this release cannot read."""


class ImageError(KilowordError):
    """A picture cannot be read: missing, empty, truncated, too large, or no picture at all."""


class ConfigError(KilowordError):
    """Settings that make no sense.

    Args:
        problems: All that is wrong, one sentence each, so that a recipe is repaired once, not five times.
        path: The recipe or settings file, if there is one.
        hint: What to do now.

    >>> print(ConfigError(["num_beams is 0", "threads is -1"], path="recipe.toml"))
    recipe.toml: 2 problems: num_beams is 0; threads is -1
    """

    def __init__(
        self, problems: Sequence[str], *, path: str | PathLike[str] | None = None, hint: str | None = None
    ) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems: " if len(self.problems) > 1 else ""
        super().__init__(count + "; ".join(self.problems), path=path, hint=hint)
        self.args = (self.problems,)  # what pickle calls the constructor with


class ProviderError(KilowordError):
    """The execution provider that was asked for is not there, or did not load."""


class CameraError(KilowordError):
    """A camera, video file or stream cannot be opened or stopped giving frames."""


class JournalError(KilowordError):
    """The record of what was done is in use, no journal of ours, or cannot be read or written."""


class ExportError(KilowordError):
    """A model cannot be exported; no bundle was written."""


class ParityError(ExportError):
    """The exported graphs compute something else than the model behind them; no bundle was written."""


class MissingDependencyError(KilowordError):
    """An optional package is needed and not installed.

    Args:
        package: The package, as pip calls it.
        extra: The extra of kiloword that brings it.

    >>> print(MissingDependencyError("opencv-python", "camera"))
    opencv-python is not installed. Try: pip install "kiloword[camera]"
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", hint=f'pip install "kiloword[{extra}]"')
        self.package = package
        self.extra = extra
        self.args = (package, extra)  # what pickle calls the constructor with
