"""Does an execution provider run a bundle? Asked in a process of its own: a driver may take it down.

Run as a program, ``python -m kiloword.runtime.provider_trial BUNDLE PROVIDER``, it captions a made picture
and prints the token ids as JSON; `try_provider` starts that program and reads it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT_S = 20.0
"""OpenVINO and CoreML compile a graph for some seconds; what takes longer surprises people."""


@dataclass(frozen=True)
class ProviderTrial:
    """What became of one provider."""

    loads: bool
    token_ids: tuple[int, ...] = ()
    """What it wrote for `made_picture`, greedily."""
    problem: str = ""
    """Why it does not load."""


def made_picture(height: int, width: int) -> NDArray[np.uint8]:
    """A picture that needs no file: the sun over a field, uint8 (height, width, 3)."""
    import numpy as np

    rows, columns = np.mgrid[0:height, 0:width]
    sky = rows < 0.6 * height
    picture = np.where(sky[..., None], (110, 170, 235), (70, 140, 50)).astype(np.uint8)
    sun = (rows - 0.25 * height) ** 2 + (columns - 0.7 * width) ** 2 < (0.12 * height) ** 2
    picture[sun] = (250, 230, 90)
    return picture


def made_pictures(height: int, width: int, count: int) -> NDArray[np.uint8]:
    """Different pictures: the made one, moved on each time; uint8 (count, height, width, 3)."""
    import numpy as np

    picture, step = made_picture(height, width), max(1, width // count)
    return np.stack([np.roll(picture, step * number, axis=1) for number in range(count)])


def try_provider(bundle: Path, provider: str, timeout_s: float = TIMEOUT_S) -> ProviderTrial:
    """Caption a made picture on a provider.

    Args:
        bundle: Its directory.
        provider: A key of `providers.PROVIDERS`.
        timeout_s: Seconds after which it counts as not loading.
    """
    command = [sys.executable, "-m", "kiloword.runtime.provider_trial", str(bundle), provider]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return ProviderTrial(False, problem=f"not ready after {timeout_s:g} s")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
        return ProviderTrial(False, problem=lines[-1])
    return ProviderTrial(True, tuple(json.loads(done.stdout.splitlines()[-1])))


def _caption_here(bundle: str, provider: str) -> list[int]:
    from kiloword.runtime.captioner import Captioner

    with Captioner.load(bundle, provider=provider) as captioner:
        image = captioner.bundle.manifest.image
        picture = made_picture(image.height, image.width)
        (caption,) = captioner.caption_pixels(picture[None], num_beams=1)
    return list(caption.token_ids)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_caption_here(sys.argv[1], sys.argv[2])) + "\n")
