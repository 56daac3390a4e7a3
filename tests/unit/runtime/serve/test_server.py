"""The server from outside: real sockets, a tiny bundle; expectations from the captioner and RFCs."""

from __future__ import annotations

import gc
import io
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from kiloword import Bundle, Captioner
from tests.bundles import Kind
from tests.servers import Answer, ask, ask_raw, multipart, running

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from kiloword.runtime.serve.guard import Access
from kiloword.runtime.serve.limits import ServeLimits
from kiloword.runtime.serve.server import CaptionServer

CAPTIONS = "/v1/captions"
JPEG = {"Content-Type": "image/jpeg"}
STREAM = {"Accept": "text/event-stream"}
TOKEN = "a-token-of-this-test"
LIMITS = ServeLimits(
    max_body_bytes=60_000,
    max_photo_bytes=40_000,
    max_photos=4,
    max_pixels=10_000,
    max_waiting=8,
    body_timeout_s=0.5,
)


@dataclass
class Running:
    """A server and what it captions with."""

    server: CaptionServer
    captioner: GatedCaptioner

    @property
    def url(self) -> str:
        return self.server.url

    def ask(self, *arguments: Any, **options: Any) -> Answer:
        return ask(self.url, *arguments, **options)

    def metric(self, name: str) -> float:
        """The value of one line of /metrics."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        lines = self.ask("GET", "/metrics", headers=headers).body.decode().splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)

    def model_is_held(self) -> bool:
        """Whether one photo is at the model and none waits for it."""
        in_work, ready = self.metric("kiloword_photos_in_work"), self.metric("kiloword_photos_ready")
        return (in_work, ready) == (1, 0) and self.captioner.held.is_set()


class GatedCaptioner(Captioner):
    """A captioner that a test can hold up before it begins with a batch, and after its first words."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.gate, self.word_gate, self.held = (threading.Event() for _ in range(3))
        self.batches: list[int] = []
        self.busy = False
        self.open()

    def open(self) -> None:
        self.gate.set()
        self.word_gate.set()

    def caption_pixels(self, pixels: Any, *, on_text: Any = None, **settings: Any) -> Any:
        self.held.set()
        assert self.gate.wait(20)
        self.held.clear()
        self.batches.append(len(pixels))

        def tell(index: int, text: str) -> None:
            on_text(index, text)
            assert self.word_gate.wait(20)

        self.busy = True
        try:
            return super().caption_pixels(pixels, on_text=tell if on_text else None, **settings)
        finally:
            self.busy = False


@pytest.fixture(scope="module")
def gated(bundles: dict[Kind, Bundle]) -> Iterator[GatedCaptioner]:
    with GatedCaptioner.load(bundles["transformer"].directory, provider="cpu", threads=1) as loaded:
        assert isinstance(loaded, GatedCaptioner)
        yield loaded


@pytest.fixture(scope="module")
def shared(gated: GatedCaptioner) -> Iterator[Running]:
    """One server for the tests that leave it as it was."""
    with running(gated, LIMITS, Access()) as server:
        yield Running(server, gated)


@pytest.fixture(autouse=True)
def opened(gated: GatedCaptioner) -> Iterator[None]:
    """No test holds up the next one."""
    yield
    gated.open()


