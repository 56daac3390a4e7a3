"""Small videos for tests, made by OpenCV on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


def make_video(path: Path, *, frames: int = 30, frames_per_second: float = 30.0) -> Path:
    """Write a video of 128 x 96 in which a white square moves over a changing colour.

    Args:
        path: Where to; its suffix chooses the container.
        frames: How many frames.
        frames_per_second: The rate that is written into the file.

    Returns:
        The same path. The test is skipped where OpenCV is absent.
    """
    cv2 = pytest.importorskip("cv2", reason="no OpenCV: the extra camera is not installed")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for number in range(frames):
        frame = np.full((96, 128, 3), (number * 8 % 256, 80, 255 - number * 8 % 256), dtype=np.uint8)
        left = number * 4 % 96
        frame[32:64, left : left + 32] = 255
        writer.write(frame)
    writer.release()
    return path


def make_transport_stream(
    path: Path, pictures: Sequence[NDArray[np.uint8]], frames_per_second: float
) -> bytes:
    """Write pictures, uint8 (height, width, 3), blue first, as an MPEG transport stream; its bytes."""
    cv2 = pytest.importorskip("cv2", reason="no OpenCV: the extra camera is not installed")
    height, width = pictures[0].shape[:2]
    code = cv2.VideoWriter_fourcc(*"PIM1")
    writer = cv2.VideoWriter(str(path), code, frames_per_second, (width, height))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write transport streams")
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path.read_bytes()
