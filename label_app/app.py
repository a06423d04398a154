"""The page that labels a folder of images: `python -m label_app.app FOLDER`, or `make label DATASET=FOLDER`.

It is served on this machine alone. Images come and answers go through two routes of its own, beside gradio's.
"""

import argparse
import hashlib
import html
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from app import THEME
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from images import ImageError
from ocr import ModelError
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route

from label_app.answers import LabellingError
from label_app.labelling import Labelling
from label_app.models import ROOT
from training.intervals import wilson_interval

START = ROOT / "training" / "start"
PAGE = """
<form id="answer" autocomplete="off" data-folder="FOLDER">
<div id="stage"></div>
<div id="field"><div id="under" aria-hidden="true"></div>
<input id="text" aria-label="The text in the image" aria-describedby="hint" dir="auto" enterkeyhint="next"
autocomplete="off" autocapitalize="off" autocorrect="off" spellcheck="false"></div>
<p id="hint"></p>
<div id="keys">
<button type="button" id="back">Back <kbd>↑</kbd></button>
<button type="button" id="skip">Skip <kbd>↓</kbd></button>
<button type="button" id="unreadable">Can't be read <kbd>Esc</kbd></button>
<button type="submit" id="accept">Accept <kbd>Enter</kbd></button>
</div>
<p id="said" role="status"></p>
</form>"""
CSS = """
#stage {--ratio: 4; position: relative; width: min(100%, calc(var(--ratio) * min(34vh, 20rem)))}
#stage {display: flex; align-items: center; margin: 0 auto; min-height: 10rem}
#stage span {position: relative; width: 100%}
#stage img {display: block; width: 100%; height: auto; background: white}
#stage div {position: absolute; border-bottom: 5px solid #ea580c; background: #fdba7426}
#field {--length: 1; position: relative; margin: 0.75rem auto 0; max-width: 52rem}
#field {container-type: inline-size}
#text, #under {box-sizing: border-box; width: 100%; height: 4rem; padding: 0 1rem; text-align: center}
#text, #under {border: 2px solid var(--neutral-500); border-radius: 0.5rem}
#text, #under {font: 1rem/3.75rem ui-monospace, monospace}
#text, #under {font-size: clamp(1rem, calc(145cqw / var(--length)), 2rem)}
#text {position: relative; background: transparent; color: var(--body-text-color)}
#text:focus {outline: 3px solid var(--primary-400); border-color: transparent}
#under {position: absolute; inset: 0; overflow: hidden; white-space: pre; color: transparent}
#under {background: var(--input-background-fill)}
#under mark {color: transparent; background: #fdba74; border-radius: 3px}
.dark #under mark {background: #9a3412}
#hint {min-height: 1.5em; margin: 0.5rem 0; text-align: center}
#said {min-height: 1.5em; margin: 0.5rem 0 0; text-align: center; font-weight: 600}
#keys {display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: center}
#keys button {height: 2.75rem; margin: 0; padding: 0 1rem; border: 1px solid var(--neutral-500)}
#keys button {border-radius: 0.5rem; color: var(--body-text-color); font-weight: 600}
#keys button {background: var(--button-secondary-background-fill)}
#keys #accept {color: white; background: var(--primary-700); border-color: var(--primary-700)}
#keys kbd {margin-left: 0.375rem; padding: 0 0.375rem; border: 1px solid currentColor; border-radius: 4px}
#keys kbd {font-size: 0.75rem; color: inherit; background: none}
#mode .selected {background: var(--primary-700)}
#numbers p {margin: 0.375rem 0}
#numbers progress {width: 100%; height: 0.75rem; border: 0; border-radius: 1rem; overflow: hidden}
#numbers progress::-webkit-progress-bar {background: var(--neutral-300)}
#numbers progress::-webkit-progress-value {background: #4f46e5}
#numbers progress::-moz-progress-bar {background: #4f46e5}
#numbers big {font-size: 1.5rem; font-weight: 700}
@media (max-width: 640px) {
    main.app {padding: 0.75rem !important}
    #stage {width: min(100%, calc(var(--ratio) * 30vh)); min-height: 5rem}
    #text, #under {height: 3.25rem; padding: 0 0.5rem; line-height: 3rem}
    #keys {display: grid; grid: auto / 1fr 1fr}
    #keys button {padding: 0 0.25rem}
    #keys kbd {display: none}
}
"""
LISTEN = """() => {
    const part = id => document.getElementById(id)
    const field = part("text"), folder = part("answer").dataset.folder, pictures = new Map()
    let mode = "label", items = [], shown = null, is_old = false, is_touched = false, busy = false
    let past = [], turn = 0  // what was answered, and where in it "back" is
    let is_lost = false, timer
    const say = words => {if (part("said").textContent !== words) part("said").textContent = words}
    const look_again = () => {
        clearTimeout(timer)
        timer = setTimeout(look, shown?.guess === null ? 200 : 2000)
    }
    const load = name => {
        if (!pictures.has(name)) {
            const picture = new Image()
            picture.alt = "The image to label"
            const place = [folder, name].map(encodeURIComponent)
            picture.src = `label/image?folder=${place[0]}&name=${place[1]}`
            picture.onerror = () => {
                pictures.delete(name)
                if (shown?.name !== name) return
                say(`${name} can't be shown: it was deleted or is damaged. Skip it.`)
            }
            pictures.set(name, picture)
            if (pictures.size > 40) pictures.delete(pictures.keys().next().value)
        }
        return pictures.get(name)
    }
    const post = async answer => {
        const headers = {"Content-Type": "application/json"}
        const body = JSON.stringify({folder, mode, answer}), signal = AbortSignal.timeout(60000)
        const request = {method: "POST", headers, body, signal}
        let response
        try {
            response = await fetch("label/next", request)
        } catch {
            const lost = answer ? "Your answer was not saved: the" : "The"
            throw Error(`${lost} server has stopped. Start it, then answer again.`)
        }
        const content = await response.json()
        if (!response.ok) throw Error(content.error)
        items = content.items
        items.forEach(item => load(item.name))
        part("numbers").innerHTML = content.status
    }
    const underline = () => {
        const letters = Array.from(field.value), doubtful = new Set()
        if (shown?.label !== null && shown?.guess !== null) {
            const read = Array.from(shown?.guess ?? "")
            letters.forEach((letter, at) => {if (letter !== read[at]) doubtful.add(at)})
        } else if (field.value === shown?.guess) shown.marks.forEach(mark => doubtful.add(mark.at))
        doubtful.delete(-1)
        part("under").dir = getComputedStyle(field).direction
        part("field").style.setProperty("--length", letters.length || 1)
        part("under").replaceChildren(...letters.map((letter, at) => {
            const span = document.createElement(doubtful.has(at) ? "mark" : "span")
            span.textContent = letter
            return span
        }))
        return [Math.min(...doubtful), letters]
    }
    const show = (item, old = false) => {
        shown = item
        is_old = old
        is_touched = false
        look_again()
        part("stage").replaceChildren()
        field.value = ""
        if (!item) {
            part("hint").textContent = ""
            underline()
            say(mode === "label" ? "Every image has a label." : "Every label has been checked.")
            return
        }
        say("")
        const boxes = item.marks.map(mark => {
            const box = document.createElement("div")
            for (const side of ["left", "top", "width", "height"]) box.style[side] = 100 * mark[side] + "%"
            return box
        })
        const frame = document.createElement("span"), picture = load(item.name)
        const fit = () => part("stage").style.setProperty(
            "--ratio", picture.naturalWidth / picture.naturalHeight)
        if (picture.complete) fit()
        else picture.onload = () => shown === item && fit()
        frame.append(picture, ...boxes)
        part("stage").append(frame)
        field.value = item.label ?? item.guess ?? ""
        const [first, letters] = underline(), end = field.value.length
        const active = document.activeElement
        if (active === document.body || part("answer").contains(active)) field.focus()
        if (item.label === null && item.confidence < 0.3) field.select()
        else if (first < letters.length) {
            const start = letters.slice(0, first).join("").length
            field.setSelectionRange(start, start + letters[first].length)
        } else field.setSelectionRange(end, end)
        const read = item.guess === item.label ? "the same" : item.guess || "nothing"
        part("hint").textContent = item.label !== null ? item.guess === null ? "" : `The model reads ${read}.`
            : item.is_sample ? "Part of the random sample; no model learns from it" : ""
    }
    const look = async () => {
        look_again()
        if (busy) return
        const before = shown
        try {
            await post(null)
            if (is_lost) say("")
            is_lost = false
        } catch (error) {
            if (!is_lost) say(error.message)
            is_lost = true
            return
        }
        if (busy || shown !== before) return
        const now = items.find(item => item.name === shown?.name)
        const is_read = now && shown.guess === null && now.guess !== null
        const is_stale = !shown || (!is_old && (!now || is_read))
        if (is_stale && !(shown && is_touched)) show(now ?? items[0])
    }
    const answer = async text => {
        if (!shown || busy) return
        const item = shown, own = mode
        busy = true
        try {
            await post({name: item.name, text, guess: item.guess})
            if (text !== null) past = [...past.filter(old => old.name !== item.name), {...item, label: text}]
            turn = past.length
            if (mode === own) show(items[0])
        } catch (error) {
            say(error.message)
        }
        busy = false
        if (!shown) look()
    }
    const back = () => {
        if (busy) return
        if (turn > 0) show(past[--turn], true)
        else say("There is nothing to go back to.")
    }
    window.labelling = {
        choose: value => {
            mode = value
            shown = null
            say("")
            field.focus()
            look()
        },
        focus: () => field.focus(),
    }
    part("answer").onsubmit = event => {
        event.preventDefault()
        if (field.value.trim()) answer(field.value)
        else say("Type what the image shows. If nobody can read it, press Esc.")
    }
    const acts = {back, skip: () => answer(null), unreadable: () => answer("")}
    const keys = {ArrowUp: "back", ArrowDown: "skip", Escape: "unreadable"}
    field.onkeydown = event => {
        if (event.isComposing || event.keyCode === 229) return  // which Safari alone says of a last key
        if (!(event.key in keys || event.key === "Enter")) return
        if (event.repeat || event.key in keys) event.preventDefault()
        if (event.key in keys && !event.repeat) acts[keys[event.key]]()
    }
    field.oninput = () => {
        is_touched = true
        underline()
    }
    field.onscroll = () => {part("under").scrollLeft = field.scrollLeft}
    for (const name in acts) part(name).onclick = acts[name]
    // The keyboard of a telephone stays open.
    for (const name of ["keys", "stage"]) part(name).onpointerdown = event => event.preventDefault()
    look()
}"""