def wait_until(condition: Any) -> None:
    """Wait for what another thread does, at most as long as a broken one takes to show."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_raw_photo_gets_its_caption(shared: Running, photo_bytes: bytes) -> None:
    """The same words and confidence as the captioner's own on the same bytes."""
    answer = shared.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG)
    expected = shared.captioner.caption(photo_bytes)
    assert answer.status == 200
    (caption,) = answer.json()["captions"]
    assert caption["caption"] == expected.text
    assert caption["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
    assert caption["name"] is None
    assert caption["bundle"] == "tiny"


def test_many_photos_in_order_and_a_bad_one_in_its_place(shared: Running, photo_bytes: bytes) -> None:
    body, kind = multipart([("first.jpg", photo_bytes), ("notes.txt", b"words"), ("größe.jpg", photo_bytes)])
    answer = shared.ask("POST", CAPTIONS, body=body, headers={"Content-Type": kind})
    captions = answer.json()["captions"]
    assert [one["name"] for one in captions] == ["first.jpg", "notes.txt", "größe.jpg"]
    assert ["caption" in one for one in captions] == [True, False, True]
    assert captions[1]["error"]["status"] == 422


def test_settings_of_the_query_are_used(shared: Running, photo_bytes: bytes) -> None:
    query = "?num_beams=3&max_new_tokens=4&length_penalty=2.0&no_repeat_ngram_size=2"
    answer = shared.ask("POST", CAPTIONS + query, body=photo_bytes, headers=JPEG)
    expected = shared.captioner.caption(
        photo_bytes, num_beams=3, max_new_tokens=4, length_penalty=2.0, no_repeat_ngram_size=2
    )
    assert answer.json()["captions"][0]["caption"] == expected.text


@pytest.mark.parametrize("beams", [1, 3])
def test_words_are_streamed_as_they_come(shared: Running, photo_bytes: bytes, beams: int) -> None:
    """Greedy words only grow; the caption at the end is the one that the captioner gives."""
    answer = shared.ask("POST", f"{CAPTIONS}?num_beams={beams}", body=photo_bytes, headers={**JPEG, **STREAM})
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [name for name, _ in answer.events()]
    texts = [data["text"] for name, data in answer.events() if name == "text"]
    caption = answer.events()[-2][1]
    assert names == ["text"] * len(texts) + ["caption", "done"]
    assert caption["caption"] == shared.captioner.caption(photo_bytes, num_beams=beams).text
    assert texts
    if beams == 1:
        grown = zip(texts, [*texts[1:], caption["caption"]], strict=True)
        assert len(texts) > 1
        assert all(longer.startswith(shorter) for shorter, longer in grown)


def test_the_first_word_comes_before_the_caption_is_ready(shared: Running, photo_bytes: bytes) -> None:
    """The model is held up after its first word; the client has it all the same."""
    shared.captioner.word_gate.clear()
    with open_stream(shared.url, photo_bytes) as client:
        received = b""
        while b"event: text" not in received:
            received += client.recv(4096)
        assert b"event: caption" not in received
        shared.captioner.open()
        while b"event: done" not in received:
            received += client.recv(4096)


def test_a_stream_tells_of_each_photo(shared: Running, photo_bytes: bytes) -> None:
    body, kind = multipart([("a", photo_bytes), ("b", b"no picture")])
    events = shared.ask("POST", CAPTIONS, body=body, headers={"Content-Type": kind, **STREAM}).events()
    ends = {data["index"]: name for name, data in events if name in ("caption", "error")}
    assert ends == {0: "caption", 1: "error"}
    assert events[-1] == ("done", {"photos": 2})


def big_png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (101, 100)).save(stream, "PNG")
    return stream.getvalue()


