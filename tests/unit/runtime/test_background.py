"""Work beside the main thread: its result, its error, and that both go on at the same time."""

from __future__ import annotations

from threading import Event, current_thread, main_thread

import pytest

from kiloword.runtime.background import InBackground
from kiloword.runtime.errors import BundleError


def test_the_result_comes_from_another_thread() -> None:
    assert InBackground(current_thread).result() is not main_thread()


def test_both_go_on_at_once() -> None:
    """Each waits for the other; one after the other, the first would wait for ever."""
    ours, theirs = Event(), Event()

    def work() -> bool:
        theirs.set()
        return ours.wait(10)

    beside = InBackground(work)
    assert theirs.wait(10)
    ours.set()
    assert beside.result()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def work() -> None:
        raise BundleError("is missing")

    beside = InBackground(work)
    with pytest.raises(BundleError, match="is missing"):
        beside.result()
