"""The web page: read one image or many, see how sure the network is. Start it with `python app.py`."""

import base64
import binascii
import bisect
import csv
import html
import io
import os
import re
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import anyio
import gradio as gr
import numpy as np
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from gradio import processing_utils, routes
from gradio.utils import get_upload_folder
from ocr import COLUMNS, SUFFIXES, ImageError, Reading, Recognizer, as_row, find_images, open_image
from PIL import Image
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Uploads of this process. Gradio's usual folders may belong to another user or not be writable.
SCRATCH = tempfile.TemporaryDirectory(prefix="customocr_", ignore_cleanup_errors=True)
os.environ["GRADIO_TEMP_DIR"] = SCRATCH.name
os.environ["GRADIO_EXAMPLES_CACHE"] = str(Path(SCRATCH.name, "examples"))
# Gradio would make a table of all past events after each one.
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000")
HERE = Path(__file__).parent
# Gradio's own colours have too little contrast by the rules of WCAG 2.
DARK_TEXT, LIGHT_TEXT = "*neutral_800", "*neutral_100"
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    block_label_text_color=DARK_TEXT,
    block_label_text_color_dark=LIGHT_TEXT,
    block_title_text_color=DARK_TEXT,
    block_title_text_color_dark=LIGHT_TEXT,
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_700",
)
CSS = """
#text textarea {font: 2rem ui-monospace, monospace}
#characters .token {color: var(--body-text-color) !important; background: none !important}
#characters .text {font: 1.25rem ui-monospace, monospace}
#characters .label {border: 1px solid #a5b4fc}
#map svg {width: 100%; height: auto}
#about thead, footer .divider:last-of-type {display: none}
#about td:first-child {min-width: 8rem; word-break: normal}
button[role=tab], div.label, span.or, a.download-link, footer a, footer button {
    color: var(--body-text-color) !important
}
"""
MAX_FILES = 10_000
LIMITS, SHADES = (0.5, 0.9), ("#6d28d9", "#4338ca", "#1e1b4b")  # white is readable on each
KEEP_SECONDS = 3600  # until an upload is deleted
MAX_FILE_BYTES = 20_000_000
MAX_BODY_BYTES = 5_000_000  # of a request that is no upload: gradio holds it in memory
MAX_HELD_BYTES = 200_000_000  # of all those together
SMALL_BODY_BYTES = 100_000  # which always get in
MAX_BODY_SECONDS = 60  # until such a request must be there
MAX_UPLOAD_BYTES = 200_000_000  # of all files of one request
MAX_SECONDS = 300
READERS = 4  # single images that are open at once: one of 25 megapixels takes up to 300 MB
MAX_WAITING = 100  # requests that wait for a reader; there are events on the page beside them
BUSY = "Too many images are waiting. Try again in a few seconds."
NO_ADDRESSES = "This app opens no addresses. Upload the image itself."
DELETED = "Uploads are deleted after an hour. Upload it again."
NO_IMAGE = "There is no image yet. Upload or paste one, or click on an example."
# Gradio's examples have no names, and a screen reader would not hear a verdict.
MAKE_ACCESSIBLE = """() => {
    document.querySelectorAll("button.gallery-item").forEach(
        (button, position) => {button.ariaLabel = `Example ${position + 1}`})
    document.querySelectorAll("#verdict, #status").forEach(part => {part.ariaLive = "polite"})
}"""


