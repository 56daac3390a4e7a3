"""Sentences about values of a recipe that make no sense."""

from __future__ import annotations


def too_small(record: object, least: int, *names: str) -> list[str]:
    """A sentence for each of these fields that is less than ``least``.

    >>> from types import SimpleNamespace
    >>> too_small(SimpleNamespace(width=0, depth=3), 1, "width", "depth")
    ['width: expected 1 or more, found 0']
    """
    return [
        f"{name}: expected {least} or more, found {getattr(record, name)}"
        for name in names
        if getattr(record, name) < least
    ]


def not_a_share(record: object, *names: str) -> list[str]:
    """A sentence for each of these fields that is not in 0 <= value < 1.

    >>> from types import SimpleNamespace
    >>> not_a_share(SimpleNamespace(dropout=1.0), "dropout")
    ['dropout: expected 0 or more and less than 1, found 1.0']
    """
    return [
        f"{name}: expected 0 or more and less than 1, found {getattr(record, name)}"
        for name in names
        if not 0 <= getattr(record, name) < 1
    ]
