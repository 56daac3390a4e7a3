"""A video captioned at its own time and not at ours: as fast as the machine can, one look each so often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.errors import CameraError
from kiloword.runtime.live import LiveCaption
from kiloword.runtime.scene import SceneGate, Small, is_cut, shrink
from kiloword.runtime.stabilise import Stabiliser

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.camera import FrameSource
    from kiloword.runtime.captioner import Captioner

_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Played:
    """How much of a source was read."""

    frames: int
    """Frames, those that nobody looked at included."""
    end_s: float
    """Where it ended, in seconds of its own time."""


class OwnTime:
    """Captions a recorded source at steps of its own time.

    Args:
        captioner: What captions.
        source: What to read, recorded.
        every_s: Seconds of the source between two looks.
        num_beams: Beams.
        on_frame: Called with the pixels and the words of every frame, for who wants to write them; None to
            leave out the frames between the looks, which is far faster.
    """

    def __init__(
        self,
        captioner: Captioner,
        source: FrameSource,
        every_s: float,
        *,
        num_beams: int = 1,
        on_frame: Callable[[NDArray[np.uint8], str], None] | None = None,
    ) -> None:
        self._captioner = captioner
        self._source = source
        self._every_s = every_s
        self._num_beams = num_beams
        self._on_frame = on_frame
        self._gate, self._stabiliser = SceneGate(), Stabiliser()
        self._last: Small | None = None
        self.played = Played(0, 0.0)

    def captions(self, max_frames: int | None = None) -> Iterator[LiveCaption]:
        """Caption until the source ends.

        Args:
            max_frames: End after this many captioned frames; None for no limit.

        Raises:
            CameraError: The source gave no frame at all.
        """
        next_s, count = 0.0, 0
        while max_frames is None or count < max_frames:
            at_s = self._source.grab()
            if at_s is None:
                break
            looks = at_s >= next_s - _ROUNDING_S
            frames = self.played.frames + 1
            self.played = Played(frames, at_s + 1.0 / self._source.frames_per_second)
            pixels = self._source.retrieve() if looks or self._on_frame is not None else None
            if pixels is None:
                continue
            if looks:
                next_s = (at_s // self._every_s + 1) * self._every_s
                live = self._look(pixels, at_s, frames - 1)
                if live is not None:
                    yield live
                    count += 1
            if self._on_frame is not None:
                self._on_frame(pixels, self._stabiliser.text or "")
        if self.played.frames == 0:
            raise CameraError("gives no frames", path=self._source.name)

    def _look(self, bgr: NDArray[np.uint8], at_s: float, index: int) -> LiveCaption | None:
        """Caption a frame; None if nothing changed since the last caption."""
        seen_at = time.monotonic()
        small, last = shrink(bgr), self._last
        self._last = small
        if not (self._gate.is_new(small) or self._stabiliser.unsure):
            return None
        self._gate.close(small)
        caption = self._captioner.caption(np.ascontiguousarray(bgr[:, :, ::-1]), num_beams=self._num_beams)
        cut = last is None or is_cut(last, small)
        changed = self._stabiliser.update(caption.spoken, cut=cut, at_s=at_s)
        return LiveCaption(
            caption=caption,
            frame_index=index,
            captured_at=seen_at,
            age_ms=(time.monotonic() - seen_at) * 1000.0,
            time=datetime.now(timezone.utc),
            at_s=at_s,
            shown=self._stabiliser.text or "",
            shown_since_s=self._stabiliser.since_s,
            changed=changed,
        )
