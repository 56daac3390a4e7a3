"""glibc's allocator: when it gives freed memory back to the system. Other C libraries are left alone."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8

FREED_BYTES = 128 << 10
"""For graphs whose weights are parsed and freed again, tensor by tensor."""
KEPT_BYTES = 4 << 20
"""For graphs whose weights are mapped: nearly all that is allocated stays, together, for huge pages."""


def tell_allocator(settings: Mapping[int, int]) -> bool:
    """Set parameters of glibc's allocator.

    Args:
        settings: Values by the number of the parameter, as mallopt(3) has them.

    Returns:
        True where all took effect; False on systems without glibc, where nothing is changed.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):  # musl has none
        return False
    taken = [libc.mallopt(name, value) == 1 for name, value in settings.items()]
    return all(taken)


@contextmanager
def memory_given_back(from_bytes: int = FREED_BYTES) -> Iterator[None]:
    """While this lasts, large blocks that are freed go back to the system; the C library would keep them.

    glibc keeps what onnxruntime frees while it reads a graph: a captioner of 280 MB held 480 MB from its load
    on, with this 350 MB, and 400 MB at its peak. Afterwards glibc's limits are those that it comes to by
    itself once large blocks have been freed.

    Args:
        from_bytes: What counts as large. Each such block is a mapping of its own, of which huge pages hold
            only what begins at a multiple of 2 MB: 108 MB of GPT-2's and ViT's weights with 128 KB, 270 MB
            with 4 MB, which saves 1 to 2 % of a photo.
    """
    if not tell_allocator({M_MMAP_THRESHOLD: from_bytes}):
        yield
        return
    try:
        yield
    finally:
        tell_allocator({M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20})
        ctypes.CDLL(None).malloc_trim(0)
