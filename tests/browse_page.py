"""Draw on the page of a trained network in a real browser, and take screenshots.

    python -m tests.browse_page RUN DIR

RUN is the directory of a run that reads the rows of MNIST, and DIR gets digit.html and the
screenshots. Needs Playwright and Chromium, at the path in CHROMIUM if not in /usr/bin.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

import jaxrnn
from experiments.digits.page import drawing_page

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
Stroke = Sequence[tuple[float, float]]  # in parts of the width and height of the paper
THREE: list[Stroke] = [
    [
        *((0.30, 0.28), (0.37, 0.21), (0.47, 0.18), (0.57, 0.20), (0.63, 0.27), (0.62, 0.36)),
        *((0.55, 0.43), (0.44, 0.47), (0.56, 0.49), (0.65, 0.55), (0.68, 0.64), (0.64, 0.74)),
        *((0.55, 0.80), (0.44, 0.81), (0.33, 0.77), (0.27, 0.70)),
    ]
]
SEVEN: list[Stroke] = [[(0.28, 0.22), (0.50, 0.21), (0.70, 0.22), (0.60, 0.45), (0.45, 0.82)]]
# The same by keyboard, from the middle: the pen goes up to the left, is lowered, and is lifted.
SEVEN_BY_KEYS = [("Home", 9), ("ArrowUp", 2), (" ", 1), ("ArrowRight", 17)]
SEVEN_BY_KEYS += [("End", 4), ("ArrowDown", 3)] * 4 + [(" ", 1)]


def draw_by_mouse(page: Page, strokes: Iterable[Stroke]) -> None:
    for stroke in strokes:
        for number, (x, y) in enumerate(_places(page, stroke)):
            page.mouse.move(x, y, steps=5)
            if number == 0:
                page.mouse.down()
        page.mouse.up()


def draw_by_finger(page: Page, strokes: Iterable[Stroke]) -> None:
    touch = page.context.new_cdp_session(page)
    for stroke in strokes:
        kind = "touchStart"
        for x, y in _places(page, stroke):
            points = [{"x": x, "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            kind = "touchMove"
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def draw_by_keyboard(page: Page, keys: Iterable[tuple[str, int]]) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_label("Paper")).to_be_focused()
    expect(page.locator("#pen")).to_be_visible()
    for key, count in keys:
        for _ in range(count):
            page.keyboard.press(key)


def _places(page: Page, stroke: Stroke) -> list[tuple[float, float]]:
    box: Any = page.get_by_label("Paper").bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def expect_answer(page: Page, digit: str) -> None:
    """Wait until the network has read, to the last row."""
    expect(page.get_by_role("status")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#answer b")).to_have_text(digit)
    expect(page.locator("#moment")).to_have_text("After row 28 of 28")


class Pages:
    """Opens the page from disk, without a network; any request or error of it is kept."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.browser, self.address = browser, path.resolve().as_uri()
        self.complaints: list[str] = []

    def open(self, width: int = 1100, height: int = 900, **options: Any) -> Page:
        context = self.browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=2, **options
        )
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: self._complain(request.url))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("console", lambda message: self._complain(message.text))
        page.goto(self.address)
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"the page is {wider} pixels wider than a window of {width}"
        return page

    def _complain(self, text: str) -> None:
        if text != self.address:
            self.complaints.append(text)


def check_drawing(pages: Pages, folder: Path) -> None:
    """Draw by mouse, by finger and by keyboard, and clear; screenshots on the way."""
    for name, scheme in (("light", "light"), ("dark", "dark")):
        page = pages.open(color_scheme=scheme)
        expect(page.locator("#answer b")).to_have_text("")
        if name == "light":
            page.screenshot(path=folder / "empty.png", full_page=True)
        draw_by_mouse(page, THREE)
        expect_answer(page, "3")
        page.screenshot(path=folder / f"{name}.png", full_page=True)
    page.get_by_role("slider").fill("13")
    expect(page.locator("#moment")).to_have_text("After row 13 of 28")
    page.screenshot(path=folder / "reading.png", full_page=True)
    page.get_by_role("button", name="Read again").click()
    expect_answer(page, "3")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#answer b")).to_have_text("")
    draw_by_mouse(page, SEVEN)
    expect_answer(page, "7")

    page = pages.open(360, 740, has_touch=True, is_mobile=True)
    draw_by_finger(page, SEVEN)
    expect_answer(page, "7")
    expect(page.locator("#answer b")).to_be_in_viewport()
    page.screenshot(path=folder / "narrow.png", full_page=True)
    pages.open(320, 568, has_touch=True, is_mobile=True)

    page = pages.open(reduced_motion="reduce")
    draw_by_keyboard(page, SEVEN_BY_KEYS)
    expect_answer(page, "7")
    page.screenshot(path=folder / "keyboard.png", full_page=True)
    page.keyboard.press("Escape")
    expect(page.locator("#answer b")).to_have_text("")


def check_beliefs(page: Page, run: Any, params: Any) -> float:
    """The largest difference between the page and jaxrnn, over ten test images and all rows."""
    images = np.asarray(jaxrnn.load("mnist", split="test[:10]").inputs)
    logits = run.model.apply({"params": params}, images / np.float32(255), every_step=True)
    theirs = [page.evaluate("image => beliefs(image)", image.ravel().tolist()) for image in images]
    return float(np.abs(np.array(theirs) - jax.nn.softmax(logits)).max())


def main(workdir: str, out: str) -> None:
    """Write the page of a run, and check it."""
    run, folder = jaxrnn.load_run(workdir), Path(out)
    params = run.network.params
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "digit.html"
    path.write_text(drawing_page(run.model, params, (28, 28), "0123456789"), encoding="utf-8")
    with sync_playwright() as playwright:
        program = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        with playwright.chromium.launch(executable_path=program, args=FLAGS.split()) as browser:
            pages = Pages(browser, path)
            difference = check_beliefs(pages.open(), run, params)
            assert difference < 1e-4, f"the page and jaxrnn differ by {difference}"
            check_drawing(pages, folder)
            assert not pages.complaints, pages.complaints
            print(f"read 3, 7, 7 and 7 in Chromium {browser.version}, without a request")
    print(f"largest difference to jaxrnn over 10 images × 28 rows: {difference:.1e}")
    print(f"page and screenshots: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
