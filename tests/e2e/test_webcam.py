"""`kiloword webcam` as a user runs it, without a window: sources, voices, recordings, and how it ends."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from kiloword.cli import main
from tests.bundles import make_tiny_bundle
from tests.rtsp import playing
from tests.sources import scene
from tests.unit.runtime.test_recorder import read_video
from tests.unit.runtime.test_subtitles import parse
from tests.videos import make_transport_stream, make_video

pytestmark = pytest.mark.e2e

TIMEOUT_S = 120
KILOWORD = (sys.executable, "-m", "kiloword.cli", "webcam", "--headless")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and scripts")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_bundle(tmp_path_factory.mktemp("bundle")).directory)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds in which something moves all the time."""
    return make_video(tmp_path / "a.mp4", frames=60)


def webcam(bundle: str, *arguments: str | Path) -> Result:
    """Run it to its end; in this process, which saves the start of another."""
    return CliRunner().invoke(main, ["webcam", "--headless", "--bundle", bundle, *map(str, arguments)])


@contextmanager
def started(bundle: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, for signals; it is killed at the end if it still lives."""
    with subprocess.Popen(
        [*KILOWORD, "--bundle", bundle, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(done: Result) -> list[dict[str, object]]:
    """Lines of JSONL of a run that went well."""
    assert done.exit_code == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Camera(http.server.ThreadingHTTPServer):
    """A network camera: MJPEG over HTTP, as IP cameras speak it.

    Args:
        pictures: Frames that each connection gets before it is closed.
        connections: How many connections are served before the camera is gone for good.
    """

    daemon_threads = True

    def __init__(self, pictures: int) -> None:
        super().__init__(("127.0.0.1", 0), _CameraHandler)
        self.pictures = pictures
        self.served = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/live.mjpg"

    def handle_error(self, request: object, client_address: object) -> None:
        """A viewer that leaves is no error."""


class _CameraHandler(http.server.BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self) -> None:
        self.server.served += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(self.server.pictures):
            picture = jpeg(number // 10 + 10 * self.server.served)
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n")
            self.wfile.write(f"Content-Length: {len(picture)}\r\n\r\n".encode() + picture + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        """Silent."""


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene(seed, (240, 320))).save(stream, "JPEG")
    return stream.getvalue()


@contextmanager
def running(camera: Camera) -> Iterator[Camera]:
    thread = threading.Thread(target=camera.serve_forever, daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.shutdown()
        camera.server_close()


def test_a_network_camera(bundle: str) -> None:
    pytest.importorskip("cv2")
    with running(Camera(pictures=10_000)) as camera:
        done = webcam(bundle, "--source", camera.url, "--max-frames", "4", "--format", "jsonl")
    lines = lines_of(done)
    assert len(lines) == 4
    ages = [float(str(line["age_ms"])) for line in lines]
    assert all(age_ms > 0 for age_ms in ages)
    assert "Traceback" not in done.stderr


def test_a_network_camera_that_hangs_up_is_called_again(bundle: str) -> None:
    """Each connection ends after 50 frames (1 s) of five scenes; the words go on with the next one."""
    pytest.importorskip("cv2")
    with (
        running(Camera(pictures=50)) as camera,
        started(bundle, "--source", camera.url, "--format", "jsonl") as process,
    ):
        deadline = time.monotonic() + TIMEOUT_S
        while camera.served < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert camera.served >= 3
    assert f"{camera.url} gives no frames; trying again in 0.5 s" in stderr
    assert f"{camera.url} is back after" in stderr
    assert max(json.loads(line)["frame"] for line in stdout.splitlines()) > 0


def test_an_rtsp_camera_that_hangs_up_is_called_again(bundle: str, tmp_path: Path) -> None:
    """Three scenes in a second and a half, and the same again on the next call."""
    pictures = [scene(number // 12, (240, 320)) for number in range(36)]
    stream = make_transport_stream(tmp_path / "a.ts", pictures, 25)
    with (
        playing(stream, 36 / 25) as camera,
        started(bundle, "--source", camera.url, "--format", "jsonl", "--max-frames", "5") as process,
    ):
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert f"{camera.url} is back after" in stderr
    assert camera.served >= 2
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert len(lines) == 5
    assert all(0 < line["age_ms"] < 60_000 for line in lines)


def test_text_has_a_line_when_the_words_change(bundle: str, video: Path) -> None:
    """And jsonl of the same film says at which captions that was; both are looks at a film's own time."""
    options = ("--source", video, "--every", "100ms")
    changed = [
        line["shown"] for line in lines_of(webcam(bundle, *options, "--format", "jsonl")) if line["changed"]
    ]
    text = webcam(bundle, *options).stdout.splitlines()
    assert [line.partition("  (confidence ")[0] for line in text] == changed
    assert len(changed) > 1


def test_say_changes_prints_sentences(bundle: str, video: Path) -> None:
    done = webcam(bundle, "--source", video, "--say-changes")
    assert done.exit_code == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert sentences
    assert all(line.endswith(".") and "confidence" not in line for line in sentences)
    assert all(one != other for one, other in pairwise(sentences))


@pytest.mark.parametrize(("least", "shown"), [("1", "no reliable description"), ("0", None)])
def test_the_least_confidence(bundle: str, video: Path, least: str, shown: str | None) -> None:
    """The tiny bundle is never quite sure; what it thought stays in the line for who wants it."""
    lines = lines_of(webcam(bundle, "--source", video, "--min-confidence", least, "--format", "jsonl"))
    assert lines
    for line in lines:
        assert line["reliable"] is (shown is None)
        assert shown is None or line["shown"] == shown
        assert line["caption"] not in ("", "no reliable description")


@posix_only
def test_changes_are_spoken(
    bundle: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake voice writes down what it is told: that is what is printed, unless it was cut off before."""
    voice = tmp_path / "espeak-ng"
    voice.write_text(f'#!/bin/sh\ntext=$(cat)\necho "$text" >> "{tmp_path}/heard"\n')
    voice.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = webcam(bundle, "--source", video, "--say-changes", "--speak")
    assert done.exit_code == 0, done.stderr
    heard = [line for line in (tmp_path / "heard").read_text(encoding="utf-8").splitlines() if line]
    assert heard[-1] == done.stdout.splitlines()[-1]
    assert set(heard) <= set(done.stdout.splitlines())


@posix_only
def test_without_a_voice_that_is_said_before_anything_else(
    bundle: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = webcam(bundle, "--source", video, "--speak")
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no speech synthesiser")


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_a_film_becomes_subtitles(bundle: str, video: Path, tmp_path: Path, suffix: str) -> None:
    """Cues follow each other without a gap from the first look to the end of the film, 2 s."""
    subtitles = tmp_path / f"a.{suffix}"
    done = webcam(bundle, "--source", video, "--every", "500ms", "--record", subtitles, "--format", "jsonl")
    lines = lines_of(done)
    cues = parse(subtitles.read_text(encoding="utf-8"), suffix)
    assert cues[0].start_s == 0
    assert cues[-1].end_s == pytest.approx(2.0, abs=0.05)
    assert all(one.end_s == other.start_s for one, other in pairwise(cues))
    assert len(cues) == sum(bool(line["changed"]) for line in lines)
    assert {line["video_s"] for line in lines} <= {0.0, 0.5, 1.0, 1.5}
    assert "2.0 s of video in " in done.stderr


def test_a_film_becomes_a_film_with_captions(bundle: str, video: Path, tmp_path: Path) -> None:
    """Every frame, at the film's own rate."""
    done = webcam(bundle, "--source", video, "--every", "1s", "--record", tmp_path / "b.mp4")
    assert done.exit_code == 0, done.stderr
    frames, rate = read_video(tmp_path / "b.mp4")
    assert (len(frames), round(rate)) == (60, 30)


def test_what_is_seen_is_recorded(bundle: str, video: Path, tmp_path: Path) -> None:
    done = webcam(bundle, "--source", video, "--record", tmp_path / "b.mp4")
    assert done.exit_code == 0, done.stderr
    frames, _ = read_video(tmp_path / "b.mp4")
    assert len(frames) > 5


def test_a_folder_of_pictures(bundle: str, tmp_path: Path) -> None:
    for seed in range(3):
        Image.fromarray(scene(seed)).save(tmp_path / f"{seed}.png")
    lines = lines_of(webcam(bundle, "--source", tmp_path, "--every", "3s", "--format", "jsonl"))
    assert [line["video_s"] for line in lines] == [0.0, 3.0, 6.0]


@pytest.mark.parametrize("name", ["TERM", "INT"])
@posix_only
def test_ended_by_a_signal_it_completes_the_recording(bundle: str, tmp_path: Path, name: str) -> None:
    """As by Ctrl-C or a service manager: exit 0, the summary, and subtitles under their name."""
    film = make_video(tmp_path / "long.mp4", frames=900)
    arguments = ("--source", film, "--record", tmp_path / "a.vtt", "--format", "jsonl")
    with started(bundle, *arguments) as process:
        assert process.stdout
        assert process.stdout.readline()
        time.sleep(0.5)
        process.send_signal(getattr(signal, f"SIG{name}"))
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert len(stderr.splitlines()) == 1
    assert parse((tmp_path / "a.vtt").read_text(encoding="utf-8"), "vtt")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--every", "soon"), 2, "500ms"),
        (("--every", "0s"), 2, "500ms"),
        (("--every", "1s", "--speak"), 2, "--speak"),
        (("--record", "a.avi"), 1, ".srt"),
        (("--record", "nowhere/a.srt"), 1, "folder"),
        (("--max-fps", "0"), 2, "--max-fps"),
        (("--save-to", "nowhere"), 2, "nowhere"),
    ],
)
def test_misuse(bundle: str, video: Path, arguments: tuple[str, ...], code: int, part: str) -> None:
    done = webcam(bundle, "--source", video, *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert part in done.stderr
    assert "Traceback" not in done.stderr
