"""What the page says and draws: the model in words, a verdict, the map of a reading."""

import base64
import bisect
import html
import io
import re

import numpy as np
from decoding import BLANK
from images import MIN_CONTRAST, has_two_lines
from network import lay_side_by_side
from ocr import Reading, Recognizer
from PIL import Image

REPOSITORY = "ertugruldmr/CustomOCR"
PURPOSE = "Reads one line of text in an image"
LINKS = f"""[Code](https://github.com/{REPOSITORY}) ·
[Notebook in Colab](https://colab.research.google.com/github/{REPOSITORY}/blob/main/study.ipynb) ·
[For other images, train your own](https://github.com/{REPOSITORY}/blob/main/docs/own_images.md)"""
PREVIEW = {
    "og:type": "website",
    "og:title": "CustomOCR",
    "og:description": f"{PURPOSE}, with a small network that you can train on your own images.",
    "og:image": f"https://raw.githubusercontent.com/{REPOSITORY}/main/docs/images/demo.png",
    "twitter:card": "summary_large_image",
}
SURE, UNSURE, UNREAD = "✓ Sure", "? Not sure", "– Not read"
SHOWN_COLUMNS = ["File", "Text or error", "Confidence", "Verdict"]
CROP = (
    "Crop the image to one line of text. If it is cropped already, this model probably does not know "
    "this kind of image."
)
STEPS, SHADES = (0.5, 0.9), ("#6d28d9", "#4338ca", "#1e1b4b")  # of confidence; white is readable on each


def literal(text: str) -> str:
    """Show a text in Markdown as it stands, whatever punctuation it has."""
    shown = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text)
    return f"<code>{shown}</code>"


def usual_length(about: dict) -> str:
    """Say how many characters the training labels have."""
    shortest, longest = about["lengths"]
    return f"{longest}" if shortest == longest else f"{shortest} to {longest}"


def preview(page: str) -> str:
    """Put `PREVIEW` into a page's HTML in place of what it says there."""
    page = re.sub(r'<meta\s+(property|name)="(og|twitter):[^>]*>\s*', "", page)
    tags = "".join(f'<meta property="{name}" content="{content}">' for name, content in PREVIEW.items())
    return page.replace("</head>", f"{tags}</head>")


def percent(share: float) -> str:
    """Write a share as a percentage that doesn't look certain."""
    return f"{share:.1%}" if share < 0.9995 else ">99.9%"


def describe(recognizer: Recognizer, has_examples: bool) -> str:
    """Say in Markdown what the page does, and warn of a model that reads badly."""
    warning = (
        "**This model reads badly**, so do not rely on it. Train it again with more labelled images or more "
        "epochs.\n\n"
    )
    kind = "like the examples below" if has_examples else "of the kind that it was trained on"
    return (
        f"{warning if recognizer.reads_badly else ''}{PURPOSE} {kind}. "
        f"Characters per text: {usual_length(recognizer.about)}.\n\n{LINKS}"
    )


