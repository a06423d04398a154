"""Take the pictures of the two pages: `python benchmarks/screenshot.py` writes `demo.png` and `label.png`.

They go to `docs/images`. It needs Chromium.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright
from runs import ROOT, free_port, running, serve
from serving import APP, EXAMPLES

from label_app.app import work_of
from training.synthetic import draw_text, render

PICTURES = ROOT / "docs" / "images"
SIZE = {"width": 1100, "height": 700}


def show_app(browser: Browser, folder: Path) -> None:
    """Start the shipped app, which shows an example and its reading."""
    with serve(APP, folder) as address:
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.get_by_role("button", name="Read the text").wait_for()
        expect(page.locator("#text textarea")).to_have_value(EXAMPLES[0].stem)
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURES / "demo.png")


def label_some(browser: Browser, folder: Path) -> None:
    """Draw images of six digits in the look of the default data set, and label some of them."""
    rng, images, port = np.random.default_rng(0), folder / "images", free_port()
    images.mkdir()
    truth = {f"{number:03}.png": draw_text("------", list("0123456789"), rng) for number in range(200)}
    for name, text in truth.items():
        Image.fromarray(render(text, rng)).save(images / name)
    command = [sys.executable, "-m", "label_app.app", str(images)]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    with running(command, port, folder / "label.log", cwd=ROOT, env=environment):
        page = browser.new_page(viewport=SIZE)
        page.goto(f"http://127.0.0.1:{port}")
        for _ in range(60):
            page.wait_for_timeout(300)
            page.locator("#text").fill(truth[page.locator("#stage img").get_attribute("src")[-7:]])
            page.keyboard.press("Enter")
        page.wait_for_timeout(2000)
        page.screenshot(path=PICTURES / "label.png")
    shutil.rmtree(work_of(images.resolve()), ignore_errors=True)


def main() -> None:
    """Take both."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        show_app(browser, Path(place))
        label_some(browser, Path(place))
        browser.close()


if __name__ == "__main__":
    main()
