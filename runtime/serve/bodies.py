"""From a request to the photos in it: read with limits, by what its Content-Type says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
from starlette.requests import ClientDisconnect, Request

from kiloword.runtime.serve.limits import MIB, ServeLimits
from kiloword.runtime.serve.problems import Problem

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

PHOTO_FIELD = "photo"
"""Name of the parts of a multipart body."""

_RAW_TYPES = ("application/octet-stream",)
_HOW = "send the photo with its own type (-H 'Content-Type: image/jpeg'), or as multipart (-F photo=@cat.jpg)"
_MAX_HEADER_BYTES = 4096


@dataclass(frozen=True)
class Upload:
    """One photo as it was sent."""

    data: bytes
    """The encoded picture."""
    name: str | None = None
    """The file's name, where the client told it."""


async def read_uploads(request: Request, limits: ServeLimits) -> list[Upload]:
    """Read the photos of a request.

    Raises:
        Problem: 400 it is malformed, 408 it came too slowly, 411 it has no length, 413 it is too
            large, 415 it is of another type, 422 it holds something else than photos.
        ClientDisconnect: The client left before the body was whole.
    """
    if "content-length" not in request.headers and "transfer-encoding" not in request.headers:
        raise Problem(411, "the request has neither a Content-Length nor a chunked body", hint=_HOW)
    kind, parameters = _content_type(request)
    if kind != "multipart/form-data" and not kind.startswith("image/") and kind not in _RAW_TYPES:
        raise Problem(415, f"a body of type {kind or 'unknown'} is no photo", hint=_HOW)
    limit = limits.max_body_bytes if kind.startswith("multipart/") else limits.max_photo_bytes
    body = await _read_body(request, limit, limits.body_timeout_s)
    if not body:
        raise Problem(400, "the body is empty", hint=_HOW)
    if not kind.startswith("multipart/"):
        return [Upload(body)]
    uploads = parse_multipart(body, parameters.get(b"boundary"), limits.max_photos)
    for upload in uploads:
        if len(upload.data) > limits.max_photo_bytes:
            raise _too_large("a photo", limits.max_photo_bytes)
    return uploads


def _content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    from python_multipart.multipart import parse_options_header

    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    return kind.decode("latin-1").strip().lower(), parameters


async def _read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """Read all of it, but no more than the limit and for no longer than the timeout."""
    length = request.headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > limit:
        raise _too_large("the body", limit)
    chunks: list[bytes] = []
    size_bytes = 0
    try:
        with anyio.fail_after(timeout_s):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes > limit:
                    raise _too_large("the body", limit)
                chunks.append(chunk)
    except TimeoutError:
        detail = f"the body did not arrive within {timeout_s:g} s"
        raise Problem(408, detail, headers={"Connection": "close"}) from None
    return b"".join(chunks)


def _too_large(what: str, limit: int) -> Problem:
    most = f"{limit / MIB:g} MiB" if limit >= MIB else f"{limit:,} bytes"
    return Problem(413, f"{what} has more than {most}", hint="send smaller photos, or fewer in one request")


@dataclass
class _Part:
    """A part of a multipart body while it is read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)


class _Parts:
    """Collects what the parser finds.

    The parser calls with slices of the body: parts are kept in memory, where the body is already, and never
    in a temporary file.
    """

    def __init__(self) -> None:
        self.found: list[_Part] = []
        self.complete = False
        self._name = b""
        self._value = b""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": lambda: self.found.append(_Part()),
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_part_data": lambda data, start, end: self.found[-1].data.extend(data[start:end]),
            "on_end": self._on_end,
        }

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self.found[-1].headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_end(self) -> None:
        self.complete = True


def parse_multipart(body: bytes, boundary: bytes | None, max_photos: int) -> list[Upload]:
    r"""Take a multipart/form-data body apart.

    Args:
        body: All of it.
        boundary: From the Content-Type.
        max_photos: Most parts.

    Raises:
        Problem: 400 it is malformed, 422 it has too many parts or none, or a part is no photo.

    Source: RFC 7578.

    >>> body = b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\nABC\r\n--x--\r\n'
    >>> parse_multipart(body, b"x", 1)
    [Upload(data=b'ABC', name=None)]
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    if not boundary:
        raise Problem(400, "the Content-Type of the multipart body names no boundary", hint=_HOW)
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks(), max_header_size=_MAX_HEADER_BYTES)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the multipart body is malformed: {error}", hint=_HOW) from None
    if not parts.complete:
        raise Problem(400, "the multipart body ends before its last boundary", hint=_HOW)
    if len(parts.found) > max_photos:
        raise Problem(422, f"{len(parts.found)} photos in one request; at most {max_photos} are taken")
    if not parts.found:
        raise Problem(422, "the multipart body has no part", hint=_HOW)
    return [_upload_of(part) for part in parts.found]


def _upload_of(part: _Part) -> Upload:
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(part.headers.get(b"content-disposition", b""))
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if kind != b"form-data" or name != PHOTO_FIELD:
        raise Problem(
            422,
            f"the multipart body has a part named {name[:80]!r}; photos are in parts named {PHOTO_FIELD!r}",
            hint=_HOW,
        )
    if not part.data:
        raise Problem(422, "a photo in the multipart body is empty", hint=_HOW)
    filename = options.get(b"filename")
    return Upload(bytes(part.data), filename.decode("utf-8", "replace") if filename else None)


__all__ = ["PHOTO_FIELD", "ClientDisconnect", "Upload", "parse_multipart", "read_uploads"]
