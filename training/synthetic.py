"""Draws labelled images: in the look of the default data set, or in a look of its own each time."""

import functools
import io
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import tensorflow as tf
from decoding import frames_needed, reorder
from images import open_image
from matplotlib.ft2font import FT2Font
from network import Shape
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

from training.data import encode
from training.writing import shape as join

ALPHABET = "2345678bcdefgmnpwxy"  # the 19 characters of the default data set
# Its look is that of Kaptcha 2.3, a CAPTCHA library for Java of 2008, with its default settings: its filters
# "water" and "ripple", its gradient and its lines as formulas. The letters are stand-ins for Lucida's.
FACES = {"DejaVuSans-Bold": 0.87, "DejaVuSansMono-Bold": 1.03}  # a letter's font, factor of its width
PAGE_HEIGHT = 50  # pixels; each page is drawn as high as the data set's and scaled at the end
FINE = 4  # ink is drawn so much larger and then averaged, because Pillow's lines have hard edges
FONTS = (  # of the varied looks
    *(f"DejaVu{name}" for name in ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "Serif", "Serif-Bold")),
    *(f"STIXGeneral{name}" for name in ("", "Bol", "Italic")),
)


def font_path(name: str) -> str:
    """Return the path of one of the fonts that come with matplotlib."""
    return f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf"


@functools.cache
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load one of the fonts that come with matplotlib, in a size in pixels."""
    return ImageFont.truetype(font_path(name), size)


@functools.cache
def drawable(*names: str) -> frozenset[str]:
    """Return the characters that all of these fonts have; of no fonts, those that both looks can draw."""
    maps = [FT2Font(font_path(name)).get_charmap() for name in names or FACES]
    return frozenset(chr(code) for code in set(maps[0]).intersection(*maps[1:]))


@functools.cache
def draw_glyph(character: str, face: str, stretch: float) -> tuple[Image.Image, int]:
    """Draw one enlarged character; return it and the distance to the next one in enlarged pixels."""
    font = load_font(face, 39 * FINE)
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
        text: At least one character; any that DejaVu Sans has.
        rng: Chooses the face of each character and the two lines.
        width: In pixels; a text too long for it is narrowed.
        height: In pixels.

    Returns:
        uint8 (height, width).
    """
    faces = list(FACES.items())
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


