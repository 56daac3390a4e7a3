"""Reading JSON into frozen dataclasses, strictly: the annotations are the schema.

Files that people or programs write are checked once, here, and every problem is collected, so that nobody
repairs a file one error at a time. Unknown keys are problems too: a misspelt key that is ignored is a setting
that is lost.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")

_JSON_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def read_record(cls: type[Record], data: object, where: str, problems: list[str]) -> Record | None:
    """Build a dataclass from parsed JSON.

    Args:
        cls: A dataclass whose fields are annotated with str, int, float, bool, None, Literal, unions of
            these, ``tuple[X, ...]``, ``Mapping[str, X]``, ``Any`` or other such dataclasses. A class that
            defines ``kinds()`` stands for the classes that this returns by name: the key ``kind`` of the
            data chooses among them, by default the first.
        data: What ``json.load`` returned.
        where: Name of this place in the file, for messages, such as ``decoder.inputs[0]``.
        problems: Gets one sentence for each thing that is wrong.

    Returns:
        The record, or None when it has a problem.

    >>> from kiloword.runtime.manifest import GenerationSettings
    >>> problems = []
    >>> read_record(GenerationSettings, {"num_beams": "three", "beams": 3}, "generation", problems)
    >>> for problem in problems:
    ...     print(problem)
    generation has the unknown key 'beams'
    generation.num_beams: expected a whole number, found 'three'
    """
    if not isinstance(data, Mapping):
        problems.append(f"{where}: expected an object, found {_shown(data)}")
        return None
    if "kinds" in vars(cls):
        chosen = _kind_of(cls, data, where, problems)
        return None if chosen is None else read_record(chosen, data, where, problems)
    known, hints = _facts_of(cls)  # type: ignore[arg-type]
    before = len(problems)
    problems.extend(f"{where} has the unknown key {key!r}" for key in data if key not in known)
    values = {
        name: _read_value(hints[name], data[name], f"{where}.{name}", problems)
        for name in known
        if name in data
    }
    missing = [name for name, field in known.items() if name not in data and _is_required(field)]
    problems.extend(f"{where} lacks the key {name!r}" for name in missing)
    return None if len(problems) > before else cls(**values)


@cache
def _facts_of(cls: type) -> tuple[dict[str, Field[Any]], dict[str, Any]]:
    """The fields of a dataclass and their types.

    A manifest has some sixty records of one class, and looking at a class takes longer than reading a record.
    """
    return {field.name: field for field in fields(cls)}, get_type_hints(cls)


def _kind_of(
    cls: type[Record], data: Mapping[Any, Any], where: str, problems: list[str]
) -> type[Record] | None:
    kinds: Mapping[str, type[Record]] = cls.kinds()  # type: ignore[attr-defined]
    kind = data.get("kind", next(iter(kinds)))
    if isinstance(kind, str) and kind in kinds:
        return kinds[kind]
    problems.append(f"{where}.kind: expected one of {', '.join(map(repr, kinds))}, found {_shown(kind)}")
    return None


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _read_value(hint: Any, data: object, where: str, problems: list[str]) -> Any:
    """Convert one value to its annotated type, or note why it cannot be."""
    hint = _record_of(hint) if isinstance(data, Mapping) else hint
    origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return read_record(hint, data, where, problems)
    if origin is tuple:
        return _read_list(get_args(hint)[0], data, where, problems)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(get_args(hint)[1], data, where, problems)
    if not _fits(hint, data):
        problems.append(f"{where}: expected {_described(hint)}, found {_shown(data)}")
        return None
    return float(data) if hint is float and isinstance(data, int) else data


def _record_of(hint: Any) -> Any:
    """The dataclass in an annotation such as ``Record | None``, which an object must be, or the hint."""
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    return next((choice for choice in choices if is_dataclass(choice)), hint)


def _read_list(hint: Any, data: object, where: str, problems: list[str]) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        problems.append(f"{where}: expected a list, found {_shown(data)}")
        return ()
    return tuple(_read_value(hint, item, f"{where}[{index}]", problems) for index, item in enumerate(data))


def _read_mapping(hint: Any, data: object, where: str, problems: list[str]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        problems.append(f"{where}: expected an object, found {_shown(data)}")
        return {}
    return {str(key): _read_value(hint, value, f"{where}.{key}", problems) for key, value in data.items()}


def _fits(hint: Any, data: object) -> bool:
    """True when a plain JSON value matches an annotation; true and false are not numbers here."""
    if hint is Any:
        return True
    origin = get_origin(hint)
    if origin is Literal:
        return data in get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(choice, data) for choice in get_args(hint))
    if isinstance(data, bool):
        return hint is bool
    return isinstance(data, (int, float) if hint is float else hint)


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(_described(choice) for choice in get_args(hint))
    return "an object" if is_dataclass(hint) else _JSON_NAMES.get(hint, str(hint))


def _shown(data: object) -> str:
    """A value as it can be shown in one line."""
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
