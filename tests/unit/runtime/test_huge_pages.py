"""Memory in huge pages: judged by what the kernel says of it, and by bytes that must stay what they were."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from kiloword.runtime import huge_pages, sessions
from kiloword.runtime.bundle import load_bundle
from kiloword.runtime.huge_pages import HugePages, into_huge_pages, large_blocks

# Lines as Linux 6.18 writes them; of each mapping those up to Rss and one more.
_MAPPING = """{span} {kind}
Size:              {size} kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:               {present} kB
Pss:               {present} kB
VmFlags: rd wr mr mw me ac sd
"""

# Not an array: numpy asks for huge pages by itself.
_MOVES = """
from kiloword.runtime.huge_pages import into_huge_pages

def huge_kilobytes():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if "AnonHuge" in line)

values = bytes(range(256)) * (32 << 12)
before = huge_kilobytes()
moved = into_huge_pages()
print(moved, huge_kilobytes() - before, values == bytes(range(256)) * (32 << 12))
"""


def _mapping(start: int, size: int, present: int, kind: str = "rw-p 00000000 00:00 0") -> str:
    span = f"{start:x}-{start + size:x}"
    return _MAPPING.format(span=span, kind=kind, size=size >> 10, present=present >> 10)


def test_only_large_blocks_that_are_there_are_found() -> None:
    """Each mapping but the two whole ones lacks one property, as the kernel's documentation names it."""
    megabyte = 1 << 20
    smaps = "".join(
        [
            _mapping(0x10000000, 8 * megabyte, 8 * megabyte),
            _mapping(0x20000000, 64 * megabyte, 60 * megabyte, "rw-p 00000000 00:00 0          [heap]"),
            _mapping(0x30000000, 8 * megabyte, megabyte),  # mostly untouched
            _mapping(0x40000000, megabyte, megabyte),  # small
            _mapping(0x50000000, 8 * megabyte, 8 * megabyte, "rw-p 00000000 fe:00 123   /lib/some.so"),
            _mapping(0x60000000, 8 * megabyte, 8 * megabyte, "r--p 00000000 00:00 0"),
            _mapping(0x70000000, 8 * megabyte, 8 * megabyte, "rw-p 00000000 00:00 0      [stack]"),
        ]
    )
    assert large_blocks(smaps) == [(0x10000000, 8 * megabyte), (0x20000000, 64 * megabyte)]


def test_no_blocks_in_what_is_no_smaps() -> None:
    assert large_blocks("") == []
    assert large_blocks("7f0000000000-7f0000800000 rw-p 00000000 00:00 0\n") == []


def _can_collapse() -> bool:
    if sys.platform != "linux" or not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        return False
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii"):
        return False
    major, minor = (int(part) for part in platform.release().split(".")[:2])
    return (major, minor) >= (6, 1)


@pytest.mark.skipif(not _can_collapse(), reason="this system moves nothing into huge pages when asked")
def test_memory_is_in_huge_pages_and_unchanged() -> None:
    """The kernel's own count; 32 MB lie in at least 15 pages of 2 MB."""
    done = subprocess.run([sys.executable, "-c", _MOVES], capture_output=True, text=True, check=True)
    moved, huge_kilobytes, unchanged = done.stdout.split()
    assert int(moved) >= 32 << 20
    assert int(huge_kilobytes) >= 15 * 2048
    assert unchanged == "True"


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert into_huge_pages() == 0


def test_memory_is_moved_once_and_not_for_the_first_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    called = Event()
    monkeypatch.setattr(huge_pages, "into_huge_pages", lambda: (calls.append(1), called.set()))
    pages = HugePages(pictures_before=8)
    pages.seen(7)
    assert not called.wait(0.05)
    pages.seen(3)
    assert called.wait(30)
    for _ in range(20):
        pages.seen(8)
    assert calls == [1]


@pytest.mark.parametrize("small_bytes", [0, 1 << 40])
def test_large_bundles_are_moved_and_small_ones_are_not(
    small_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Event()
    monkeypatch.setattr(huge_pages, "into_huge_pages", called.set)
    monkeypatch.setattr(sessions, "_SMALL_BYTES", small_bytes)
    bundle = load_bundle()
    image = bundle.manifest.image
    pixels = np.zeros((huge_pages.PICTURES_BEFORE, image.height, image.width, 3), np.uint8)
    encoder = sessions.load_sessions(bundle, "cpu", 1).encoder
    encoder.encode(pixels[:-1])
    assert not called.is_set()
    encoder.encode(pixels[:1])
    assert called.wait(30 if small_bytes == 0 else 0.05) == (small_bytes == 0)
