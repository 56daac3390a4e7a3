"""A checkpoint's image processor as the manifest's image section, and as one scale and shift per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from kiloword.export.importing.source import reason_of
from kiloword.runtime.errors import ExportError
from kiloword.runtime.manifest import ImageSpec

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_CHANNELS = 3


@dataclass(frozen=True)
class PixelRule:
    """How a picture becomes numbers."""

    image: ImageSpec
    """Resizing and cropping, in bytes."""
    scale: tuple[float, ...]
    """What each channel's bytes are multiplied with."""
    shift: tuple[float, ...]
    """What is taken away afterwards."""

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, height, width, 3) -> float32 (B, 3, height, width), the numbers of the vision model."""
        values = pixels.transpose(0, 3, 1, 2).astype(np.float32)
        scale = np.array(self.scale, np.float32).reshape(-1, 1, 1)
        shift = np.array(self.shift, np.float32).reshape(-1, 1, 1)
        result: NDArray[np.float32] = values * scale - shift
        return result


def load_processor(directory: Path) -> Any:
    """The image processor of a checkpoint, of those in transformers the one that works with Pillow.

    Raises:
        ExportError: there is none, or it cannot be read.
    """
    from transformers import AutoImageProcessor

    if not any((directory / name).is_file() for name in PROCESSOR_FILES):
        raise ExportError(
            "does not say how pictures are prepared",
            path=directory,
            expected=PROCESSOR_FILES[0],
            found="no such file",
            hint="copy it from the checkpoint that this one was trained from",
        )
    try:
        # Pillow, because the runtime resizes with it, too: torchvision's results differ by rounding.
        return AutoImageProcessor.from_pretrained(
            directory, backend="pil", trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ExportError(
            "the image processor cannot be loaded", path=directory, found=reason_of(error)
        ) from error


def pixel_rule(processor: Any) -> PixelRule:
    """What a processor does, if the runtime can do the same.

    Args:
        processor: what `load_processor` returned.

    Raises:
        ExportError: it does something that the runtime cannot.
    """
    facts: dict[str, Any] = {name: getattr(processor, name, None) for name in _FACTS}
    _refuse_other_work(processor)
    mean, std = _per_channel(facts["image_mean"], 0.0), _per_channel(facts["image_std"], 1.0)
    if not facts["do_normalize"]:
        mean, std = (0.0,) * _CHANNELS, (1.0,) * _CHANNELS
    if not all(std):
        raise ExportError("the image processor divides by 0", expected="image_std above 0", found=str(std))
    factor = float(facts["rescale_factor"]) if facts["do_rescale"] else 1.0
    return PixelRule(
        image=_image_spec(facts),
        scale=tuple(factor / deviation for deviation in std),
        shift=tuple(value / deviation for value, deviation in zip(mean, std, strict=True)),
    )


_FACTS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
# Switches of transformers' processors that change pixels in ways that the runtime does not know.
_OTHER_WORK = ("do_pad", "do_thumbnail", "do_align_long_axis", "do_flip_channel_order", "do_image_splitting")


def _refuse_other_work(processor: Any) -> None:
    found = [name for name in _OTHER_WORK if getattr(processor, name, None)]
    if found or not getattr(processor, "do_resize", None):
        raise ExportError(
            "the image processor prepares pictures in a way that is not supported",
            expected="resizing, perhaps a crop from the middle, scaling and normalisation",
            found=", ".join(found) or "no resizing",
        )


def _per_channel(values: Sequence[float] | float | None, default: float) -> tuple[float, ...]:
    if values is None:
        return (default,) * _CHANNELS
    if isinstance(values, (int, float)):
        return (float(values),) * _CHANNELS
    return tuple(float(value) for value in values)


def _image_spec(facts: Mapping[str, Any]) -> ImageSpec:
    size, resample = _sizes(facts["size"]), _filter_name(facts["resample"])
    crop = _sizes(facts["crop_size"]) if facts["do_center_crop"] else None
    edge = size.get("shortest_edge")
    if edge and not size.get("longest_edge"):
        if crop is None:
            raise _unknown_size(facts["size"], "no crop, so that pictures would have different sizes")
        if max(crop["height"], crop["width"]) > edge:
            raise _unknown_size(facts["crop_size"], f"a crop of {crop} from an edge of {edge}")
        return ImageSpec(crop["height"], crop["width"], "shortest_edge_center_crop", edge, resample)
    if set(size) != {"height", "width"}:
        raise _unknown_size(facts["size"], str(size))
    if crop is None or crop == size:
        return ImageSpec(size["height"], size["width"], resample=resample)
    if crop["height"] > size["height"] or crop["width"] > size["width"]:
        raise _unknown_size(facts["crop_size"], f"a crop of {crop} from {size}")
    return ImageSpec(
        crop["height"],
        crop["width"],
        "stretch_center_crop",
        resample=resample,
        stretch_height=size["height"],
        stretch_width=size["width"],
    )


def _unknown_size(size: Any, found: str) -> ExportError:
    expected = "a height and a width, or a shortest edge with a crop"
    return ExportError(f"the image processor's size {size} is not supported", expected=expected, found=found)


def _sizes(size: Any) -> dict[str, int]:
    """A processor's size as a plain dictionary, keys without a value left out."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    items = size.items() if hasattr(size, "items") else vars(size).items()
    return {str(key): int(value) for key, value in items if value is not None}


Filter = Literal["bicubic", "bilinear", "lanczos", "box", "hamming", "nearest"]


def _filter_name(resample: Any) -> Filter:
    """Pillow's number of a filter as the manifest's name of it."""
    from PIL.Image import Resampling

    names: tuple[Filter, ...] = get_args(get_type_hints(ImageSpec)["resample"])
    number = Resampling.BILINEAR if resample is None else resample
    found = next((name for name in names if Resampling[name.upper()] == number), None)
    if found is None:
        raise ExportError(
            "the image processor's resample is not known", expected="0 to 5", found=str(resample)
        )
    return found