def tell_all(about: dict) -> str:
    """Make a Markdown table of what was written beside a model."""
    split, (low, high) = about["split"], about["exact_match_interval"]
    threshold = about["threshold"]
    unseen = "may have been seen by an earlier model" if about["start_from"] else "never seen in training"
    rows = {
        "Training images": f"{split['train']:,} of {literal(about['dataset'])}",
        "Validation images": f"{split['validation']:,}",
        "Test images": f"{split['test']:,}, {unseen}; split by {about['split_by']}",
        "Exact match": f"{about['exact_match']:.2%}, 95% interval {low:.1%} to {high:.1%}",
        "Character error rate": f"{about['cer']:.2%}",
        "Marked as sure": "never"
        if threshold is None
        else f"at a confidence of {threshold:.1%} or more, if {usual_length(about)} characters long",
        "Characters": literal(about["alphabet"]),
        "Date": about["date"],
        "Not for": "other kinds of images or characters, or getting round the protection of live sites",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def verdict(text: str, is_sure: bool) -> str:
    """Sum up a reading in an icon and a word."""
    return SURE if is_sure else UNSURE if text else UNREAD


def badge(reading: Reading | None) -> str:
    """Make the verdict on a reading, None for an error, a badge in HTML."""
    word = verdict(reading.text, reading.sure) if reading else UNREAD
    kind = {SURE: "sure", UNSURE: "unsure", UNREAD: "unread"}[word]
    share = "" if word == UNREAD else f"<small>{percent(reading.confidence)}</small>"
    return f'<div class="badge {kind}">{word}{share}</div>'


def advise(pixels: np.ndarray, recognizer: Recognizer) -> str:
    """Say what to do about an image that isn't read with certainty."""
    height, width = recognizer.shape.line_size(*pixels.shape[:2])
    if height > width and recognizer.about["lengths"][1] > 1:
        return "The image is taller than wide: turn it, or cut it into lines."
    if recognizer.shape.lines == 1 and has_two_lines(pixels):
        return "The image seems to contain two lines of text: cut it into lines."
    return f"The image is nearly blank. {CROP}" if pixels.std(axis=(0, 1)).max() < MIN_CONTRAST else CROP


def judge(pixels: np.ndarray, reading: Reading, recognizer: Recognizer, has_format: bool = False) -> str:
    """Say in Markdown how far a reading can be trusted; for an unsure one, what else it may be.

    Where the text had to fit a format, others are not looked for.
    """
    about = recognizer.about
    if reading.sure:
        return (
            f"Readings this confident ({about['threshold']:.1%} or more) were right at least 999 times in "
            f"1,000, measured on augmented copies of {about['split']['validation']:,} images."
        )
    advice = advise(pixels, recognizer)
    if recognizer.reads_badly:
        advice += f" The model reads badly: it misread {1 - about['exact_match']:.1%} of its test images."
    if has_format and not reading.fits:
        return f"No text fits the format{', so the image was read without it' * bool(reading.text)}. {advice}"
    if not reading.text:
        return f"No text was found. {advice}"
    if has_format:
        return advice
    shortest, longest = about["lengths"]
    others = [(text, share) for text, share in recognizer.alternatives(reading) if text != reading.text]
    items = "".join(
        f"<li>{literal(text) if text else 'no text'} {share:.1%}"
        f"{'' if shortest <= len(text) <= longest else ', of unusual length'}</li>"
        for text, share in [(reading.text, reading.confidence), *others]
    )
    return f"{advice}\n\nPossible readings:<ol>{items}</ol>"


def shade(reading: Reading) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Give each character with its confidence as a percentage, and a colour for each percentage."""
    characters = [(part.text, f"{part.confidence:.0%}") for part in reading.characters]
    shades = [SHADES[bisect.bisect(STEPS, part.confidence)] for part in reading.characters]
    return characters, {share: shade for (_, share), shade in zip(characters, shades, strict=True)}


def draw_map(pixels: np.ndarray, reading: Reading, recognizer: Recognizer) -> str:
    """Draw an image with a box around each character and, below it, the probability of each in each frame.

    Args:
        pixels: uint8 (height, width, channels).
        reading: Of that image.
        recognizer: What read it.

    Returns:
        HTML with SVG.
    """
    edges = recognizer.frame_edges(*pixels.shape[:2])
    if recognizer.shape.lines == 2:
        pixels = lay_side_by_side(pixels[np.newaxis])[0]
    margin, width, row = 48, 360, 19  # small, so that the names can be read on a telephone
    scale = width / pixels.shape[1]
    top = 24  # for the characters above their boxes
    height = min(max(round(pixels.shape[0] * scale), 20), width // 2)
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((600, 600))
    picture.save(file, "PNG")
    parts = [
        f'<image x="{margin}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"/>'
    ]
    for part in reading.characters:
        start = margin + part.line * width / 2
        left, right = start + part.left * scale, start + part.right * scale
        parts.append(
            f'<rect class="box" x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{height}" '
            'rx="2" fill="#6366f1" fill-opacity="0.15" stroke="#4f46e5" stroke-width="2"/>'
            f'<text x="{(left + right) / 2:.1f}" y="16" text-anchor="middle" fill="currentColor" '
            f'font-size="18">{html.escape(part.text)}</text>'
        )
    edges = margin + edges * scale
    highest = reading.frames.max(axis=0)
    likely = [number for number in np.argsort(-highest)[:15] if highest[number] >= 0.05]
    # In the order of the text; then what is not in it, which is found at -1; then the blank.
    places = {number: reading.text.find(recognizer.name(number)) for number in likely}
    likely.sort(key=lambda number: (number == BLANK, places[number] < 0, places[number]))
    for line, number in enumerate(likely):
        y, name = top + height + 6 + row * line, html.escape(recognizer.name(number))
        parts.append(
            f'<text class="name" x="{margin - 6}" y="{y + 14}" text-anchor="end" fill="currentColor" '
            f'font-size="14">{name}</text>'
        )
        fill = "#94a3b8" if number == BLANK else "#6366f1"
        for frame in np.flatnonzero(reading.frames[:, number] >= 0.01):
            chance, left, right = reading.frames[frame, number], edges[frame], edges[frame + 1]
            parts.append(
                f'<rect x="{left:.1f}" y="{y}" width="{right - left:.1f}" height="{row - 2}" '
                f'fill="{fill}" fill-opacity="{max(chance, 0.15):.2f}">'
                f"<title>{name}: {chance:.0%}</title></rect>"
            )
    size = f"{margin + width} {top + height + 10 + row * len(likely)}"
    label = "The image and, below it, where along its width each character was seen"
    return (
        f'<svg viewBox="0 0 {size}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        "<p>A box marks where the network saw a character, not its whole width. The stronger the colour, the "
        "more probable the character. Blank: no character.</p>"
    )


def arrange(rows: list[list[str]]) -> list[list[str]]:
    """Give rows of `COLUMNS` as those of `SHOWN_COLUMNS`: errors first, then what is not sure."""
    ordered = sorted(rows, key=lambda row: ["", "no", "yes"].index(row[3]))
    return [
        [name, error or text or "no text", share if text else "", verdict(text, sure == "yes")]
        for name, text, share, sure, error in ordered
    ]


def count(rows: list[list[str]]) -> str:
    """Say in Markdown how many of the rows of `COLUMNS` have which verdict."""
    words = [row[-1] for row in arrange(rows)]
    shares = ", ".join(f"{words.count(word):,} {word[2:].lower()}" for word in (SURE, UNSURE, UNREAD))
    return f"**{len(rows):,} in all**: {shares}."
