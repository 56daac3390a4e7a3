"""Runs the application: sockets, signals, and what HTTP itself refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kiloword.runtime.errors import KilowordError
from kiloword.runtime.serve.app import make_app
from kiloword.runtime.serve.guard import Access, is_address
from kiloword.runtime.serve.limits import ServeLimits
from kiloword.runtime.serve.problems import MEDIA_TYPE, problem_body

if TYPE_CHECKING:
    from kiloword.runtime.captioner import Captioner

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 15
_MAX_HEAD_BYTES = 32 * 1024
_BACKLOG = 256


class CaptionServer:
    """A server on a socket; made, it listens already, and `run` answers.

    Args:
        captioner: What captions; it stays the caller's to close.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        limits: Sizes, numbers, times.
        access: Who may ask.

    Raises:
        KilowordError: The address is not this machine's, or the port is taken.
    """

    def __init__(
        self, captioner: Captioner, *, host: str, port: int, limits: ServeLimits, access: Access
    ) -> None:
        self._socket = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(
            make_app(captioner, limits, access),
            http=type("Protocol", (_Protocol,), {"head_timeout_s": limits.body_timeout_s}),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(limits.stop_timeout_s)),
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        )
        self._server = _Server(config)

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Answer until `stop`, SIGINT or SIGTERM; then finish what runs and return.

        Args:
            on_ready: Gets the server's URL when it can be asked.
        """
        logging.getLogger("uvicorn.error").addFilter(_is_ours)
        with contextlib.closing(self._socket):
            if on_ready is not None:
                self._server.on_ready = lambda: on_ready(self.url)
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Make `run` return; from any thread."""
        self._server.should_exit = True


def is_loopback(host: str) -> bool:
    """True where only this machine can reach the address.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    from ipaddress import ip_address

    return host == "localhost" or (is_address(host) and ip_address(host).is_loopback)


def _is_ours(record: logging.LogRecord) -> bool:
    # Malformed requests are the clients' mistakes: each gets an answer, and the log is not theirs to fill.
    return not record.getMessage().startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported"))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        hint = "another --port; 0 takes a free one"
        found = error.strerror or str(error)
        raise KilowordError(f"cannot listen on {host}:{port}", found=found, hint=hint) from error
    return listening


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready and ends quietly."""

    on_ready: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self.on_ready is not None:
            self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again: who stops a server wants it to end well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Protocol(H11Protocol):
    """HTTP/1.1 that waits for a request's head only so long, and answers nonsense with a problem."""

    head_timeout_s = 20.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and self.conn.their_state is h11.IDLE:
            self._start_timer()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_late_head)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_late_head(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._refuse(408, "the head of the request did not arrive in time")

    def _refuse(self, status: int, detail: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(problem_body(status, detail)).encode()
            headers: list[tuple[bytes, bytes]] = [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            head = h11.Response(status_code=status, headers=headers)
            events = (head, h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()  # in the middle of an answer, nothing more can be said
