"""Captions any number of photos in order and in constant memory: list, decode ahead, caption in batches.

One thread lists paths and hands them to a few decoding threads (Pillow releases the interpreter's lock while
it decodes); the caller's thread runs the model. The queue between them is short, so neither a hundred
thousand paths nor their pixels are ever held at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.errors import ImageError, KilowordError
from kiloword.runtime.images import Photo, load_photo
from kiloword.runtime.outputs import CaptionRow
from kiloword.runtime.threads import available_cpus

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Caption, Captioner

_MAX_DECODE_THREADS = 4
_STOP_CHECK_S = 0.1


@dataclass(frozen=True)
class _Pending:
    """A photo on its way: its path, and what is to be read or why it cannot be."""

    path: str
    photo: Future[Photo]


class _EndOfPhotos:
    """Travels through the queue behind the last photo, with whatever stopped the listing early."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


_Item = _Pending | _EndOfPhotos


def caption_photos(
    captioner: Captioner,
    photos: Iterable[str | ImageError],
    *,
    batch_size: int = 8,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    decode_threads: int | None = None,
    max_wait_s: float | None = None,
) -> Iterator[CaptionRow]:
    """Caption photos in order; a photo that cannot be read becomes a row with an error and stops nothing.

    Args:
        captioner: What captions them.
        photos: What `expand_paths` yields; read from a thread of its own.
        batch_size: Photos that go through the model together.
        num_beams: Beams; None for the bundle's own default.
        max_new_tokens: Longest caption in tokens; None for the bundle's own default.
        decode_threads: Most threads that decode; None for what the process may use. Never more than 4.
        max_wait_s: How long a batch that is not full waits for more photos. None waits for a full one, so
        that the
            batches, and with them the results, do not depend on timing; use a short wait where photos arrive
            one by one and somebody waits for each answer.

    Yields:
        One row for each of `photos`.
    """
    workers = min(_MAX_DECODE_THREADS, decode_threads or available_cpus())
    with _Ahead(captioner, photos, look_ahead=2 * batch_size, workers=workers) as ahead:
        while batch := ahead.take(batch_size, max_wait_s):
            yield from _caption_batch(captioner, batch, num_beams, max_new_tokens)


class _Ahead:
    """Lists and decodes photos ahead of the model, never more than `look_ahead` of them."""

    def __init__(
        self, captioner: Captioner, photos: Iterable[str | ImageError], *, look_ahead: int, workers: int
    ) -> None:
        self._image_spec = captioner.bundle.manifest.image
        self._queue: Queue[_Item] = Queue(maxsize=look_ahead)
        self._stop = Event()
        self._ended = False
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="kiloword-decode")
        # A daemon, because a thread that waits for a line on stdin cannot be told to stop.
        self._lister = Thread(target=self._list, args=(photos,), name="kiloword-list", daemon=True)

    def __enter__(self) -> _Ahead:
        self._lister.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def take(self, batch_size: int, max_wait_s: float | None) -> list[_Pending]:
        """The next photos in order, at most `batch_size`; empty at the end."""
        batch: list[_Pending] = []
        deadline: float | None = None
        while len(batch) < batch_size and not self._ended:
            try:
                item = self._queue.get(timeout=_seconds_until(deadline))
            except Empty:
                break
            if isinstance(item, _Pending):
                batch.append(item)
            else:
                self._end(item)
            if deadline is None and max_wait_s is not None:
                deadline = time.monotonic() + max_wait_s
        return batch

    def _end(self, end: _EndOfPhotos) -> None:
        self._ended = True
        if end.error is not None:
            raise end.error

    def _list(self, photos: Iterable[str | ImageError]) -> None:
        end = _EndOfPhotos()
        try:
            for photo in photos:
                if self._stop.is_set() or not self._put(self._start_decoding(photo)):
                    return
        except Exception as error:  # noqa: BLE001  raised again by `take`
            end = _EndOfPhotos(error)
        self._put(end)

    def _start_decoding(self, photo: str | ImageError) -> _Pending:
        if isinstance(photo, ImageError):
            failed: Future[Photo] = Future()
            failed.set_exception(photo)
            return _Pending(photo.path or "", failed)
        return _Pending(photo, self._decoders.submit(load_photo, photo, self._image_spec))

    def _put(self, item: _Item) -> bool:
        """Wait for room in the queue; False if the run was stopped meanwhile."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_STOP_CHECK_S)
            except Full:
                continue
            return True
        return False


def _seconds_until(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _caption_batch(
    captioner: Captioner, batch: list[_Pending], num_beams: int | None, max_new_tokens: int | None
) -> Iterator[CaptionRow]:
    rows: list[CaptionRow | None] = []
    photos: list[Photo] = []
    for item in batch:
        try:
            photos.append(item.photo.result())
        except KilowordError as error:
            rows.append(CaptionRow(item.path, error=str(error)))
        else:
            rows.append(None)
    captions: list[Caption] = []
    if photos:
        pixels = np.stack([photo.pixels for photo in photos])
        captions = captioner.caption_pixels(pixels, num_beams=num_beams, max_new_tokens=max_new_tokens)
    remaining = iter(
        replace(caption, warnings=photo.warnings) for caption, photo in zip(captions, photos, strict=True)
    )
    for item, row in zip(batch, rows, strict=True):
        yield row if row is not None else CaptionRow(item.path, next(remaining))