def render_varied(text: str, rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Draw a line of text in a look of its own: fonts, colours, slant, jumps, background, noise, scatter.

    Args:
        text: At least one character; any in `drawable()`.
        rng: Chooses the look.
        width: In pixels; a text too long for it is narrowed.
        height: In pixels.

    Returns:
        uint8 (height, width, 3).
    """
    size = max(6, round(height * rng.uniform(0.4, 0.8)))
    able = [name for name in FONTS if drawable(name).issuperset(text)]
    able = able or ["DejaVuSans-Bold"]  # each character for itself is in it
    faces = rng.choice(able, len(text) if rng.random() < 0.5 else 1)
    fonts = [load_font(name, size) for name in np.resize(faces, len(text))]
    inks = np.resize(rng.integers(0, 110, (len(text) if rng.random() < 0.5 else 1, 3)), (len(text), 3))
    gap = size * rng.uniform(-0.05, 0.35)
    if any("\ufb50" <= character <= "\ufefc" for character in text):  # joined letters of Arabic touch
        gap = 0
    advances = [font.getlength(character) + gap for font, character in zip(fonts, text, strict=True)]
    page_width = max(width, math.ceil(sum(advances)) + 8)
    paper = rng.integers(170, 256, 3)
    page = Image.new("RGB", (page_width, height), tuple(paper.tolist()))
    pencil = ImageDraw.Draw(page)
    background = rng.choice(["plain", "plain", "grid", "dots"])
    if background == "grid":
        step, line = int(rng.integers(8, 30)), tuple((paper - rng.integers(10, 40)).tolist())
        for x in range(0, page_width, step):
            pencil.line([(x, 0), (x, height)], line)
        for y in range(0, height, step):
            pencil.line([(0, y), (page_width, y)], line)
    elif background == "dots":
        for _ in range(rng.integers(20, page_width + 20)):
            middle, radius = (rng.integers(page_width), rng.integers(height)), rng.integers(1, 5)
            pencil.circle(middle, radius, (rng.integers(120, 235),) * 3)

    # Letters may jump up and down, be turned, and slide under the next one.
    jump = height * rng.uniform(0, 0.2) * (rng.random() < 0.6)
    turn = rng.uniform(0, 20) * (rng.random() < 0.5)
    sliding = 0.25 * (rng.random() < 0.4)
    pen = rng.uniform(4, page_width - sum(advances))
    for character, font, ink, advance in zip(text, fonts, inks.tolist(), advances, strict=True):
        glyph = Image.new("L", (2 * size, 2 * size))
        ImageDraw.Draw(glyph).text((size, 1.35 * size), character, 255, font, anchor="ms")
        glyph = glyph.rotate(rng.uniform(-turn, turn), Image.Resampling.BICUBIC)
        slide = rng.uniform(0.3, 0.9) * (rng.random() < sliding)
        left = pen + (advance - gap) / 2 - size + slide * advance
        top = height / 2 - size + rng.uniform(-jump, jump) + slide * rng.uniform(0, 0.3) * height
        page.paste(tuple(ink), (round(left), round(top)), glyph)
        pen += advance
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        points = np.cumsum(rng.uniform((10, -15), (50, 15), (5, 2)), axis=0)
        points += rng.uniform((-20, 0), (page_width, height))
        pencil.line(points.ravel().tolist(), (rng.integers(60, 180),) * 3, rng.integers(1, 3))

    page = page.resize((width, height))
    if rng.random() < 0.2:
        page = page.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    pixels = np.asarray(page, np.float32)
    if rng.random() < 0.5:
        pixels = pixels + rng.normal(0, rng.uniform(0, 25), pixels.shape)
    if rng.random() < 0.4:  # each pixel comes from somewhere near; from outside the page comes black
        reach = height * rng.uniform(0.01, 0.08)
        y, x = np.rint(np.mgrid[:height, :width] + rng.uniform(-reach, reach, (2, height, width))).astype(int)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixels = pixels[y.clip(0, height - 1), x.clip(0, width - 1)] * inside[..., np.newaxis]
    if rng.random() < 0.2:
        pixels = 255 - pixels
    return pixels.clip(0, 255).astype(np.uint8)


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
        if capital in drawable() and capital.lower() == character and rng.random() < chance
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
    """Draw images of random texts, as long and as wide as those of a table; each time the same ones.

    Args:
        rows: Columns `label`, `height` and `width`.
        char_to_num: The characters of the texts.
        shape: Of the network's input: images get its height and channels, and its width is the most.
        max_length: Of the labels, in characters.
        count: How many images.
        varied: Whether each has a look of its own, or all of them that of the default data set.
        seed: Of texts and images.

    Returns:
        `count` raw images, uint8 (height, width, channels), and label ids, int32 (max_length,).
    """
    able = drawable("DejaVuSans-Bold") if varied else drawable()
    glyph_of = choose_glyphs(list(char_to_num), able)
    characters = [character for character in char_to_num if character != " "]
    one_case = not any(character.isupper() for character in characters)

    def draw() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(seed)
        some = rows.sample(count, replace=True, random_state=seed).itertuples()
        for row in tqdm(some, "Drawing synthetic images", count, mininterval=5, delay=5):
            text = draw_text(row.label, characters, rng)
            while frames_needed(text) > shape.frames:
                text = text[:-1]
            height, width = shape.line_size(row.height, row.width)
            columns = width * shape.height / height
            scale = min(1, shape.width / (columns * shape.stretch))
            height, width = max(8, round(shape.height * scale)), max(4, round(columns * scale))
            if varied:
                if rng.random() < 0.5:  # short texts lead over the plateau on which CTC starts
                    text = text[: rng.integers(1, len(text) + 1)].strip()
                shown = change_case(text, rng) if one_case else text
                image = render_varied(set_line(shown, glyph_of, able), rng, width, height)
            else:
                image = render(set_line(text, glyph_of, able), rng, width, height)
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
