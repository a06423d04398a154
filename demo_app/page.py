"""What the page says and draws: the model in words, a verdict, the map of a reading."""

import base64
import bisect
import html
import io

import numpy as np
from ocr import COLUMNS, Reading, Recognizer
from PIL import Image

STEPS, SHADES = (0.5, 0.9), ("#6d28d9", "#4338ca", "#1e1b4b")  # of confidence; white is readable on each


def literal(text: str) -> str:
    """Show a text in Markdown as it stands, whatever punctuation it has."""
    shown = "".join(c if c.isalnum() else f"&#{ord(c)};" for c in text)
    return f"<code>{shown}</code>"


def usual_length(about: dict) -> str:
    """Say how many characters the training labels have."""
    shortest, longest = about["lengths"]
    return f"{longest}" if shortest == longest else f"{shortest} to {longest}"


def describe(recognizer: Recognizer) -> str:
    """Say in Markdown what a model reads and how well."""
    about = recognizer.about
    alphabet = about["alphabet"]
    shown = literal(alphabet) if len(alphabet) <= 80 else f"{len(alphabet):,}"
    low, high = about["exact_match_interval"]
    unseen = "which an earlier model may have seen" if about["start_from"] else "that it had never seen"
    warning = (
        "**This model reads badly**, so do not rely on it. Train it again with more labelled images or more "
        "epochs.\n\n"
    )
    return (
        f"{warning if recognizer.reads_badly else ''}"
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
    about = recognizer.about
    if reading.sure:
        return (
            f"**Sure**: {reading.confidence:.1%}. From {about['threshold']:.1%} on, at least 999 of 1,000 "
            f"readings were right, measured on changed copies of {about['split']['validation']:,} images."
        )
    reason = (
        f"The model reads badly: only {about['exact_match']:.1%} of its test images without a mistake."
        if recognizer.reads_badly
        else "Is the image of the kind that the network was trained on?"
    )
    if not reading.text:
        return f"**No text is seen** here. {reason}"
    others = "".join(
        f"<li>{literal(text) if text else 'no text'} {probability:.1%}</li>"
        for text, probability in recognizer.alternatives(reading)
    )
    return (
        f"**Not sure**: {reading.confidence:.1%}. {reason} "
        f"The most probable texts, of any length, are<ol>{others}</ol>Only a text of {usual_length(about)} "
        "characters, like the training labels, is called sure; another one is read only where it is about "
        "twenty times as probable."
    )


def shade(reading: Reading) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Give each character with its confidence as a percentage, and a colour for each percentage."""
    characters = [(part.text, f"{part.confidence:.0%}") for part in reading.characters]
    shades = [SHADES[bisect.bisect(STEPS, part.confidence)] for part in reading.characters]
    return characters, {share: shade for (_, share), shade in zip(characters, shades, strict=True)}


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


def count(rows: list[list[str]]) -> str:
    """Say in Markdown how many of the rows are sure, not sure, or errors."""
    sure = [row[COLUMNS.index("sure")] for row in rows]
    return f"**Done**: {sure.count('yes'):,} sure, {sure.count('no'):,} not sure, {sure.count(''):,} errors."
