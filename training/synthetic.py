"""Draws labelled images: in the look of the default data set, and like those of any data set."""

import functools
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from decoding import frames_needed, reorder
from images import open_image
from network import Shape
from PIL import Image, ImageDraw
from tqdm import tqdm

from training.data import encode
from training.looks import BOLD, MONO, Face, drawable, load_font, render_varied
from training.writing import shape as join

ALPHABET = "2345678bcdefgmnpwxy"  # the 19 characters of the default data set
# Its look is that of Kaptcha 2.3, a CAPTCHA library for Java of 2008, with its default settings: its filters
# "water" and "ripple", its gradient and its lines as formulas. The letters are stand-ins for Lucida's.
WIDTHS = {BOLD: 0.87, MONO: 1.03}  # of the letters, as factors
PAGE_HEIGHT = 50  # pixels; each page is drawn as high as the data set's and scaled at the end
FINE = 4  # ink is drawn so much larger and then averaged, because Pillow's lines have hard edges


@functools.cache
def draw_glyph(character: str, face: Face, stretch: float) -> tuple[Image.Image, int]:
    """Draw one enlarged character; return it and the distance to the next one in enlarged pixels."""
    font = load_font(face[0], 39 * FINE)
    glyph = Image.new("L", (PAGE_HEIGHT * FINE, PAGE_HEIGHT * FINE))
    ImageDraw.Draw(glyph).text((2 * FINE, 43 * FINE), character, 255, font, anchor="ls")
    glyph = glyph.resize((round(glyph.width * stretch), glyph.height))
    left, _, right, _ = glyph.getbbox() or (0, 0, font.getlength(character), 0)
    return glyph, round(right - left + 1.75 * FINE)


def flatten(a: complex, b: complex, c: complex, d: complex) -> list[complex]:
    """Halve a Bezier curve until each part is within two pixels of a straight line; return their ends."""
    feet = [a + (d - a) * min(max(((p - a) / (d - a)).real, 0), 1) for p in (b, c)]
    if max(abs(b - feet[0]), abs(c - feet[1])) < 2 * FINE:
        return [a, d]
    ab, bc, cd = (a + b) / 2, (b + c) / 2, (c + d) / 2
    middle = (ab + 2 * bc + cd) / 4
    return flatten(a, ab, (ab + bc) / 2, middle) + flatten(middle, (bc + cd) / 2, cd, d)[1:]


