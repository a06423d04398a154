"""Draws lines of text in looks of their own: fonts, layout, paper, ink, clutter, and what cameras add."""

import functools
import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

SIZE = 44  # of the letters in pixels, before the page is scaled to the image
Face = tuple[str, ...]  # files of one font, each with some of its characters
NAMES = (  # which come with matplotlib
    *("DejaVuSans-Bold", "DejaVuSansMono-Bold", "DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
)
FACES: tuple[Face, ...] = tuple((f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf",) for name in NAMES)
BOLD, MONO = FACES[0], FACES[1]


@functools.lru_cache(maxsize=4096)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that draws from left to right what it is given, in a size in pixels."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def read_charmap(path: str) -> frozenset[str]:
    """Return the characters that a font has."""
    return frozenset(map(chr, TTFont(path, lazy=True).getBestCmap()))


@functools.cache
def drawable(face: Face) -> frozenset[str]:
    """Return the characters that a face has."""
    return frozenset().union(*map(read_charmap, face))


def font_for(character: str, face: Face, size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the first file that has a character; where none has it, the first one."""
    return load_font(next((path for path in face if character in read_charmap(path)), face[0]), size)


def set_text(text: str, rng: np.random.Generator, faces: Sequence[Face], joined: bool) -> Image.Image:
    """Set a line of text in white on black, cut to its width and its least height, that of an x.

    The letters may differ in face, stand apart, jump, turn, grow, and slide under their neighbours.
    """
    loose = not joined and rng.random() < 0.3
    mixed = loose and rng.random() < 0.3
    able = [face for face in faces if drawable(face).issuperset(text)] or faces[:1]
    chosen = [able[rng.integers(len(able))] for _ in (text if mixed else "-")]
    chosen = chosen if mixed else chosen * len(text)
    gap = 0 if joined or rng.random() < 0.5 else SIZE * rng.uniform(-0.06, 0.35)
    if gap and rng.random() < 0.15:  # far apart
        gap = SIZE * rng.uniform(0.35, 1.6)
    stroke = int(rng.integers(1, 3)) if rng.random() < 0.12 else 0
    hollow = stroke and rng.random() < 0.25
    jump = (
        SIZE * rng.choice([rng.uniform(0, 0.25), rng.uniform(0.2, 0.9)], p=(0.8, 0.2)) * (rng.random() < 0.6)
    )
    turn = rng.uniform(0, 25) * (rng.random() < 0.6)
    grow = rng.uniform(0, 0.3) * (rng.random() < 0.5)
    slide = SIZE * rng.uniform(0.05, 0.25) * (rng.random() < 0.25)
    fonts = [font_for(character, face, SIZE) for character, face in zip(text, chosen, strict=True)]
    advances = [font.getlength(character) + gap for character, font in zip(text, fonts, strict=True)]
    line = Image.new("L", (math.ceil(sum(advances)) + 3 * SIZE, 3 * SIZE))
    pencil, pen, base = ImageDraw.Draw(line), float(SIZE), 2 * SIZE
    place = 0
    while place < len(text):
        end = place + 1
        if loose:
            glyph = Image.new("L", (3 * SIZE, 3 * SIZE))
            options = {"anchor": "ms", "stroke_width": stroke}
            ImageDraw.Draw(glyph).text((1.5 * SIZE, 2 * SIZE), text[place], 255, fonts[place], **options)
            side = round(3 * SIZE * math.exp(rng.uniform(-grow, grow)))
            glyph = glyph.rotate(rng.uniform(-turn, turn), Image.Resampling.BILINEAR).resize((side, side))
            left = round(pen + (advances[place] - gap - side) / 2 - slide * place * (rng.random() < 0.7))
            top = round(base - side * 2 / 3 + rng.uniform(-jump, jump))
            page = Image.new("L", line.size)
            page.paste(glyph, (left, top))
            line = ImageChops.lighter(line, page)
        else:  # as many letters at once as stand together in one font
            while not gap and end < len(text) and fonts[end] is fonts[place]:
                end += 1
            pencil.text((pen, base), text[place:end], 255, fonts[place], anchor="ls", stroke_width=stroke)
            if hollow:
                pencil.text((pen, base), text[place:end], 0, fonts[place], anchor="ls")
        pen += sum(advances[place:end])
        place = end
    left, top, right, bottom = line.getbbox() or (SIZE, base - SIZE, round(pen), base)
    return line.crop((left, min(top, round(base - SIZE * 0.5)), right, max(bottom, base)))


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Draw noise between -1 and 1 that changes over cells of some pixels: float32 (height, width)."""
    rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
    noise = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))


def distort(page: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turn, slant, tilt or bend a page a little."""
    width, height = page.size
    if rng.random() < 0.6:
        corners = np.array([(0, 0), (0, height), (width, height), (width, 0)], float)
        angle = rng.normal(0, 0.04)
        slant = rng.uniform(-0.3, 0.3) * (rng.random() < 0.4)
        middle = np.array([width, height]) / 2
        matrix = np.array([[math.cos(angle), math.sin(angle) + slant], [-math.sin(angle), math.cos(angle)]])
        corners = (corners - middle) @ matrix.T + middle
        if rng.random() < 0.4:
            corners += rng.uniform(-0.12, 0.12, (4, 2)) * height
        page = page.transform(
            page.size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BILINEAR
        )
    if rng.random() < 0.2:
        pixels = np.asarray(page)
        y, x = np.mgrid[:height, :width]
        length = rng.uniform(0.7, 6) * height
        y = y + height * rng.uniform(0.01, 0.12) * np.sin(2 * np.pi * (x / length + rng.random()))
        if rng.random() < 0.5:
            length = rng.uniform(0.5, 2) * height
            x = x + height * rng.uniform(0.01, 0.07) * np.sin(2 * np.pi * (y / length + rng.random()))
        y, x = np.rint(y).astype(int), np.rint(x).astype(int)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        page = Image.fromarray(pixels[y.clip(0, height - 1), x.clip(0, width - 1)] * inside.astype(np.uint8))
    return page


def draw_paper(rng: np.random.Generator, height: int, width: int, light: float) -> np.ndarray:
    """Draw a background of about some lightness, 0 to 255: float32 (height, width)."""
    paper = np.full((height, width), light, np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    kind = rng.random()
    if kind < 0.3:  # a gradient
        angle = rng.uniform(0, 2 * np.pi)
        paper += rng.uniform(0, 45) * (np.cos(angle) * x / width + np.sin(angle) * y / height)
    elif kind < 0.45:  # clouds
        paper += rng.uniform(5, 40) * smooth_noise(rng, height, width, rng.uniform(4, 60))
    elif kind < 0.52:  # a grid or stripes
        step, strength = rng.uniform(5, 30), rng.uniform(-50, 50)
        if rng.random() < 0.7:
            paper += strength * ((x + rng.uniform(0, step)) % step < rng.uniform(1, 3))
        if rng.random() < 0.7:
            paper += strength * ((y + rng.uniform(0, step)) % step < rng.uniform(1, 3))
    elif kind < 0.6:  # blots
        page = Image.new("F", (width, height))
        for _ in range(rng.integers(5, 60)):
            middle, radius = (rng.integers(width), rng.integers(height)), rng.uniform(1, 6)
            ImageDraw.Draw(page).circle(middle, radius, float(rng.uniform(-90, 60)))
        paper += np.asarray(page)
    if rng.random() < 0.12:  # the edge of another surface
        slope, place = rng.uniform(-0.1, 0.1), rng.uniform(0, 0.16) * height
        beyond = (y + slope * x < place) if rng.random() < 0.5 else (height - y + slope * x < place)
        paper[beyond] = rng.uniform(0, 255)
    if rng.random() < 0.06:  # a plate on another surface
        margins = rng.uniform(0, 0.14, 4) * min(height, width)
        plate = Image.new("L", (width, height))
        box = (margins[0], margins[1], width - 1 - margins[2], height - 1 - margins[3])
        ImageDraw.Draw(plate).rounded_rectangle(box, rng.uniform(0, 0.15) * height, 255)
        paper = np.where(np.asarray(plate) > 0, paper, np.float32(rng.uniform(0, 255)))
    if rng.random() < 0.08:
        side = rng.uniform(0, 0.25) * height
        paper[(x < side) if rng.random() < 0.5 else (x > width - side)] = rng.uniform(0, 255)
    return paper


def draw_lines(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw lines, curves and specks that cross a text, as ink: white on black."""
    page = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(page)
    kind = rng.random()
    if kind < 0.15:  # a frame
        margin = height * rng.uniform(0.01, 0.08)
        box = (margin, margin, width - margin, height - margin)
        pencil.rounded_rectangle(box, height * 0.1, None, 255, int(rng.integers(1, 4)))
    elif kind < 0.3:  # a ruled line
        y = height * rng.choice([rng.uniform(0.02, 0.12), rng.uniform(0.85, 0.98)])
        pencil.line([(0, y), (width, y + height * rng.uniform(-0.05, 0.05))], 255, int(rng.integers(1, 4)))
    elif kind < 0.75:
        for _ in range(rng.integers(1, 5)):
            points = np.cumsum(rng.uniform((5, -15), (60, 15), (6, 2)), axis=0)
            points += rng.uniform((-40, 0), (width, height))
            pencil.line(points.ravel().tolist(), int(rng.integers(90, 256)), int(rng.integers(1, 4)))
    else:
        for _ in range(rng.integers(10, 120)):
            middle = (rng.integers(width), rng.integers(height))
            pencil.circle(middle, rng.uniform(0.4, 2), int(rng.integers(60, 256)))
    return page


def photograph(pixels: np.ndarray, rng: np.random.Generator, contrast: float) -> np.ndarray:
    """Add what a camera adds: light, blur, coarse pixels, noise, compression.

    Args:
        pixels: float32 (height, width, channels) of 0 to 255.
        rng: Chooses.
        contrast: Between ink and paper, 0 to 255; where it is small, there is less noise.

    Returns:
        uint8 (height, width, channels).
    """
    height, width, channels = pixels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    if rng.random() < 0.12:  # the edge of a shadow
        slope, place = rng.uniform(-1, 1), rng.uniform(0, width)
        soft = (1 + np.tanh((x + slope * y - place) / rng.uniform(2, 25))) / 2
        pixels = pixels * (1 - rng.uniform(0.15, 0.55) * soft)[..., np.newaxis]
    if rng.random() < 0.08:  # glare
        far = np.hypot(x - rng.uniform(0, width), (y - rng.uniform(0, height)) * rng.uniform(0.5, 2))
        glare = np.exp(-((far / (height * rng.uniform(0.3, 1))) ** 2))
        pixels = pixels + rng.uniform(40, 150) * glare[..., np.newaxis]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).squeeze())
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9) * height / 32))
    elif rng.random() < 0.1:  # moved along one direction
        kernel = np.zeros((5, 5))
        slope = rng.choice([-1, -0.5, 0, 0, 0.5, 1])
        for column in range(5):
            kernel[round(2 + slope * (column - 2)), column] = 1
        kernel = kernel.T if rng.random() < 0.3 else kernel
        image = image.filter(ImageFilter.Kernel((5, 5), kernel.ravel().tolist(), 5))
    if rng.random() < 0.25 and height > 15:  # few pixels
        factor = max(rng.uniform(0.35, 0.9), 13 / height)
        way = Image.Resampling(int(rng.choice([Image.Resampling.BILINEAR, Image.Resampling.NEAREST])))
        small = image.resize((max(4, round(width * factor)), max(8, round(height * factor))))
        image = small.resize((width, height), way)
    pixels = np.asarray(image, np.float32).reshape(height, width, channels)
    if rng.random() < 0.45:
        pixels = pixels + rng.normal(0, rng.uniform(0, min(28, 0.35 * contrast)), pixels.shape)
    if rng.random() < 0.05:  # grains of salt and pepper
        grain = rng.random((height, width))
        pixels = np.where((grain < 0.03)[..., np.newaxis], rng.choice([0, 255]), pixels)
    if rng.random() < 0.08:  # each pixel comes from somewhere near
        reach = height * rng.uniform(0.01, 0.07)
        y, x = np.rint(np.mgrid[:height, :width] + rng.uniform(-reach, reach, (2, height, width))).astype(int)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixels = pixels[y.clip(0, height - 1), x.clip(0, width - 1)] * inside[..., np.newaxis]
    pixels = pixels.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "JPEG", quality=int(rng.integers(15, 85)))
        pixels = np.asarray(Image.open(file)).reshape(height, width, channels)
    return pixels


