"""The ways to quantize a bundle, by name: one recipe for each graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from kiloword.runtime.errors import ConfigError

EncoderRecipe = Literal["static", "dynamic", "weight-only"]
DecoderRecipe = Literal["static", "weight-only", "dynamic"]
Purpose = Literal["reproducible", "speed"]

AUTO: Final = "auto"
_SHORT: Final[dict[str, tuple[EncoderRecipe, DecoderRecipe]]] = {
    "static": ("static", "static"),
    "dynamic": ("dynamic", "dynamic"),
    "weight-only": ("weight-only", "weight-only"),
}
# What `auto` tries.
_CANDIDATES: Final[dict[Purpose, tuple[str, ...]]] = {
    "reproducible": ("static", "static+weight-only", "weight-only"),
    "speed": (
        "static",
        "static+weight-only",
        "weight-only",
        "static+dynamic",
        "dynamic+weight-only",
        "dynamic",
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How both graphs of a bundle become int8; `kiloword.export.quantize` says what each word means."""

    name: str
    encoder: EncoderRecipe
    decoder: DecoderRecipe

    @property
    def batch_invariant(self) -> bool:
        """Whether a photo's caption is its own, whatever stands beside it in the batch."""
        return "dynamic" not in (self.encoder, self.decoder)


def read_recipe(name: str) -> Recipe:
    """The recipe of a name: ``static``, ``dynamic``, ``weight-only``, or ``ENCODER+DECODER``.

    Raises:
        ConfigError: there is no such recipe.

    >>> read_recipe("static"), read_recipe("dynamic+weight-only").batch_invariant
    (Recipe(name='static', encoder='static', decoder='static'), False)
    """
    encoder, plus, decoder = name.partition("+")
    if name in _SHORT:
        return Recipe(name, *_SHORT[name])
    for first in get_args(EncoderRecipe):
        for second in get_args(DecoderRecipe):
            if plus and (encoder, decoder) == (first, second):
                pair = (first, second)
                short = next((key for key, value in _SHORT.items() if value == pair), name)
                return Recipe(short, first, second)
    raise ConfigError(
        [f"expected a recipe for int8: {recipe_names()}; found {name!r}"], hint="--quantize auto"
    )


def candidates(name: str, purpose: Purpose) -> list[Recipe]:
    """The recipes to try: the one that is named, or for ``auto`` all that suit the purpose."""
    names = _CANDIDATES[purpose] if name == AUTO else (name,)
    return [read_recipe(one) for one in names]


def recipe_names() -> str:
    """All names, for people."""
    encoders, decoders = ("|".join(get_args(kind)) for kind in (EncoderRecipe, DecoderRecipe))
    return f"{', '.join((AUTO, *_SHORT))}, or one for each graph, {encoders} + {decoders}"


def is_recipe_name(word: str) -> bool:
    """Whether a word of the command line names a recipe, ``auto`` included."""
    if word == AUTO:
        return True
    try:
        read_recipe(word)
    except ConfigError:
        return False
    return True
