"""The web page: read one image or many, see how sure the network is. Start it with `python app.py`."""

import argparse
import atexit
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import gradio as gr
import numpy as np
from api import PUT_ADDRESS, SNIPPETS, mount
from folders import MAX_FILE_BYTES, find_images
from formats import Format, FormatError
from gradio import routes
from images import SUFFIXES, ImageError, open_image
from jinja2 import ChoiceLoader, DictLoader
from limits import MAX_CALL_FILES, MAX_WAITING, READERS, Limits
from ocr import COLUMNS, ModelError, Reading, Recognizer, as_row
from page import SHOWN_COLUMNS, arrange, badge, count, describe, draw_map, judge, preview, shade, tell_all
from patches import JOBS, keep_house, limit_queue, prepare_gradio, stop
from starlette.middleware import Middleware
from uploads import MAX_FILES, NO_IMAGE, open_files, open_upload, own_path, write_table

# Gradio's own colours have too little contrast by the rules of WCAG 2.
DARK_TEXT, LIGHT_TEXT = "*neutral_800", "*neutral_100"
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    body_background_fill="*neutral_50",
    block_border_width="1px",
    block_border_color="*neutral_300",
    input_border_color="*neutral_300",
    link_text_color_dark="*primary_300",
    link_text_color_visited_dark="*primary_300",
    button_secondary_border_color="*neutral_400",
    button_secondary_border_color_dark="*neutral_500",
    button_secondary_background_fill_dark="transparent",
    block_label_background_fill_dark="*neutral_700",
    block_title_background_fill_dark="*neutral_700",
    button_border_width="1px",
    block_label_text_color=DARK_TEXT,
    block_label_text_color_dark=LIGHT_TEXT,
    block_title_text_color=DARK_TEXT,
    block_title_text_color_dark=LIGHT_TEXT,
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_600",
)
CSS = """
#text textarea {font: 2rem ui-monospace, monospace}
#result {flex-wrap: nowrap; align-items: stretch}
#result > .form {min-width: 0 !important}
#badge {flex: none; width: auto; min-width: 0; margin: 0}
#badge:not(:has(.badge)) {display: none}
#badge * {height: 100%; padding: 0}
#badge .badge {padding: 0 1.25rem; border-radius: 0.5rem; font-size: 1.375rem; font-weight: 700}
#badge small {height: auto}
.badge {display: flex; flex-direction: column; justify-content: center; align-items: center}
.badge, .badge small {color: white !important; white-space: nowrap}
.badge small {font-size: 0.875rem; font-weight: 400}
.sure {background: #166534}
.unsure {background: #9a3412}
.unread {background: #475569}
#verdict {padding: 0.75rem 1rem; border: 1px solid var(--block-border-color); border-radius: 0.5rem}
#verdict {background: var(--block-background-fill)}
#verdict ol {margin-bottom: 0}
#image .image-frame img {width: 100%; padding: 2.5rem 1rem 0.5rem; object-fit: contain}
body:not(.dark) #image .image-frame {background: var(--neutral-200)}
#image .source-selection {width: 100%; justify-content: space-around}
#image .source-selection button {display: flex; gap: 0.5rem; width: auto; height: 2.75rem}
#image .source-selection button {align-items: center; color: var(--body-text-color)}
#image .source-selection svg {width: 1.25rem}
#image [aria-label^=Upload]::after {content: "Upload"}
#image [aria-label^=Capture]::after {content: "Camera"}
#image [aria-label^=Paste]::after {content: "Paste"}
#examples .gallery:not(.container) {display: grid; grid: auto / repeat(auto-fill, minmax(7rem, 1fr))}
#examples .gallery-item * {width: 100%; max-width: none; height: 2.75rem; object-fit: contain}
@media (max-width: 640px) {
    main.app {padding: 1rem !important}
    #image {height: 190px !important; min-height: 0 !important}
    .tab-container button {padding: 0.375rem}
    #text textarea {font-size: 1.75rem; padding: 0.5rem}
    #badge .badge {padding: 0 0.75rem; font-size: 1.125rem}
    #examples .gallery:not(.container) {grid: repeat(2, auto) / auto-flow 7rem; overflow-x: auto}
    #table .cell-wrap {padding: 0.25rem; font-size: 0.75rem}
    #table .cell-menu-button {display: none}
}
#table [role=gridcell], #table [role=columnheader] {font-family: system-ui, sans-serif}
#characters .token {color: var(--body-text-color) !important; background: none !important}
#characters .text {font: 1.25rem ui-monospace, monospace}
#characters .label {border: 1px solid #a5b4fc}
#map label span {display: none}
#map svg[role=img] {width: 100%; height: auto; margin-top: 1.5rem}
#api pre, #api code {white-space: pre-wrap; overflow: visible; overflow-wrap: anywhere}
#api .token {color: inherit !important}
#about table {width: 100%}
#about td {border-color: var(--block-border-color) !important}
#about thead {display: none}
#about td:first-child {min-width: 8rem; word-break: normal}
button[role=tab], div.label, span.or, a.download-link {
    color: var(--body-text-color) !important
}
"""
# Gradio's examples have no names, and a screen reader would not hear a verdict.
MAKE_ACCESSIBLE = """() => {
    document.querySelectorAll("button.gallery-item").forEach(
        (button, position) => {button.ariaLabel = `Example ${position + 1}`})
    document.querySelectorAll("#badge, #verdict, #status").forEach(part => {part.ariaLive = "polite"})
}"""
# In gradio an image can't be pasted or dropped anywhere, "Upload" only clears what is there, a click on a
# table's header does not sort, for its menu does, and a damaged image is shown as a broken one.
LISTEN = """() => {
    const input = () => document.querySelector("#image input[type=file]")
    const take = (event, data) => {
        if (event.defaultPrevented || !data.files[0]?.type.startsWith("image/") || !input()) return
        event.preventDefault()
        document.querySelector("button[role=tab]").click()
        input().files = data.files
        input().dispatchEvent(new Event("change"))
    }
    document.onpaste = event => event.target.closest("input, textarea") || take(event, event.clipboardData)
    document.ondragover = event => event.preventDefault()
    document.ondrop = event => {
        take(event, event.dataTransfer)
        if (event.dataTransfer.files.length) event.preventDefault()
    }
    document.addEventListener("click", event => {
        const {target} = event
        if (target.closest("#image [aria-label='Upload file']") && input()) {
            event.stopPropagation()
            input().click()
        }
        const header = target.closest("#table th"), menu = header?.querySelector(".cell-menu-button")
        if (!menu || menu.contains(target)) return
        const direction = header.querySelector("[aria-label='Sorted ascending']") ? 1 : 0
        setTimeout(() => menu.click())
        setTimeout(() => document.querySelectorAll(".cell-menu [role=menuitem]")[direction]?.click(), 50)
    }, true)
    const hide = ({target, type}) => {
        if (target.closest?.("#image .image-frame")) target.style.opacity = type === "load" ? 1 : 0
    }
    for (const type of ["load", "error"]) document.addEventListener(type, hide, true)
}"""
LAUNCH = {
    "theme": THEME,
    "css": CSS,
    "footer_links": [],
    "run_history": False,
    "ssr_mode": False,
    "max_file_size": MAX_FILE_BYTES,
    "state_session_capacity": 100,
}
# What the parts of the page say about no image: text, badge, verdict, map, characters.
NOTHING = [{"value": ""}, {"value": ""}, {"value": NO_IMAGE}, {"visible": False}, {"visible": False}]
CLEAR = f"""image => {json.dumps([gr.update(**part) for part in NOTHING])}
    .map(part => image ? {{__type__: "update"}} : part)"""
