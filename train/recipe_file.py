"""Reads training recipes: a TOML file with its base under it and `--set` over it, or a checkpoint's table.

All mistakes are reported at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kiloword.runtime.errors import ConfigError
from kiloword.runtime.schema import read_record
from kiloword.train.recipe import SECTIONS, Recipe, Section, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    The key ``base`` names another one, by name or by file (relative to this one): what this one does not say,
    that one says. Lists, such as the stages, are replaced as a whole.

    Args:
        path: a TOML file, or the name of a recipe that comes with the package, such as ``tiny``.
        overrides: ``section.key=value`` items that replace what the file says; values are written as in TOML,
            list items are addressed by number (``stages.0.passes=3``).

    Returns:
        The checked recipe.

    Raises:
        ConfigError: the file is missing or no TOML, or any of its values is wrong; all problems are listed.
    """
    table, source = _read_table(path)
    problems: list[str] = []
    for override in overrides:
        _override(table, override, problems)
    return _checked(table, problems, source)


def _read_table(path: str | Path, known: tuple[Path, ...] = ()) -> tuple[dict[str, Any], Path]:
    """A recipe's table with its ``base`` under it, and the file that it is in."""
    source = _find_recipe(path)
    if source in known:
        raise ConfigError([f"base: this recipe is its own base, by {known[-1]}"], path=source)
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"not a TOML file: {error}"], path=source) from error
    base = table.pop("base", None)
    if base is None:
        return table, source
    if not isinstance(base, str):
        raise ConfigError([f"base: expected the name or the file of a recipe, found {base!r}"], path=source)
    beside = source.parent / base
    under, _ = _read_table(beside if beside.is_file() else base, (*known, source))
    return _laid_over(under, table), source


def _laid_over(under: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, but one that names another ``kind`` replaces; so does everything else."""
    merged = dict(under)
    for key, value in table.items():
        below = under.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and _same_kind(below, value):
            merged[key] = _laid_over(below, value)
        else:
            merged[key] = value
    return merged


def _same_kind(below: dict[str, Any], above: dict[str, Any]) -> bool:
    return "kind" not in above or above["kind"] == below.get("kind")


def recipe_from_table(table: object) -> Recipe:
    """The recipe that ``Recipe.as_table`` wrote. Raises ``ConfigError`` for another version or damage."""
    return _checked(table, [], None)


def _checked(table: object, problems: list[str], source: Path | None) -> Recipe:
    recipe = read_record(Recipe, table, "recipe", problems)
    if recipe is not None:
        problems.extend(recipe.problems())
    elif isinstance(table, dict):  # a damaged checkpoint's recipe may be anything that JSON can say
        problems.extend(_readable_problems(table))
    if problems or recipe is None:
        raise ConfigError(problems, path=source)
    return recipe


def _readable_problems(table: dict[str, Any]) -> list[str]:
    """Senseless values of the sections that can be read, where another one cannot."""
    stages = table.get("stages")
    parts: list[tuple[str, type[Section], Any]] = [
        *((name, kind, table.get(name, {})) for name, kind in SECTIONS.items()),
        *((f"stages[{i}]", Stage, part) for i, part in enumerate(stages if isinstance(stages, list) else [])),
    ]
    read = [(name, read_record(kind, part, name, [])) for name, kind, part in parts]
    return [f"{name}.{problem}" for name, section in read if section for problem in section.problems()]


def _find_recipe(path: str | Path) -> Path:
    given = Path(path)
    if given.is_file():
        return given
    shipped = Path(__file__).parent / "recipes"
    if (named := shipped / f"{path}.toml").is_file():
        return named
    names = ", ".join(sorted(recipe.stem for recipe in shipped.glob("*.toml")))
    raise ConfigError([f"no such recipe; give a TOML file or one of: {names}"], path=path)


def _override(table: dict[str, Any], override: str, problems: list[str]) -> None:
    """Applies one ``section.key=value``."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        problems.append(f"--set {override}: expected section.key=value")
        return
    place: Any = table
    *sections, last = key.strip().split(".")
    try:
        for section in sections:
            place = place[int(section)] if isinstance(place, list) else place.setdefault(section, {})
        place[int(last) if isinstance(place, list) else last] = _toml_value(text.strip())
    except (IndexError, ValueError, TypeError, AttributeError):
        problems.append(f"--set {override}: there is no {key!r} in this recipe")


def _toml_value(text: str) -> Any:
    """A value as TOML writes it; text without quotes is taken as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
