"""Work that goes on beside the main thread: of use where it leaves Python's lock alone.

A start spends its time in imports, which hold the lock, and in hashing and onnxruntime, which do not. Side by
side they take two thirds of the time on two cores, and no longer than before on one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class InBackground(Generic[Result]):
    """A call that has begun in a thread of its own.

    Args:
        work: What to call.

    >>> sum_of = InBackground(lambda: 2 + 3)
    >>> sum_of.result()
    5
    """

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            self._error = error

    def result(self) -> Result:
        """Wait for the end of it.

        Returns:
            What the call returned.

        Raises:
            BaseException: What the call raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._results[0]
