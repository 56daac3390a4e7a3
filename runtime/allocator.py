"""glibc's allocator: when it gives freed memory back to the system. Other C libraries are left alone."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -3, -4, -8


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
def memory_given_back() -> Iterator[None]:
    """While this lasts, what is freed goes back to the system at once, where the C library would keep it.

    glibc keeps what onnxruntime frees while it reads a graph: a captioner of 280 MB held 480 MB from its load
    on, with this 350 MB, and 400 MB at its peak. Afterwards glibc's limits are those that it comes to by
    itself once large blocks have been freed.
    """
    if not tell_allocator({M_MMAP_THRESHOLD: 128 << 10}):
        yield
        return
    try:
        yield
    finally:
        tell_allocator({M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20})
        ctypes.CDLL(None).malloc_trim(0)