class Answer(BaseModel):
    """What a person says of an image; `text` is "" where nobody can read it, and None to see it later."""

    name: str
    text: str | None
    guess: str | None


class Turn(BaseModel):
    """A page's request for the next images, with an answer or without."""

    folder: str
    mode: Literal["label", "check"]
    answer: Answer | None


def describe(status: dict[str, Any]) -> str:
    """Say in HTML how far the labels are, and how well the model reads."""
    done, count = status["labelled"] + status["by_model"], status["images"]
    parts = [
        f"<progress value={done} max={count} aria-label='Images with a label'></progress>",
        f"<big>{done:,}</big> of {count:,} images have a label"
        + (f", {status['by_model']:,} of them from the model." if status["by_model"] else "."),
    ]
    if accepted := status["accepted"]:
        parts.append(f"<b>{sum(accepted)}</b> of the last {len(accepted)} guesses were right.")
    if sample := status["sample"]:
        right, sure = sum(r for r, _ in sample), [r for r, is_sure in sample if is_sure]
        low, high = wilson_interval(right, len(sample))
        parts.append(
            f"The model reads <b>{right} of {len(sample)}</b> images of the random sample: "
            f"{right / len(sample):.0%}, 95% interval {low:.0%} to {high:.0%}."
        )
        parts.append(f"It is sure of {len(sure)} of these; {sum(sure)} are right." if sure else "")
    if status["rest"]:
        looked = "" if status["read"] == status["rest"] else f", {status['read']:,} of them read so far"
        parts.append(
            f"{status['rest']:,} have no label{looked}; the model is sure of <b>{status['sure']:,}</b>."
        )
    parts.append(html.escape(status["message"]))
    return "".join(f"<p>{part}</p>" for part in parts if part)


