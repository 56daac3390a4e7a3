"""Captions any number of photos in constant memory, all processors busy: list, read, decode, batch, caption.

One thread lists paths, a few read files and decode them, and one or more lanes run the model, each a batch at
a time (Pillow and onnxruntime release the interpreter's lock). `runtime.flow` says who goes next. Results
come as they are ready; who needs them in order puts them back in order (`InOrder`).

On a processor there are as many lanes as processors, with one thread each, for threads within a product wait
for each other, and lanes wait for nothing (docs/FOLDERS.md, Speed).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.copies import Claim, Copies, Settled, Task
from kiloword.runtime.errors import ImageError, KilowordError
from kiloword.runtime.flow import Flow, FlowLimits
from kiloword.runtime.outputs import CaptionRow, Outcome
from kiloword.runtime.reading import PhotoFile, read_photo, stat_of
from kiloword.runtime.results import Done, InOrder
from kiloword.runtime.threads import available_cpus

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from kiloword.runtime.captioner import Captioner
    from kiloword.runtime.journal import Journal

MOST_LANES = 8
"""Each lane holds the activations of a batch; with more processors, lanes get several threads."""

# Readers that wait for a disk hold up nobody else.
_MORE_READERS_THAN_PROCESSORS = 4
_KNOWN_AT_A_TIME = 64
_AHEAD = 2000
_END_WAIT_S = 10


@dataclass(frozen=True)
class PipelineOptions:
    """How photos are captioned."""

    batch_size: int = 8
    """Photos that go through the model together."""
    num_beams: int | None = None
    """Beams; None for the bundle's own default."""
    max_new_tokens: int | None = None
    """Longest caption in tokens; None for the bundle's own default."""
    threads: int | None = None
    """Processors to use; None for what the process may use."""
    lanes: int = 1
    """Batches in the model at the same time; see `plan_lanes`."""
    max_wait_s: float | None = None
    """How long a batch that is not full waits for more photos; None: while there is other work."""
    in_order: bool = False
    """Whether somebody waits for the results in order: then they do not run ahead without limit."""
    known_captions: bool = True
    """Whether somebody asks for captions that the journal knows."""