HEAD = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
REFUSED: dict[str, tuple[int, bytes]] = {
    "no http": (400, b"HELLO\r\n\r\n"),
    "no host": (400, b"GET /healthz HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"),
    "bad host": (400, b"GET /healthz HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n"),
    "old http without host": (400, b"GET /healthz HTTP/1.0\r\n\r\n"),
    "foreign host": (403, b"GET /healthz HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n"),
    "foreign origin": (403, HEAD + b"Origin: https://evil.example\r\nContent-Length: 0\r\n\r\n"),
    "null origin": (403, HEAD + b"Origin: null\r\nContent-Length: 0\r\n\r\n"),
    "cross site": (403, HEAD + b"Sec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n\r\n"),
    "no such path": (404, b"GET /v2/captions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "out of the page": (404, b"GET /page/../app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "encoded dots": (
        404,
        b"GET /page/%2e%2e/app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ),
    "wrong method": (405, b"GET /v1/captions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "slow head": (408, b"POST /v1/cap"),
    "slow body": (408, HEAD + b"Content-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nabc"),
    "no length": (411, HEAD + b"Content-Type: image/jpeg\r\n\r\n"),
    "empty body": (400, HEAD + b"Content-Type: image/jpeg\r\nContent-Length: 0\r\n\r\n"),
    "two lengths": (400, HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "negative length": (400, HEAD + b"Content-Length: -1\r\n\r\n"),
    "announced too large": (413, HEAD + b"Content-Type: image/jpeg\r\nContent-Length: 40001\r\n\r\n"),
    "chunks too large": (
        413,
        HEAD
        + b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"2710\r\n" * 0
        + b"".join(b"2710\r\n" + b"x" * 10_000 + b"\r\n" for _ in range(5)),
    ),
    "bad chunk": (400, HEAD + b"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_requests_get_the_right_status(shared: Running, name: str) -> None:
    """Statuses from RFC 9110; each answer is a problem of RFC 9457 that names the same status."""
    status, request = REFUSED[name]
    answer = ask_raw(shared.url, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"application/problem+json" in head
    assert b'"status": %d' % status in body


def part(head: str, data: bytes = b"x") -> tuple[bytes, str]:
    body = f"--b\r\n{head}\r\n\r\n".encode() + data + b"\r\n--b--\r\n"
    return body, "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (415, b"{}", "application/json"),
        (415, b"photo=x", "application/x-www-form-urlencoded"),
        (415, b"x", ""),
        (422, b"no picture", "image/jpeg"),
        (422, b"\xff\xd8\xff\xe0broken", "application/octet-stream"),
        (413, big_png(), "image/png"),
        (400, b"x", "multipart/form-data"),
        (400, b"no boundary in here", "multipart/form-data; boundary=b"),
        (
            400,
            b"--b\r\nContent-Disposition: form-data; name=photo\r\n\r\nx",
            "multipart/form-data; boundary=b",
        ),
        (422, *part('Content-Disposition: form-data; name="file"')),
        (422, *part('Content-Disposition: attachment; name="photo"')),
        (422, *part("X: y")),
        (422, *part('Content-Disposition: form-data; name="photo"', b"")),
        (422, *multipart([(None, b"x")] * 5)),
        (413, *multipart([(None, b"x" * 40_001)])),
    ],
)
def test_bodies_that_are_no_photos(shared: Running, status: int, body: bytes, kind: str) -> None:
    answer = shared.ask("POST", CAPTIONS, body=body, headers={"Content-Type": kind})
    assert (answer.status, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "query",
    [
        *(
            "num_beams=0",
            "num_beams=9",
            "num_beams=x",
            "num_beams=1.5",
            "num_beams=",
            "num_beams=1&num_beams=1",
        ),
        *(
            "max_new_tokens=25",
            "length_penalty=nan",
            "length_penalty=1e999",
            "no_repeat_ngram_size=-1",
            "beams=1",
        ),
    ],
)
def test_queries_that_make_no_sense(shared: Running, photo_bytes: bytes, query: str) -> None:
    """The tiny bundle reads 24 tokens with its prompt of one, so 24 can be written."""
    assert shared.ask("POST", f"{CAPTIONS}?{query}", body=photo_bytes, headers=JPEG).status == 422


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8765", "192.168.1.2"])
def test_addresses_and_localhost_are_this_server(shared: Running, host: str) -> None:
    """A DNS server cannot make an address point elsewhere, whatever port a tunnel shows it at."""
    assert shared.ask("GET", "/healthz", headers={"Host": host}).status == 200


def test_our_own_page_may_ask(shared: Running, photo_bytes: bytes) -> None:
    host = urlsplit(shared.url).netloc
    headers = {**JPEG, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert shared.ask("POST", CAPTIONS, body=photo_bytes, headers=headers).status == 200


def test_every_answer_forbids_other_origins_and_framing(shared: Running) -> None:
    for path in ("/", "/healthz", "/nothing", "/openapi.json"):
        headers = shared.ask("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer ü", 401),
    ],
)
def test_token(gated: GatedCaptioner, given: str | None, status: int) -> None:
    with running(gated, LIMITS, Access(TOKEN)) as server:
        encoded = {} if given is None else {"Authorization": given}
        for path in ("/metrics", "/v1/bundle"):
            answer = ask(server.url, "GET", path, headers=encoded)
            assert answer.status == status
            assert ("www-authenticate" in answer.headers) == (status == 401)
        assert ask(server.url, "GET", "/healthz").status == 200


def test_allowed_names(gated: GatedCaptioner) -> None:
    with running(gated, LIMITS, Access(hosts=("Photos.local",))) as server:
        statuses = [
            ask(server.url, "GET", "/healthz", headers={"Host": host}).status
            for host in ("photos.local:80", "other.local")
        ]
    assert statuses == [200, 403]


def test_what_waits_goes_through_together(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    """Eight clients while the model is held up: one batch that had begun, and one with all the others."""
    limits = ServeLimits(max_waiting=16, max_photos=4, batch_size=8)
    with running(gated, limits, Access()) as server, ThreadPoolExecutor(9) as clients:
        gated.gate.clear()
        gated.batches.clear()
        up = Running(server, gated)
        first = clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        wait_until(up.model_is_held)
        others = [clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG) for _ in range(7)]
        other_settings = clients.submit(
            up.ask, "POST", f"{CAPTIONS}?max_new_tokens=2", body=photo_bytes, headers=JPEG
        )
        wait_until(lambda: up.metric("kiloword_photos_ready") == 8)
        gated.open()
        answers = [one.result() for one in (first, *others, other_settings)]
    assert [one.status for one in answers] == [200] * 9
    assert sorted(gated.batches) == [1, 1, 7]
    assert len({one.json()["captions"][0]["caption"] for one in answers[:-1]}) == 1


def test_lanes_run_side_by_side(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    """Two lanes, batches of one: two photos are in the model at once, and a third waits for either."""
    limits = ServeLimits(max_waiting=8, max_photos=4, batch_size=1, lanes=2)
    with running(gated, limits, Access()) as server, ThreadPoolExecutor(3) as clients:
        gated.gate.clear()
        up = Running(server, gated)
        asked = [clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG) for _ in range(3)]
        wait_until(lambda: up.metric("kiloword_photos_in_work") == 3)
        wait_until(lambda: up.metric("kiloword_photos_ready") == 1)
        gated.open()
        captions = {one.result().json()["captions"][0]["caption"] for one in asked}
    assert captions == {gated.caption(photo_bytes).text}


def test_a_full_queue_says_when_to_come_back(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    limits = ServeLimits(max_waiting=2, max_photos=2)
    with running(gated, limits, Access()) as server, ThreadPoolExecutor(2) as clients:
        gated.gate.clear()
        up = Running(server, gated)
        waiting = [clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG) for _ in range(2)]
        wait_until(lambda: up.metric("kiloword_photos_in_work") == 2)
        refused = up.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        gated.open()
        assert [one.result().status for one in waiting] == [200, 200]
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert up.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG).status == 200


def test_an_answer_that_takes_too_long(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    limits = ServeLimits(answer_timeout_s=0.2)
    with running(gated, limits, Access()) as server:
        gated.gate.clear()
        answer = ask(server.url, "POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        gated.open()
    assert answer.status == 503
    assert "retry-after" in answer.headers


def test_rate(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    """A bucket of five seconds' worth: five photos at one a second, then 429."""
    with running(gated, ServeLimits(photos_per_second=0.01), Access()) as server:
        answers = [ask(server.url, "POST", CAPTIONS, body=photo_bytes, headers=JPEG) for _ in range(2)]
        health = ask(server.url, "GET", "/healthz")
    assert [one.status for one in answers] == [200, 429]
    assert int(answers[1].headers["retry-after"]) > 1
    assert health.status == 200


def open_stream(url: str, photo: bytes) -> socket.socket:
    """A connection on which words are coming."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port), timeout=20)
    head = (
        f"POST {CAPTIONS} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    )
    client.sendall(head.encode() + photo)
    return client


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_clients_that_are_killed_leave_nothing(shared: Running, photo_bytes: bytes) -> None:
    """Twenty streams cut by a reset after their first word: no place, thread, file or task is left."""
    shared.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG)
    gc.collect()
    files, threads = open_files(), threading.active_count()
    for _ in range(20):
        shared.captioner.word_gate.clear()
        with open_stream(shared.url, photo_bytes) as client:
            received = b""
            while b"event: text" not in received:
                received += client.recv(4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        shared.captioner.open()
        wait_until(lambda: not shared.captioner.busy)
    wait_until(lambda: shared.metric("kiloword_photos_in_work") == 0)
    wait_until(lambda: open_files() <= files and threading.active_count() <= threads)
    assert shared.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG).status == 200


def test_a_client_that_leaves_the_queue_is_not_captioned(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    with running(gated, LIMITS, Access()) as server, ThreadPoolExecutor(1) as clients:
        up = Running(server, gated)
        gated.gate.clear()
        gated.batches.clear()
        first = clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        wait_until(up.model_is_held)
        with open_stream(server.url, photo_bytes):
            wait_until(lambda: up.metric("kiloword_photos_ready") == 1)
        wait_until(lambda: up.metric('kiloword_photos_total{result="abandoned"}') == 1)
        gated.open()
        assert first.result().status == 200
        assert up.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG).status == 200
    assert gated.batches == [1, 1]


def test_stopping_lets_what_runs_finish(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    with running(gated, LIMITS, Access()) as server, ThreadPoolExecutor(1) as clients:
        up = Running(server, gated)
        gated.gate.clear()
        asked = clients.submit(up.ask, "POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        wait_until(lambda: up.metric("kiloword_photos_in_work") == 1)
        server.stop()
        wait_until(lambda: refuses_connections(server.url))
        gated.open()
        assert asked.result().status == 200


def refuses_connections(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=1).close()
    except OSError:
        return True
    return False


def malformed(random_: random.Random, photo: bytes) -> tuple[int, bytes]:
    """A request with one fault, and the status that RFC 9110 has for it."""
    junk = random_.randbytes(random_.randrange(1, 200))
    fault = random_.choice(
        ["line", "header", "path", "method", "type", "photo", "cut", "query", "multipart", "length", "host"]
    )
    head = b"POST /v1/captions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    jpeg = b"Content-Type: image/jpeg\r\n"

    def whole(first: bytes, body: bytes) -> bytes:
        return first + b"Content-Length: %d\r\n\r\n" % len(body) + body

    if fault == "line":
        return 400, b"\x01" + junk.replace(b"\n", b"") + b"\r\n\r\n"
    if fault == "header":
        return 400, head + b"Bad\x00Name: x\r\n\r\n"
    if fault == "path":
        path = "".join(random_.choices("abcdefgh/", k=12)).encode()
        return 404, b"GET /x" + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    if fault == "method":
        method = random_.choice([b"GET", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"FOO", b"OPTIONS"])
        return 405, method + head[4:] + b"\r\n"
    if fault == "type":
        kind = random_.choice([b"text/plain", b"application/json", b"video/mp4", b"nonsense", b";;"])
        return 415, whole(head + b"Content-Type: " + kind + b"\r\n", junk)
    if fault == "photo":
        return 422, whole(head + jpeg, b"\x00" + junk)
    if fault == "cut":
        return 422, whole(head + jpeg, photo[: random_.randrange(4, len(photo) // 2)])
    if fault == "query":
        name = random_.choice([b"num_beams", b"max_new_tokens", b"unknown"])
        return 422, whole(head.replace(b"captions", b"captions?" + name + b"=-1") + jpeg, photo)
    if fault == "multipart":
        return 400, whole(head + b"Content-Type: multipart/form-data; boundary=zzz\r\n", b"\x00" + junk)
    if fault == "length":
        return 411, head + jpeg + b"\r\n"
    return 403, whole(head.replace(b"localhost", b"h%d.example" % random_.randrange(99)) + jpeg, photo)


def test_a_thousand_malformed_requests(shared: Running, photo_bytes: bytes) -> None:
    """Each gets its status; afterwards the server captions as before."""
    random_ = random.Random(11)
    cases = [malformed(random_, photo_bytes) for _ in range(1000)]
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda case: ask_raw(shared.url, case[1]), cases))
    wrong = [
        (status, answer[:80], request[:80])
        for (status, request), answer in zip(cases, answers, strict=True)
        if not answer.startswith(b"HTTP/1.1 %d " % status)
    ]
    assert wrong == []
    assert shared.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG).status == 200
    assert shared.metric("kiloword_photos_in_work") == 0


def test_metrics_count_what_happened(gated: GatedCaptioner, photo_bytes: bytes) -> None:
    """Every line is a comment or a sample of the text format, and buckets grow to the count."""
    with running(gated, LIMITS, Access()) as server:
        up = Running(server, gated)
        up.ask("POST", CAPTIONS, body=photo_bytes, headers=JPEG)
        up.ask("POST", CAPTIONS, body=b"x", headers=JPEG)
        text = up.ask("GET", "/metrics")
        samples = dict(line.rsplit(" ", 1) for line in text.body.decode().splitlines() if line[0] != "#")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert samples['kiloword_photos_total{result="captioned"}'] == "1"
    assert samples['kiloword_photos_total{result="failed"}'] == "1"
    assert samples['kiloword_requests_total{route="/v1/captions",status="422"}'] == "1"
    buckets = [int(value) for name, value in samples.items() if name.startswith("kiloword_caption_seconds_b")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == int(samples["kiloword_caption_seconds_count"]) == 1


def test_random_pixels_in_many_formats(shared: Running) -> None:
    """What Pillow writes, the server reads: one request for each format."""
    picture = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF"):
        stream = io.BytesIO()
        picture.save(stream, name)
        headers = {"Content-Type": "application/octet-stream"}
        assert shared.ask("POST", CAPTIONS, body=stream.getvalue(), headers=headers).status == 200
