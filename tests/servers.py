"""A server in a thread of the test's process, and clients that speak to it over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from kiloword import Captioner
    from kiloword.runtime.serve.guard import Access
    from kiloword.runtime.serve.limits import ServeLimits
    from kiloword.runtime.serve.server import CaptionServer

BOUNDARY = "kiloword-test-boundary"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The server-sent events in it."""
        return [
            (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for name, data in (event.split("\n") for event in self.body.decode().strip().split("\n\n"))
        ]


@contextmanager
def running(captioner: Captioner, limits: ServeLimits, access: Access) -> Iterator[CaptionServer]:
    """A server that answers until the block ends."""
    from kiloword.runtime.serve.server import CaptionServer

    server = CaptionServer(captioner, host="127.0.0.1", port=0, limits=limits, access=access)
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda _url: ready.set(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def ask(
    url: str,
    method: str = "GET",
    path: str = "/",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def ask_raw(url: str, data: bytes, *, then_close: bool = False, timeout_s: float = 20) -> bytes:
    """Send bytes as they are, and read until the server closes or falls silent."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=timeout_s) as client:
        client.sendall(data)
        if then_close:
            client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def multipart(photos: Sequence[tuple[str | None, bytes]], *, field: str = "photo") -> tuple[bytes, str]:
    """A multipart body and its Content-Type."""
    parts = b""
    for name, data in photos:
        filename = "" if name is None else f'; filename="{name}"'
        disposition = f'Content-Disposition: form-data; name="{field}"{filename}'
        parts += f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + data + b"\r\n"
    return parts + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"