def mount(labelling: Labelling) -> dict[str, Any]:
    """Give the arguments of a FastAPI app: the page's own routes, and a check that refuses other sites."""
    api = FastAPI(openapi_url=None)

    def check(folder: str) -> None:
        """Refuse a page that was left open when the program was started with another folder."""
        if folder != labelling.work.name[-8:]:
            raise LabellingError("This page shows another folder's images. Reload it.")

    @api.exception_handler(LabellingError)
    def refuse(_: Request, error: LabellingError) -> JSONResponse:
        """Say why an answer isn't saved."""
        return JSONResponse({"error": str(error)}, 507)

    @api.post("/label/next")
    def take_turn(turn: Turn) -> dict[str, Any]:
        """Take an answer, if there is one, and give the next images."""
        check(turn.folder)
        if turn.answer:
            labelling.answer(turn.answer.name, turn.answer.text, turn.answer.guess)
        return {"items": labelling.upcoming(turn.mode), "status": describe(labelling.status())}

    @api.get("/label/image")
    def show_image(folder: str, name: str) -> Response:
        """Give an image as a PNG."""
        check(folder)
        try:
            return Response(labelling.picture(name), media_type="image/png")
        except (ImageError, KeyError) as error:
            return JSONResponse({"error": str(error)}, 404)

    own = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    routes = [Route(path, api) for path in ("/label/next", "/label/image")]
    return {"routes": routes, "openapi_url": None, "middleware": [own]}


