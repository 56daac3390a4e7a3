"""What this machine is, as far as captioning goes: its processor's instructions for bytes, cores, memory."""

from __future__ import annotations

import importlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")

# How each is called in /proc/cpuinfo, and by numpy where there is no such file.
_INSTRUCTIONS = {
    "AVX2": ("avx2", "AVX2"),
    "AVX-VNNI": ("avx_vnni", "AVX_VNNI"),
    "AVX-512": ("avx512f", "AVX512F"),
    "AVX-512 VNNI": ("avx512_vnni", "AVX512VNNI"),
    "AMX int8": ("amx_int8", "AMX_INT8"),
    "NEON": ("asimd", "ASIMD"),
    "dot product": ("asimddp", "ASIMDDP"),
    "int8 matrix product": ("i8mm", "I8MM"),
}
_DOT_PRODUCTS = frozenset({"AVX-VNNI", "AVX-512 VNNI", "AMX int8", "dot product", "int8 matrix product"})


@dataclass(frozen=True)
class Processor:
    """What decides how fast, and how exactly, bytes are multiplied."""

    name: str
    architecture: str
    """Such as ``x86_64`` or ``arm64``."""
    instructions: tuple[str, ...]
    """Those that matter and are there, from `Processor.known`."""

    @property
    def multiplies_bytes(self) -> bool:
        """Whether four products of bytes are added up in 32 bits by one instruction."""
        return bool(_DOT_PRODUCTS & set(self.instructions))

    @property
    def int8_advice(self) -> str:
        """What that means for int8 bundles, in one sentence."""
        if self.multiplies_bytes:
            return "multiplies bytes exactly and at full speed"
        if "AVX2" in self.instructions:
            return (
                "adds products of bytes in 16 bits: bundles made by `kiloword export --quantize` keep "
                "within them, others may need reduced range"
            )
        return "has no instructions for bytes that we know of: int8 may be no faster than fp32"


def processor(root: Path = _ROOT) -> Processor:
    """Describe the processor.

    Args:
        root: Where ``proc`` is mounted; tests point it at made files.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    flags = flags or _numpy_features()
    present = tuple(name for name, spellings in _INSTRUCTIONS.items() if flags.intersection(spellings))
    return Processor(_name(cpuinfo), platform.machine(), present)


def processor_name() -> str:
    """What the processor calls itself."""
    return processor().name


def memory_bytes(root: Path = _ROOT) -> tuple[int | None, int | None]:
    """Memory of the machine, and what is free for programs; None where the system does not tell."""
    meminfo = _read(root / "proc/meminfo")
    total, free = (
        re.search(rf"^{key}:\s*(\d+) kB", meminfo, re.MULTILINE) for key in ("MemTotal", "MemAvailable")
    )
    if total is None:
        return _total_by_sysconf(), None
    return int(total[1]) * 1024, int(free[1]) * 1024 if free else None


def memory_limit_bytes(root: Path = _ROOT) -> int | None:
    """What the control group allows, as in containers; None where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(root / "sys/fs/cgroup" / name).strip()
        # Version 1 says "no limit" by a number near 2 ** 63.
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def _total_by_sysconf() -> int | None:
    import os

    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _name(cpuinfo: str) -> str:
    names = re.findall(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return names[0].strip() if names else platform.processor() or platform.machine() or "unknown"


def _numpy_features() -> set[str]:
    """What numpy found out about the processor, for systems without /proc."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        try:
            features = importlib.import_module(module).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return {name for name, present in features.items() if present}
    return set()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
