"""The server's page in a real browser: drop, camera, keyboard, accessibility, where the model looked."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageOps

from kiloword import Captioner
from kiloword.runtime.stabilise import similarity
from tests.browser import drop, open_browser, open_page, violations
from tests.servers import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
PlaywrightTimeout = pytest.importorskip("playwright.sync_api").TimeoutError
pytestmark = [pytest.mark.e2e, pytest.mark.browser]

TIMEOUT_MS = 60_000


SCENES = ("coffee.jpg", "photographer.jpg")


@pytest.fixture(scope="module")
def scenes(photos: Path) -> list[Image.Image]:
    """What the camera sees, each for two seconds."""
    return [ImageOps.fit(Image.open(photos / name).convert("RGB"), (640, 480)) for name in SCENES]


@pytest.fixture(scope="module")
def browser(scenes: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    with camera.open("wb") as stream:
        for scene in scenes:
            for _ in range(60):
                scene.save(stream, "JPEG", quality=90)
    with open_browser(camera) as opened:
        yield opened


@pytest.fixture(scope="module")
def captioner() -> Iterator[Captioner]:
    """The bundle that ships, so that the page shows real captions."""
    with Captioner.load(provider="cpu", threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def url(captioner: Captioner) -> Iterator[str]:
    from kiloword.runtime.serve.guard import Access
    from kiloword.runtime.serve.limits import ServeLimits

    with running(captioner, ServeLimits(), Access()) as server:
        yield server.url


def wait_for_cards(page: Page, count: int) -> None:
    page.locator(".card:not(.busy)").nth(count - 1).wait_for(timeout=TIMEOUT_MS)


def test_a_dropped_photo_gets_its_caption(
    browser: Browser, url: str, captioner: Captioner, photos: Path
) -> None:
    """The words of the captioner itself, with confidence and milliseconds, also for a screen reader."""
    expected = captioner.caption(photos / "cat.jpg")
    with open_page(browser, url) as page:
        drop(page, photos / "cat.jpg")
        wait_for_cards(page, 1)
        assert page.inner_text(".card .caption").strip() == expected.spoken
        assert f"{round(100 * expected.confidence)} % sure" in page.inner_text(".card .facts")
        assert re.search(r"\d+ ms", page.inner_text(".card .facts"))
        assert page.get_attribute(".card img", "alt") == expected.spoken
        assert expected.spoken in page.inner_text("[aria-live=polite]")


def test_a_dropped_folder_is_walked(browser: Browser, url: str, photos: Path, tmp_path: Path) -> None:
    """Photos at any depth, hidden files and other files left out."""
    (tmp_path / "album" / "deep").mkdir(parents=True)
    shutil.copy(photos / "cat.jpg", tmp_path / "album" / "one.jpg")
    shutil.copy(photos / "coffee.jpg", tmp_path / "album" / "deep" / "two.jpg")
    shutil.copy(photos / "coffee.jpg", tmp_path / "album" / ".hidden.jpg")
    (tmp_path / "album" / "notes.txt").write_text("no photo", encoding="utf-8")
    with open_page(browser, url) as page:
        drop(page, tmp_path / "album")
        wait_for_cards(page, 2)
        assert sorted(page.locator(".card .name").all_inner_texts()) == ["one.jpg", "two.jpg"]


def test_words_appear_one_by_one(browser: Browser, url: str, photos: Path) -> None:
    """What the caption's element held while it grew, seen by an observer in the page."""
    with open_page(browser, url, bypass_csp=True) as page:
        page.evaluate(
            """() => { window.grown = [];
            new MutationObserver(() => {
              const text = document.querySelector(".card .caption")?.textContent.trim();
              if (text && text !== window.grown.at(-1)) window.grown.push(text);
            }).observe(document.getElementById("cards"), {subtree: true, childList: true}) }"""
        )
        drop(page, photos / "officer.jpg")
        wait_for_cards(page, 1)
        grown = [text for text in page.evaluate("window.grown") if text != "Waiting…"]
    lengths = [len(text.split()) for text in grown]
    assert len(lengths) > 3
    assert lengths == sorted(lengths)