def plan_lanes(threads: int | None = None) -> tuple[int, int]:
    """How to use some processors for many photos.

    Args:
        threads: Processors to use; None for what the process may use.

    Returns:
        Lanes, and threads for each lane's session.
    """
    count = threads or available_cpus()
    lanes = min(count, MOST_LANES)
    return lanes, max(1, count // lanes)


def caption_photos(
    captioner: Captioner,
    photos: Iterable[str | ImageError],
    *,
    batch_size: int = 8,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    threads: int | None = None,
    max_wait_s: float | None = None,
) -> Iterator[CaptionRow]:
    """Caption photos in order; a photo that cannot be read becomes a row with an error and stops nothing.

    Args:
        captioner: What captions them.
        photos: What `expand_paths` yields; read from a thread of its own.
        batch_size: Photos that go through the model together.
        num_beams: Beams; None for the bundle's own default.
        max_new_tokens: Longest caption in tokens; None for the bundle's own default.
        threads: Processors to use; None for what the process may use.
        max_wait_s: As in `PipelineOptions`.

    Yields:
        One row for each of `photos`.
    """
    options = PipelineOptions(batch_size, num_beams, max_new_tokens, threads, 1, max_wait_s, in_order=True)
    in_order = InOrder()
    with Pipeline(captioner, photos, options) as pipeline:
        for results in pipeline:
            for done in in_order.take(results):
                yield done.row()
            pipeline.all_before(in_order.position)


@dataclass(frozen=True)
class _Ready:
    """A photo with its pixels."""

    task: Task
    photo: PhotoFile
    pixels: NDArray[np.uint8]
    warnings: tuple[str, ...]


class Pipeline:
    """The threads that caption photos. Use it in a `with` statement and iterate over it.

    Args:
        captioner: What captions; its sessions should have the threads that `plan_lanes` says.
        photos: What `expand_paths` yields.
        options: How.
        journal: What is known already; only read, but for the list of photos. None: nothing is known.
    """

    def __init__(
        self,
        captioner: Captioner,
        photos: Iterable[str | ImageError],
        options: PipelineOptions,
        journal: Journal | None = None,
    ) -> None:
        self._captioner = captioner
        self._photos = photos
        self._options = options
        self._journal = journal
        self._copies = Copies(journal)
        processors = options.threads or available_cpus()
        readers = processors + _MORE_READERS_THAN_PROCESSORS
        self._flow: Flow[Task, _Ready, Done] = Flow(_limits(captioner, options, processors, readers))
        # Daemons, because a thread that waits for a line on stdin or for a dead disk cannot be told to stop.
        self._threads = [
            self._thread("list", self._list),
            *(self._thread("read", self._read) for _ in range(readers)),
            *(self._thread("caption", self._caption) for _ in range(options.lanes)),
        ]

    def __enter__(self) -> Pipeline:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._flow.close()
        # A thread that is in onnxruntime while the interpreter ends would crash it.
        deadline = time.monotonic() + _END_WAIT_S
        for thread in self._threads[1:]:
            thread.join(max(0.0, deadline - time.monotonic()))

    def __iter__(self) -> Iterator[list[Done]]:
        """Results as they are ready, in no order, some at a time.

        Raises:
            KilowordError: The model or the journal failed; results that were ready came before.
        """
        while results := self._flow.take_done():
            yield results

    def all_before(self, position: int) -> None:
        """Say that all results before this one were used, if they are wanted in order."""
        self._flow.all_before(position)

    def stop(self) -> None:
        """Begin nothing new; the batches that are running end, and iterating gives their results."""
        self._flow.stop()

    def _thread(self, name: str, work: Callable[[], None]) -> Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  raised again by `take_done`
                self._flow.fail(error)

        return Thread(target=guarded, name=f"kiloword-{name}", daemon=True)

    # Listing

    def _list(self) -> None:
        position = 0
        known: list[Done] = []
        at_a_time = 1 if self._options.max_wait_s is not None else _KNOWN_AT_A_TIME
        for photo in self._photos:
            if self._flow.stopping:
                return
            listed = self._look_up(position, photo)
            if listed is None:  # named twice
                continue
            if isinstance(listed, Done):
                known.append(listed)
            if known and (len(known) >= at_a_time or isinstance(listed, Task)):
                self._flow.put_done(known)
                known = []
            if isinstance(listed, Task) and not self._flow.put_photo(position, listed):
                return
            position += 1
        if known:
            self._flow.put_done(known)
        self._flow.end_listing()

    def _look_up(self, position: int, photo: str | ImageError) -> Task | Done | None:
        """What is to be done for a photo: all, nothing any more, or nothing because it came before."""
        journal = self._journal
        if isinstance(photo, ImageError):
            return self._failed(Task(position, photo.path or ""), photo)
        if journal is None:
            return Task(position, photo)
        if not journal.list_photo(position, photo):
            return None
        try:
            stat = stat_of(photo)
        except (OSError, ValueError):  # the reader says what is wrong
            stat = None
        known = None if stat is None else self._unchanged(journal, photo, stat)
        if known is None:
            journal.forget_file(photo)
        elif known[1] is not None:
            return Done(position, photo, known[1], known[0], stat, known=True, earlier=True)
        return Task(position, photo)

    def _unchanged(
        self, journal: Journal, photo: str, stat: os.stat_result
    ) -> tuple[bytes, Outcome | None] | None:
        return journal.unchanged(photo, stat, with_caption=self._options.known_captions)

    # Reading and decoding

    def _read(self) -> None:
        while (task := self._flow.take_photo()) is not None:
            ready = None
            try:
                ready = self._read_one(task)
            except ImageError as error:
                self._flow.put_done([self._failed(task, error)])
            finally:
                self._flow.photo_read(ready)

    def _read_one(self, task: Task) -> _Ready | None:
        """Read and decode a photo; None if its content needs no captioning."""
        photo = read_photo(task.path)
        claim = self._copies.claim(photo.content, task, photo)
        if isinstance(claim, Settled):
            self._flow.put_done([_done(task, photo, claim.outcome, earlier=claim.earlier)])
        if claim is not Claim.FIRST:
            return None
        with self._flow.permit_to_decode() as granted:
            if not granted:
                return None
            try:
                decoded = photo.decode(self._captioner.bundle.manifest.image)
            except ImageError as error:
                self._settle_failure(task, photo, error)
                return None
        # Without its bytes: there are many pixels in waiting, and only a few files in work.
        return _Ready(task, replace(photo, data=None), decoded.pixels, decoded.warnings)

    def _settle_failure(self, task: Task, photo: PhotoFile, error: ImageError) -> None:
        if photo.data is not None:
            self._settle(task, photo, Outcome(error=_without_path(error, task.path)))
            return
        # It was decoded from the file itself, which may have changed: that says nothing of the content.
        copies = self._copies.give_up(photo.content)
        self._flow.put_done([self._failed(failed, error) for failed in (task, *(copy for copy, _ in copies))])

    def _failed(self, task: Task, error: ImageError) -> Done:
        """Nothing is known of its content, so the error belongs to the path."""
        if self._journal is not None:
            self._journal.list_error(task.position, task.path, _without_path(error, task.path))
        return Done(task.position, task.path, Outcome(error=_without_path(error, task.path)), fresh=True)

    # Captioning

    def _caption(self) -> None:
        options = self._options
        while batch := self._flow.take_batch():
            try:
                captions = self._captioner.caption_pixels(
                    np.stack([ready.pixels for ready in batch]),
                    num_beams=options.num_beams,
                    max_new_tokens=options.max_new_tokens,
                )
                for ready, caption in zip(batch, captions, strict=True):
                    with_warnings = replace(caption, warnings=ready.warnings)
                    self._settle(ready.task, ready.photo, Outcome(with_warnings))
            finally:
                self._flow.batch_done()

    def _settle(self, task: Task, photo: PhotoFile, outcome: Outcome) -> None:
        """Hand over a result, for the photo and for its copies that waited for it."""
        copies = self._copies.settle(photo.content, outcome)
        results = [_done(copy, copy_photo, outcome) for copy, copy_photo in copies]
        self._flow.put_done([_done(task, photo, outcome, fresh=True), *results])


def _limits(captioner: Captioner, options: PipelineOptions, processors: int, readers: int) -> FlowLimits:
    on_processor = captioner.provider == "cpu"
    batches = options.batch_size * options.lanes
    return FlowLimits(
        batch_size=options.batch_size,
        permits=processors,
        lane_permits=max(1, processors // options.lanes) if on_processor else 0,
        to_read=readers,
        ready=batches + max(batches, readers),
        done=max(4 * batches, 4 * _KNOWN_AT_A_TIME),
        ahead=_AHEAD if options.in_order else None,
        max_wait_s=options.max_wait_s,
    )


def _done(
    task: Task, photo: PhotoFile, outcome: Outcome, *, fresh: bool = False, earlier: bool = False
) -> Done:
    return Done(task.position, task.path, outcome, photo.content, photo.stat, fresh=fresh, earlier=earlier)


def _without_path(error: KilowordError, path: str) -> str:
    """An error's line without the path, which is put before it where it is shown."""
    return str(error).removeprefix(f"{path}: ")
