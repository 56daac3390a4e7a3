"""Concurrent requests, one model: photos that wait at the same moment go through the model together.

Every batch has a price of its own, that of its steps, so that two batches of one photo cost a third more than
one of two. Each thread therefore takes its share of as many photos as were in work at once of late, and waits
a few milliseconds for it. A photo that is alone waits for nobody.
"""

from __future__ import annotations

import asyncio
import math
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

# Eight clients, two lanes: batches of 2.7 photos with 12 ms, of 3.5 with 20, of 3.95 with 40, of 4 with 100.
_MAX_WAIT_S = 0.04
_REMEMBERED_BATCHES = 2
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

    `note_in_work` and `submit` are called in the event loop; the threads talk back through it.

    Args:
        captioner: What captions.
        batch_size: Most photos that go through the model together.
        metrics: Where batches are counted.
        lanes: Batches in the model at the same time, as in `pipeline.plan_lanes`.
        max_wait_s: How long a thread waits for its share once it has a photo.
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
        self.max_wait_s = max_wait_s
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._lanes = lanes
        self._in_work = 0
        self._most_in_work = deque([0], maxlen=_REMEMBERED_BATCHES * lanes + 1)
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

    def note_in_work(self, photos: int) -> None:
        """Say how many photos there are now from the first byte of a request to its answer."""
        with self._changed:
            self._in_work = photos
            self._most_in_work[-1] = max(self._most_in_work[-1], photos)

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
            ready = False
            while not ready:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(self._is_ready, timeout=self.max_wait_s)
                # Another lane may have taken all of it meanwhile.
                ready = self._closed or bool(self._waiting)
            batch: list[_Waiting] = []
            others: deque[_Waiting] = deque()
            share = self._share()
            while self._waiting and len(batch) < share:
                one = self._waiting.popleft()
                alike = not batch or one.settings == batch[0].settings
                (batch if alike else others).append(one)
            others.extend(self._waiting)
            self._waiting = others
            self._most_in_work.append(self._in_work)
        return batch

    def _share(self) -> int:
        """How many photos a lane takes, so that all lanes have the same work."""
        return min(self._batch_size, max(1, math.ceil(max(self._most_in_work) / self._lanes)))

    def _is_ready(self) -> bool:
        return self._closed or len(self._waiting) >= self._share()

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