Result = TypeVar("Result")


def build(recognizer: Recognizer, readers: anyio.CapacityLimiter | None = None) -> gr.Blocks:
    """Build the page for a model."""
    uploads = prepare_gradio().folder
    # Where link previews look, gradio has its own title and picture; its `head` comes too late for them.
    loader, environment = routes.templates.env.loader, routes.templates.env
    source, *_ = loader.get_source(environment, "frontend/index.html")
    environment.loader = ChoiceLoader([DictLoader({"frontend/index.html": preview(source)}), loader])
    readers = readers or anyio.CapacityLimiter(READERS)

    async def in_turn(function: Callable[..., Result], *inputs: object) -> Result:
        return await anyio.to_thread.run_sync(function, *inputs, limiter=readers)

    def read(image: dict | None, pattern: str = "", alphabet: str = "") -> tuple[np.ndarray, Reading]:
        form = Format(pattern, alphabet)
        pixels = open_image(open_upload(image, uploads), recognizer.channels)
        return pixels, recognizer.read(pixels, form)

    def present(image: dict | None, pattern: str = "", alphabet: str = "") -> list[dict]:
        if image is None:
            return NOTHING
        try:
            pixels, reading = read(image, pattern, alphabet)
        except (FormatError, ImageError) as error:
            return [{"value": ""}, {"value": badge(None)}, {"value": f"**{error}**"}, *NOTHING[3:]]
        characters, shades = shade(reading)
        return [
            {"value": reading.text},
            {"value": badge(reading)},
            {"value": judge(pixels, reading, recognizer, bool(pattern or alphabet))},
            {"value": draw_map(pixels, reading, recognizer), "visible": bool(characters)},
            {"value": characters, "color_map": shades, "visible": bool(characters)},
        ]

    newest: dict[str, object] = {}  # of the readings that run for each page

    async def show(image: dict | None, pattern: str, alphabet: str, request: gr.Request) -> list[dict]:
        # A reading may end after a later one of its page, and would be shown in its place.
        newest[request.session_hash] = this = object()
        try:
            parts = await in_turn(present, image, pattern, alphabet)
            is_newest = newest.get(request.session_hash) is this
            return [gr.update(**part) if is_newest else gr.skip() for part in parts]
        finally:
            if newest.get(request.session_hash) is this:
                del newest[request.session_hash]

    async def show_or_ask(image: dict | None, pattern: str, alphabet: str, request: gr.Request) -> list[dict]:
        if image is None:
            raise gr.Error(NO_IMAGE, print_exception=False)
        return await show(image, pattern, alphabet, request)

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
        widths = ["24%", "26%", "27%", "23%"]  # so that a telephone shows all of them
        shown = gr.Dataframe(arrange(rows), headers=SHOWN_COLUMNS, column_widths=widths, visible=True)
        return count(rows), shown, gr.DownloadButton(value=path, visible=True)

    def clear_many(files: list[dict] | None) -> tuple:
        start = gr.Button(interactive=bool(files))
        return "", gr.Dataframe(visible=False), gr.DownloadButton(visible=False), start

    folder = recognizer.folder / "Examples"
    examples = [str(path) for path in find_images(folder)[0]] if folder.is_dir() else []
    with gr.Blocks(title="CustomOCR", analytics_enabled=False) as page:
        gr.Markdown(f"# CustomOCR\n{describe(recognizer, bool(examples))}")
        with gr.Tab("One image"), gr.Row():
            with gr.Column():
                image = gr.Image(
                    examples[0] if examples else None,
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard", "webcam"],
                    height=240,
                    elem_id="image",
                )
                first = present(image.value)
                if examples:
                    with gr.Column(elem_id="examples"):
                        chosen = gr.Examples(examples, image, cache_examples=False, api_visibility="private")
                with gr.Accordion("The text has a known format", open=False):
                    pattern = gr.Textbox("", label="Regular expression", placeholder=r"[A-Z]{2}\d{4}")
                    alphabet = gr.Textbox("", label="Only these characters", placeholder="0123456789")
                button = gr.Button("Read the text")
            with gr.Column():
                with gr.Row(elem_id="result"):
                    text = gr.Textbox(label="Text", buttons=["copy"], elem_id="text", **first[0])
                    word = gr.HTML(elem_id="badge", **first[1])
                judgement = gr.Markdown(elem_id="verdict", **first[2])
                heat_map = gr.HTML(
                    label="Where each character was read",
                    show_label=True,
                    container=True,
                    elem_id="map",
                    **first[3],
                )
                characters = gr.HighlightedText(
                    label="Confidence of each character", elem_id="characters", **first[4]
                )
        with gr.Tab("Many images") as many:
            gr.Markdown(
                f"Add up to {MAX_CALL_FILES:,} images or zip archives, each of up to 20 MB, and 200 MB at a "
                f"time. At most {MAX_FILES:,} images are read."
            )
            kinds = [*SUFFIXES, ".zip"]
            start = gr.Button("Read all", variant="primary", interactive=False)
            files = gr.File(
                label="Files", file_count="multiple", file_types=kinds, height=240, elem_id="files"
            )
            status = gr.Markdown(elem_id="status")
            options = {"interactive": False, "wrap": True, "elem_id": "table"}
            table = gr.Dataframe(headers=COLUMNS, label="Readings", visible=False, **options)
            download = gr.DownloadButton("Download the table as CSV", elem_id="csv", visible=False)
        with gr.Tab("API"):
            snippets = gr.Markdown(SNIPPETS, elem_id="api")
            page.load(None, snippets, snippets, js=PUT_ADDRESS, api_visibility="private")
        with gr.Tab("About"):
            gr.Markdown(tell_all(recognizer.about), elem_id="about")
        # Gradio would first open images with every plugin of Pillow; only open_image is to open them.
        raw = {"preprocess": False, "api_visibility": "private"}
        # Nobody with one image waits for those with many.
        jobs = {"concurrency_id": JOBS, "concurrency_limit": READERS // 2}
        outputs = [text, word, judgement, heat_map, characters]
        page.load(None, js=LISTEN, api_visibility="private")
        page.load(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        many.select(None, js=MAKE_ACCESSIBLE, api_visibility="private")
        inputs = [image, pattern, alphabet]
        # Not `change`, which gradio sends twice for an upload; an example is no `input`.
        changes = [image.input, chosen.load_input_event.then] if examples else [image.input]
        for change in changes:
            change(show, inputs, outputs, show_progress="minimal", trigger_mode="always_last", **raw)
        # An upload that fails leaves no image, and is no input.
        image.change(None, image, outputs, js=CLEAR, api_visibility="private")
        asks = [button.click, pattern.submit, alphabet.submit]
        gr.on(asks, show_or_ask, inputs, outputs, trigger_mode="always_last", **raw)
        result = [status, table, download]
        reading = start.click(show_many, files, result, **raw, **jobs)
        files.change(clear_many, files, [*result, start], cancels=[reading], **raw)
        api, answer = gr.Button(visible=False), gr.JSON(label="Reading", visible=False)
        # Without gradio's queue one image needs one request. In gradio's batches a bad image would fail all.
        api.click(
            predict, image, answer, api_name="predict", queue=False, preprocess=False, postprocess=False
        )
        api.click(read_many, files, [table, download], api_name="read_many", preprocess=False, **jobs)
    # What uses the queue is open through it alone, or its limits would not hold.
    page.queue(api_open=False, max_size=MAX_WAITING, default_concurrency_limit=READERS)
    limit_queue(page)
    return page


def launch(recognizer: Recognizer, **options: object) -> gr.Blocks:
    """Build the page for a model and serve it; more options than `LAUNCH` go to gradio's `launch`."""
    readers = anyio.CapacityLimiter(READERS)
    page = build(recognizer, readers)
    atexit.register(stop, page)
    app = {"middleware": [Middleware(Limits)], "lifespan": keep_house} | mount(recognizer, readers)
    guards = {"app_kwargs": app}
    page.launch(**LAUNCH | guards | options)
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the page that reads the text in images.")
    here = Path(__file__).parent
    parser.add_argument(
        "--model", type=Path, default=here, metavar="FOLDER", help="folder of the model (default: this)"
    )
    arguments = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # so that uploads are deleted
        if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: sys.exit())
    try:
        launch(Recognizer(arguments.model))
    except (ModelError, OSError) as error:  # such as a port that is taken
        sys.exit(str(error))