class Limits:
    """ASGI middleware that refuses too many requests at once, and too large ones.

    What comes when `READERS` read and `MAX_WAITING` wait is refused before gradio spends time on it. Events
    of the page wait in gradio's queue.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.requests = 0
        self.held = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_upload = scope.get("path", "").endswith("/gradio_api/upload")
        limit, size = MAX_UPLOAD_BYTES if is_upload else MAX_BODY_BYTES, 0

        async def receive_some() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, f"The request is larger than {limit // 1_000_000} MB.")
            return message

        if scope["type"] != "http" or is_upload:
            await self.app(scope, receive_some, send)
            return
        # Only what has come whole counts: a slow client is not to hold up others.
        is_image = bool(re.search(r"/(run|api)/[^/]+/?$", scope["path"]))
        messages, held = [], 0

        async def receive_again() -> Message:
            return messages.pop(0) if messages else await receive()

        try:
            with anyio.move_on_after(MAX_BODY_SECONDS) as collecting:
                while not messages or messages[-1].get("more_body"):
                    messages.append(await receive_some())
                    part = len(messages[-1].get("body", b""))
                    held += part
                    self.held += part
                    if self.held > MAX_HELD_BYTES and held > SMALL_BODY_BYTES:
                        raise HTTPException(503, BUSY)
            if collecting.cancelled_caught:
                raise HTTPException(408, f"The request did not come whole in {MAX_BODY_SECONDS} seconds.")
            if is_image and self.requests >= READERS + MAX_WAITING:
                raise HTTPException(503, BUSY)
        except HTTPException as error:
            self.held -= held
            await JSONResponse({"error": error.detail}, error.status_code)(scope, receive, send)
            return
        self.requests += is_image
        try:
            await self.app(scope, receive_again, send)
        finally:
            self.requests -= is_image
            self.held -= held


async def refuse_download(*_: str, **__: str) -> NoReturn:
    """Refuse an image that is given by its address."""
    raise gr.Error(NO_ADDRESSES, print_exception=False)


async def refuse_stream(*_: object) -> NoReturn:
    """Refuse to pass on what lies at an address."""
    raise HTTPException(403, NO_ADDRESSES)


# A server that opens any address can be sent where its network trusts it. Gradio has no setting against it.
processing_utils.async_ssrf_protected_download = refuse_download
routes.secure_url_stream_response = refuse_stream

LAUNCH = {
    "theme": THEME,
    "css": CSS,
    "footer_links": ["api"],
    "run_history": False,
    "ssr_mode": False,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 100,  # a session holds its last request
    "app_kwargs": {"middleware": [Middleware(Limits)]},
}
Result = TypeVar("Result")


def literal(text: str) -> str:
    """Show a text in Markdown as it stands, whatever punctuation it has."""
    shown = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text)
    return f"<code>{shown}</code>"


def usual_length(about: dict) -> str:
    """Say how many characters the training labels have."""
    shortest, longest = about["lengths"]
    return f"{longest}" if shortest == longest else f"{shortest} to {longest}"


def describe(about: dict) -> str:
    """Say in Markdown what a model reads and how well, from what was written beside it."""
    alphabet = about["alphabet"]
    shown = literal(alphabet) if len(alphabet) <= 80 else f"{len(alphabet):,}"
    low, high = about["exact_match_interval"]
    unseen = "which an earlier model may have seen" if about["start_from"] else "that it had never seen"
    return (
        f"Reads one line of {usual_length(about)} characters out of {shown}, "
        f"in images like those of {literal(about['dataset'])}. Of {about['split']['test']:,} of these "
        f"{unseen}, it read {about['exact_match']:.1%} without a mistake "
        f"(95% interval {low:.1%} to {high:.1%}; {about['date']})."
    )


def tell_all(about: dict) -> str:
    """Make a Markdown table of what was written beside a model."""
    split, (low, high) = about["split"], about["exact_match_interval"]
    threshold = about["threshold"]
    rows = {
        "Trained on": f"{split['train']:,} labelled images of {literal(about['dataset'])}",
        "Chosen on": f"{split['validation']:,} others",
        "Measured on": f"{split['test']:,} others, split by {about['split_by']}",
        "Read without a mistake": f"{about['exact_match']:.2%}, 95% interval {low:.1%} to {high:.1%}",
        "Character error rate": f"{about['cer']:.2%}",
        "Called sure": "never"
        if threshold is None
        else f"from a confidence of {threshold:.1%} on, {usual_length(about)} characters long",
        "Characters": literal(about["alphabet"]),
        "Date": about["date"],
        "Not for": "photographs, documents, other alphabets, or getting round the protection of live sites",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def judge(reading: Reading, recognizer: Recognizer) -> str:
    """Say in Markdown how far a reading can be trusted; for an unsure one, what else it may be."""
    if reading.sure:
        return (
            f"**Sure**: {reading.confidence:.1%}. From {recognizer.about['threshold']:.1%} on, at least "
            "999 of 1,000 readings were right, measured on changed copies of "
            f"{recognizer.about['split']['validation']:,} images."
        )
    if not reading.text:
        return "**No text is seen** here. Is the image of the kind that the network was trained on?"
    others = "".join(
        f"<li>{literal(text) if text else 'no text'} {probability:.1%}</li>"
        for text, probability in recognizer.alternatives(reading)
    )
    return (
        f"**Not sure**: {reading.confidence:.1%}. Is the image of the kind that the network was trained on? "
        f"The most probable texts, of any length, are<ol>{others}</ol>Only a text of "
        f"{usual_length(recognizer.about)} characters, like the training labels, is called sure; another one "
        "is read only where it is about twenty times as probable."
    )


def draw_map(pixels: np.ndarray, reading: Reading, recognizer: Recognizer) -> str:
    """Draw an image and, below it, the probability of each character in each frame, as SVG.

    Args:
        pixels: uint8 (height, width, channels).
        reading: Of that image.
        recognizer: What read it.
    """
    margin, width, row = 48, 360, 19  # small, so that the names can be read on a telephone
    scale = width / pixels.shape[1]
    height = min(max(round(pixels.shape[0] * scale), 20), width // 2)
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((600, 600))
    picture.save(file, "PNG")
    edges = margin + recognizer.frame_edges(*pixels.shape[:2]) * scale
    likely = np.flatnonzero(reading.frames.max(axis=0) >= 0.05)
    likely = sorted(likely[np.argsort(-reading.frames.max(axis=0)[likely])][:15])
    parts = [
        f'<image x="{margin}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>'
    ]
    for line, number in enumerate(likely):
        top, name = height + 6 + row * line, html.escape(recognizer.name(number))
        parts.append(
            f'<text x="{margin - 6}" y="{top + 14}" text-anchor="end" fill="currentColor" '
            f'font-size="14">{name}</text>'
        )
        for frame in np.flatnonzero(reading.frames[:, number] >= 0.01):
            chance, left, right = reading.frames[frame, number], edges[frame], edges[frame + 1]
            parts.append(
                f'<rect x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{row - 2}" '
                f'fill="#6366f1" fill-opacity="{chance:.2f}"><title>{name}: {chance:.0%}</title></rect>'
            )
    size = f"{margin + width} {height + 10 + row * len(likely)}"
    label = "The image and, below it, where along its width each character was seen"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def open_files(paths: list[str]) -> Iterator[tuple[str, str | bytes | ImageError]]:
    """Give the name and the source of each image, those in zip archives as bytes; or why there is none."""
    for path in map(Path, paths):
        if not os.path.exists(path):  # noqa: PTH110, pathlib's raises for too long names
            yield path.name, ImageError(DELETED)
            continue
        if path.suffix.lower() != ".zip":
            yield path.name, str(path)
            continue
        is_empty = True
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if member.filename.lower().endswith(SUFFIXES) and "__MACOSX" not in member.filename:
                        is_empty = False
                        yield f"{path.name}/{member.filename}", unpack(archive, member)
        except Exception as error:  # noqa: BLE001, a damaged archive makes zipfile raise almost anything
            yield path.name, ImageError(f"The archive can't be unpacked ({error}). Make it again.")
        else:
            if is_empty:
                yield path.name, ImageError(f"The archive holds no images ({', '.join(SUFFIXES)}).")


def unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | ImageError:
    """Unpack one file of an archive, or say why not."""
    try:
        with archive.open(member) as file:
            content = file.read(MAX_FILE_BYTES + 1)  # what the header says may be wrong
    except Exception as error:  # noqa: BLE001, see above
        return ImageError(f"It can't be unpacked ({error}). Make the archive again.")
    if len(content) > MAX_FILE_BYTES:
        return ImageError(f"It is larger than {MAX_FILE_BYTES // 1_000_000} MB. Scale it down.")
    return content


def own_path(path: str) -> str:
    """Return the path of an upload; gradio leaves out to check files that say they are of another kind."""
    if not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise ImageError("This file was not uploaded here. Upload the image itself.")
    return path


class Strays(set):
    """Uploads that broke off, and tables: gradio deletes only files that it finds in sets of its own."""

    def __iter__(self) -> Iterator[str]:
        return (str(path) for path in Path(SCRATCH.name).iterdir() if path.is_file())


def open_upload(upload: dict | None) -> str | bytes:
    """Give the path of an uploaded image, or the bytes of one that came in a data URL."""
    if upload is None or not (upload["path"] or upload["url"]):
        raise ImageError(NO_IMAGE)
    if upload["path"]:
        if not Path(own_path(upload["path"])).exists():
            raise ImageError(DELETED)
        return upload["path"]
    start, _, data = upload["url"].partition("base64,")
    try:
        if not start.startswith("data:"):
            raise ImageError(NO_ADDRESSES)
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ImageError(f"The image's base64 is damaged ({error}). Encode it again.") from error


def disarm(cell: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula, but not before plain numbers."""
    return f"'{cell}" if re.match(r"[=@\t\r\n]|[+-](?![\d.,]*\Z)", cell) else cell


