"""The gallery in a real browser, from disk: what is drawn, search, order, keyboard, accessibility."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from kiloword.runtime.captions import Caption
from kiloword.runtime.gallery import write_gallery
from kiloword.runtime.outputs import CaptionRow
from tests.browser import open_browser, open_page, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

MANY = 10_000
SEEN_AT_ONCE = 150
"""More than fit on the screen with some rows around it, and few of `MANY`."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def caption(text: str, confidence: float = 0.5, **facts: object) -> Caption:
    return Caption(text, confidence, (), (), 1.0, "test", **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    for number, name in enumerate(("a.jpg", "b #1.jpg", "ü.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def small(folder: Path) -> str:
    """Three photos and one that failed."""
    rows = [
        CaptionRow(str(folder / "b #1.jpg"), caption("a dog on a beach", 0.9)),
        CaptionRow(str(folder / "a.jpg"), caption("a cat <b>asleep</b>", 0.2, warnings=("is truncated",))),
        CaptionRow(str(folder / "ü.jpg"), caption("two dogs in the snow", 0.6)),
        CaptionRow(str(folder / "broken.jpg"), error=f"{folder / 'broken.jpg'}: is not a picture"),
    ]
    return write(folder / "small.html", rows)


@pytest.fixture(scope="module")
def large(folder: Path) -> str:
    """As many as it is made for; without thumbnails, for those photos are not there."""
    rows = (
        CaptionRow(f"{number:05d}.jpg", caption(f"photo with the number {number}", number / MANY))
        for number in range(MANY)
    )
    return write(folder / "large.html", rows)


def write(path: Path, rows: object) -> str:
    with path.open("w", encoding="utf-8") as stream:
        write_gallery(stream, rows, str(path.parent))  # type: ignore[arg-type]
    return path.as_uri()


def words(page: Page) -> list[str]:
    return page.locator("#space .words").all_inner_texts()


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.querySelector('.words')?.textContent ?? ''"))


def test_each_photo_with_picture_words_and_confidence(browser: Browser, small: str, folder: Path) -> None:
    """As text, whatever it looks like; links lead to the files; nothing is fetched."""
    with open_page(browser, small) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expected = ["a dog on a beach", "a cat <b>asleep</b>", "two dogs in the snow", "is not a picture"]
        assert [text.split(": ")[-1] for text in words(page)] == expected
        pictures = page.locator("#space img")
        assert pictures.count() == 3
        loaded = "images => Promise.all(images.map(image => image.decode().then(() => image.naturalWidth)))"
        assert pictures.evaluate_all(loaded) == [90, 90, 90]
        assert "20 %" in page.locator("#space li").nth(1).inner_text()
        assert "is truncated" in page.locator("#space li").nth(1).inner_text()
        links = page.locator("a.photo").evaluate_all("links => links.map(link => link.href)")
        assert links[:3] == [(folder / name).as_uri() for name in ("b #1.jpg", "a.jpg", "ü.jpg")]
        assert [url for url in requests if not url.startswith("data:")] == [small]


def test_enter_opens_the_photo(browser: Browser, small: str) -> None:
    with open_page(browser, small) as page:
        page.keyboard.press("/")
        page.keyboard.type("beach")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url("**/b%20%231.jpg")


def test_search_and_order(browser: Browser, small: str) -> None:
    """All words must be there, in the caption or the name; Escape shows all again."""
    with open_page(browser, small) as page:
        page.keyboard.press("/")
        page.keyboard.type("DOG ü")
        assert words(page) == ["two dogs in the snow"]
        assert page.inner_text("#count") == "1 of 4 photos"
        page.keyboard.type("zebra")
        assert page.locator("#none").is_visible()
        page.keyboard.press("Escape")
        assert len(words(page)) == 4
        page.select_option("#order", "most")
        assert words(page)[:3] == ["a dog on a beach", "two dogs in the snow", "a cat <b>asleep</b>"]


def test_ten_thousand_photos_are_no_more_work_than_fit_on_the_screen(browser: Browser, large: str) -> None:
    """However one moves; what is wanted is there, and the focus with it."""
    with open_page(browser, large) as page:
        assert page.inner_text("#count") == "10,000 photos"
        page.keyboard.press("End")
        assert focused(page) == f"photo with the number {MANY - 1}"
        for key in ("PageUp", "ArrowUp", "ArrowLeft", "Home", "PageDown", "PageDown"):
            page.keyboard.press(key)
            assert page.locator("#space > li").count() < SEEN_AT_ONCE, key
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        page.evaluate("document.getElementById('view').scrollTop = 1e5")
        # Not by `wait_for_function`: it calls eval while it waits, which the page forbids.
        from playwright.sync_api import expect

        expect(page.locator("#space")).not_to_contain_text(re.compile(r"number 0(?!\d)"))
        assert page.locator("#space > li").count() < SEEN_AT_ONCE
        page.keyboard.press("Escape")
        page.keyboard.type("number 9999")
        assert words(page) == ["photo with the number 9999"]
        page.keyboard.press("Enter")
        assert focused(page) == "photo with the number 9999"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Browser, small: str, scheme: str) -> None:
    with open_page(browser, small, bypass_csp=True, color_scheme=scheme) as page:
        assert violations(page) == []
