"""Fake cameras and videos: `camera.FrameSource` without OpenCV."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

import numpy as np
from numpy.typing import NDArray

from kiloword.runtime.captions import Caption
from kiloword.runtime.errors import CameraError
from kiloword.runtime.live import LiveCaption
from kiloword.runtime.newest import Frame
from kiloword.runtime.scene import shrink

Picture = NDArray[np.uint8]


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> Picture:
    """A picture of large patches in random colours; each seed is another scene."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rows, columns = size[0] // 6, size[1] // 8
    return patches.repeat(rows, axis=0).repeat(columns, axis=1)


def frame(
    bgr: Picture, index: int = 0, *, captured_at: float = 0.0, at_s: float = 0.0, cuts: int = 0
) -> Frame:
    """A frame with known facts."""
    return Frame(bgr, shrink(bgr), index, captured_at, at_s, cuts)


def live_caption(
    text: str = "a dog", index: int = 3, *, changed: bool = True, age_ms: float = 41.26
) -> LiveCaption:
    """A live caption with known facts."""
    return LiveCaption(
        caption=Caption(text, 0.5, (), (), 30.0, "tiny"),
        frame_index=index,
        captured_at=time.monotonic(),
        age_ms=age_ms,
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        at_s=index / 10,
        shown=text,
        shown_since_s=index / 10,
        changed=changed,
    )


class FakeSource:
    """Gives pictures at its own pace.

    Args:
        pictures: What it shows, one after the other.
        recorded: Whether it is a file, with time stamps at `frames_per_second`, or a camera.
        frames_per_second: Of a file, its rate.
        before_each: Called before each picture; a camera waits here until it has one.
        reopened: What `reopen` gives, one after the other; an error is raised instead.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        *,
        recorded: bool = True,
        frames_per_second: float = 100.0,
        before_each: Callable[[], object] = lambda: None,
        reopened: Iterator[FakeSource | CameraError] | None = None,
        name: str = "camera 0",
    ) -> None:
        self.name = name
        self.recorded = recorded
        self.frames_per_second = frames_per_second
        self.grabbed = 0
        self.closed = False
        self._pictures = pictures
        self._before_each = before_each
        self._reopened = reopened

    def grab(self) -> float | None:
        self._before_each()
        if self.grabbed == len(self._pictures):
            return None
        self.grabbed += 1
        return (self.grabbed - 1) / self.frames_per_second if self.recorded else 0.0

    def retrieve(self) -> Picture | None:
        return self._pictures[self.grabbed - 1]

    def reopen(self) -> FakeSource:
        source = CameraError("gone") if self._reopened is None else next(self._reopened)
        if isinstance(source, CameraError):
            raise source
        source._reopened = self._reopened
        return source

    def close(self) -> None:
        self.closed = True
