"""A checkpoint's image processor as the manifest's image section, and as one scale and shift per channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from kiloword.export.importing.source import reason_of
from kiloword.runtime.errors import ExportError
from kiloword.runtime.images import load_image
from kiloword.runtime.manifest import ImageSpec

if TYPE_CHECKING:
    from PIL.Image import Image

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOLERANCE = 1e-4
"""Largest difference of a number that the vision model gets."""
_EXACT_BELOW = 100.0
"""Larger numbers are rounded more coarsely than that: from here on a difference counts in proportion."""
_CHANNELS = 3
_LONGEST_SIDE = 4096  # more is a mistake, and would fill the memory


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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
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
    if not facts["do_resize"]:
        raise _other_work("no resizing")
    mean, std = (0.0,) * _CHANNELS, (1.0,) * _CHANNELS
    if facts["do_normalize"]:
        mean, std = _per_channel(facts, "image_mean", 0.0), _per_channel(facts, "image_std", 1.0)
    if not all(std):
        raise ExportError("the image processor divides by 0", expected="image_std above 0", found=str(std))
    factor = _number(facts["rescale_factor"], "rescale_factor") if facts["do_rescale"] else 1.0
    rule = PixelRule(
        image=_image_spec(facts),
        scale=tuple(factor / deviation for deviation in std),
        shift=tuple(value / deviation for value, deviation in zip(mean, std, strict=True)),
    )
    _check_against(processor, rule)
    return rule


def random_pictures(count: int, spec: ImageSpec, seed: int = 0) -> list[Image]:
    """Pictures of random sizes: patches of colour with noise over them.

    Args:
        count: how many.
        spec: their sizes lie around this one.
        seed: of the random numbers.
    """
    from PIL import Image as Pillow

    random = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        height, width = (int(side * random.uniform(0.7, 1.8)) + 1 for side in (spec.height, spec.width))
        cells = random.integers(0, 256, (*random.integers(2, 7, 2), 3), dtype=np.uint8)
        colours = np.asarray(Pillow.fromarray(cells).resize((width, height), Pillow.Resampling.BICUBIC))
        noise = random.normal(0, random.uniform(0, 40), colours.shape)
        pictures.append(Pillow.fromarray((colours + noise).clip(0, 255).astype(np.uint8)))
    return pictures


def pixel_difference(
    processor: Any, rule: PixelRule, pictures: Sequence[Image], pixels: NDArray[np.uint8]
) -> float:
    """How far the numbers that the vision model gets are from those of the checkpoint's own processor.

    Args:
        processor: what `load_processor` returned.
        rule: what was read from it.
        pictures: any.
        pixels: uint8 (B, height, width, 3), the pictures as the runtime loads them.

    Returns:
        The largest difference of a number, less in proportion where a picture has numbers above 100;
        infinite where a picture gets another shape.

    Raises:
        ExportError: the processor cannot prepare a picture, or makes what is no number.
    """
    worst = 0.0
    for picture, found in zip(pictures, rule.normalized(pixels), strict=True):
        try:
            expected = np.asarray(processor(images=picture, return_tensors="np")["pixel_values"])[0]
        except Exception as error:  # whatever its files made of it
            raise ExportError("the checkpoint's own image processor fails", found=reason_of(error)) from error
        if expected.shape != found.shape:
            return float("inf")
        if not np.isfinite(expected).all():
            raise ExportError("the checkpoint's own image processor makes values that are no numbers")
        scale = max(1.0, float(np.abs(expected).max()) / _EXACT_BELOW)
        worst = max(worst, float(np.abs(expected - found).max()) / scale)
    return worst


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


def _check_against(processor: Any, rule: PixelRule) -> None:
    """Whether a processor does what was read from it, and nothing else, before minutes go into an export.

    What it does decides, not its switches: many a checkpoint sets one that its processor does not have, or
    that changes nothing where all pictures have one size, such as ``do_pad``.
    """
    pictures = random_pictures(3, rule.image)
    pictures += [pictures[0].resize(size) for size in ((40, 300), (300, 40))]
    pixels = np.stack([load_image(picture, rule.image) for picture in pictures])
    difference = pixel_difference(processor, rule, pictures, pixels)
    if difference > TOLERANCE:
        switches = sorted(
            name
            for name, value in vars(processor).items()
            if name.startswith("do_") and value and name not in _FACTS
        )
        what = "pictures of another size" if np.isinf(difference) else f"pixels {difference:.2g} apart"
        raise _other_work(", ".join([f"{type(processor).__name__} makes {what}", *switches]))


def _other_work(found: str) -> ExportError:
    return ExportError(
        "the image processor prepares pictures in a way that is not supported",
        expected="resizing, perhaps a crop from the middle, scaling and normalisation",
        found=found,
    )


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)) and np.isfinite(value):
        return float(value)
    raise ExportError(f"the image processor's {name} is no number", expected="a number", found=repr(value))


def _per_channel(facts: Mapping[str, Any], name: str, default: float) -> tuple[float, ...]:
    values = default if facts[name] is None else facts[name]
    if isinstance(values, (list, tuple)):
        found = tuple(_number(value, name) for value in values)
    else:
        found = (_number(values, name),) * _CHANNELS
    if len(found) != _CHANNELS:
        raise ExportError(f"the image processor's {name} is not one of three colours", found=str(values))
    return found


def _image_spec(facts: Mapping[str, Any]) -> ImageSpec:
    size, resample = _sizes(facts, "size"), _filter_name(facts["resample"])
    crop = _sizes(facts, "crop_size") if facts["do_center_crop"] else None
    edge = size.get("shortest_edge")
    if edge and not size.get("longest_edge"):
        if crop is None:
            raise _unknown_size("no crop, so that pictures would have different sizes")
        if max(crop["height"], crop["width"]) > edge:
            raise _unknown_size(f"a crop of {crop} from an edge of {edge}")
        return ImageSpec(crop["height"], crop["width"], "shortest_edge_center_crop", edge, resample)
    if set(size) != {"height", "width"}:
        raise _unknown_size(str(size))
    if crop is None or crop == size:
        return ImageSpec(size["height"], size["width"], resample=resample)
    if crop["height"] > size["height"] or crop["width"] > size["width"]:
        raise _unknown_size(f"a crop of {crop} from {size}")
    return ImageSpec(
        crop["height"],
        crop["width"],
        "stretch_center_crop",
        resample=resample,
        stretch_height=size["height"],
        stretch_width=size["width"],
    )


def _unknown_size(found: str) -> ExportError:
    expected = "a height and a width, or a shortest edge with a crop"
    return ExportError("the image processor's size is not supported", expected=expected, found=found)


def _sizes(facts: Mapping[str, Any], name: str) -> dict[str, int]:
    """A processor's size as a plain dictionary, keys without a value left out."""
    size = facts[name]
    if isinstance(size, int):
        return {"height": size, "width": size}
    items = size.items() if hasattr(size, "items") else getattr(size, "__dict__", {}).items()
    found = {str(key): value for key, value in items if value is not None}
    good = [isinstance(side, int) and 1 <= side <= _LONGEST_SIDE for side in found.values()]
    if not found or not all(good):
        raise ExportError(
            f"the image processor's {name} cannot be used",
            expected=f"sides of 1 to {_LONGEST_SIDE} pixels",
            found=str(found or size),
        )
    return found


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
