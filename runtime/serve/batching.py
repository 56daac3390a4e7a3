"""Concurrent requests, one model: photos that wait at the same moment go through the model together.

A photo never waits for company that may not come: the thread takes what has piled up while the last batch
ran, and waits a few milliseconds only while other photos are known to be on their way.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from kiloword.runtime.errors import KilowordError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.captions import Caption
    from kiloword.runtime.serve.metrics import Metrics

# Eight clients, two lanes, 60 photos a second: 0.89 to 0.91 of the batch pipeline with 12 ms, 0.89 with
# 20, 0.76 with 26. Shorter waits begin more batches with one photo, longer ones leave a processor idle.
_MAX_WAIT_S = 0.012
_SMOOTHING = 0.2

OnText: TypeAlias = Callable[[str], None]
"""Gets the text so far each time that it grew; called in the event loop."""


@dataclass(frozen=True)
class SearchSettings:
    """What a request asked for; None is the bundle's own default. Photos of one batch share them."""

    num_beams: int | None = None
    max_new_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    attention: bool = False


@dataclass(frozen=True)
class _Waiting:
    """A photo that is ready for the model, and who waits for it."""

    pixels: NDArray[np.uint8]
    settings: SearchSettings
    done: asyncio.Future[Caption]
    on_text: OnText | None


class Batcher:
    """The threads that run the model for everybody.

    `arriving` and `submit` are called in the event loop; the thread talks back through it.

    Args:
        captioner: What captions.
        batch_size: Most photos that go through the model together.
        metrics: Where batches are counted.
        lanes: Batches in the model at the same time, as in `pipeline.plan_lanes`.
        max_wait_s: How long a batch that is not full waits for photos that are being decoded.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        batch_size: int,
        metrics: Metrics,
        lanes: int = 1,
        max_wait_s: float = _MAX_WAIT_S,
    ) -> None:
        self._captioner = captioner
        self._batch_size = batch_size
        self._metrics = metrics
        self._max_wait_s = max_wait_s
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._arriving = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"kiloword-model-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        self.seconds_per_photo = 0.05
        """A running mean; what ``Retry-After`` is guessed from."""

    def start(self) -> None:
        """Begin; called once, in the event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Caption what still waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    @property
    def waiting(self) -> int:
        """Photos that are ready and not yet taken by the model."""
        return len(self._waiting)

    def announce(self, change: int) -> None:
        """Say that a photo is being decoded (+1), or no longer (-1)."""
        with self._changed:
            self._arriving += change
            self._changed.notify_all()

    def submit(
        self, pixels: NDArray[np.uint8], settings: SearchSettings, on_text: OnText | None = None
    ) -> asyncio.Future[Caption]:
        """Put a photo in the queue.

        Args:
            pixels: uint8 (height, width, 3), as `load_image` returns them.
            settings: How to search.
            on_text: Called with the text so far as it grows.

        Returns:
            The caption to be; cancel it, and the photo is left out if the model has not begun with it.
        """
        if self._loop is None or self._closed:
            raise KilowordError("the server is stopping")
        done: asyncio.Future[Caption] = self._loop.create_future()
        with self._changed:
            self._waiting.append(_Waiting(pixels, settings, done, on_text))
            self._changed.notify_all()
        return done

    def _run(self) -> None:
        while batch := self._take():
            self._caption(batch)

    def _take(self) -> list[_Waiting]:
        """The next photos with equal settings; empty when the server has stopped."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                # Another lane may take all of it meanwhile.
                self._changed.wait_for(self._is_ready, timeout=self._max_wait_s)
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            while self._waiting and len(batch) < self._batch_size:
                one = self._waiting.popleft()
                alike = not batch or one.settings == batch[0].settings
                (batch if alike else others).append(one)
            others.extend(self._waiting)
            self._waiting = others
        return batch

    def _is_ready(self) -> bool:
        return self._closed or self._arriving < 1 or len(self._waiting) >= self._batch_size

    def _caption(self, batch: Sequence[_Waiting]) -> None:
        """Run the model for those who still wait."""
        batch = [one for one in batch if not one.done.cancelled()]
        if not batch:
            return
        start = time.perf_counter()
        settings = batch[0].settings
        streams = any(one.on_text for one in batch)
        try:
            captions = self._captioner.caption_pixels(
                np.stack([one.pixels for one in batch]),
                num_beams=settings.num_beams,
                max_new_tokens=settings.max_new_tokens,
                length_penalty=settings.length_penalty,
                no_repeat_ngram_size=settings.no_repeat_ngram_size,
                attention=settings.attention,
                on_text=self._teller(batch) if streams else None,
            )
        except Exception as error:  # noqa: BLE001  whoever waits gets it; the thread must live on
            self._in_loop(_fail_all, batch, error)
            return
        self._metrics.batch_photos.observe(len(batch))
        spent = (time.perf_counter() - start) / len(batch)
        self.seconds_per_photo += _SMOOTHING * (spent - self.seconds_per_photo)
        self._in_loop(_finish_all, batch, captions)

    def _teller(self, batch: Sequence[_Waiting]) -> Callable[[int, str], None]:
        def tell(index: int, text: str) -> None:
            on_text = batch[index].on_text
            if on_text is not None:
                self._in_loop(on_text, text)

        return tell

    def _in_loop(self, function: Callable[..., None], *arguments: object) -> None:
        """Let the event loop call; a loop that has ended has nobody left who waits."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _finish_all(batch: Sequence[_Waiting], captions: Sequence[Caption]) -> None:
    for one, caption in zip(batch, captions, strict=True):
        if not one.done.done():
            one.done.set_result(caption)


def _fail_all(batch: Sequence[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.done.done():
            one.done.set_exception(error)
