"""From uploads to captions: decode, wait for a place, caption, tell."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.images import load_image
from kiloword.runtime.outputs import caption_fields
from kiloword.runtime.serve.batching import Batcher, OnText, SearchSettings
from kiloword.runtime.serve.problems import Problem, problem_of
from kiloword.runtime.threads import available_cpus

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.captions import Caption
    from kiloword.runtime.serve.bodies import Upload
    from kiloword.runtime.serve.limits import ServeLimits
    from kiloword.runtime.serve.metrics import Metrics

_MAX_DECODERS = 4
_MAX_RETRY_S = 60


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    """``text``, ``caption``, ``error`` or ``done``."""
    data: dict[str, Any]


class Places:
    """The bound on photos that are received, wait or are being captioned; used in the event loop only.

    Args:
        service: Knows when to ask again.
        most: The bound.
        on_change: Gets how many places are taken each time that this changes.
    """

    def __init__(self, service: CaptionService, most: int, on_change: Callable[[int], None]) -> None:
        self._service = service
        self._most = most
        self._on_change = on_change
        self.taken = 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold places.

        Raises:
            Problem: 503, so many are not free.
        """
        if self.taken + count > self._most:
            raise Problem(
                503,
                f"{self.taken} photos wait already; at most {self._most} may",
                hint="ask again later",
                headers={"Retry-After": str(self._service.retry_after_s())},
            )
        self._add(count)
        try:
            yield
        finally:
            self._add(-count)

    def _add(self, count: int) -> None:
        self.taken += count
        self._on_change(self.taken)


class CaptionService:
    """A warm captioner and everything that stands around it.

    Args:
        captioner: What captions.
        limits: Sizes, numbers, times.
        metrics: Where it is counted.
    """

    def __init__(self, captioner: Captioner, limits: ServeLimits, metrics: Metrics) -> None:
        self._image = captioner.bundle.manifest.image
        self._limits = limits
        self._metrics = metrics
        self._batcher = Batcher(captioner, batch_size=limits.batch_size, metrics=metrics, lanes=limits.lanes)
        self._decoders = ThreadPoolExecutor(
            min(_MAX_DECODERS, available_cpus()), thread_name_prefix="kiloword-decode"
        )
        self.places = Places(self, limits.max_waiting, self._batcher.note_in_work)
        metrics.add_gauge("kiloword_photos_in_work", "Photos received or waiting.", lambda: self.places.taken)
        metrics.add_gauge(
            "kiloword_photos_ready", "Photos that wait for the model.", lambda: self._batcher.waiting
        )

    def start(self) -> None:
        """Begin; called once, in the event loop."""
        self._batcher.start()

    def close(self) -> None:
        """Finish what is in work, then end the threads."""
        self._batcher.close()
        self._decoders.shutdown(cancel_futures=True)

    def retry_after_s(self) -> int:
        """A guess of when there will be room, in whole seconds."""
        return min(_MAX_RETRY_S, max(1, math.ceil(self.places.taken * self._batcher.seconds_per_photo)))

    async def caption(
        self, upload: Upload, settings: SearchSettings, on_text: OnText | None = None
    ) -> dict[str, Any]:
        """Caption one photo.

        Args:
            upload: The photo.
            settings: How to search.
            on_text: Called with the text so far as it grows.

        Returns:
            What `caption_fields` says, the file's ``name``, ``spoken``, which people should read, and
            ``words`` and ``attention`` where they were asked for; ``latency_ms`` is the time from the whole
            photo to its caption, waiting included.

        Raises:
            Problem: 413 or 422, the photo cannot be captioned.
        """
        start = time.perf_counter()
        try:
            caption = await self._run(upload, settings, on_text)
        except KilowordError as error:
            self._metrics.photos.add("failed")
            raise problem_of(error) from error
        except BaseException as error:
            left = isinstance(error, asyncio.CancelledError)
            self._metrics.photos.add("abandoned" if left else "failed")
            raise
        seconds = time.perf_counter() - start
        self._metrics.photos.add("captioned")
        self._metrics.caption_seconds.observe(seconds)
        return {
            "name": upload.name,
            **caption_fields(caption),
            "spoken": caption.spoken,
            "latency_ms": round(1000 * seconds, 2),
            **_attention_fields(caption),
        }

    async def caption_all(self, uploads: list[Upload], settings: SearchSettings) -> list[dict[str, Any]]:
        """Caption the photos of one request; one that fails has an ``error`` in place of a caption.

        Raises:
            Problem: All of them failed; the first one's.
        """
        tasks = [asyncio.ensure_future(self.caption(upload, settings)) for upload in uploads]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:  # those who wait have left, or time is up
                task.cancel()
        problems = [result for result in results if isinstance(result, Problem)]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Problem):
                raise result
        if len(problems) == len(results):
            raise problems[0]
        return [_answer_of(upload, result) for upload, result in zip(uploads, results, strict=True)]

    async def stream(self, uploads: list[Upload], settings: SearchSettings) -> AsyncIterator[Event]:
        """Caption photos and tell what happens, as it happens.

        Yields:
            ``text`` each time that a caption grew by a word, ``caption`` or ``error`` once for each photo,
            ``done`` at the end. All but the last carry the photo's ``index``.
        """
        # Holds at most a few events for each token of this request's captions.
        events: asyncio.Queue[Event] = asyncio.Queue()
        tasks = [
            asyncio.ensure_future(self._tell(index, upload, settings, events))
            for index, upload in enumerate(uploads)
        ]
        try:
            remaining = len(tasks)
            while remaining:
                event = await events.get()
                remaining -= event.name != "text"
                yield event
            yield Event("done", {"photos": len(tasks)})
        finally:
            for task in tasks:
                task.cancel()

    async def _tell(
        self, index: int, upload: Upload, settings: SearchSettings, events: asyncio.Queue[Event]
    ) -> None:
        def on_text(text: str) -> None:
            events.put_nowait(Event("text", {"index": index, "text": text}))

        try:
            fields = await self.caption(upload, settings, on_text)
        except Problem as problem:
            events.put_nowait(Event("error", {"index": index, "name": upload.name, "error": problem.body()}))
        except Exception as error:  # noqa: BLE001  the answer has begun; its end is the only place to say it
            failed = problem_of(KilowordError(str(error))).body()
            events.put_nowait(Event("error", {"index": index, "name": upload.name, "error": failed}))
        else:
            events.put_nowait(Event("caption", {"index": index, **fields}))

    async def _run(self, upload: Upload, settings: SearchSettings, on_text: OnText | None) -> Caption:
        pixels = await asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, upload)
        return await self._batcher.submit(pixels, settings, on_text)

    def _decode(self, upload: Upload) -> Any:
        return load_image(upload.data, self._image, pixel_limit=self._limits.max_pixels)


def _attention_fields(caption: Caption) -> dict[str, Any]:
    """The words and a map for each, where they were asked for."""
    if caption.attention is None:
        return {}
    return {"words": caption.words, "attention": caption.attention.astype(float).round(5).tolist()}


def _answer_of(upload: Upload, result: dict[str, Any] | BaseException) -> dict[str, Any]:
    if isinstance(result, Problem):
        return {"name": upload.name, "error": result.body()}
    return result if isinstance(result, dict) else {}
