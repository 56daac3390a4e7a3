"""What the pipeline's threads hand to each other, and who may use the processor next.

    listing -> photos to read -> [readers] -> pixels -> [lanes] -> what is done

Everything is bounded, so memory does not depend on the folder. There are as many permits as processors; who
decodes or runs the model holds one, who waits for a disk holds none. A full batch goes before more decoding,
and a batch that is not full goes when a processor would otherwise have nothing to do. So all of them are
busy, batches are as full as they can be, and one slow file delays nothing but itself.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar

Photo = TypeVar("Photo")
Ready = TypeVar("Ready")
Done = TypeVar("Done")

_LINGER_S = 0.02
_CHECK_S = 0.5


@dataclass(frozen=True)
class FlowLimits:
    """How much may be under way."""

    batch_size: int
    """Photos that go through the model together."""
    permits: int
    """Processors to use."""
    lane_permits: int
    """Processors that a running batch takes; 0 where the model runs on another device."""
    to_read: int
    """Photos that wait for a reader."""
    ready: int
    """Photos that are being read or wait for the model."""
    done: int
    """Photos whose result waits to be taken."""
    ahead: int | None
    """How far results may run ahead of the first one that is missing; None: any distance."""
    max_wait_s: float | None
    """How long a batch that is not full waits at most; None: until a processor is idle."""


class Flow(Generic[Photo, Ready, Done]):
    """The state that all threads share; every method may be called from any of them."""

    def __init__(self, limits: FlowLimits) -> None:
        self._limits = limits
        self._changed = Condition()
        self._to_read: deque[Photo] = deque()
        self._ready: deque[tuple[float, Ready]] = deque()
        self._done: deque[Done] = deque()
        self._listing = True
        self._stopping = False
        self._closed = False
        self._error: BaseException | None = None
        self._reading = 0
        self._decoders_waiting = 0
        self._lanes_waiting = 0
        self._running = 0
        self._permits_used = 0
        self._first_missing = 0

    # The lister's side

    def put_photo(self, position: int, photo: Photo) -> bool:
        """Hand a photo to the readers when there is room; False if all ends."""
        limits = self._limits

        def room() -> bool:
            near = limits.ahead is None or position - self._first_missing < limits.ahead
            return near and len(self._to_read) < limits.to_read

        with self._changed:
            if not self._wait_for(room):
                return False
            self._to_read.append(photo)
            self._changed.notify_all()
            return True

    def end_listing(self) -> None:
        """There are no more photos."""
        with self._changed:
            self._listing = False
            self._changed.notify_all()

    # The readers' side

    def take_photo(self) -> Photo | None:
        """The next photo to read; None when there is none left."""

        def some() -> bool:
            room = len(self._ready) + self._reading < self._limits.ready
            return (bool(self._to_read) and room) or not (self._listing or self._to_read)

        with self._changed:
            if not self._wait_for(some) or not self._to_read:
                return None
            self._reading += 1
            self._changed.notify_all()
            return self._to_read.popleft()

    def photo_read(self, ready: Ready | None) -> None:
        """What `take_photo` gave is ready for the model, or (None) needs none."""
        with self._changed:
            self._reading -= 1
            if ready is not None:
                self._ready.append((time.monotonic(), ready))
            self._changed.notify_all()

    @contextmanager
    def permit_to_decode(self) -> Iterator[bool]:
        """Hold a processor; what is yielded is False if all ends."""
        with self._changed:
            self._decoders_waiting += 1
            granted = self._wait_for(self._may_decode)
            self._decoders_waiting -= 1
            self._permits_used += granted
        try:
            yield granted
        finally:
            with self._changed:
                self._permits_used -= granted
                self._changed.notify_all()

    def _may_decode(self) -> bool:
        return self._free() and not (self._lanes_waiting and self._batch_is_full())

    # The lanes' side

    def take_batch(self) -> list[Ready]:
        """The photos to caption next, with a permit for them; empty when there are none left."""
        with self._changed:
            self._lanes_waiting += 1
            go = self._wait_for_batch()
            self._lanes_waiting -= 1
            if not go:
                return []
            self._running += 1
            self._permits_used += self._limits.lane_permits
            count = min(self._limits.batch_size, len(self._ready))
            batch = [self._ready.popleft()[1] for _ in range(count)]
            self._changed.notify_all()
            return batch

    def batch_done(self) -> None:
        """The batch that `take_batch` gave is through."""
        with self._changed:
            self._running -= 1
            self._permits_used -= self._limits.lane_permits
            self._changed.notify_all()

    def _wait_for_batch(self) -> bool:
        while not self._stopping:
            if not self._ready:
                if not (self._listing or self._to_read or self._reading):
                    return False
                self._changed.wait(_CHECK_S)
                continue
            if self._lane_may_go():
                return True
            self._changed.wait(self._seconds_to_wait())
        return False

    def _lane_may_go(self) -> bool:
        if self._limits.lane_permits and not self._free():
            return False
        no_more = not (self._listing or self._to_read or self._reading)
        return self._batch_is_full() or no_more or self._waited_enough()

    def _waited_enough(self) -> bool:
        waited_s = time.monotonic() - self._ready[0][0]
        if self._limits.max_wait_s is not None:
            return waited_s >= self._limits.max_wait_s
        # A model on another device must not wait for pixels that come while it could run.
        idle = not self._limits.lane_permits or (self._free() and not self._decoders_waiting)
        return idle and waited_s >= _LINGER_S

    def _seconds_to_wait(self) -> float:
        limit_s = _LINGER_S if self._limits.max_wait_s is None else self._limits.max_wait_s
        left_s = limit_s - (time.monotonic() - self._ready[0][0])
        return left_s if left_s > 0 else _LINGER_S

    def _batch_is_full(self) -> bool:
        return len(self._ready) >= self._limits.batch_size

    def _free(self) -> bool:
        return self._permits_used < self._limits.permits

    # The taker's side

    def put_done(self, results: list[Done]) -> None:
        """Hand over results when there is room."""
        with self._changed:
            # Also while stopping: what is done is wanted.
            while len(self._done) >= self._limits.done and not self._closed:
                self._changed.wait(_CHECK_S)
            self._done.extend(results)
            self._changed.notify_all()

    def take_done(self) -> list[Done]:
        """All results that are there, at least one; empty at the end.

        Raises:
            BaseException: What one of the threads failed with; results that were there first come first.
        """
        with self._changed:
            while not self._done and not self._over():
                self._changed.wait(_CHECK_S)
            if not self._done and self._error is not None:
                raise self._error
            results = list(self._done)
            self._done.clear()
            self._changed.notify_all()
            return results

    def _over(self) -> bool:
        if self._stopping:  # a reader may wait for a dead disk for ever
            return not self._running
        return not (self._running or self._reading or self._listing or self._to_read or self._ready)

    def all_before(self, position: int) -> None:
        """Say that every result before this position was taken: the listing may go on accordingly."""
        with self._changed:
            self._first_missing = position
            self._changed.notify_all()

    # How it ends

    def stop(self) -> None:
        """Begin nothing new; what is running ends and its results can be taken."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Stop, and let the taker know why."""
        with self._changed:
            self._error = self._error or error
            self._stopping = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes results any more."""
        with self._changed:
            self._closed = self._stopping = True
            self._changed.notify_all()

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to begin."""
        return self._stopping

    def _wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until something holds; False if all ends before."""
        while not self._stopping:
            if condition():
                return True
            self._changed.wait(_CHECK_S)
        return False
