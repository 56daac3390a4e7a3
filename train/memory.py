"""Keeps freed memory in the process, because giving it back costs more than the mathematics."""

from __future__ import annotations

import logging

from kiloword.runtime.allocator import (
    M_ARENA_MAX,
    M_MMAP_MAX,
    M_TOP_PAD,
    M_TRIM_THRESHOLD,
    tell_allocator,
)

logger = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to reuse freed blocks instead of returning them to the kernel.

    Each activation of a training step is tens of megabytes. By default glibc maps such a block afresh and
    unmaps it when freed, so that every step pays for page faults over all of it. Measured on two cores with
    torch 2.13: a (12608, 192) x (192, 768) product runs at 85 GFLOP/s before and 227 GFLOP/s after.

    Returns:
        True where it took effect; False on systems without glibc, where nothing is changed.
    """
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28, M_ARENA_MAX: 1}
    done = tell_allocator(settings)
    logger.debug("glibc keeps freed memory: %s", done)
    return done
