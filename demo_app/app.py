"""The web page: read one image or many, see how sure the network is. Start it with `python app.py`."""

import atexit
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import anyio
import gradio as gr
import numpy as np
from images import SUFFIXES, ImageError, find_images, open_image
from limits import MAX_CALL_FILES, MAX_WAITING, READERS, Limits
from ocr import COLUMNS, ModelError, Reading, Recognizer, as_row
from page import count, describe, draw_map, judge, shade, tell_all
from patches import JOBS, keep_house, limit_jobs, prepare_gradio, stop
from starlette.middleware import Middleware
from uploads import MAX_FILE_BYTES, MAX_FILES, NO_IMAGE, open_files, open_upload, own_path, write_table

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
# Gradio's examples have no names, and a screen reader would not hear a verdict.
MAKE_ACCESSIBLE = """() => {
    document.querySelectorAll("button.gallery-item").forEach(
        (button, position) => {button.ariaLabel = `Example ${position + 1}`})
    document.querySelectorAll("#verdict, #status").forEach(part => {part.ariaLive = "polite"})
}"""
LAUNCH = {
    "theme": THEME,
    "css": CSS,
    "footer_links": ["api"],
    "run_history": False,
    "ssr_mode": False,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 100,
}
Result = TypeVar("Result")


def build(recognizer: Recognizer) -> gr.Blocks:
    """Build the page for a model."""
    uploads = prepare_gradio().folder
    readers = anyio.CapacityLimiter(READERS)

    async def in_turn(function: Callable[[dict | None], Result], image: dict | None) -> Result:
        return await anyio.to_thread.run_sync(function, image, limiter=readers)

    def read(image: dict | None) -> tuple[np.ndarray, Reading]:
        pixels = open_image(open_upload(image, uploads), recognizer.channels)
        return pixels, recognizer.read(pixels)

    def describe_reading(image: dict) -> tuple:
        try:
            pixels, reading = read(image)
        except ImageError as error:
            return "", f"**{error}**", [], ""
        characters, shades = shade(reading)
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
            paths = [own_path(file["path"], uploads) for file in files]
        except ImageError as error:
            raise gr.Error(str(error), print_exception=False) from error
        names, rows = [], []

        def sources() -> Iterator[str | bytes | ImageError]:
            for name, source in open_files(paths):
                names.append(name)
                yield source

        for reading in recognizer.read_each(sources()):
            rows.append(as_row(names[len(rows)], reading))
            progress((len(rows), None), unit="images")
        return rows, write_table(rows, uploads)

    def show_many(files: list[dict] | None, progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        rows, path = read_many(files, progress)
        return count(rows), gr.Dataframe(rows, visible=True), gr.DownloadButton(value=path, visible=True)

    def clear_many() -> tuple:
        return "", gr.Dataframe(visible=False), gr.DownloadButton(visible=False)

    with gr.Blocks(title="CustomOCR", analytics_enabled=False) as page:
        gr.Markdown(f"# CustomOCR\n{describe(recognizer)}")
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
            gr.Markdown(
                f"Up to {MAX_CALL_FILES:,} files at once: images, and zip archives of up to 20 MB; up to "
                f"{MAX_FILES:,} images in all."
            )
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
        # Nobody with one image waits for those with many.
        jobs = {"concurrency_id": JOBS, "concurrency_limit": READERS // 2}
        outputs = [text, verdict, characters, heat_map]
        page.load(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        many.select(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        image.change(show, image, outputs, show_progress="minimal", **raw)
        button.click(show_or_ask, image, outputs, **raw)
        result = [status, table, download]
        files.change(clear_many, None, result, api_visibility="private")
        start.click(show_many, files, result, **raw, **jobs)
        api, answer = gr.Button(visible=False), gr.JSON(label="Reading", visible=False)
        # Without gradio's queue one image needs one request. In gradio's batches a bad image would fail all.
        api.click(
            predict, image, answer, api_name="predict", queue=False, preprocess=False, postprocess=False
        )
        api.click(read_many, files, [table, download], api_name="read_many", preprocess=False, **jobs)
    # What uses the queue is open through it alone, or its limits would not hold.
    page.queue(api_open=False, max_size=MAX_WAITING, default_concurrency_limit=READERS)
    limit_jobs(page)
    return page


def launch(recognizer: Recognizer, **options: object) -> gr.Blocks:
    """Build the page for a model and serve it; more options than `LAUNCH` go to gradio's `launch`."""
    page = build(recognizer)
    atexit.register(stop, page)
    guards = {"app_kwargs": {"middleware": [Middleware(Limits)], "lifespan": keep_house}}
    page.launch(**LAUNCH | guards | options)
    return page


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that uploads are deleted
    try:
        recognizer = Recognizer()
    except ModelError as error:
        sys.exit(str(error))
    launch(recognizer)
