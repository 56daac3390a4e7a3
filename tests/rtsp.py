"""A small RTSP server: an MPEG transport stream as RTP within the connection, as network cameras offer it.

Source: RFC 7826 (RTSP), RFC 2250 (transport streams in RTP), RFC 8866 (SDP).
"""

from __future__ import annotations

import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
_PACKET_BYTES = 7 * 188  # whole packets of the transport stream that fit an Ethernet frame


class RtspCamera(socketserver.ThreadingTCPServer):
    """Plays a transport stream to each viewer from its beginning, at its own rate, and hangs up at its end.

    Args:
        stream: The transport stream.
        seconds: How long it lasts.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, stream: bytes, seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Viewer)
        self.stream = stream
        self.seconds = seconds
        self.served = 0

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.server_address[1]}/live"

    def handle_error(self, request: object, client_address: object) -> None:
        """A viewer that leaves is no error."""


class _Viewer(socketserver.StreamRequestHandler):
    server: RtspCamera

    def handle(self) -> None:
        while (request := self._read_request()) is not None:
            method, sequence = request
            self._answer(method, sequence)
            if method == "PLAY":
                self.server.served += 1
                self._play()
                return

    def _read_request(self) -> tuple[str, str] | None:
        line = self.rfile.readline().decode()
        if not line.strip():
            return None
        sequence = "0"
        while header := self.rfile.readline().decode().strip():
            name, _, value = header.partition(":")
            if name.lower() == "cseq":
                sequence = value.strip()
        return line.split()[0], sequence

    def _answer(self, method: str, sequence: str) -> None:
        headers, body = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
            "DESCRIBE": ("Content-Type: application/sdp\r\n", _SDP),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        }.get(method, ("Session: 1\r\n", ""))
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n{headers}{length}\r\n{body}".encode())

    def _play(self) -> None:
        stream = self.server.stream
        packets = [stream[start : start + _PACKET_BYTES] for start in range(0, len(stream), _PACKET_BYTES)]
        for number, packet in enumerate(packets):
            stamp = round(90_000 * self.server.seconds * number / len(packets))
            rtp = struct.pack("!BBHII", 0x80, 33, number & 0xFFFF, stamp, 1) + packet
            self.wfile.write(b"$\0" + struct.pack("!H", len(rtp)) + rtp)
            time.sleep(self.server.seconds / len(packets))


@contextmanager
def playing(stream: bytes, seconds: float) -> Iterator[RtspCamera]:
    """A camera that serves in a thread of its own."""
    camera = RtspCamera(stream, seconds)
    thread = threading.Thread(target=camera.serve_forever, daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.shutdown()
        camera.server_close()
