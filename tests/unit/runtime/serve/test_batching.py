"""Which photos go through the model together. A wait that should not be would last a minute here."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("starlette")

from kiloword import Captioner
from kiloword.runtime.serve.batching import Batcher, SearchSettings
from kiloword.runtime.serve.metrics import Metrics

PIXELS = np.zeros((8, 8, 3), np.uint8)
LONG_S = 60.0


class CountingCaptioner:
    """Remembers how many photos came together; the first batches wait until the test has seen enough."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def caption_pixels(self, pixels: Any, **_settings: Any) -> list[str]:
        self.batches.append(len(pixels))
        self.gate.wait(LONG_S)
        return [f"photo {number}" for number in range(len(pixels))]


async def started(captioner: CountingCaptioner, lanes: int, max_wait_s: float) -> Batcher:
    batcher = Batcher(
        cast(Captioner, captioner), batch_size=8, metrics=Metrics(), lanes=lanes, max_wait_s=max_wait_s
    )
    batcher.start()
    return batcher


def test_a_photo_that_is_alone_waits_for_nobody() -> None:
    captioner = CountingCaptioner()

    async def asked() -> None:
        batcher = await started(captioner, lanes=2, max_wait_s=LONG_S)
        for _ in range(3):
            batcher.note_in_work(1)
            await asyncio.wait_for(batcher.submit(PIXELS, SearchSettings()), LONG_S / 2)
            batcher.note_in_work(0)
        await asyncio.to_thread(batcher.close)

    asyncio.run(asked())
    assert captioner.batches == [1, 1, 1]


@pytest.mark.parametrize(
    ("lanes", "photos", "batches"), [(1, 6, [6]), (2, 6, [3, 3]), (2, 8, [4, 4]), (1, 16, [8, 8])]
)
def test_a_lane_waits_for_its_share_of_those_in_work(lanes: int, photos: int, batches: list[int]) -> None:
    """They come one after the other; the first is not captioned alone. A batch has at most eight."""
    captioner = CountingCaptioner()
    captioner.gate.clear()

    async def asked() -> None:
        batcher = await started(captioner, lanes, max_wait_s=LONG_S)
        batcher.note_in_work(photos)
        waiting = []
        for _ in range(photos):
            waiting.append(batcher.submit(PIXELS, SearchSettings()))
            await asyncio.sleep(0.001)
        captioner.gate.set()
        await asyncio.wait_for(asyncio.gather(*waiting), LONG_S / 2)
        await asyncio.to_thread(batcher.close)

    asyncio.run(asked())
    assert captioner.batches == batches


def test_those_who_do_not_come_are_waited_for_only_so_long() -> None:
    """Four were in work; three have left, and the one that stays gets its caption all the same."""
    captioner = CountingCaptioner()

    async def asked() -> None:
        batcher = await started(captioner, lanes=1, max_wait_s=0.05)
        batcher.note_in_work(4)
        batcher.note_in_work(1)
        await asyncio.wait_for(batcher.submit(PIXELS, SearchSettings()), LONG_S / 2)
        await asyncio.to_thread(batcher.close)

    asyncio.run(asked())
    assert captioner.batches == [1]


def test_a_crowd_that_has_gone_is_forgotten() -> None:
    """After a few batches a photo that is alone waits for nobody again."""
    captioner = CountingCaptioner()

    async def asked() -> None:
        batcher = await started(captioner, lanes=1, max_wait_s=0.01)
        batcher.note_in_work(4)
        await asyncio.gather(*(batcher.submit(PIXELS, SearchSettings()) for _ in range(4)))
        for _ in range(4):
            batcher.note_in_work(1)
            await batcher.submit(PIXELS, SearchSettings())
        batcher.max_wait_s = LONG_S
        await asyncio.wait_for(batcher.submit(PIXELS, SearchSettings()), LONG_S / 2)
        await asyncio.to_thread(batcher.close)

    asyncio.run(asked())
    assert captioner.batches == [4, 1, 1, 1, 1, 1]
