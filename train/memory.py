"""Keeps freed memory in the process, because giving it back costs more than the mathematics."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Parameter numbers of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to reuse freed blocks instead of returning them to the kernel.

    Each activation of a training step is tens of megabytes. By default glibc maps such a block afresh and
    unmaps it when freed, so that every step pays for page faults over all of it. Measured on two cores with
    torch 2.13: a (12608, 192) x (192, 768) product runs at 85 GFLOP/s before and 227 GFLOP/s after.

    Returns:
        True where it took effect; False on systems without glibc, where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**28, _M_ARENA_MAX: 1}
    done = all(mallopt(name, value) == 1 for name, value in settings.items())
    logger.debug("glibc keeps freed memory: %s", done)
    return done
