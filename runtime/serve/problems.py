"""Errors as HTTP says them: a status and a JSON body that a program and a person can read.

Source: RFC 9457, Problem Details for HTTP APIs; RFC 9110 for the statuses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from kiloword.runtime.errors import ImageError, KilowordError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818  the name that RFC 9457 gives it
    """A request that gets an error for an answer.

    Args:
        status: The HTTP status.
        detail: What is wrong with this request, in a sentence.
        hint: What to do about it.
        headers: Headers that belong to the status, such as ``Retry-After``.
    """

    def __init__(
        self, status: int, detail: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The members of the problem object."""
        return problem_body(self.status, self.detail, self.hint)

    def response(self) -> Response:
        """The whole answer."""
        return problem_response(self.status, self.detail, hint=self.hint, headers=self.headers)


def problem_body(status: int, detail: str, hint: str | None = None) -> dict[str, Any]:
    """The members of a problem object.

    >>> problem_body(404, "there is no such page")["title"]
    'Not Found'
    """
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return body if hint is None else {**body, "hint": hint}


def problem_response(
    status: int, detail: str, *, hint: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer that is a problem."""
    content = json.dumps(problem_body(status, detail, hint), ensure_ascii=True)
    return Response(content, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def problem_of(error: KilowordError) -> Problem:
    """What an error of kiloword means to the one who sent the photo."""
    if isinstance(error, ImageError):
        status = 413 if error.message == "has too many pixels" else 422
        return Problem(status, f"the photo {_without_path(error)}", hint=error.hint)
    return Problem(500, str(error))


def _without_path(error: KilowordError) -> str:
    plain = KilowordError(error.message, expected=error.expected, found=error.found)
    return str(plain)
