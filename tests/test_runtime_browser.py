"""demo_app/browser: the same readings in Debian's Chromium as with onnxruntime in Python."""

import base64
import io
import shutil
import threading
import zipfile
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import numpy as np
import ocr
import pytest
from browser.serve import PACKAGES, Handler, fetch_runtime
from images import open_image
from network import Shape, prepare
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from runs import ARCHIVE, ROOT

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; install it to run browser tests")
expect.set_options(timeout=20_000)
EXAMPLES = sorted((ROOT / "demo_app" / "Examples").iterdir())
CALL = """async ([texts, name, ...rest]) => {
    const call = (await import('/browser/reader.js'))[name], results = []
    for (const text of texts) {
        const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0))
        results.push(await call(new Blob([bytes]), ...rest))
        if (results.at(-1).data) results.at(-1).data = [...results.at(-1).data]
    }
    return results
}"""
PREPARE = """async ([data, width, height, shape]) => {
    const { prepare } = await import('/browser/reader.js')
    return [...prepare({data: new Uint8Array(data), width, height}, shape)]
}"""


@contextmanager
def served():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/browser/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def browser():
    try:
        fetch_runtime()
    except OSError as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(browser):
    with served() as address:
        yield address


@pytest.fixture
def page(browser, address):
    page = browser.new_page()
    page.goto(address)
    yield page
    page.close()


def give(page, path):
    page.locator("#file").set_input_files(path)


def run(page, images, function, *arguments):
    """Call a function of reader.js for images, each encoded as bytes."""
    return page.evaluate(CALL, [[base64.b64encode(image).decode() for image in images], function, *arguments])


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_the_examples_are_read_and_no_request_leaves_the_machine(browser, address):
    page, asked, errors = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    for path in EXAMPLES:
        give(page, path)
        expect(page.locator("#text")).to_have_text(path.stem)
        expect(page.locator("#badge")).to_contain_text("✓ Sure")
        expect(page.locator("#image")).to_be_visible()
    expect(page.locator("#offline")).to_be_visible()
    site = address.removesuffix("browser/")
    assert asked and [url for url in asked if not url.startswith((site, f"blob:{site}", "data:"))] == []
    assert errors == []
    page.close()


