"""A headless Chromium with a camera that is made up, for tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kiloword import KilowordError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE_VERSION = "4.14.1"
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--disable-gpu",
]


def chromium() -> str:
    """The browser's program; the test is skipped where there is none."""
    named = os.environ.get("KILOWORD_CHROMIUM")
    found = named or next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
    if not found:
        pytest.skip("no Chromium: install it, or name it in KILOWORD_CHROMIUM")
    return found


@contextmanager
def open_browser(camera: Path | None = None) -> Iterator[Browser]:
    """A browser without a window.

    Args:
        camera: What its camera sees, over and over: JPEGs one after the other in a file *.mjpeg, 30 a second.
            None for the browser's own test picture.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    program = chromium()
    # As root, which is who runs in containers, Chromium's own sandbox does not start.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        flags = _FLAGS + (["--no-sandbox"] if root else [])
        flags += [] if camera is None else [f"--use-file-for-fake-video-capture={camera}"]
        browser = driver.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """The page, ready; afterwards, whatever the browser complained about fails the test."""
    context = browser.new_context(permissions=["camera"], **options)
    complaints: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(url)
    page.wait_for_selector("html[data-ready]", timeout=60_000)
    yield page
    context.close()
    assert complaints == []


def drop(page: Page, *paths: Path) -> None:
    """Drop files or folders from outside the browser on the middle of the page."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 120, "data": data})


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong for people with disabilities; open the page with bypass_csp."""
    from kiloword.runtime.web.packages import npm_package

    try:
        axe = npm_package("axe-core", AXE_VERSION, hint="install npm")
    except KilowordError as error:
        pytest.skip(f"no axe-core: {error}")
    page.evaluate((axe / "axe.min.js").read_text(encoding="utf-8") + "; undefined")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]
