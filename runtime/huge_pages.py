"""Weights in huge pages, where the system is Linux: what a processor reads from memory arrives sooner.

A decoder reads all its weights for each token. In pages of 4 KB the processor stops fetching ahead at the end
of each and looks up where the next one lies; in pages of 2 MB it hardly ever does. A token of GPT-2 small
took 16.7 ms instead of 17.7 (int8, one thread, a Xeon of 2019, virtual); ViT-B/16, which computes more than
it reads, no less.

Most systems give huge pages only to who asks (``madvise``), and onnxruntime does not ask. So its memory is
asked for afterwards: the kernel copies it, 280 MB in 0.4 s, while all go on (``MADV_COLLAPSE``, Linux 6.1).
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from pathlib import Path
from threading import Lock, Thread

_log = logging.getLogger(__name__)

PICTURES_BEFORE = 8
"""Who captions one picture gains nothing from 0.4 s of copying; who captions eight is likely to go on."""
_MADV_COLLAPSE = 25  # of Linux's mman.h
_SMALLEST_BYTES = 4 << 20
_FULL = 0.9
"""Share of a mapping that must be in memory: the rest would be, too, afterwards."""
# A plain string, compiled where it is needed: that takes 1 ms, which most starts have no use for.
_MAPPING = (
    r"^(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) rw-p 00000000 00:00 0 *(?:\[heap\])?\n"
    r"(?:(?!Rss:)[A-Z]\w*: .*\n)*Rss: +(?P<kilobytes>\d+) kB$"
)


class HugePages:
    """Moves this process's memory into huge pages, once, when enough pictures have been seen.

    Args:
        pictures_before: How many are enough.
    """

    def __init__(self, pictures_before: int = PICTURES_BEFORE) -> None:
        self._missing = pictures_before
        self._lock = Lock()

    def seen(self, pictures: int) -> None:
        """Count pictures; with the last that is missing, the kernel begins to copy beside the caller.

        Args:
            pictures: How many were encoded.
        """
        with self._lock:
            due = 0 < self._missing <= pictures
            self._missing -= pictures
        if due:
            # A thread that nobody waits for: a process may end at any time.
            Thread(target=into_huge_pages, name="huge-pages", daemon=True).start()


def into_huge_pages() -> int:
    """Ask the kernel to move the large blocks of this process's memory into huge pages.

    Silent where it cannot: on another system, on Linux before 6.1, or where no memory in one piece is left.

    Returns:
        Bytes of the blocks that were moved.
    """
    if sys.platform != "linux":
        return 0
    try:
        smaps = Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace")
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    blocks = large_blocks(smaps)
    moved = sum(size for start, size in blocks if madvise(start, size, _MADV_COLLAPSE) == 0)
    _log.debug("%.0f of %.0f MB are in huge pages", moved / 1e6, sum(size for _, size in blocks) / 1e6)
    return moved


def large_blocks(smaps: str) -> list[tuple[int, int]]:
    """Find the private memory of no file that is large and almost all there.

    Args:
        smaps: What Linux's ``/proc/self/smaps`` says.

    Returns:
        Address and bytes of each.
    """
    found = []
    for mapping in re.finditer(_MAPPING, smaps, re.MULTILINE):
        start, size = int(mapping["start"], 16), int(mapping["end"], 16) - int(mapping["start"], 16)
        if size >= _SMALLEST_BYTES and 1024 * int(mapping["kilobytes"]) >= _FULL * size:
            found.append((start, size))
    return found
