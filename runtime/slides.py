"""A folder of pictures as a video: each picture is one frame, shown for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from kiloword.runtime.errors import CameraError, ImageError
from kiloword.runtime.folders import expand_paths
from kiloword.runtime.images import load_image, upright_size
from kiloword.runtime.manifest import ImageSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kiloword.runtime.camera import FrameSource

SECONDS_PER_PICTURE = 2.0
_LONGEST_EDGE = 1280  # what fits a screen; the captioner needs a fifth of it

_log = logging.getLogger(__name__)


class PictureFolder:
    """The pictures of a folder and below, in the order of their names; a `camera.FrameSource`.

    A picture that cannot be read is named in the log and left out.

    Args:
        folder: The folder.
        seconds: How long each picture is shown.

    Raises:
        CameraError: There is no picture in it.
    """

    def __init__(self, folder: str, seconds: float = SECONDS_PER_PICTURE) -> None:
        self.name = folder
        self.recorded = True
        self.frames_per_second = 1.0 / seconds
        self._seconds = seconds
        self._pixels = self._pictures(folder)
        self._next: NDArray[np.uint8] | None = next(self._pixels, None)
        self._current: NDArray[np.uint8] | None = None
        self._grabbed = 0
        if self._next is None:
            raise CameraError(
                "no picture in this folder", path=folder, hint="kiloword webcam --source FOLDER_OF_PHOTOS"
            )

    def grab(self) -> float | None:
        """Go to the next picture: when it is due, in seconds from the start; None after the last."""
        if self._next is None:
            return None
        self._current, self._next = self._next, next(self._pixels, None)
        self._grabbed += 1
        return (self._grabbed - 1) * self._seconds

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The picture, uint8 (height, width, 3), blue first."""
        return self._current

    def reopen(self) -> FrameSource:
        """Begin again."""
        return PictureFolder(self.name, self._seconds)

    def close(self) -> None:
        """Nothing is kept open."""

    def _pictures(self, folder: str) -> Iterator[NDArray[np.uint8]]:
        for path in expand_paths([folder]):
            if isinstance(path, ImageError):
                continue
            try:
                yield read_picture(path)
            except ImageError as error:
                _log.warning("%s", error)


def read_picture(path: str) -> NDArray[np.uint8]:
    """Read a picture to show it: upright, no edge longer than 1280, uint8 (height, width, 3), blue first.

    Raises:
        ImageError: It cannot be read.
    """
    width, height = upright_size(path)
    scale = min(1.0, _LONGEST_EDGE / max(width, height))
    spec = ImageSpec(height=max(1, round(height * scale)), width=max(1, round(width * scale)))
    return np.ascontiguousarray(load_image(path, spec)[:, :, ::-1])