def test_a_file_that_is_no_photo_says_so(browser: Browser, url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    with open_page(browser, url) as page:
        drop(page, tmp_path / "broken.jpg")
        wait_for_cards(page, 1)
        assert page.inner_text(".card .caption.failed").startswith("No caption: ")


def choose_with_enter(page: Page, photo: Path) -> None:
    """A browser that was held up forgets that somebody pressed a key, and opens no chooser; so try again."""
    for timeout_ms in (5_000, 15_000, TIMEOUT_MS):
        try:
            with page.expect_file_chooser(timeout=timeout_ms) as chosen:
                page.keyboard.press("Enter")
        except PlaywrightTimeout:
            continue
        chosen.value.set_files(photo)
        return
    raise AssertionError("Enter opens no chooser")


def test_keyboard_alone(browser: Browser, url: str, photos: Path) -> None:
    """Choose a photo, walk over its words, see where the model looked, and leave; no mouse."""
    with open_page(browser, url) as page:
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the captions"
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Choose photos"
        choose_with_enter(page, photos / "cat.jpg")
        wait_for_cards(page, 1)
        while page.locator(":focus").inner_text() != "Clear":
            page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        words = page.locator(".card .word")
        assert page.locator(":focus").inner_text() == words.nth(0).inner_text()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert words.nth(1).get_attribute("aria-pressed") == "true"
        assert page.locator(".picture canvas.shown").count() == 1
        page.keyboard.press("Escape")
        assert page.locator(".picture canvas.shown").count() == 0
        assert words.nth(1).get_attribute("aria-pressed") == "false"


def test_the_heat_is_where_the_attention_is(
    browser: Browser, url: str, captioner: Captioner, photos: Path
) -> None:
    """Where the captioner's map is highest, the overlay is clearest; where it is lowest, darkest."""
    attention = captioner.caption(photos / "cat.jpg", attention=True).attention
    assert attention is not None
    heat = attention[1]
    with open_page(browser, url, bypass_csp=True) as page:
        drop(page, photos / "cat.jpg")
        wait_for_cards(page, 1)
        page.locator(".card .word").nth(1).click()
        darkness = page.evaluate(
            """([rows, columns]) => {
            const canvas = document.querySelector(".picture canvas");
            const context = canvas.getContext("2d");
            const at = (row, column) => context.getImageData(
              Math.floor((column + 0.5) * canvas.width / columns),
              Math.floor((row + 0.5) * canvas.height / rows), 1, 1).data[3];
            const line = (row) => Array.from({length: columns}, (_, column) => at(row, column));
            return Array.from({length: rows}, (_, row) => line(row));
            }""",
            list(heat.shape),
        )
    flat = [value for row in darkness for value in row]
    assert flat[int(heat.argmax())] <= min(flat) + 40
    assert flat[int(heat.argmin())] >= max(flat) - 40


def test_the_camera_is_captioned_as_it_changes(
    browser: Browser, url: str, captioner: Captioner, scenes: list[Image.Image]
) -> None:
    """Two scenes by turns: captions like the captioner's own of either come, and end when told."""
    expected = [captioner.caption(scene).spoken for scene in scenes]
    with open_page(browser, url) as page:
        page.get_by_role("button", name="Start the camera").click()
        page.locator("#live-caption[data-captions]").wait_for(timeout=TIMEOUT_MS)
        seen: set[str] = set()
        deadline = time.monotonic() + TIMEOUT_MS / 1000
        while not all(any(similarity(one, text) > 0.5 for text in seen) for one in expected):
            assert time.monotonic() < deadline, f"expected {expected}, seen {seen}"
            seen.add(page.inner_text("#live-caption"))
            page.wait_for_timeout(100)
        assert re.search(r"\d+ ms old", page.inner_text("#live-facts"))
        page.locator("[aria-live=polite]", has_text=re.compile(r"\w")).wait_for(state="attached")
        page.get_by_role("button", name="Stop the camera").click()
        page.locator("#camera").wait_for(state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_axe_finds_nothing(browser: Browser, url: str, photos: Path, scheme: str, width: int) -> None:
    """Contrast, names, roles, landmarks: before, with captions, and with a word chosen and the camera on."""
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    with open_page(browser, url, **options) as page:
        assert violations(page) == []
        drop(page, photos / "cat.jpg", photos / "coffee.jpg")
        wait_for_cards(page, 2)
        page.locator(".card .word").nth(1).click()
        page.get_by_role("button", name="Start the camera").click()
        page.locator("#live-caption[data-captions]").wait_for(timeout=TIMEOUT_MS)
        assert violations(page) == []
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0


def test_a_token_is_asked_for_or_taken_from_the_address(
    browser: Browser, captioner: Captioner, photos: Path
) -> None:
    from kiloword.runtime.serve.guard import Access
    from kiloword.runtime.serve.limits import ServeLimits

    token = "a-token-of-this-test"
    with running(captioner, ServeLimits(), Access(token)) as server:
        with open_page(browser, f"{server.url}#token={token}") as page:
            assert token not in page.url
            drop(page, photos / "cat.jpg")
            wait_for_cards(page, 1)
            assert page.locator(".card .caption.failed").count() == 0
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_label("The token that it was started with").fill(token)
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]", timeout=TIMEOUT_MS)
        page.context.close()
