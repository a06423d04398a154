"""Take the readme's picture of the app: `python benchmarks/screenshot.py` writes `docs/images/demo.png`.

It needs Chromium.
"""

import shutil

from playwright.sync_api import expect, sync_playwright
from runs import ROOT, WORK, serve
from serving import APP, EXAMPLES


def main() -> None:
    """Start the shipped app, which shows an example and its reading."""
    WORK.mkdir(parents=True, exist_ok=True)
    with serve(APP, WORK) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.goto(address)
        page.get_by_role("button", name="Read the text").wait_for()
        expect(page.locator("#text textarea")).to_have_value(EXAMPLES[0].stem)
        page.wait_for_timeout(1000)
        page.screenshot(path=ROOT / "docs" / "images" / "demo.png")
        browser.close()


if __name__ == "__main__":
    main()
