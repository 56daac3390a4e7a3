"""What a request asks for in its query and its Accept header."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from kiloword.runtime.manifest import GenerationSettings, TokenSpec, check_generation
from kiloword.runtime.serve.batching import SearchSettings
from kiloword.runtime.serve.limits import ServeLimits
from kiloword.runtime.serve.problems import Problem

EVENT_STREAM = "text/event-stream"
ATTENTION = "attention"
"""The parameter that asks where the decoder looked."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the query; the OpenAPI document and the checks are made from the same ones."""

    kind: type
    text: str
    lowest: float
    highest: float

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        name = "integer" if self.kind is int else "number"
        return {"type": name, "minimum": self.kind(self.lowest), "maximum": self.kind(self.highest)}

    def read(self, value: str) -> float | int | None:
        """The value, or None where it is no such number or lies outside."""
        pattern = r"-?\d{1,9}" if self.kind is int else r"-?\d{1,9}(\.\d{1,18})?([eE][-+]?\d{1,3})?"
        if not re.fullmatch(pattern, value, re.ASCII):
            return None
        number: float | int = self.kind(value)
        return number if math.isfinite(number) and self.lowest <= number <= self.highest else None


def parameters(limits: ServeLimits, tokens: TokenSpec) -> dict[str, Parameter]:
    """The parameters of a request for captions, as this bundle and these limits allow them."""
    longest = limits.max_new_tokens
    if tokens.max_sequence_length is not None:
        longest = min(longest, tokens.max_sequence_length - len(tokens.prompt_token_ids) + 1)
    beams = min(limits.max_beams, tokens.vocab_size // 2)
    return {
        "num_beams": Parameter(int, "Hypotheses kept; 1 is greedy.", 1, beams),
        "max_new_tokens": Parameter(int, "Longest caption, in tokens.", 1, longest),
        "length_penalty": Parameter(float, "More favours longer captions.", -10, 10),
        "no_repeat_ngram_size": Parameter(int, "No n tokens occur twice in a caption; 0 allows all.", 0, 64),
    }


class Questions:
    """Reads queries.

    Args:
        known: What `parameters` returned.
        with_attention: Whether the bundle can tell where it looked.
        defaults: What holds where a query is silent.
        tokens: The bundle's token ids.
    """

    def __init__(
        self,
        known: Mapping[str, Parameter],
        defaults: GenerationSettings,
        tokens: TokenSpec,
        *,
        with_attention: bool,
    ) -> None:
        self._known = known
        self._with_attention = with_attention
        self._defaults = defaults
        self._tokens = tokens

    def read(self, request: Request) -> SearchSettings:
        """The settings of a request.

        Raises:
            Problem: 422, with everything that is wrong.
        """
        problems: list[str] = []
        values: dict[str, float | int] = {}
        attention = self._attention(request, problems)
        for name, value in request.query_params.multi_items():
            if name == ATTENTION:
                continue
            parameter = self._known.get(name)
            number = None if parameter is None else parameter.read(value)
            if parameter is None:
                problems.append(f"{name[:80]!r}: expected one of {', '.join((*self._known, ATTENTION))}")
            elif name in values:
                problems.append(f"{name}: expected once")
            elif number is None:
                expected = f"{parameter.lowest:g} to {parameter.highest:g}"
                problems.append(f"{name}: expected {expected}, found {value[:80]!r}")
            else:
                values[name] = number
        settings = replace(self._defaults, **values)  # type: ignore[arg-type]
        problems = problems or check_generation(settings, self._tokens)
        if problems:
            raise Problem(422, "the query is wrong: " + "; ".join(problems))
        return SearchSettings(**values, attention=attention)  # type: ignore[arg-type]

    def _attention(self, request: Request, problems: list[str]) -> bool:
        given = request.query_params.getlist(ATTENTION) or ["false"]
        if len(given) > 1 or given[0] not in ("true", "false"):
            problems.append(f"{ATTENTION}: expected true or false, once")
        elif given[0] == "true" and not self._with_attention:
            problems.append(f"{ATTENTION}: this bundle cannot tell where it looked")
        return given[0] == "true"


def wants_stream(request: Request) -> bool:
    """Whether the client prefers events to one JSON object."""
    accepted = request.headers.get("accept", "")
    return any(part.partition(";")[0].strip().lower() == EVENT_STREAM for part in accepted.split(","))