def sample_ink(ink: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Read float (height, width) ink at points between its pixels (bilinear); there is none outside."""
    x, y = np.clip(x + 1, 0, ink.shape[1] + 0.99), np.clip(y + 1, 0, ink.shape[0] + 0.99)
    column, row = x.astype(int), y.astype(int)
    ink, u, v = np.pad(ink, 1), x - column, y - row
    upper = ink[row, column] * (1 - u) + ink[row, column + 1] * u
    lower = ink[row + 1, column] * (1 - u) + ink[row + 1, column + 1] * u
    return upper * (1 - v) + lower * v


def render(text: str, rng: np.random.Generator, width: int = 200, height: int = 50) -> np.ndarray:
    """Draw a line of text in the look of the default data set.

    Bold, wavy letters with frayed edges stand before a grey gradient, crossed by two lines.

    Args:
        text: At least one character; any that is in both faces.
        rng: Chooses the face of each character and the two lines.
        width: In pixels; a text too long for it is narrowed.
        height: In pixels.

    Returns:
        uint8 (height, width).
    """
    faces = list(WIDTHS.items())
    glyphs = [draw_glyph(character, *faces[rng.integers(len(faces))]) for character in text]
    length = sum(advance for _, advance in glyphs) // FINE + 14  # room for the last character
    # A long text gets a wider page, which the last step narrows with all that is on it.
    page_width = max(round(width * PAGE_HEIGHT / height), length + length // (1 + len(text)))
    page, lines = (Image.new("L", (page_width * FINE, PAGE_HEIGHT * FINE)) for _ in range(2))
    pen = page_width // (2 + len(text)) * FINE
    for glyph, advance in glyphs:
        page.paste(255, (pen, 0), glyph)
        pen += advance

    # Rings round the middle, as fine as the pixels, tear the edges; a wave bends rows and columns.
    y, x = np.mgrid[:PAGE_HEIGHT, :page_width]
    dx, dy = x - page_width / 2, y - PAGE_HEIGHT / 2
    distance = np.maximum(np.hypot(dx, dy), 1e-9)
    push = 3 * np.sin(np.pi * distance - 10) * np.maximum(1 - distance / 50, 0) / distance
    ink = sample_ink(np.asarray(page.reduce(FINE)) / 255, x + dx * push, y + dy * push)
    ink = sample_ink(ink, x + 2.6 * np.sin(y / 15), y + 1.7 * np.sin(x / 5))

    for corners in ((0.1, 0.1, 0.25, 0.25), (0.1, 0.25, 0.5, 0.9)):
        curve = [complex(lines.width * part, lines.height * rng.random()) for part in corners]
        for part, (start, end) in enumerate(itertools.pairwise(flatten(*curve))):
            thickness = 0.9 * max(4 - part, 2) * FINE
            cap = (end - start) / abs(end - start) * thickness / 2
            ends = [(point.real, point.imag) for point in (start - cap, end + cap)]
            ImageDraw.Draw(lines).line(ends, 255, math.ceil(thickness))
    ink = np.maximum(ink, np.asarray(lines.reduce(FINE)) / 255)

    paper = 192 + 63 * (x * page_width + y * PAGE_HEIGHT) / (page_width**2 + PAGE_HEIGHT**2)
    image = Image.fromarray(np.uint8(paper * (1 - ink))).resize((width, height))
    file = io.BytesIO()  # the data set's images carry the marks of JPEG compression round the ink
    image.save(file, "JPEG", quality=75)
    return np.array(Image.open(file))


def draw_text(like: str, characters: list[str], rng: np.random.Generator) -> str:
    """Draw a random text of these characters, as long as another and with spaces where it has them."""
    return "".join(" " if character == " " else rng.choice(characters) for character in like)


def draw_dataset(count: int, seed: int, folder: Path) -> Path:
    """Draw images of five characters in the look of the default data set, each named after its text.

    Args:
        count: How many images, at most the 19^5 texts that there are.
        seed: Of texts and images.
        folder: Gets the images; made if it isn't there.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts: set[str] = set()
    with tqdm(total=count, desc="Drawing images", mininterval=1, delay=5) as bar:
        while len(texts) < count:
            text = draw_text("-----", list(ALPHABET), rng)
            Image.fromarray(render(text, rng)).save(folder / f"{text}.png")
            texts.add(text)
            bar.update(len(texts) - bar.n)
    return folder


def choose_glyphs(characters: list[str], able: frozenset[str]) -> dict[str, str]:
    """Give each character a glyph out of `able`: itself, or a letter that is no other's.

    A network that has learnt to read stand-ins has all but their shapes still to learn. There are about
    1,800; beyond that they repeat.
    """
    taken = {*characters, *"".join(characters).swapcase()}
    stand_ins = itertools.cycle(sorted(letter for letter in able - taken if letter.isalpha()))
    return {character: character if character in able else next(stand_ins) for character in characters}


def set_line(text: str, glyph_of: dict[str, str], able: frozenset[str]) -> str:
    """Give the glyphs of a text from left to right; the letters of Arabic are joined."""
    glyphs = []
    for character, joined in zip(reorder(text), reorder(join(text)), strict=True):
        glyphs.append(joined if joined in able else glyph_of.get(character, character))
    return "".join(glyphs)


def change_case(text: str, rng: np.random.Generator) -> str:
    """Make none, any or all of the letters capitals, for labels without capitals often stand for both."""
    chance = rng.choice([0, 0.5, 1])
    pairs = [(character.upper(), character) for character in text]
    return "".join(
        capital
        if capital in drawable(BOLD) and capital.lower() == character and rng.random() < chance
        else character
        for capital, character in pairs
    )


def images_like(
    rows: pd.DataFrame,
    char_to_num: dict[str, int],
    shape: Shape,
    max_length: int,
    count: int,
    varied: bool,
    seed: int,
) -> tf.data.Dataset:
    """Draw images as high and as wide as those of a table, or smaller; each time the same ones.

    Half of the texts are the beginning of one label with the end of another one; the others are random.

    Args:
        rows: Columns `label`, `height` and `width`.
        char_to_num: The characters of the texts.
        shape: Of the network's input: images get its channels, and are no wider than the columns that they
            will fill.
        max_length: Of the labels, in characters.
        count: How many images.
        varied: Whether each has a look of its own, or all of them that of the default data set.
        seed: Of texts and images.

    Returns:
        `count` raw images, uint8 (height, width, channels), and label ids, int32 (max_length,).
    """
    able = drawable(BOLD)
    glyph_of = choose_glyphs(list(char_to_num), able)
    characters = [character for character in char_to_num if character != " "]
    one_case = not any(character.isupper() for character in characters)

    def draw() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(seed)
        some, others = [rows.sample(count, replace=True, random_state=seed + part) for part in (0, 1)]
        drawn = zip(some.itertuples(), others["label"], strict=True)
        for row, other in tqdm(drawn, "Drawing synthetic images", count, mininterval=5, delay=5):
            text = draw_text(row.label, characters, rng)
            if rng.random() < 0.5:
                place = round(rng.random() * len(row.label))
                text = (row.label[:place] + other[round(place * len(other) / len(row.label)) :])[:max_length]
            if rng.random() < 0.3:  # short texts lead over the plateau on which CTC starts
                text = text[: rng.integers(1, len(text) + 1)]
            while frames_needed(text) > shape.frames:
                text = text[:-1]
            text = " ".join(text.split()) or characters[0]
            height, width = shape.line_size(row.height, row.width)
            # No more pixels than the image has, or than columns of the input that it fills.
            fine = min(1, shape.fitted_size(height, width)[1] / width)
            height, width = max(8, round(height * fine)), max(4, round(width * fine))
            shown = set_line(change_case(text, rng) if one_case else text, glyph_of, able)
            if varied or not drawable(MONO).issuperset(shown):
                image = render_varied(shown, rng, height, width)
            else:
                image = render(shown, rng, width, height)
            yield open_image(image, shape.channels), encode([text], char_to_num, max_length)[0]

    kinds = (tf.TensorSpec([None, None, shape.channels], tf.uint8), tf.TensorSpec([max_length], tf.int32))
    data = tf.data.Dataset.from_generator(draw, output_signature=kinds)
    return data.apply(tf.data.experimental.assert_cardinality(count))


def resemblance(one: tf.data.Dataset, other: tf.data.Dataset) -> float:
    """Correlate the typical, that is the median, images of two data sets, all of one shape.

    Returns:
        -1 to 1; 0 where a typical image is of one colour.
    """
    typical = [
        np.median([image for image, _ in data.as_numpy_iterator()], axis=0).ravel() for data in (one, other)
    ]
    return float(np.corrcoef(*typical)[0, 1]) if all(map(np.ptp, typical)) else 0.0
