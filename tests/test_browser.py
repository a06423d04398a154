"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import csv
import io
import json
import re
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager

import app
import httpx
import limits
import ocr
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from page import REPOSITORY
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from runs import ROOT, free_port
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.routing import Route

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; install it to run browser tests")
expect.set_options(timeout=20_000)
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
FIRST, EXAMPLE = EXAMPLES[:2]  # the page shows the first one by itself


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        camera = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet + camera)
        yield browser
        browser.close()


@contextmanager
def opened(browser, address, **options):
    page = browser.new_page(permissions=["clipboard-read", "clipboard-write"], **options)
    page.set_default_timeout(20_000)
    page.goto(address)
    page.get_by_role("button", name="Read the text").wait_for()
    yield page
    page.close()


@pytest.fixture
def page(browser, shipped_app):
    with opened(browser, shipped_app) as page:
        yield page


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


def png(image):
    """Make a Pillow image what a file input takes."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"name": "image.png", "mimeType": "image/png", "buffer": file.getvalue()}


def blend():
    """Lay two examples over each other, which nobody can read."""
    one, other = (Image.open(path) for path in EXAMPLES[:2])
    return png(Image.blend(one, other, 0.5))


def copy_image(page, path):
    page.evaluate(
        """async bytes => navigator.clipboard.write([new ClipboardItem(
            {"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])""",
        list(path.read_bytes()),
    )


def test_an_upload_is_read_at_once_and_the_text_can_be_copied(page):
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.locator("#badge")).to_have_text(re.compile(r"✓ Sure\s*(9\d\.\d|>99\.9)%"))
    each = r"\s*".join(rf"{character}\s*\d+%" for character in EXAMPLE.stem)
    expect(page.locator("#characters")).to_contain_text(re.compile(each))
    page.locator("#text").get_by_role("button").click()
    page.wait_for_function(f"navigator.clipboard.readText().then(text => text === '{EXAMPLE.stem}')")
    page.get_by_label("Remove Image").click()
    expect(page.locator("#text textarea")).to_have_value("")
    expect(page.locator("#verdict")).to_contain_text("There is no image yet")


def test_the_first_example_and_its_reading_come_with_the_page(browser, shipped_app):
    page, asked = browser.new_page(viewport={"width": 375, "height": 800}), []
    page.on("request", lambda request: asked.append(request.url) if "queue" in request.url else None)
    page.goto(shipped_app)
    expect(page.locator("#text textarea")).to_have_value(FIRST.stem)
    expect(page.locator("#badge")).to_contain_text("✓ Sure")
    expect(page.locator("#image img")).to_have_attribute("src", re.compile(FIRST.name))
    page.get_by_label("Example 1", exact=True).wait_for()
    page.wait_for_timeout(500)
    assert asked == []  # it was read when the app was started
    page.close()


def test_on_a_phone_large_examples_follow_the_image(page):
    page.set_viewport_size({"width": 375, "height": 800})
    boxes = [
        page.locator(part).first.bounding_box() for part in ("#image", ".gallery-item", "#text", "#badge")
    ]
    image, example, text, badge = boxes
    assert image["y"] < example["y"] < text["y"] and abs(badge["y"] - text["y"]) < 10
    assert example["y"] - image["y"] - image["height"] < 50  # the heading, nothing else
    assert min(example["width"], example["height"]) >= 44


def test_what_was_read_where_is_drawn_on_the_image(page):
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.locator("#map .box")).to_have_count(len(EXAMPLE.stem))
    boxes = [box.bounding_box()["x"] for box in page.locator("#map .box").all()]
    assert boxes == sorted(boxes) and page.locator("#map .box").first.is_visible()
    names = page.locator("#map .name").all_text_contents()
    expected = list(dict.fromkeys(EXAMPLE.stem))
    assert names[: len(expected)] == expected and names[-1] == "blank"
    expect(page.locator("#map")).to_contain_text("Blank: no character")


def test_a_pasted_image_is_read(page):
    copy_image(page, EXAMPLE)
    page.get_by_label("Paste from clipboard").first.click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


@pytest.mark.parametrize("tab", ["One image", "About"])
def test_an_image_is_pasted_anywhere_but_into_a_text(page, tab):
    copy_image(page, EXAMPLE)
    page.evaluate("document.body.append(document.createElement('input'))")
    page.locator("body > input").press("Control+v")
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(500)
    expect(page.locator("#text textarea")).to_have_value(FIRST.stem)
    page.keyboard.press("Control+v")
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.locator("#image")).to_be_visible()


