"""Small videos for tests, made by OpenCV on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


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