def test_readings_are_those_of_the_recognizer(page):
    images = [path.read_bytes() for path in EXAMPLES]
    if ARCHIVE.exists():
        with zipfile.ZipFile(ARCHIVE) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith((".png", ".jpg")))
            images += [archive.read(name) for name in names[:: len(names) // 100][:100]]
    blended = Image.blend(*(Image.open(path).convert("L") for path in EXAMPLES[:2]), 0.5)
    large = Image.open(EXAMPLES[2]).resize((431, 97))
    images += map(encode, (blended, large, Image.new("L", (200, 50), 255)))
    expected = ocr.Recognizer(runtime="onnx").read_batch(images)
    readings = run(page, images, "read")
    assert not expected[-1].text and not expected[-3].sure
    for ours, theirs in zip(readings, expected, strict=True):
        assert ours["sure"] == theirs.sure
        if theirs.sure or not theirs.text:  # else the app searches longer
            assert ours["text"] == theirs.text
            assert ours["confidence"] == pytest.approx(theirs.confidence, abs=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_that_pillow_opens(page, channels):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 9, 4), np.uint8)).resize((60, 24))
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    turned = encode(smooth.convert("RGB"), "JPEG", exif=exif, quality=95, subsampling=0)
    light = smooth.point([205 + value // 6 for value in range(256)] * 3 + list(range(256)))
    letters = Image.new("RGBA", (60, 20), (255, 255, 255, 0))
    letters.paste((250, 250, 250, 255), (10, 5, 30, 15))
    letters.putpixel((12, 7), (0, 0, 0, 255))  # a speck
    images = [smooth, light, letters, smooth.convert("RGB").convert("P")]
    images = [turned, *map(encode, images)]
    opened = run(page, images, "openImage", channels)
    for ours, content in zip(opened, images, strict=True):
        theirs = open_image(content, channels)
        assert (ours["height"], ours["width"]) == theirs.shape[:2]
        pixels = np.reshape(ours["data"], theirs.shape)
        # Python takes the grey image out of a JPEG without making colours of it.
        assert np.abs(pixels - theirs.astype(int)).max() <= 5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lines", [1, 2])
def test_images_are_prepared_as_in_python(page, channels, lines):
    shape, rng = Shape(48, 96, channels, 1.3, lines), np.random.default_rng(0)
    for height, width in [(23, 71), (48, 96), (97, 431), (3, 2)]:
        image = rng.integers(0, 256, (height, width, channels), np.uint8)
        prepared = page.evaluate(PREPARE, [image.ravel().tolist(), width, height, shape._asdict()])
        np.testing.assert_allclose(prepared, prepare(image[np.newaxis], shape).ravel(), atol=1e-4)


def test_the_page_works_offline_after_the_first_visit(browser):
    page = browser.new_page()
    with served() as address:
        page.goto(address)
        expect(page.locator("#offline")).to_be_visible()
    page.reload()  # the server is gone
    give(page, EXAMPLES[1])
    expect(page.locator("#text")).to_have_text(EXAMPLES[1].stem)
    page.close()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted_and_a_text_gets_a_sentence(page, event):
    dispatch = """([bytes, event]) => {
        const data = new DataTransfer()
        if (bytes) data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}))
        const Kind = event === "drop" ? DragEvent : ClipboardEvent
        const key = event === "drop" ? "dataTransfer" : "clipboardData"
        document.body.dispatchEvent(new Kind(event, {[key]: data, bubbles: true}))
    }"""
    page.evaluate(dispatch, [list(EXAMPLES[0].read_bytes()), event])
    expect(page.locator("#text")).to_have_text(EXAMPLES[0].stem)
    page.evaluate(dispatch, [None, event])
    expect(page.locator("#message")).to_contain_text("There is no image in this: give a PNG")
    expect(page.locator("#reading")).to_be_hidden()


@pytest.mark.parametrize("size", [0, 40, 4000])
def test_a_damaged_file_gets_a_sentence(page, size, tmp_path):
    (tmp_path / "damaged.png").write_bytes(EXAMPLES[0].read_bytes()[:size])
    give(page, tmp_path / "damaged.png")
    expect(page.locator("#message")).to_contain_text("The image is damaged")
    expect(page.locator("#message")).to_contain_text("save it as PNG or JPEG")


def test_what_is_unsure_or_empty_gets_its_badge_and_advice(page, tmp_path):
    blank = Image.new("L", (200, 50), 255)
    blank.save(tmp_path / "blank.png")
    give(page, tmp_path / "blank.png")
    expect(page.locator("#badge")).to_have_text("– Not read")
    Image.blend(*(Image.open(path).convert("L") for path in EXAMPLES[:2]), 0.5).save(tmp_path / "both.png")
    give(page, tmp_path / "both.png")
    expect(page.locator("#badge")).to_contain_text("? Not sure")
    expect(page.locator("#message")).to_contain_text("Crop the image to one line")


@pytest.mark.parametrize(
    ("body", "words"),
    [(None, "ocr_model.onnx can't be loaded (answer 404)"), (b"<html>", "The model can't be loaded")],
)
def test_a_model_that_is_not_there_or_damaged_gets_a_sentence(browser, address, body, words):
    page = browser.new_page()
    page.route("**/ocr_model.onnx", lambda route: route.fulfill(status=200 if body else 404, body=body or ""))
    page.goto(address)
    expect(page.locator("#message")).to_contain_text(words)
    give(page, EXAMPLES[0])
    expect(page.locator("#message")).to_contain_text(words)
    expect(page.locator("#offline")).to_be_hidden()
    page.close()


@pytest.mark.parametrize("change", [b"", b"changed"])
def test_a_published_page_takes_the_runtime_from_the_cdn_if_it_is_unchanged(browser, address, change):
    """The page knows by its host that it is published; `localhost` is none that serve.py names."""

    def answer(route):
        name = route.request.url.removeprefix("https://cdn.jsdelivr.net/npm/")
        body = (PACKAGES / name).read_bytes() + change
        route.fulfill(body=body, headers={"Access-Control-Allow-Origin": "*"})

    page = browser.new_page()
    page.route("https://cdn.jsdelivr.net/**", answer)
    page.goto(address.replace("127.0.0.1", "localhost"))
    give(page, EXAMPLES[0])
    if change:
        expect(page.locator("#message")).to_contain_text("can't be loaded")
    else:
        expect(page.locator("#text")).to_have_text(EXAMPLES[0].stem)
    page.close()