def test_an_image_can_be_dropped_on_another_and_chosen_in_its_place(page):
    data = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer()
            data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}))
            return data
        }""",
        list(EXAMPLE.read_bytes()),
    )
    page.dispatch_event("#image img", "drop", {"dataTransfer": data})
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    with page.expect_file_chooser() as chooser:
        page.get_by_label("Upload file").first.click()
    chooser.value.set_files(EXAMPLES[2])
    expect(page.locator("#text textarea")).to_have_value(EXAMPLES[2].stem)


def test_a_picture_from_the_camera_is_answered(page):
    """Chromium's made-up camera shows a pattern, no text."""
    page.get_by_label("Capture from camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.readyState === 4")  # frames come
    page.get_by_role("button", name="capture photo").click()
    expect(page.locator("#badge")).to_contain_text(re.compile("Not sure|Not read"))


def test_an_unsure_reading_shows_what_else_it_may_be(page):
    upload(page, blend())
    expect(page.locator("#badge")).to_contain_text("? Not sure")
    expect(page.locator("#verdict")).to_contain_text("Crop the image to one line of text")
    items = page.locator("#verdict li code").all_text_contents()
    assert items[0] == page.locator("#text textarea").input_value() and len(items) == len(set(items)) >= 3


def test_an_image_without_text_is_said_to_have_none(page):
    upload(page, png(Image.new("L", (200, 50), 255)))
    expect(page.locator("#badge")).to_have_text("– Not read")
    expect(page.locator("#verdict")).to_contain_text(
        "No text was found. The image is nearly blank. Crop the image to one line"
    )


def test_a_tall_image_gets_advice_of_its_own(page):
    upload(page, png(Image.new("L", (50, 200), 255)))
    expect(page.locator("#verdict")).to_contain_text("taller than wide")
    expect(page.locator("#verdict")).not_to_contain_text("Crop the image")