def build(labelling: Labelling) -> gr.Blocks:
    """Build the page."""

    def say(act: Callable[..., str]) -> Callable[..., str]:
        """Let a button's act give a sentence, and an error one, too."""

        def run(*inputs: object) -> str:
            try:
                return act(*inputs)
            except LabellingError as error:
                return f"**{error}**"

        return run

    def train() -> str:
        labelling.train()
        return (
            "The model is learning from your labels. Go on labelling; new guesses will appear by themselves."
        )

    def set_every(number: float | None) -> str:
        labelling.every = int(number or 0)
        return f"Training starts after every {labelling.every} new labels." if labelling.every else ""

    def accept() -> str:
        return f"{labelling.accept_sure():,} readings are now labels."

    def take_names() -> str:
        labelling.take_names()
        return "The file names are now labels. Check the ones that the model doubts."

    def serve() -> str:
        address = labelling.serve()
        return f"Your app: [{address}]({address})"

    def publish() -> str:
        if not labelling.is_trained:
            raise LabellingError("No model has been trained on your labels yet. Train one first.")
        folder = labelling.work / "reader"
        return (
            f"This folder is a complete app: `{folder}`\n\nIts folder `Examples` may hold your images: "
            "check that you may publish them. Upload all of it as a Hugging Face Space, in your browser or "
            "with\n\n```bash\npip install huggingface_hub\nhf auth login\n"
            f"hf upload YOUR_NAME/ocr {shlex.quote(str(folder))} . --repo-type space\n```"
        )

    with gr.Blocks(title="Label images", analytics_enabled=False) as page:
        with gr.Row(equal_height=False):
            with gr.Column(scale=3):
                modes = [("Label images", "label"), ("Check labels", "check")]
                mode = gr.Radio(modes, value="label", show_label=False, container=False, elem_id="mode")
                gr.HTML(PAGE.replace("FOLDER", labelling.work.name[-8:]))
            with gr.Column(scale=1, min_width=280):
                gr.HTML(elem_id="numbers")
                buttons = {gr.Button("Train the model", variant="primary"): train}
                hint = "Train after this many new labels (0: never)"
                every = gr.Number(lambda: labelling.every, label=hint, precision=0, minimum=0)
                buttons[gr.Button("Accept all sure guesses")] = accept
                if labelling.suggested:
                    name, label = next(iter(labelling.suggested.items()))
                    buttons[gr.Button(f"Use the file names as labels ({name}: {label.text})")] = take_names
                buttons[gr.Button("Try the model")] = serve
                buttons[gr.Button("How to publish it")] = publish
                said = gr.Markdown(elem_id="outcome")
        options = {"api_visibility": "private", "show_progress": "hidden"}
        for button, act in buttons.items():
            button.click(say(act), None, said, **options).then(None, js="() => labelling.focus()", **options)
        every.change(say(set_every), every, said, **options)
        mode.change(None, mode, js="mode => {labelling.choose(mode)}", **options)
        page.load(None, js=LISTEN, **options)
    return page


def launch(labelling: Labelling, **options: object) -> gr.Blocks:
    """Build the page of a folder and serve it on this machine alone; options go to gradio's `launch`."""
    page = build(labelling)
    look = {"theme": THEME, "css": CSS, "footer_links": [], "run_history": False, "ssr_mode": False}
    page.launch(server_name="127.0.0.1", app_kwargs=mount(labelling), **look | options)
    return page


def work_of(folder: Path) -> Path:
    """Give the place of the models that are trained on a folder, an absolute path."""
    return ROOT / "work" / "label" / f"{folder.name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve a page that labels a folder of images.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of images")
    parser.add_argument(
        "--model", type=Path, default=START, metavar="FOLDER", help="of the model for the first guesses"
    )
    help = "set a parameter of study.ipynb for training; may be repeated"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=help)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what it started ends, too
    try:
        labelling = Labelling(folder, arguments.model, work_of(folder), arguments.p)
    except (LabellingError, ModelError) as error:
        sys.exit(str(error))
    try:
        launch(labelling)
    except OSError as error:  # such as a port that is taken
        sys.exit(str(error))
    finally:
        labelling.close()


if __name__ == "__main__":
    main()
