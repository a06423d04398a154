"""Data sets that benchmarks draw, in matplotlib's fonts: lines, plates with two lines, and Hebrew."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont


def draw_noisy(lines: list[str], width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw lines of text, one above the other, from left to right as they are given."""
    font_path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{rng.choice(['', '-Bold'])}.ttf"
    page = Image.new("L", (width, height), int(rng.integers(200, 256)))
    for number, line in enumerate(lines):
        size = round(height / len(lines) * rng.uniform(0.5, 0.7))
        font = ImageFont.truetype(font_path, size, layout_engine=ImageFont.Layout.BASIC)
        place = (width / 2 + rng.uniform(-6, 6), height * (number + 0.5) / len(lines) + rng.uniform(-2, 2))
        ImageDraw.Draw(page).text(place, line, int(rng.integers(0, 80)), font, anchor="mm")
    return Image.fromarray(np.uint8(np.clip(page + rng.normal(0, 8, (height, width)), 0, 255)))


def draw_plates(folder: Path, count: int = 150) -> None:
    """Draw plates with letters above and digits below them, each named after its text."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    while len(list(folder.iterdir())) < count:
        upper = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ"), rng.integers(2, 4)))
        lower = "".join(rng.choice(list("0123456789"), 4))
        draw_noisy([upper, lower], 110, 80, rng).save(folder / f"{upper}{lower}.png")


def draw_hebrew(folder: Path, count: int = 150) -> None:
    """Draw Hebrew from right to left, listed as it is typed in `labels.csv`."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        word = "".join(rng.choice(list("אבגדהוזחטיכלמנסעפצקרשת"), rng.integers(3, 8)))
        digits = f"{rng.integers(10, 1000)}" if rng.random() < 0.3 else ""
        seen = f"{digits} {word[::-1]}".strip()
        draw_noisy([seen], 200, 50, rng).save(folder / f"{number}.png")
        rows.append((f"{number}.png", f"{word} {digits}".strip()))
    pd.DataFrame(rows, columns=["filename", "label"]).to_csv(folder / "labels.csv", index=False)


def draw_lines(folder: Path, count: int = 1000) -> None:
    """Draw lines of text in mixed sizes, listed in `labels.csv`."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    font_path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSerif-Italic.ttf"
    rows = []
    for number in range(count):
        letters = rng.choice(list("abcdefghijklmnoprstuvzàçéèêñöüß0123456789   "), rng.integers(1, 13))
        text = " ".join("".join(letters).split()) or "a"
        height = int(rng.integers(28, 72))
        font = ImageFont.truetype(font_path, round(height * rng.uniform(0.5, 0.7)))
        width = round(font.getlength(text) + height * rng.uniform(0.3, 2))
        page = Image.new("L", (width, height), int(rng.integers(180, 256)))
        place = (height * 0.15, height * rng.uniform(0.65, 0.75))
        ImageDraw.Draw(page).text(place, text, int(rng.integers(0, 90)), font, anchor="ls")
        page = page.rotate(rng.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=page.getpixel((0, 0)))
        noise = rng.normal(0, rng.uniform(0, 20), (height, width))
        Image.fromarray(np.uint8(np.clip(page + noise, 0, 255))).save(folder / f"{number}.png")
        rows.append((f"{number}.png", text))
    pd.DataFrame(rows, columns=["filename", "label"]).to_csv(folder / "labels.csv", index=False)


def draw_missing(folder: Path) -> None:
    """Draw each set that isn't there yet, into a folder of its own, which gets its name when it is whole."""
    for name, draw in {"lines": draw_lines, "plates": draw_plates, "hebrew": draw_hebrew}.items():
        if not (folder / name).exists():
            draw(folder / f"unfinished_{name}")
            (folder / f"unfinished_{name}").rename(folder / name)
