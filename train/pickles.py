"""Reads pickles that hold plain data, and runs nothing of what a pickle may ask for.

A pickle is a program: what it names is imported and called when it is loaded. CIFAR's files are pickles of a
dictionary with numbers, text and one NumPy array of bytes. Building such an array needs three names; they are
answered by functions of ours that make nothing else, and every other name is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.errors import ConfigError

_MOST_BYTES = 2**30


class _Array:
    """Stands in for `numpy.ndarray` while a pickle is read: takes its state, checks it and keeps it."""

    array: NDArray[np.uint8] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array without its five parts")
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Bytes) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise pickle.UnpicklingError("an array of something else than bytes")
        # Text that Python 3 wrote for Python 2 comes back as str, through `_encode`.
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Bytes:
    """Stands in for the type `uint8`; its state is of no interest."""

    def __setstate__(self, state: object) -> None:
        pass


def _reconstruct(kind: object, shape: object, code: object) -> _Array:  # noqa: ARG001
    if kind is not _Array:
        raise pickle.UnpicklingError("an array of another class than numpy.ndarray")
    return _Array()


def _dtype(code: object, *_: object) -> _Bytes:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array of {code!r} instead of bytes")
    return _Bytes()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler to which nothing has a name but the parts of an array of bytes."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """What a name of the pickle stands for."""
        try:
            found: Callable[..., Any] = _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which plain data does not need"
            ) from None
        return found


def read_plain_pickle(path: Path) -> object:
    """What a pickle of plain data holds: numbers, text, lists, dictionaries and arrays of bytes.

    Args:
        path: the file, written by Python 2 or 3.

    Returns:
        The data; text that Python 2 wrote is ``bytes``, arrays at the top or in a dictionary are NumPy's.

    Raises:
        ConfigError: the file cannot be read, is damaged or no pickle, or asks for anything else than data.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(
                [f"expected at most {_MOST_BYTES} bytes, found {path.stat().st_size}"], path=path
            )
        with path.open("rb") as stream:
            content = _PlainUnpickler(stream, encoding="bytes").load()
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], path=path) from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            [f"refused: {error}"], path=path, hint="the file as its authors publish it"
        ) from error
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError([f"not a pickle, or damaged: {error}"], path=path, hint="copy it again") from error
    if isinstance(content, dict):
        return {key: _without_stand_in(value) for key, value in content.items()}
    return _without_stand_in(content)


def _without_stand_in(value: object) -> object:
    return value.array if isinstance(value, _Array) else value