def render_varied(
    text: str,
    rng: np.random.Generator,
    height: int,
    width: int | None = None,
    channels: int = 3,
    faces: Sequence[Face] = FACES,
    aspect: float = math.inf,
) -> np.ndarray:
    """Draw a line of text in a look of its own.

    Args:
        text: At least one character, from left to right as it is to be seen.
        rng: Chooses the look.
        height: In pixels.
        width: In pixels; a text too long for it is narrowed. None: as wide as the text needs.
        channels: 1 (grey) or 3 (RGB).
        faces: To choose from; one that has all characters, or else the first one.
        aspect: The most width that is chosen, in heights.

    Returns:
        uint8 (height, width, channels).
    """
    joined = any("\ufb50" <= character <= "\ufefc" for character in text)  # letters of Arabic touch
    line = set_text(text, rng, faces, joined)
    share = rng.uniform(0.28, 0.6) if rng.random() < 0.25 else rng.uniform(0.5, 0.98)
    rows = max(line.height / share, SIZE * 0.8)  # of the page
    stretch = math.exp(rng.normal(0, 0.15))
    natural = line.width * stretch + rows * rng.uniform(0.05, 0.8)
    columns = min(natural, rows * aspect) if width is None else rows * width / height
    columns, rows = max(round(columns), 4), round(rows)
    room = columns - min(columns * 0.9, line.width * stretch)  # a text keeps a little distance
    line = line.resize((max(1, round(columns - room)), line.height))
    left = room * (rng.uniform(0.3, 0.7) if rng.random() < 0.5 else rng.random())
    slack = rows - line.height
    top = round(slack * (rng.uniform(0.3, 0.7) if rng.random() < 0.7 else rng.random()))
    page = Image.new("L", (columns, rows))
    page.paste(line, (round(left), top))
    if rng.random() < 0.1:  # of another line, only the edge is seen
        other = ImageChops.offset(line, int(rng.integers(line.width)), 0)
        seen = round(slack / 2 * rng.uniform(0.3, 0.9))
        page.paste(other, (round(left), seen - line.height if rng.random() < 0.5 else rows - seen))
    if rng.random() < 0.08 and slack > SIZE / 3:  # small print above or below
        scale = rng.uniform(0.2, 0.4)
        small = ImageChops.offset(line, int(rng.integers(line.width)), 0)
        small = small.resize((max(1, round(line.width * scale)), max(1, round(line.height * scale))))
        place = max(top - small.height - 2, 0) if rng.random() < 0.5 else top + line.height + 2
        page.paste(small, (int(rng.integers(max(1, columns - small.width))), place))
    page = distort(page, rng)
    width = max(4, round(height * columns / rows)) if width is None else width
    ink = np.asarray(page, np.float32) / 255
    if rng.random() < 0.06:  # made of dots
        step, y, x = rng.uniform(3, 6), *np.mgrid[:rows, :columns]
        ink = ink * (np.hypot(y % step - step / 2, x % step - step / 2) < step * rng.uniform(0.4, 0.55))
    if rng.random() < 0.12:  # worn off
        holes = smooth_noise(rng, rows, columns, rng.uniform(1.5, 8))
        ink = ink * (holes < rng.uniform(0.2, 0.8))
    crossing = np.zeros_like(ink)
    if rng.random() < 0.25:
        crossing = np.asarray(draw_lines(rng, columns, rows), np.float32) / 255
    # Ink and paper differ clearly, but sometimes little; either may be the darker one.
    contrast = rng.uniform(25, 80) if rng.random() < 0.2 else rng.uniform(80, 255)
    dark = rng.uniform(0, 255 - contrast)
    ink_light, paper_light = (dark, dark + contrast) if rng.random() < 0.75 else (dark + contrast, dark)
    paper = draw_paper(rng, rows, columns, paper_light)
    embossed = rng.random()
    tint = rng.uniform(0, 40) if channels == 3 else 0
    layers = []
    letters = np.full(columns, ink_light, np.float32)
    if rng.random() < 0.15:  # ink that changes along the line
        letters = letters + rng.uniform(0, 50) * smooth_noise(rng, 2, columns, columns / 5)[0]
    for _ in range(channels):
        layer = paper + rng.uniform(-tint, tint)
        if embossed < 0.1:  # light from one side, shadow at the other
            reach = int(rng.integers(1, 4))
            layer = layer - rng.uniform(30, 100) * np.roll(ink, (reach, reach), (0, 1))
            layer = layer + rng.uniform(0, 70) * np.roll(ink, (-reach, -reach), (0, 1))
        layer = layer * (1 - ink) + (letters + rng.uniform(-tint, tint)) * ink
        if crossing.any():
            colour = ink_light if rng.random() < 0.5 else rng.uniform(0, 255)
            layer = layer * (1 - crossing) + colour * crossing
        layers.append(np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BILINEAR)))
    return photograph(np.stack(layers, axis=2).clip(0, 255), rng, contrast)
