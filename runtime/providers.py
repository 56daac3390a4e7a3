"""Execution providers: what may run a bundle, what of it is there, and what is known to go well."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from kiloword.runtime.bundle import Bundle
from kiloword.runtime.errors import ProviderError

_log = logging.getLogger(__name__)

AUTO = "auto"


@dataclass(frozen=True)
class _Provider:
    """What onnxruntime calls an execution provider, and the package that brings it."""

    onnxruntime_name: str
    package: str


PROVIDERS: Mapping[str, _Provider] = {
    "cpu": _Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": _Provider("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": _Provider("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": _Provider("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "coreml": _Provider("CoreMLExecutionProvider", "onnxruntime (on macOS)"),
    "directml": _Provider("DmlExecutionProvider", "onnxruntime-directml (on Windows)"),
}
"""The execution providers that can be asked for."""

# What `auto` tries before the processor. TensorRT builds engines for minutes at the first run, and CoreML and
# OpenVINO compile again for every new sequence length: right when asked for, wrong as a surprise.
_AUTO_ORDER = ("cuda", "directml")

_GPU_PROVIDERS = ("cuda", "tensorrt", "coreml", "directml")


def available_providers() -> list[str]:
    """Short names of the execution providers in this onnxruntime; they may still fail to load."""
    import onnxruntime

    present = set(onnxruntime.get_available_providers())
    return [name for name, provider in PROVIDERS.items() if provider.onnxruntime_name in present]


def auto_candidates(bundle: Bundle) -> list[str]:
    """What ``auto`` tries for a bundle before the processor, the best first."""
    # int8 made for the processor is slower on a GPU and was seen to be wrong there.
    if bundle.manifest.precision == "int8":
        return []
    present = available_providers()
    return [name for name in _AUTO_ORDER if name in present]


def check_available(provider: str) -> None:
    """Refuse a provider that this onnxruntime does not have.

    Raises:
        ProviderError: It is unknown, or not there.
    """
    available = available_providers()
    if provider in available:
        return
    if provider not in PROVIDERS:
        raise ProviderError(
            f"unknown provider {provider!r}",
            expected=f"one of {', '.join([AUTO, *PROVIDERS])}",
            found=f"{provider!r}; available here: {', '.join(available)}",
            hint="--provider auto",
        )
    raise ProviderError(
        f"provider {provider} is not in this onnxruntime",
        expected=PROVIDERS[provider].onnxruntime_name,
        found=f"available here: {', '.join(available)}",
        hint=f"install {PROVIDERS[provider].package} in place of onnxruntime, or --provider auto",
    )


def warn_of_unchecked(bundle: Bundle, provider: str) -> None:
    """Say what is known to go wrong on a provider, or not known to go right."""
    manifest = bundle.manifest
    if manifest.precision == "int8" and provider in _GPU_PROVIDERS:
        _log.warning(
            "%s: int8 was made for the processor and may be slow or wrong on %s; for this device: "
            "kiloword export --precision fp16",
            *(bundle.directory, provider),
        )
    elif manifest.checked_providers and provider not in manifest.checked_providers:
        _log.warning(
            "%s: the captions were checked on %s, not on %s; kiloword export --check-on %s compares them",
            *(bundle.directory, ", ".join(manifest.checked_providers), provider, provider),
        )
