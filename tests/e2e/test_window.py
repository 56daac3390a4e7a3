"""The webcam's window on a virtual display: it shows picture and caption; q and its close button end it."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageGrab

from tests.bundles import make_tiny_bundle
from tests.videos import make_video

pytestmark = pytest.mark.e2e

TIMEOUT_S = 60
POLL_S = 0.1


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A virtual X display of our own; the number is chosen by the server."""
    cv2 = pytest.importorskip("cv2", reason="no OpenCV: the extra camera is not installed")
    if "QT" not in cv2.getBuildInformation().partition("GUI:")[2][:200]:
        pytest.skip("this OpenCV shows no windows on X")
    for program in ("Xvfb", "xdotool"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-noreset", "-displayfd", str(writer), "-screen", "0", "1024x768x24"],
        pass_fds=[writer],
        stderr=subprocess.DEVNULL,
    )
    os.close(writer)
    with os.fdopen(reader) as number:
        yield f":{number.readline().strip()}"
    server.terminate()
    server.wait(TIMEOUT_S)


@pytest.fixture
def webcam(display: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`kiloword webcam` with its window on the display, playing a video of ten minutes."""
    make_tiny_bundle(tmp_path / "bundle")
    video = make_video(tmp_path / "a.mp4", frames=600, frames_per_second=1)
    (tmp_path / "saved").mkdir()
    command = [sys.executable, "-m", "kiloword.cli", "webcam"]
    command += ["--source", str(video), "--save-to", str(tmp_path / "saved")]
    process = subprocess.Popen(
        [*command, "--bundle", tmp_path / "bundle"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "DISPLAY": display, "OMP_NUM_THREADS": "1", "QT_QPA_PLATFORM": "xcb"},
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def find_window(display: str, process: subprocess.Popen[str]) -> int:
    """Wait for the window and return its X id."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        found = xdotool(display, "search", "--onlyvisible", "--name", "^kiloword$").split()
        if found:
            return int(found[0])
        time.sleep(POLL_S)
    raise AssertionError(f"no window appeared; exit code {process.poll()}")


def xdotool(display: str, *arguments: str) -> str:
    done = subprocess.run(
        ["xdotool", *arguments],
        env={**os.environ, "DISPLAY": display},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def pixels(display: str, window: int, top: float, bottom: float) -> NDArray[np.uint8]:
    """What the screen shows of the window between two heights, 0..1: uint8 (height, width, 3), red first."""
    geometry = dict(
        line.split("=") for line in xdotool(display, "getwindowgeometry", "--shell", str(window)).split()
    )
    left, upper, width, height = (int(geometry[name]) for name in ("X", "Y", "WIDTH", "HEIGHT"))
    box = (left, upper + int(height * top), left + width, upper + int(height * bottom))
    return np.asarray(ImageGrab.grab(box, xdisplay=display).convert("RGB"))


def brightest_below(display: str, window: int, top: float) -> int:
    """The brightest value in the lower part of the window."""
    return int(pixels(display, window, top, 1.0).max())


def corner(display: str, window: int) -> bytes:
    """The upper left corner as light and dark; all of it is dark in the letterbox and in the help."""
    return (pixels(display, window, 0.0, 0.1)[:, :200] > 128).tobytes()


class ClientMessage(ctypes.Structure):
    """XClientMessageEvent, padded to the size of an XEvent."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int),
        ("data", ctypes.c_long * 5),
        ("padding", ctypes.c_long * 24),
    )


def press_close_button(display: str, window: int) -> None:
    """Send WM_DELETE_WINDOW, which is what a window manager's close button does (ICCCM 4.2.8.1)."""
    x11 = ctypes.CDLL(ctypes.util.find_library("X11"))
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    protocols = x11.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    delete = x11.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    event = ClientMessage(type=33, window=window, message_type=protocols, format=32)
    event.data[0] = delete
    x11.XSendEvent(connection, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(event))
    x11.XFlush(connection)
    x11.XCloseDisplay(connection)


def assert_ended_well(process: subprocess.Popen[str]) -> None:
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    assert "confidence" in stdout
    (summary,) = stderr.splitlines()  # and not a word of Qt's or OpenCV's
    assert "captions of" in summary or "caption of" in summary


def press(display: str, window: int, key: str, happened: Callable[[], bool]) -> None:
    """Press a key until it shows: under load a key press may come before the window listens."""
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        assert time.monotonic() < deadline, f"nothing happened at {key}"
        xdotool(display, "key", "--window", str(window), key)
        waited = time.monotonic() + 5
        while not happened() and time.monotonic() < waited:
            time.sleep(POLL_S)


def test_keys(display: str, webcam: subprocess.Popen[str], tmp_path: Path) -> None:
    """s saves the photo with its caption, a resize is followed, h lays its panel over a corner."""
    window = find_window(display, webcam)
    assert webcam.stdout
    webcam.stdout.readline()
    # The caption is written after its photo.
    press(display, window, "s", lambda: bool(list((tmp_path / "saved").glob("*.txt"))))
    (photo, *_) = (tmp_path / "saved").glob("*.jpg")
    with Image.open(photo) as image:
        assert image.size == (128, 96)
    assert photo.with_suffix(".txt").exists()
    xdotool(display, "windowsize", str(window), "700", "500")
    deadline = time.monotonic() + TIMEOUT_S
    while brightest_below(display, window, top=0.77) < 200:  # the panel is the lower quarter then
        assert time.monotonic() < deadline, "no text in the window of its new size"
        time.sleep(POLL_S)
    before = corner(display, window)
    press(display, window, "h", lambda: corner(display, window) != before)
    press(display, window, "q", lambda: webcam.poll() is not None)
    assert webcam.returncode == 0


def test_where_the_model_looked(display: str, webcam: subprocess.Popen[str]) -> None:
    """On a paused picture, which only the overlay can change: a word is lit, and the picture comes back."""
    window = find_window(display, webcam)
    assert webcam.stdout
    webcam.stdout.readline()
    press(display, window, "space", lambda: stands_still(display, window))
    plain = picture(display, window)
    press(display, window, "a", lambda: not np.array_equal(picture(display, window), plain))
    assert picture(display, window).mean() < plain.mean()  # all but where it looked is darker
    press(display, window, "a", lambda: np.array_equal(picture(display, window), plain))


def picture(display: str, window: int) -> NDArray[np.uint8]:
    return pixels(display, window, 0.0, 0.6)


def stands_still(display: str, window: int) -> bool:
    """Whether the picture stays the same, where the video changes each second."""
    before = picture(display, window)
    time.sleep(1.5)
    return np.array_equal(picture(display, window), before)


def test_q_ends_it(display: str, webcam: subprocess.Popen[str]) -> None:
    window = find_window(display, webcam)
    assert webcam.stdout
    webcam.stdout.readline()  # the first caption is there
    xdotool(display, "windowfocus", "--sync", str(window))
    deadline = time.monotonic() + TIMEOUT_S
    while webcam.poll() is None and time.monotonic() < deadline:
        xdotool(display, "key", "--window", str(window), "q")
        time.sleep(POLL_S)
    assert webcam.poll() == 0


def test_the_close_button_ends_it(display: str, webcam: subprocess.Popen[str]) -> None:
    """The panel below the picture has white text on it before."""
    window = find_window(display, webcam)
    deadline = time.monotonic() + TIMEOUT_S
    while brightest_below(display, window, top=0.85) < 200:
        assert time.monotonic() < deadline, "no text in the window"
        time.sleep(POLL_S)
    press_close_button(display, window)
    assert_ended_well(webcam)
