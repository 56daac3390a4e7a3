"""The OpenAPI document, made from the same limits and parameters as the checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kiloword import __version__
from kiloword.runtime.serve.bodies import PHOTO_FIELD
from kiloword.runtime.serve.limits import ServeLimits
from kiloword.runtime.serve.metrics import MEDIA_TYPE as METRICS_TYPE
from kiloword.runtime.serve.problems import MEDIA_TYPE as PROBLEM_TYPE
from kiloword.runtime.serve.questions import ATTENTION, EVENT_STREAM, Parameter

_PROBLEMS = {
    400: "No valid request: no Host, an empty body, malformed multipart.",
    401: "The token is missing or wrong.",
    403: "The Host is not one of this server's names, or a page of another origin asks.",
    405: "This method is not possible here.",
    408: "The body did not arrive in time.",
    411: "Neither Content-Length nor a chunked body.",
    413: "Too many bytes or pixels.",
    415: "A body of this type is no photo.",
    422: "A parameter is wrong, there are too many photos, or the photo cannot be read.",
    429: "Too many photos from this address; ask again after Retry-After seconds.",
    503: "Too many photos wait; ask again after Retry-After seconds.",
}
_EVENTS = """`text` {index, text}: the whole words of a caption so far; with more than one beam, words that
were shown may still change. `caption` {index, ...}: a caption as in the JSON answer.
`error` {index, name, error}: a photo that failed. `done` {photos}: the end."""


def openapi_document(
    limits: ServeLimits, parameters: Mapping[str, Parameter], *, with_token: bool, with_attention: bool
) -> dict[str, Any]:
    """Describe the server to programs.

    Args:
        limits: The limits of this server.
        parameters: The parameters of a query, by name.
        with_token: Whether requests must carry a token.
        with_attention: Whether the bundle can tell where it looked.

    Returns:
        The document, OpenAPI 3.1.
    """
    closed: list[dict[str, list[str]]] = [{"token": []}] if with_token else []
    schemes = {"token": {"type": "http", "scheme": "bearer"}} if with_token else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kiloword",
            "version": __version__,
            "description": "Captions for photos, on this machine.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/captions": {
                "post": {
                    **_captions(limits, parameters, with_token, with_attention),
                    "security": closed,
                }
            },
            "/v1/bundle": {
                "get": {
                    "operationId": "bundle",
                    "summary": "The bundle that captions, and what may be sent to it.",
                    "security": closed,
                    "responses": _answers(_json("Facts.", _ref("Bundle")), 400, *_access(with_token)),
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the server lives.",
                    "security": [],
                    "responses": _answers(_json("It does.", _ref("Health")), 400, 403),
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Numbers for Prometheus.",
                    "security": closed,
                    "responses": _answers(
                        {"description": "Text.", "content": {METRICS_TYPE: {"schema": {"type": "string"}}}},
                        400,
                        *_access(with_token),
                    ),
                }
            },
        },
        "components": {"securitySchemes": schemes, "schemas": _schemas(limits)},
    }


def _captions(
    limits: ServeLimits, parameters: Mapping[str, Parameter], with_token: bool, with_attention: bool
) -> dict[str, Any]:
    photo = {"type": "string", "format": "binary", "minLength": 1}
    photos = {"type": "array", "items": photo, "minItems": 1, "maxItems": limits.max_photos}
    form = {
        "type": "object",
        "properties": {PHOTO_FIELD: photos},
        "required": [PHOTO_FIELD],
        "additionalProperties": False,
    }
    answer = {
        "description": "Captions, in the order of the photos.",
        "content": {
            "application/json": {"schema": _ref("Captions")},
            EVENT_STREAM: {"schema": {"type": "string", "description": _EVENTS}},
        },
    }
    problems = (400, *_access(with_token), 408, 411, 413, 415, 422, 429, 503)
    return {
        "operationId": "caption",
        "summary": "Caption photos.",
        "description": "With `Accept: text/event-stream` the words come as they are written.",
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": f"{one.text} The bundle's own where it is missing.",
                "schema": one.schema(),
            }
            for name, one in parameters.items()
        ]
        + [_attention(with_attention)],
        "requestBody": {
            "required": True,
            "description": f"A photo as it is, or up to {limits.max_photos} as parts named `{PHOTO_FIELD}`.",
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": {"schema": photo},
                "application/octet-stream": {"schema": photo},
            },
        },
        "responses": _answers(answer, *problems),
    }


def _attention(possible: bool) -> dict[str, Any]:
    schema = {"type": "boolean"} if possible else {"enum": [False]}
    text = "Also say where the model looked for each word; not every bundle can."
    return {"name": ATTENTION, "in": "query", "required": False, "description": text, "schema": schema}


def _schemas(limits: ServeLimits) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    name = {"type": ["string", "null"], "description": "The file's name, where it was sent."}
    count = {"type": "integer", "minimum": 0}
    return {
        "Caption": {
            "type": "object",
            "required": ["name", "caption", "spoken", "confidence", "bundle", "latency_ms"],
            "properties": {
                "name": name,
                "caption": text,
                "spoken": {
                    "type": "string",
                    "description": "What people should read: with a 'probably', or that it cannot be told.",
                },
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
                "bundle": text,
                "latency_ms": {
                    "type": "number",
                    "minimum": 0,
                    "description": "From the whole photo to its caption, waiting included.",
                },
                "words": {"type": "array", "items": text},
                "attention": {
                    "type": "array",
                    "description": "For each word, rows from the top: weights that sum to 1.",
                    "items": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                },
            },
        },
        "Failure": {
            "type": "object",
            "required": ["name", "error"],
            "properties": {"name": name, "error": _ref("Problem")},
        },
        "Captions": {
            "type": "object",
            "required": ["captions"],
            "properties": {
                "captions": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": limits.max_photos,
                    "items": {"anyOf": [_ref("Caption"), _ref("Failure")]},
                }
            },
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "hint": text,
            },
        },
        "Health": {
            "type": "object",
            "required": ["status", "version"],
            "properties": {"status": {"const": "ok"}, "version": text},
        },
        "Bundle": {
            "type": "object",
            "required": ["name", "precision", "generation", "image", "attention", "max_photos"],
            "properties": {
                "name": text,
                "precision": {"enum": ["fp32", "fp16", "int8"]},
                "provider": text,
                "generation": {"type": "object"},
                "image": {"type": "object"},
                "attention": {"type": "boolean"},
                "max_photos": count,
                "max_photo_bytes": count,
            },
        },
    }


def _access(with_token: bool) -> tuple[int, ...]:
    return (401, 403) if with_token else (403,)


def _answers(good: dict[str, Any], *problems: int) -> dict[str, Any]:
    later = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
    found = {
        str(status): {
            "description": _PROBLEMS[status],
            "content": {PROBLEM_TYPE: {"schema": _ref("Problem")}},
            **({"headers": later} if status in (429, 503) else {}),
        }
        for status in (*problems, 405)
    }
    return {"200": good, **found}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