def test_many_files_become_a_table_and_a_csv(page, tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in EXAMPLES[2:]:
            archive.write(path, f"folder/{path.name}")
        archive.writestr("readme.txt", "no image")
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.get_by_role("tab", name="Many images").click()
    files = [*EXAMPLES[:2], tmp_path / "bad.png", tmp_path / "some.zip"]
    page.locator("#files input[type=file]").set_input_files(files)
    expect(page.locator("#files a[download]")).to_have_count(len(files))
    page.get_by_role("button", name="Read all").click()
    expect(page.get_by_role("gridcell", name=re.compile("^some.zip")).first).to_be_visible()
    with page.expect_download() as download:
        page.locator("#csv").click()
    with download.value.path().open(encoding="utf-8-sig", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert "not an image" in rows.pop("bad.png")["error"]
    read = {name.rpartition("/")[2]: row for name, row in rows.items() if not row["error"]}
    in_order = [(path.name, path.stem) for path in EXAMPLES]
    assert [(name, row["text"]) for name, row in read.items()] == in_order
    assert {row["sure"] for row in read.values()} == {"yes"}


def test_other_files_take_the_place_of_those_that_are_read(page, tmp_path):
    content = png(Image.open(EXAMPLE).convert("1"))["buffer"]  # a small file
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        for number in range(4000):
            archive.writestr(f"{number}.png", content)
    page.get_by_role("tab", name="Many images").click()
    files, start = page.locator("#files input[type=file]"), page.get_by_role("button", name="Read all")
    files.set_input_files(tmp_path / "large.zip")
    expect(start).to_be_enabled()
    start.click()
    expect(page.get_by_text(re.compile(r"^\d+ images"))).to_be_visible()
    page.locator("#files").get_by_label("Clear").click()
    expect(start).to_be_disabled()
    files.set_input_files(EXAMPLE)
    expect(start).to_be_enabled()
    start.click()
    expect(page.get_by_role("gridcell", name=EXAMPLE.name)).to_be_visible(timeout=60_000)
    page.wait_for_timeout(4000)
    expect(page.get_by_role("gridcell", name=EXAMPLE.name)).to_be_visible()


@pytest.mark.parametrize("width", [375, 1440])
def test_the_table_shows_first_what_is_to_be_looked_at(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_role("tab", name="Many images").click()
    right, white = png(Image.open(EXAMPLE)), png(Image.new("L", (200, 50), 255))
    bad = right | {"name": "bad.png", "buffer": b"no image"}
    page.locator("#files input[type=file]").set_input_files([right, white, blend(), bad])
    expect(page.locator("#files a[download]")).to_have_count(4)
    button, listed = page.get_by_role("button", name="Read all"), page.locator("#files")
    assert button.bounding_box()["y"] < listed.bounding_box()["y"]
    button.click()
    cells = page.get_by_role("gridcell")
    expect(cells).to_have_count(16)
    table = cells.all_inner_texts()
    assert table[3::4] == ["– Not read", "– Not read", "? Not sure", "✓ Sure"]
    assert table[0] == "bad.png" and "not an image" in table[1] and table[5] == "no text"
    last, whole = cells.nth(3).bounding_box(), page.locator("#table").bounding_box()
    assert abs(whole["x"] + whole["width"] - last["x"] - last["width"]) < 5 and whole["width"] <= width
    header = page.get_by_role("columnheader", name="confidence")
    for order in (sorted, lambda values: sorted(values, reverse=True)):
        header.click()
        page.wait_for_timeout(300)
        shown = [float(text) for text in cells.all_inner_texts()[2::4] if text]
        assert len(shown) == 2 and shown == order(shown)


def test_the_first_lines_say_what_the_page_does_and_lead_on(page, shipped_app):
    about = json.loads((ROOT / "demo_app" / "ocr_model" / "assets.extra" / "about.json").read_text())
    expect(page.get_by_text("Reads one line of text in an image")).to_be_visible()
    for name in ("Code", "Notebook in Colab", "For other images, train your own"):
        link = page.get_by_role("link", name=name, exact=True).get_attribute("href")
        assert REPOSITORY in link
    expect(page.get_by_text(about["alphabet"])).to_be_hidden()
    page.get_by_role("tab", name="About").click()
    for figure in (about["alphabet"], about["dataset"], about["date"], f"{about['exact_match']:.2%}"):
        expect(page.locator("#about")).to_contain_text(figure)


def test_in_light_mode_each_part_has_an_outline_and_the_button_is_not_the_loudest(page):
    for part in ("#image", "#result .form", "#verdict", "#map", "#characters"):
        expect(page.locator(part)).to_have_css("border-top-width", "1px")
        expect(page.locator(part)).to_have_css("border-top-color", "rgb(209, 213, 219)")
    expect(page.locator("gradio-app")).to_have_css("background-color", "rgb(249, 250, 251)")
    expect(page.get_by_role("button", name="Read the text")).to_have_class(re.compile("secondary"))


def test_an_example_runs_on_click(page):
    page.locator("button.gallery-item").nth(1).click()
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)


def test_what_is_not_an_image_gets_a_sentence(page):
    upload(page, {"name": "fake.png", "mimeType": "image/png", "buffer": b"not an image"})
    expect(page.get_by_text("not an image that can be read").first).to_be_visible()


def test_a_narrow_screen_needs_no_scrolling_sideways(page):
    page.set_viewport_size({"width": 375, "height": 800})
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_button_without_an_image_says_what_to_do(page):
    page.get_by_label("Remove Image").click()
    page.get_by_role("button", name="Read the text").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("There is no image yet")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_the_console_no_error(browser, shipped_app, scheme):
    with opened(browser, shipped_app, color_scheme=scheme) as page:
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.reload()
        page.get_by_role("button", name="Read the text").wait_for()
        for tab in ("One image", "Not sure", "Not read", "Many images", "API", "About"):
            if tab == "Many images":
                page.get_by_role("tab", name=tab).click()
                bad = png(Image.new("L", (9, 9))) | {"buffer": b"no image"}
                page.locator("#files input[type=file]").set_input_files([bad, png(Image.open(EXAMPLE))])
                expect(page.locator("#files a[download]")).to_have_count(2)
                page.get_by_role("button", name="Read all").click()
                expect(page.get_by_role("gridcell", name=EXAMPLE.stem)).to_be_visible()
            elif tab.startswith("Not"):
                upload(page, blend() if tab == "Not sure" else png(Image.new("L", (200, 50), 255)))
                expect(page.locator("#badge")).to_contain_text(tab)
            else:
                page.get_by_role("tab", name=tab).click()
            for width in (375, 1440):
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(500)  # until it has faded in
                serious = [
                    (violation["id"], [node["html"][:200] for node in violation["nodes"]])
                    for violation in Axe().run(page).response["violations"]
                    if violation["impact"] in ("serious", "critical")
                    and violation["id"]
                    != "nested-interactive"  # gradio's button for more files holds its input
                ]
                assert serious == [], (tab, width)
        assert errors == []


def tab_to(page, script):
    """Press the tabulator until the focus is on what a script looks for."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(f"(element => {script})(document.activeElement)"):
            return
    raise AssertionError(f"the focus never came to {script}")


def test_the_keyboard_alone_reads_and_copies(page):
    tab_to(page, "element.ariaLabel === 'Example 2'")
    page.keyboard.press("Enter")
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.get_by_role("tab", name="One image").focus()
    tab_to(page, "element.textContent.trim() === 'Read the text'")
    page.keyboard.press("Enter")
    tab_to(page, "element.closest('#text') && element.tagName === 'BUTTON'")
    page.keyboard.press("Enter")
    page.wait_for_function(f"navigator.clipboard.readText().then(text => text === '{EXAMPLE.stem}')")


def test_a_screen_reader_hears_what_changes(page, tmp_path):
    """An announced part stays the same element, and its texts come in beside its attribute."""
    regions = {"#badge": "Not sure", "#verdict": "Crop", "#status": "1 sure, 0 not sure, 1 not read"}
    page.locator("#verdict[aria-live=polite]").wait_for(state="attached")
    page.evaluate("window.verdict = document.querySelector('#verdict')")
    upload(page, blend())
    for region in ("#badge", "#verdict"):
        expect(page.locator(region)).to_contain_text(regions[region])
    assert page.evaluate("window.verdict === document.querySelector('#verdict')")
    page.get_by_role("tab", name="Many images").click()
    page.locator("#status[aria-live=polite]").wait_for(state="attached")
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.locator("#files input[type=file]").set_input_files([EXAMPLE, tmp_path / "bad.png"])
    expect(page.locator("#files a[download]")).to_have_count(2)
    page.get_by_role("button", name="Read all").click()
    expect(page.locator("#status")).to_contain_text(regions["#status"])
    for region in regions:
        assert page.locator(region).get_attribute("aria-live") == "polite"


@contextmanager
def proxy(address, prefix):
    """A reverse proxy that strips a prefix, as nginx does; it passes answers on while they come."""
    client = httpx.AsyncClient(base_url=address, timeout=60)

    async def forward(request):
        target = request.scope["raw_path"].decode().removeprefix(prefix) + "?" + request.url.query
        # The host's name goes along: it is the address that the browser sees.
        asked = client.build_request(
            request.method, target, headers=request.headers.raw, content=request.stream()
        )
        answer = await client.send(asked, stream=True)
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_raw(), answer.status_code, answer.headers, background=close)

    route = Route(f"{prefix}/{{path:path}}", forward, methods=["GET", "POST"])
    config = uvicorn.Config(Starlette(routes=[route]), port=free_port(), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{config.port}{prefix}/"
    server.should_exit = server.force_exit = True
    thread.join()


def test_the_page_works_behind_a_proxy_under_a_sub_path(browser, monkeypatch):
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/ocr")
    port = free_port()
    served = app.launch(ocr.Recognizer(), prevent_thread_lock=True, quiet=True, server_port=port)
    with proxy(f"http://127.0.0.1:{port}", "/ocr") as outside:
        page, failed = browser.new_page(), []

        def note(request):
            if request.failure != "net::ERR_ABORTED":  # the page itself closes a stream that it has read
                failed.append(request.url)

        page.on("requestfailed", note)
        page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
        page.goto(outside)
        page.get_by_role("button", name="Read the text").wait_for()
        upload(page, EXAMPLE)
        expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
        page.get_by_label("Example 3").click()
        expect(page.locator("#text textarea")).not_to_have_value(EXAMPLE.stem)
        assert failed == []
        page.close()
    served.close()


def test_no_request_leaves_the_machine(browser, shipped_app):
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(shipped_app)
    page.get_by_role("button", name="Read the text").wait_for()
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.wait_for_timeout(1000)
    page.close()
    assert asked and [url for url in asked if not url.startswith((shipped_app, "data:", "blob:"))] == []


def test_an_image_is_read_once(page):
    asked = []
    page.on("request", lambda request: request.url.endswith("/queue/join?") and asked.append(request))
    takes = {1: lambda: upload(page, EXAMPLES[1]), 2: lambda: page.get_by_label("Example 3").click()}
    for number, take in takes.items():
        asked.clear()
        take()
        expect(page.locator("#text textarea")).to_have_value(EXAMPLES[number].stem)
        page.wait_for_timeout(1000)
        assert len(asked) == 1


def test_an_upload_that_fails_leaves_no_reading_of_the_image_before(page):
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    upload(page, {"name": "a.png", "mimeType": "image/png", "buffer": bytes(limits.MAX_FILE_BYTES + 1)})
    expect(page.locator("#text textarea")).to_have_value("")
    expect(page.locator("#badge")).not_to_contain_text("Sure")
    expect(page.locator("#map")).to_be_hidden()
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    expect(page.locator("#map")).to_be_visible()


def test_a_format_that_is_known_is_kept_to(page):
    upload(page, EXAMPLE)
    expect(page.locator("#text textarea")).to_have_value(EXAMPLE.stem)
    page.get_by_role("button", name="The text has a known format").click()
    pattern = page.get_by_label("Regular expression")
    pattern.fill(f"[^{EXAMPLE.stem[0]}].{{4}}")
    pattern.press("Enter")
    expect(page.locator("#text textarea")).to_have_value(re.compile(f"[^{EXAMPLE.stem[0]}].{{4}}"))
    pattern.fill("(a+)+")
    pattern.press("Enter")
    expect(page.locator("#verdict")).to_contain_text("The pattern may not contain ')+'")