def count(rows: list[list[str]]) -> str:
    """Say in Markdown how many of the rows are sure, not sure, or errors."""
    sure = [row[COLUMNS.index("sure")] for row in rows]
    return f"**Done**: {sure.count('yes'):,} sure, {sure.count('no'):,} not sure, {sure.count(''):,} errors."


def build(folder: Path) -> gr.Blocks:
    """Build the page for the model in a folder.

    Raises:
        ocr.ModelError: If the model can't be loaded.
    """
    recognizer = Recognizer(folder)
    readers = anyio.CapacityLimiter(READERS)

    async def in_turn(function: Callable[[dict | None], Result], image: dict | None) -> Result:
        return await anyio.to_thread.run_sync(function, image, limiter=readers)

    def read(image: dict | None) -> tuple[np.ndarray, Reading]:
        pixels = open_image(open_upload(image), recognizer.channels)
        return pixels, recognizer.read(pixels)

    def describe_reading(image: dict) -> tuple:
        try:
            pixels, reading = read(image)
        except ImageError as error:
            return "", f"**{error}**", [], ""
        characters = [(part.text, f"{part.confidence:.0%}") for part in reading.characters]
        shades = {
            f"{part.confidence:.0%}": SHADES[bisect.bisect(LIMITS, part.confidence)]
            for part in reading.characters
        }
        return (
            reading.text,
            judge(reading, recognizer),
            gr.HighlightedText(characters, color_map=shades),
            draw_map(pixels, reading, recognizer),
        )

    async def show(image: dict | None) -> tuple:
        return ("", "", [], "") if image is None else await in_turn(describe_reading, image)

    async def show_or_ask(image: dict | None) -> tuple:
        if image is None:
            raise gr.Error(NO_IMAGE, print_exception=False)
        return await show(image)

    async def predict(image: dict | None) -> dict:
        """Read the text in one image."""
        try:
            _, reading = await in_turn(read, image)
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        characters = [{"text": part.text, "confidence": part.confidence} for part in reading.characters]
        return {
            "text": reading.text,
            "confidence": reading.confidence,
            "characters": characters,
            "sure": reading.sure,
        }

    def read_many(files: list[dict] | None, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """Read the text in several images, or in those of zip archives."""
        if not files:
            raise gr.Error("There are no files yet. Upload images or a zip archive.", print_exception=False)
        try:
            paths = [own_path(file["path"]) for file in files]
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        names, rows, end = [], [], time.monotonic() + MAX_SECONDS

        def sources() -> Iterator[str | bytes | ImageError]:
            for name, source in open_files(paths):
                names.append(name)
                if len(names) > MAX_FILES or time.monotonic() > end:
                    yield ImageError(
                        f"This and what follows was not read: {MAX_FILES:,} images or "
                        f"{MAX_SECONDS // 60} minutes are the most at once. Upload it by itself."
                    )
                    return
                yield source

        for reading in recognizer.read_each(sources()):
            rows.append(as_row(names[len(rows)], reading))
            progress((len(rows), None), unit="images")
        with tempfile.NamedTemporaryFile(
            "w",
            newline="",
            encoding="utf-8-sig",
            suffix=".csv",
            prefix="readings_",
            dir=SCRATCH.name,
            delete=False,
        ) as file:
            csv.writer(file).writerows([COLUMNS, *([disarm(cell) for cell in row] for row in rows)])
        return rows, file.name

    def show_many(files: list[dict] | None, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        rows, path = read_many(files, progress)
        return count(rows), gr.Dataframe(rows, visible=True), gr.DownloadButton(value=path, visible=True)

    def clear_many() -> tuple:
        return "", gr.Dataframe(visible=False), gr.DownloadButton(visible=False)

    every = KEEP_SECONDS // 6
    cleaning = (every, KEEP_SECONDS - every)
    with gr.Blocks(title="CustomOCR", analytics_enabled=False, delete_cache=cleaning) as page:
        gr.Markdown(f"# CustomOCR\n{describe(recognizer.about)}")
        with gr.Tab("One image"):
            with gr.Row():
                with gr.Column():
                    sources = ["upload", "clipboard", "webcam"]
                    image = gr.Image(label="Image", type="filepath", sources=sources, height=240)
                    button = gr.Button("Read the text", variant="primary")
                with gr.Column():
                    text = gr.Textbox(label="Text", buttons=["copy"], elem_id="text")
                    verdict = gr.Markdown(elem_id="verdict")
                    characters = gr.HighlightedText(
                        label="Each character and how sure the network is of it", elem_id="characters"
                    )
                    with gr.Accordion("What the model saw", open=False):
                        heat_map = gr.HTML(elem_id="map")
            folder = recognizer.folder / "Examples"
            examples = [str(path) for path in find_images(folder)] if folder.is_dir() else []
            if examples:  # below, where they are not between an image and its text on a telephone
                gr.Examples(examples, image, cache_examples=False, api_visibility="private")
        with gr.Tab("Many images") as many:
            gr.Markdown(f"Up to {MAX_FILES:,} images at once, also in zip archives of up to 20 MB.")
            kinds = [*SUFFIXES, ".zip"]
            files = gr.File(label="Files", file_count="multiple", file_types=kinds, elem_id="files")
            start = gr.Button("Read all", variant="primary")
            status = gr.Markdown(elem_id="status")
            widths = ["180px", "160px", "110px", "70px", "300px"]
            table = gr.Dataframe(
                headers=COLUMNS,
                label="Readings",
                interactive=False,
                wrap=True,
                column_widths=widths,
                visible=False,
            )
            download = gr.DownloadButton("Download the table as CSV", elem_id="csv", visible=False)
        with gr.Tab("About"):
            gr.Markdown(tell_all(recognizer.about), elem_id="about")
        # Gradio would first open images with every plugin of Pillow; only open_image is to open them.
        raw = {"preprocess": False, "api_visibility": "private"}
        outputs = [text, verdict, characters, heat_map]
        page.temp_file_sets.append(Strays())
        page.load(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        many.select(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        image.change(show, image, outputs, show_progress="minimal", **raw)
        button.click(show_or_ask, image, outputs, **raw)
        result = [status, table, download]
        files.change(clear_many, None, result, api_visibility="private")
        start.click(show_many, files, result, **raw)
        api, answer = gr.Button(visible=False), gr.JSON(label="Reading", visible=False)
        # Without gradio's queue one image needs one request. In gradio's batches a bad image would fail all.
        api.click(
            predict, image, answer, api_name="predict", queue=False, preprocess=False, postprocess=False
        )
        api.click(read_many, files, [table, download], api_name="read_many", preprocess=False)
    # What uses the queue is open through it alone, or its limits would not hold.
    return page.queue(api_open=False, max_size=MAX_WAITING, default_concurrency_limit=READERS)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that uploads are deleted
    build(HERE).launch(**LAUNCH)
